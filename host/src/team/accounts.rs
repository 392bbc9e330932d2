//! Users and groups of an image: its `/etc/passwd` and `/etc/group`, read from its unpacked root. Both
//! are the image's bytes: bounded, and whatever makes no sense is passed over.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::inside::read_inside;
use super::limits::{MAX_ACCOUNTS, MAX_GROUPS, MAX_ID};
use super::mistake::{Fault, nearest};

/// Who an agent runs as when its image says root, or nothing.
pub const USUAL_ID: u32 = 1000;

/// Whom an agent runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id in the container.
    pub uid: u32,
    /// Group id in the container.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home directory: the account's, or `/`.
    pub home: String,
}

/// The accounts of an image.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: Vec<Account>,
    groups: Vec<Group>,
}

#[derive(Clone, Debug)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Clone, Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Accounts {
    /// Reads them; without the files there are none.
    ///
    /// # Errors
    /// A file is larger than its bound, or can't be read.
    pub fn read(root: &OwnedFd) -> io::Result<Self> {
        let file = |path| match read_inside(root, path, MAX_ACCOUNTS) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error),
        };
        Ok(Self::parse(&file("etc/passwd")?, &file("etc/group")?))
    }

    /// Parses the two files.
    #[must_use]
    pub fn parse(passwd: &str, group: &str) -> Self {
        let id = |text: &str| text.parse().ok().filter(|id| *id <= MAX_ID);
        let users = passwd.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
            let home = if home.starts_with('/') { home } else { "/" };
            let (name, home) = ((*name).to_owned(), home.to_owned());
            (!name.is_empty()).then_some(Account { name, uid: id(uid)?, gid: id(gid)?, home })
        });
        let groups = group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, members, ..] = fields.as_slice() else { return None };
            let members = members.split(',').map(str::to_owned).collect();
            Some(Group { name: (*name).to_owned(), gid: id(gid)?, members })
        });
        Self { users: users.collect(), groups: groups.collect() }
    }

    /// Whom `USER[:GROUP]` means. A number without an account has the group of the same number; with an
    /// account, and without a group written, the account's groups count.
    ///
    /// # Errors
    /// There is no such user or group: what, and what to do.
    pub fn find(&self, text: &str) -> Result<User, Fault> {
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        let number = number(name)?;
        let account = self
            .users
            .iter()
            .find(|user| number.map_or_else(|| user.name == name, |number| user.uid == number));
        let Some(uid) = number.or(account.map(|account| account.uid)) else {
            return Err(missing("user", name, self.users.iter().map(|user| user.name.as_str())));
        };
        let gid = match group {
            Some(group) => self.group(group)?,
            None => account.map_or(uid, |account| account.gid),
        };
        let groups = match account {
            Some(account) if group.is_none() => {
                let member =
                    |group: &&Group| group.members.contains(&account.name) && group.gid != gid;
                let groups = self.groups.iter().filter(member).map(|group| group.gid);
                groups.take(MAX_GROUPS).collect()
            }
            _ => Vec::new(),
        };
        let home = account.map_or_else(|| "/".to_owned(), |account| account.home.clone());
        Ok(User { uid, gid, groups, home })
    }

    fn group(&self, text: &str) -> Result<u32, Fault> {
        let number = number(text)?;
        let named = || self.groups.iter().find(|group| group.name == text).map(|group| group.gid);
        number.or_else(named).ok_or_else(|| {
            missing("group", text, self.groups.iter().map(|group| group.name.as_str()))
        })
    }
}

fn number(text: &str) -> Result<Option<u32>, Fault> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err((
            format!("the id {} is too large", super::source::shown(text)),
            format!("an agent's user namespace has the ids 0 to {MAX_ID}"),
        )),
    }
}

fn missing<'a>(what: &str, name: &str, names: impl Iterator<Item = &'a str>) -> Fault {
    let near =
        nearest(name, names).map(|near| format!("did you mean `{}`? ", super::source::shown(near)));
    (
        format!("the image has no {what} `{}`", super::source::shown(name)),
        format!("{}write a number, or a name of the image's /etc", near.unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Result<(u32, u32, Vec<u32>, String), Fault> {
        let accounts = Accounts::parse(
            "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:100:A:/home/agent:/bin/sh\nbroken\n:x:1:1:::\n\
             big:x:4000000000:1:::\nodd:x:7:8::relative:\n",
            "users:x:100:\nstaff:x:50:agent,other\naudio:x:29:agent\nusersown:x:100:agent\nbad:x:y:agent\n",
        );
        accounts.find(text).map(|user| (user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn users_and_groups_as_docker_finds_them() {
        let home = |path: &str| path.to_owned();
        assert_eq!(found("agent"), Ok((1000, 100, vec![50, 29], home("/home/agent"))));
        assert_eq!(found("1000"), Ok((1000, 100, vec![50, 29], home("/home/agent"))));
        assert_eq!(found("agent:staff"), Ok((1000, 50, vec![], home("/home/agent"))));
        assert_eq!(found("agent:7"), Ok((1000, 7, vec![], home("/home/agent"))));
        assert_eq!(found("3000"), Ok((3000, 3000, vec![], home("/"))));
        assert_eq!(found("3000:staff"), Ok((3000, 50, vec![], home("/"))));
        assert_eq!(found("odd"), Ok((7, 8, vec![], home("/"))));
    }

    #[test]
    fn who_is_not_there() {
        for (text, what, remedy) in [
            ("agnet", "no user `agnet`", "did you mean `agent`?"),
            ("nobody", "no user `nobody`", "write a number"),
            ("agent:stafff", "no group `stafff`", "did you mean `staff`?"),
            ("big", "no user `big`", "write a number"),
            ("70000", "too large", "0 to 65535"),
            ("", "no user ``", "write a number"),
            (":1", "no user ``", "write a number"),
        ] {
            let (got, advice) = found(text).unwrap_err();
            assert!(got.contains(what) && advice.contains(remedy), "{text}: {got} {advice}");
        }
    }
}
