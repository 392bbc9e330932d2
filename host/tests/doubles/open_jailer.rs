//! A jailer without a jail, for a fake machine whose guest runs commands on this host: only the control
//! group, the session and the parent-death signal are as they should be.

use cloister_jailer::spec::{GROUP_FD, PROGRAM_FD, REPORT_FD, SPEC_FD};
use cloister_jailer::step::Report;
use cloister_jailer::sys;

fn main() {
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
