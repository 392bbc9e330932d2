//! Tries on the guest's kernel: sockets and system calls that no agent needs.

use super::{Rows, made};

pub(super) fn add(rows: &mut Rows) {
    rows.why = "the list of system calls lets an agent make sockets of the local kinds alone: the way to the host is \
                the supervisor's";
    for (name, family, kind, protocol) in [
        ("talk to the host by vsock", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        ("vsock packets", libc::AF_VSOCK, libc::SOCK_SEQPACKET, 0),
        ("packet socket", libc::AF_PACKET, libc::SOCK_RAW, 0),
        ("raw socket", libc::AF_INET, libc::SOCK_RAW, 1),
        ("raw socket of IPv6", libc::AF_INET6, libc::SOCK_RAW, 58),
        ("the kernel's events", libc::AF_NETLINK, libc::SOCK_RAW, 15),
        ("audit", libc::AF_NETLINK, libc::SOCK_RAW, 9),
        ("packet filter", libc::AF_NETLINK, libc::SOCK_RAW, 12),
        ("the kernel's ciphers", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        ("keys of networks", libc::AF_KEY, libc::SOCK_RAW, 2),
        ("express data path", 44, libc::SOCK_RAW, 0),
        ("bus of cars", libc::AF_CAN, libc::SOCK_RAW, 1),
        ("TIPC", libc::AF_TIPC, libc::SOCK_SEQPACKET, 0),
        ("Bluetooth", libc::AF_BLUETOOTH, libc::SOCK_RAW, 1),
    ] {
        rows.row(name, move || made!(libc::SYS_socket, family, kind, protocol));
    }
    rows.row("a pair of vsock sockets", || {
        made!(libc::SYS_socketpair, libc::AF_VSOCK, 1, 0, [0_i32; 2].as_mut_ptr())
    });
    rows.why =
        "the list of system calls has what programs need, and of the kernel's wide interfaces none";
    for (name, number) in [
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("request_key", libc::SYS_request_key),
        ("bpf", libc::SYS_bpf),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("init_module", libc::SYS_init_module),
        ("finit_module", libc::SYS_finit_module),
        ("delete_module", libc::SYS_delete_module),
        ("kexec_load", libc::SYS_kexec_load),
        ("kexec_file_load", libc::SYS_kexec_file_load),
        ("reboot", libc::SYS_reboot),
        ("syslog", libc::SYS_syslog),
        ("iopl", libc::SYS_iopl),
        ("ioperm", libc::SYS_ioperm),
        ("swapon", libc::SYS_swapon),
        ("acct", libc::SYS_acct),
        ("quotactl", libc::SYS_quotactl),
        ("sethostname", libc::SYS_sethostname),
        ("settimeofday", libc::SYS_settimeofday),
        ("clock_settime", libc::SYS_clock_settime),
        ("fanotify_init", libc::SYS_fanotify_init),
        ("move_pages", libc::SYS_move_pages),
        ("vhangup", libc::SYS_vhangup),
        ("modify_ldt", libc::SYS_modify_ldt),
        ("personality without randomness", libc::SYS_personality),
    ] {
        let first = if number == libc::SYS_personality { 0x004_0000 } else { 0 };
        rows.row(name, move || made!(number, first, 0, 0, 0, 0));
    }
    rows.row("a call by the numbers of x32 programs", || made!(0x4000_0000 | libc::SYS_getpid));
}
