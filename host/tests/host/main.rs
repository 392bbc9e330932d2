//! The command and the library from outside, with a vmm that is a fake (`tests/fake_vmm`): its guest runs
//! commands on this host, so no KVM is needed, only a `/dev/kvm` that can be opened.

mod harness;

mod run;
mod saved;

mod detach;

mod failures;

mod machine;

mod jail;

mod pool;

mod shares;

mod share_state;
