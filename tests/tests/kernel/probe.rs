//! Counts the instructions of a kernel's boot under QEMU, by a clock that counts instructions.
//!
//! With `-icount shift=0,sleep=off` the TSC advances by one for each guest instruction (and by the length of
//! each wait, so that waits count too). One run enters a toy kernel that prints its TSC: that is what QEMU's
//! own firmware and loader cost. The other boots the real kernel to a toy init that prints its TSC.

use std::{fs, io::Read, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::elf;

/// The machine: QEMU's nearest to ours, and only such additions that make up for what is missing without KVM.
///
/// * `microvm,acpi=on`: PVH entry, hardware-reduced ACPI, virtio-mmio, no PCI; `pit=off,pic=off` as in our VM.
///   Its RTC stays on: without kvm-clock the kernel reads the wall clock there, and waits for a second if it
///   is told of an RTC that does not answer.
/// * `virtio-rng-device`: one of the two devices that our VM has. QEMU has the other, vsock, only through the host's.
/// * `-cpu max,-erms,-fsrm`: emulation counts each round of a `rep movsb` as one instruction. Without these bits
///   the kernel copies by eight bytes a round, which is nearer to what hardware does.
const MACHINE: &[&str] = &[
    "-M",
    "microvm,acpi=on,pit=off,pic=off,rtc=on",
    "-cpu",
    "max,-erms,-fsrm",
    "-smp",
    "1",
    "-m",
    "128",
    "-accel",
    "tcg,thread=single",
    "-icount",
    "shift=0,sleep=off",
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-serial",
    "stdio",
    "-no-reboot",
    "-device",
    "virtio-rng-device",
];

/// Words added to the command line, because emulation lacks what KVM gives:
///
/// * `tsc_early_khz`: no leaf tells the TSC's frequency; the kernel would calibrate it for 100 ms or give up.
/// * `nolapic_timer`: the emulated CPU has no TSC-deadline timer, and the plain one would be calibrated (100 ms).
/// * `rdinit=/probe`: the toy init, beside the supervisor and not in its place, so that unpacking costs what it costs.
const ADDITIONS: &str = "tsc_early_khz=1000000 nolapic_timer rdinit=/probe";

/// A boot takes some seconds; a hung one must not hang the tests.
const TIME_LIMIT_SECONDS: &str = "120";
/// More than a panic prints; the rest is not read.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// Where the toy kernel is loaded: above the first MiB, as a kernel is.
const TOY_KERNEL_ADDRESS: u32 = 0x10_0000;
/// 32-bit code at a PVH entry: prints its TSC as 16 hexadecimal digits and resets by a triple fault.
#[rustfmt::skip]
const TOY_KERNEL: &[u8] = &[
    0x0f, 0x31,                               // rdtsc
    0x89, 0xc3,                               // mov ebx, eax
    0x89, 0xd6,                               // mov esi, edx
    0xba, 0xf8, 0x03, 0x00, 0x00,             // mov edx, 0x3f8
    0xbf, 0x02, 0x00, 0x00, 0x00,             // mov edi, 2
    0xb9, 0x08, 0x00, 0x00, 0x00,             // word: mov ecx, 8
    0xc1, 0xc6, 0x04,                         // digit: rol esi, 4
    0x89, 0xf0,                               // mov eax, esi
    0x24, 0x0f,                               // and al, 15
    0x3c, 0x0a,                               // cmp al, 10
    0x72, 0x02,                               // jb number
    0x04, 0x27,                               // add al, 'a' - '0' - 10
    0x04, 0x30,                               // number: add al, '0'
    0xee,                                     // out dx, al
    0xe2, 0xee,                               // loop digit
    0x89, 0xde,                               // mov esi, ebx
    0x4f,                                     // dec edi
    0x75, 0xe4,                               // jnz word
    0x0f, 0x01, 0x1d, 0x34, 0x00, 0x10, 0x00, // lidt [zeros]
    0xcc,                                     // int3
    0, 0, 0, 0, 0, 0,                         // zeros: no interrupt table
];

/// Where the toy init is linked.
const TOY_INIT_ADDRESS: u32 = 0x40_0000;
/// 64-bit code: writes its first TSC to /dev/kmsg, as an emergency so that it is printed, and ends.
#[rustfmt::skip]
const TOY_INIT: &[u8] = &[
    0x0f, 0x31,                               // rdtsc
    0x48, 0xc1, 0xe2, 0x20,                   // shl rdx, 32
    0x48, 0x09, 0xd0,                         // or rax, rdx
    0x48, 0x89, 0xc3,                         // mov rbx, rax
    0x48, 0x8d, 0x3d, 0x5f, 0x00, 0x00, 0x00, // lea rdi, [digits]
    0xb9, 0x10, 0x00, 0x00, 0x00,             // mov ecx, 16
    0x48, 0xc1, 0xc3, 0x04,                   // digit: rol rbx, 4
    0x89, 0xd8,                               // mov eax, ebx
    0x24, 0x0f,                               // and al, 15
    0x3c, 0x0a,                               // cmp al, 10
    0x72, 0x02,                               // jb number
    0x04, 0x27,                               // add al, 'a' - '0' - 10
    0x04, 0x30,                               // number: add al, '0'
    0xaa,                                     // stosb
    0xe2, 0xed,                               // loop digit
    0xb8, 0x02, 0x00, 0x00, 0x00,             // mov eax, SYS_open
    0x48, 0x8d, 0x3d, 0x25, 0x00, 0x00, 0x00, // lea rdi, [path]
    0xbe, 0x01, 0x00, 0x00, 0x00,             // mov esi, O_WRONLY
    0x0f, 0x05,                               // syscall
    0x89, 0xc7,                               // mov edi, eax
    0xb8, 0x01, 0x00, 0x00, 0x00,             // mov eax, SYS_write
    0x48, 0x8d, 0x35, 0x1a, 0x00, 0x00, 0x00, // lea rsi, [message]
    0xba, 0x1c, 0x00, 0x00, 0x00,             // mov edx, 28
    0x0f, 0x05,                               // syscall
    0xb8, 0xe7, 0x00, 0x00, 0x00,             // mov eax, SYS_exit_group
    0x31, 0xff,                               // xor edi, edi
    0x0f, 0x05,                               // syscall
    b'/', b'd', b'e', b'v', b'/', b'k', b'm', b's', b'g', 0, // path
    b'<', b'0', b'>', b'i', b'n', b'i', b't', b'-', b't', b's', b'c', b' ', // message
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // digits
];
/// What comes before the digits, in the log and so on the serial port.
const INIT_MARK: &str = "init-tsc ";

/// What a boot to the toy init showed.
#[derive(Debug)]
pub(crate) struct Boot {
    /// The TSC at init's first instruction.
    pub(crate) init_stamp: u64,
    /// What the serial port printed before that.
    pub(crate) before_init: String,
    /// And after it: the panic that init's end is.
    pub(crate) after_init: String,
}

/// A file of a newc archive (or its end, named `TRAILER!!!`).
fn archive_entry(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut entry = b"070701".to_vec();
    let (size, name_size) = (content.len(), name.len() + 1);
    // inode, mode, uid, gid, links, mtime, size, device (4 fields), length of the name, checksum
    let mode = mode as usize;
    for field in [1, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        entry.extend(format!("{field:08X}").bytes());
    }
    entry.extend(name.bytes());
    entry.push(0);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry.extend(content);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry
}

/// The names in a newc archive, in their order.
pub(crate) fn archive_names(image: &[u8]) -> Option<Vec<String>> {
    const NAME_OFFSET: usize = 110;
    let mut names = Vec::new();
    let mut at = 0;
    loop {
        let header = image.get(at..at + NAME_OFFSET)?;
        let field = |index: usize| {
            let digits = header.get(6 + 8 * index..14 + 8 * index)?;
            usize::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
        };
        let (size, name_size) = (field(6)?, field(11)?);
        let name = image.get(at + NAME_OFFSET..at + NAME_OFFSET + name_size.checked_sub(1)?)?;
        let name = str::from_utf8(name).ok()?;
        if !header.starts_with(b"070701") || name == "TRAILER!!!" {
            return header.starts_with(b"070701").then_some(names);
        }
        names.push(name.to_owned());
        at = (at + NAME_OFFSET + name_size).next_multiple_of(4) + size.next_multiple_of(4);
    }
}

/// Runs the machine until its reset and returns what its serial port printed.
fn run(kernel: &Path, initrd: &Path, command_line: &str) -> Result<String> {
    let output = tempfile::NamedTempFile::new()?;
    let status = Command::new("timeout")
        .args([TIME_LIMIT_SECONDS, "qemu-system-x86_64"])
        .args(MACHINE)
        .args(["-kernel".as_ref(), kernel.as_os_str(), "-initrd".as_ref(), initrd.as_os_str()])
        .args(["-append", &format!("{command_line} {ADDITIONS}")])
        .stdin(std::process::Stdio::null())
        .stdout(output.reopen()?)
        .status()
        .context("can't run qemu-system-x86_64 (package qemu-system-x86)")?;
    let mut text = Vec::new();
    output.reopen()?.take(OUTPUT_LIMIT).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(status.success(), "QEMU ended with {status}; the serial port printed:\n{text}");
    Ok(text)
}

/// The TSC at a kernel's entry on this machine.
pub(crate) fn loader_cost(command_line: &str) -> Result<u64> {
    let directory = tempfile::tempdir()?;
    let (kernel, initrd) = (directory.path().join("kernel"), directory.path().join("initrd"));
    fs::write(&kernel, elf::executable(TOY_KERNEL, TOY_KERNEL_ADDRESS, true))?;
    fs::write(&initrd, archive_entry("TRAILER!!!", 0, b""))?;
    let text = run(&kernel, &initrd, command_line)?;
    u64::from_str_radix(text.trim(), 16).with_context(|| format!("the toy kernel printed {text:?}"))
}

/// Boots `kernel` with `rootfs` and a toy init beside its own.
pub(crate) fn boot(kernel: &Path, rootfs: &Path, command_line: &str) -> Result<Boot> {
    let directory = tempfile::tempdir()?;
    let initrd = directory.path().join("initrd");
    let mut archive = fs::read(rootfs)?;
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(archive_entry(
        "probe",
        0o100_755,
        &elf::executable(TOY_INIT, TOY_INIT_ADDRESS, false),
    ));
    archive.extend(archive_entry("TRAILER!!!", 0, b""));
    fs::write(&initrd, archive)?;
    let text = run(kernel, &initrd, command_line)?;
    let (before, rest) = text
        .split_once(INIT_MARK)
        .with_context(|| format!("init did not run; the serial port printed:\n{text}"))?;
    let digits = rest.get(..16).context("init printed no stamp")?;
    // The line's own time stamp is the last thing before the mark.
    let before_init = before.rsplit_once('[').map_or(before, |(lines, _)| lines);
    Ok(Boot {
        init_stamp: u64::from_str_radix(digits, 16)?,
        before_init: before_init.to_owned(),
        after_init: rest.to_owned(),
    })
}
