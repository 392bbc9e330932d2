//! Teams, from their file to their removal: the real command and the real warden, with machines that
//! are only played (`tests/fake_vmm`), whose agents run on this host. Here is shown what does not
//! depend on a guest; the whole system is in the workspace's `tests/`.

#[expect(dead_code, reason = "what machines alone need")]
#[path = "../host/harness.rs"]
mod harness;

mod audit_export;
mod audits;
mod bed;

mod ends;
mod faults;
mod figures;
mod files;
mod kept;
mod kept_faults;
mod killer;
mod lives;
mod looks;
mod pauses;
