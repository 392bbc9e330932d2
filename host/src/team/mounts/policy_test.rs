use super::*;

const HOSTS: &str = "root:x:0:0:root:/root:/bin/bash\nme:x:1000:1000::/home/me:/bin/sh\n\
    you:x:1001:1001::/homes/you:/bin/sh\n";

fn check(policy: &Policy, team: &str, path: &str, writable: bool) -> Result<Grant, String> {
    let me = Person::of(1000, HOSTS, None);
    policy.check(&me, Path::new(team), Path::new(path), writable).map_err(|refusal| refusal.what)
}

#[test]
fn what_holds_without_a_list() {
    let policy = Policy::default();
    let allowed = |team: &str, path: &str| check(&policy, team, path, true);
    assert_eq!(allowed("/srv/team", "/srv/team/docs"), Ok(Grant::TeamDirectory));
    assert_eq!(allowed("/srv/team", "/srv/team"), Ok(Grant::TeamDirectory));
    assert_eq!(allowed("/srv/team", "/home/me/docs"), Ok(Grant::OwnHome));
    assert_eq!(allowed("/home/me", "/home/me/docs"), Ok(Grant::TeamDirectory));
    for (team, path, what) in [
        ("/srv/team", "/srv/other", "no place that may be shared"),
        ("/srv/team", "/srv", "no place"),
        ("/srv/team", "/srv/teams", "no place"),
        ("/srv/team", "/", "contains"),
        ("/srv/team", "/home", "contains"),
        ("/srv/team", "/home/me", "contains /home/me/.ssh"),
        ("/srv/team", "/home/me/.ssh", "keys and credentials"),
        ("/srv/team", "/home/me/.ssh/id_ed25519", "keys and credentials"),
        ("/srv/team", "/home/me/.config", "contains /home/me/.config/gcloud"),
        ("/srv/team", "/srv/team/.aws/credentials", "keys and credentials"),
        ("/srv/team", "/home/other/docs", "another user's home"),
        ("/home/other/team", "/home/other/team/docs", "another user's home"),
        ("/homes/you/team", "/homes/you/team/docs", "another user's home"),
        ("/srv/team", "/homes", "contains /homes/you"),
        ("/etc", "/etc/ssl", "in /etc"),
        ("/", "/opt/data", "no place"),
        ("/home", "/home/x", "another user's home"),
        ("/proc/1", "/proc/1/root", "in /proc"),
        ("/root/team", "/root/team/x", "in /root"),
        ("/run/user/1000", "/run/user/1000/bus", "in /run"),
        ("/var/lib/cloister", "/var/lib/cloister/images", "in /var/lib/cloister"),
    ] {
        let refused = allowed(team, path).unwrap_err();
        assert!(refused.contains(what), "{path}: {refused}");
    }
}

#[test]
fn a_list_decides_alone() {
    let text = "deny = [\"/srv/data/keys\"]\n[[allow]]\npath = \"/srv/data\"\n[[allow]]\n\
        path = \"/srv/data/out\"\nwritable = true\n[[allow]]\npath = \"/etc/ssl/certs\"\n[[allow]]\n\
        path = \"/home/other/shared\"\n[[allow]]\npath = \"/home/me\"\n";
    let policy = toml::from_slice::<Policy>(text.as_bytes()).unwrap();
    let allowed = |path: &str, writable| check(&policy, "/srv/team", path, writable);
    for path in ["/srv/data", "/srv/data/x", "/etc/ssl/certs/a.pem", "/home/other/shared/x"] {
        if path != "/srv/data" {
            assert_eq!(allowed(path, false), Ok(Grant::Operator), "{path}");
        }
        assert!(allowed(path, true).is_err(), "{path}");
    }
    assert_eq!(allowed("/srv/data/out/x", true), Ok(Grant::Operator));
    for (path, what) in [
        ("/srv/data", "the operator keeps back"),
        ("/srv/data/keys/x", "the operator keeps back"),
        ("/srv/team/docs", "no place"),
        ("/etc/ssl", "in /etc"),
        ("/home/other/else", "another user's home"),
        ("/home/me/.ssh", "keys and credentials"),
    ] {
        let refused = allowed(path, false).unwrap_err();
        assert!(refused.contains(what), "{path}: {refused}");
    }
}

#[test]
fn a_list_with_a_mistake_lets_nothing_be_shared() {
    let file = Path::new("f");
    let parse = |text: &str| operator::parse::<Policy>(file, text.as_bytes())?.checked(file);
    assert!(matches!(parse("own-hom = true"), Err(PolicyError::File(FileError::Parse { .. }))));
    assert!(matches!(parse("deny = [\"keys\"]"), Err(PolicyError::Paths(_))));
    assert!(matches!(parse("[[allow]]\npath = \"x\""), Err(PolicyError::Paths(_))));
    assert!(matches!(
        parse("[[allow]]\nwritable = true"),
        Err(PolicyError::File(FileError::Parse { .. }))
    ));
    let empty = parse("").unwrap();
    assert!(!empty.own_home && !empty.team_directory && empty.allow.is_empty());
    assert_eq!(Policy::load(Path::new("/nonexistent/mounts.toml")).unwrap(), Policy::default());
}
