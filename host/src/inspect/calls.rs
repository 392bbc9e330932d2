//! Names of system calls.

use syscalls::Sysno;

/// Every system call of this architecture that has a name: its number and the name.
pub fn all() -> impl Iterator<Item = (u32, String)> {
    Sysno::iter().filter_map(|call| {
        let number = u32::try_from(call.id()).ok()?;
        Some((number, call.name().to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_c_library() {
        let known: std::collections::HashMap<_, _> =
            all().map(|(number, name)| (name, number)).collect();
        for (name, number) in [
            ("read", libc::SYS_read),
            ("execveat", libc::SYS_execveat),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("landlock_restrict_self", libc::SYS_landlock_restrict_self),
        ] {
            assert_eq!(known.get(name).map(|one| i64::from(*one)), Some(number), "{name}");
        }
    }
}
