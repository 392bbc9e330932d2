//! A vmm that leaves a filter out, for the tests which show that `cloister prove` notices: only in builds with the
//! feature `weaken`, which nothing that is shipped has. Such a test writes `Loop` or `Vcpu` over the dots of `MARK`
//! in a copy of the program.

use super::policy::Thread;

/// Whether the filter of this kind of thread is left out: never.
#[cfg(not(feature = "weaken"))]
pub(super) const fn leaves_out(_: Thread) -> bool {
    false
}

#[cfg(feature = "weaken")]
pub(super) fn leaves_out(thread: Thread) -> bool {
    #[used]
    static MARK: [u8; 48] = *b"cloister-weaken:................................";
    // The compiler must not know what is in it.
    let mark: &'static [u8; 48] = std::hint::black_box(&MARK);
    let text = std::str::from_utf8(mark).unwrap_or_default();
    text.split_once(':')
        .is_some_and(|(_, name)| name.trim_end_matches('.') == format!("{thread:?}"))
}
