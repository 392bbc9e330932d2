//! The user whose teams these are: the own home, other people's homes, and where keys and Cloister's own
//! files are.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::images::files::read_bounded;
use crate::images::store::Store;
use crate::team::limits::MAX_ACCOUNTS;

/// The host's accounts. Accounts of a directory service are not in it; their homes are below `/home`, or
/// for the operator's list.
const ACCOUNTS: &str = "/etc/passwd";
/// User ids of people, as Debian and Red Hat give them; below are those of services.
const PEOPLE: std::ops::Range<u32> = 1000..65_534;
/// Where other people's homes are, known by name or not.
const HOMES: &str = "/home";
/// What holds keys, credentials or sessions in a home.
const PRIVATE: [&str; 28] = [
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".netrc",
    ".pgpass",
    ".my.cnf",
    ".git-credentials",
    ".npmrc",
    ".pypirc",
    ".cargo/credentials.toml",
    ".password-store",
    ".terraform.d",
    ".vault-token",
    ".mozilla",
    ".thunderbird",
    ".pki",
    ".local/share/keyrings",
    ".config/gcloud",
    ".config/gh",
    ".config/hub",
    ".config/containers",
    ".config/google-chrome",
    ".config/chromium",
    ".config/rclone",
    ".config/op",
];
/// The host's own, and other container tools' state.
const SYSTEM: [&str; 13] = [
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/boot",
    "/root",
    "/var/run",
    "/var/lib/cloister",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/lib/private",
];

/// Something that is not shared with a team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// The file or directory, there or not.
    pub path: PathBuf,
    /// What it is, for a message.
    pub what: &'static str,
    /// Whether an entry of the operator's list at or below it counts all the same.
    pub operator_may_allow: bool,
}

/// The user, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub struct Person {
    /// The own home, if there is one.
    pub home: Option<PathBuf>,
    /// What is not shared.
    pub guarded: Vec<Guarded>,
}

impl Person {
    /// The user of this process. `store` is the image store's directory.
    ///
    /// # Errors
    /// The host's accounts can't be read: then it is not known what belongs to whom.
    pub fn current(store: &Path) -> io::Result<Self> {
        let accounts = match File::open(ACCOUNTS) {
            Ok(file) => String::from_utf8_lossy(&read_bounded(file, MAX_ACCOUNTS)?).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let uid = rustix::process::geteuid().as_raw();
        let mut person = Self::of(uid, &accounts, fallback_home(uid));
        let mut own = vec![store.to_owned(), data_directory().unwrap_or_default()];
        own.extend(absolute("XDG_STATE_HOME").map(|state| state.join("cloister")));
        own.extend(person.home.as_ref().map(|home| home.join(".local/state/cloister")));
        own.extend(Store::usual_path().ok());
        for path in own.into_iter().filter(|path| path.is_absolute()) {
            person.guard(&path, "Cloister's own state", false);
        }
        Ok(person)
    }

    /// A user by the host's accounts.
    #[must_use]
    pub fn of(uid: u32, accounts: &str, fallback: Option<PathBuf>) -> Self {
        let homes = accounts.lines().filter_map(|line| {
            let mut fields = line.split(':').skip(2);
            let uid: u32 = fields.next()?.parse().ok()?;
            let home = PathBuf::from(fields.nth(2)?);
            // Services have homes like `/` and `/usr/sbin`.
            let real = home.is_absolute() && home.parent().is_some();
            real.then_some((uid, home))
        });
        let homes: Vec<(u32, PathBuf)> = homes.collect();
        let own = homes.iter().find(|(other, _)| *other == uid).map(|(_, home)| home.clone());
        let mut person =
            Self { home: own.or(fallback).map(|home| real(&home)), guarded: Vec::new() };
        let home = person.home.clone().unwrap_or_default();
        for path in SYSTEM.map(Path::new).into_iter().filter(|path| *path != home) {
            person.guard(path, "the host's own", true);
        }
        for (other, path) in homes {
            if other != uid && (other == 0 || PEOPLE.contains(&other)) && real(&path) != home {
                person.guard(&path, "another user's home", true);
            }
        }
        if person.home.is_some() {
            for name in PRIVATE {
                person.guard(&home.join(name), "keys and credentials", false);
            }
        }
        person
    }

    /// Whose home a path is in, if not in the own one.
    #[must_use]
    pub fn in_another_home(&self, path: &Path) -> bool {
        let own = self.home.as_ref().is_some_and(|home| path.starts_with(home));
        !own && path.starts_with(HOMES) && path != Path::new(HOMES)
    }

    fn guard(&mut self, path: &Path, what: &'static str, operator_may_allow: bool) {
        let real = real(path);
        for path in [path.to_owned(), real] {
            if !self.guarded.iter().any(|guarded| guarded.path == path) {
                self.guarded.push(Guarded { path, what, operator_may_allow });
            }
        }
    }
}

/// Whether a name anywhere in a path is one of keys, wherever that home may lie.
#[must_use]
pub fn is_private_name(path: &Path) -> bool {
    path.ancestors().any(|ancestor| PRIVATE.iter().any(|name| ancestor.ends_with(name)))
}

/// Where Cloister keeps a user's data: `/var/lib/cloister` for root, else `cloister` below
/// `$XDG_DATA_HOME` (`~/.local/share`).
#[must_use]
pub fn data_directory() -> Option<PathBuf> {
    Store::usual_path().ok()?.parent().map(Path::to_owned)
}

/// Without an account: the environment's, if it is this user's directory.
fn fallback_home(uid: u32) -> Option<PathBuf> {
    absolute("HOME").filter(|home| std::fs::metadata(home).is_ok_and(|home| home.uid() == uid))
}

fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Where a path leads; itself if nothing is there. For the lists only: what is shared is known by its
/// descriptor.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\n\
        me:x:1000:1000::/homes/me:/bin/sh\nyou:x:1001:1001::/homes/you:/bin/sh\nbroken\nx:y\n";

    fn guards(person: &Person, path: &str) -> bool {
        person.guarded.iter().any(|guarded| guarded.path == Path::new(path))
    }

    #[test]
    fn homes_of_others_and_keys_are_guarded() {
        let me = Person::of(1000, HOSTS, None);
        assert_eq!(me.home.as_deref(), Some(Path::new("/homes/me")));
        assert!(guards(&me, "/root") && guards(&me, "/homes/you") && guards(&me, "/homes/me/.ssh"));
        assert!(!guards(&me, "/homes/me") && !guards(&me, "/"));
        assert!(me.in_another_home(Path::new("/home/other/x")));
        assert!(!me.in_another_home(Path::new("/homes/me/x")));
        let root = Person::of(0, HOSTS, None);
        assert!(!guards(&root, "/root") && guards(&root, "/root/.ssh") && guards(&root, "/etc"));
    }

    #[test]
    fn without_an_account_the_fallback_counts() {
        let stranger = Person::of(5000, HOSTS, Some(PathBuf::from("/home/stranger")));
        assert!(!stranger.in_another_home(Path::new("/home/stranger/x")));
        assert!(guards(&stranger, "/home/stranger/.aws"));
        assert!(Person::of(5000, HOSTS, None).in_another_home(Path::new("/home/stranger/x")));
    }

    #[test]
    fn names_of_keys() {
        for path in ["/srv/x/.ssh", "/a/.ssh/id", "/b/.config/gcloud/x", "/.netrc"] {
            assert!(is_private_name(Path::new(path)), "{path}");
        }
        for path in ["/srv/ssh", "/a/.config/x", "/gcloud", "/a/x.ssh"] {
            assert!(!is_private_name(Path::new(path)), "{path}");
        }
    }
}
