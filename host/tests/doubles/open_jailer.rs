//! A jailer without a jail, for a fake machine whose guest runs commands on this host: only the control
//! group, the session and the parent-death signal are as they should be.

use cloister_jailer::spec::{GROUP_FD, PROGRAM_FD, REPORT_FD, Role, SPEC_FD, Spec};
use cloister_jailer::step::Report;
use cloister_jailer::{outside, share, sys};

fn main() {
    if std::env::args().nth(1).as_deref() == Some(share::ARGUMENT) {
        share::run().expect("a share");
        return;
    }
    // The file server needs no program of this host, and needs what a jail brings it.
    let spec = std::fs::read(format!("/proc/self/fd/{SPEC_FD}")).expect("a spec");
    if Spec::decode(&spec).expect("a spec").role == Role::FileServer {
        outside::start().expect("a jail");
        return;
    }
    for fd in [SPEC_FD, REPORT_FD, PROGRAM_FD, GROUP_FD] {
        sys::set_close_on_exec(fd, true).expect("the jailer's descriptors");
    }
    let pid = sys::clone_into(GROUP_FD, 0).expect("a process");
    if pid == 0 {
        sys::new_session().expect("a session");
        sys::prctl(libc::PR_SET_PDEATHSIG, 9, 0).expect("a signal");
        let errno = sys::execute(PROGRAM_FD, c"cloister-vmm");
        let step = cloister_jailer::step::Step::Execute;
        let failure = cloister_jailer::step::Failure { step, detail: 0, errno };
        sys::write(REPORT_FD, &Report::Failed(failure).encode()).expect("a report");
        sys::leave(1);
    }
    sys::write(REPORT_FD, &Report::Started { pid }.encode()).expect("a report");
}
