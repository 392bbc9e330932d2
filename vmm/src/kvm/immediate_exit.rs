//! One byte of a vCPU's `kvm_run` page, written from another thread.
//!
//! A signal alone can arrive just before `KVM_RUN` and be lost. With `immediate_exit` set first,
//! `KVM_RUN` returns `EINTR` whether the signal came before it or during it (KVM API, section 5).

use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;

/// The `immediate_exit` byte of one vCPU; lives as long as the process.
#[derive(Clone, Copy, Debug)]
pub struct ImmediateExit(&'static AtomicU8);

impl ImmediateExit {
    /// Maps the vCPU's `kvm_run` page a second time.
    ///
    /// # Errors
    /// `mmap`'s.
    pub fn new(vcpu: &VcpuFd) -> io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh shared mapping of the first page of the vCPU's descriptor, at an address
        // that the kernel chooses.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<kvm_run>(),
                prot,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let byte = page.cast::<u8>().wrapping_add(offset_of!(kvm_run, immediate_exit));
        // SAFETY: the byte lies in the page mapped above, which is never unmapped; KVM only reads
        // it, and every writer in this process goes through an atomic.
        Ok(Self(unsafe { AtomicU8::from_ptr(byte) }))
    }

    /// The next or the running `KVM_RUN` returns `EINTR` (the running one: once a signal comes).
    pub fn set(self) {
        self.0.store(1, Ordering::SeqCst);
    }

    /// `KVM_RUN` enters the guest again.
    pub fn clear(self) {
        self.0.store(0, Ordering::SeqCst);
    }
}
