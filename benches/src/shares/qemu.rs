//! QEMU's `microvm` with a vhost-user file system of virtiofsd. `README.md` gives the reason of each
//! option.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::ensure;

use super::Job;
use super::work::{PROGRAM, TAG};
use crate::spawn::{Program, Running};

/// Where virtiofsd finds its listening socket.
const LISTENER: i32 = 3;

/// A way to run them.
#[derive(Clone, Debug)]
pub struct Virtiofsd {
    /// For tables.
    pub name: &'static str,
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// `virtiofsd`.
    pub server: PathBuf,
    /// Its cache mode: `none` lets the guest keep nothing, as ours does on writable shares; `auto` until
    /// a file is opened anew.
    pub cache: &'static str,
    /// Threads beside the queue's own. 0: it serves requests itself, without handing them on.
    pub threads: u32,
}

impl Virtiofsd {
    pub(super) fn run(&self, job: &Job) -> anyhow::Result<()> {
        let socket = job.place.join("socket");
        let listener = UnixListener::bind(&socket)?;
        let log = job.place.join("log");
        let result = self.work(job, &socket, &listener, &File::create(&log)?);
        let said = fs::read_to_string(&log).unwrap_or_default();
        fs::remove_file(socket)?;
        fs::remove_file(log)?;
        result.map_err(|error| error.context(said))
    }

    fn work(
        &self,
        job: &Job,
        socket: &Path,
        listener: &UnixListener,
        log: &File,
    ) -> anyhow::Result<()> {
        let null = File::open("/dev/null")?;
        let start = |program: &Path, arguments: &[String]| -> anyhow::Result<Running> {
            let (null, log) = (null.as_fd(), log.as_fd());
            let places = [(null, 0), (log, 1), (log, 2), (listener.as_fd(), LISTENER)];
            Ok(Program::new(program, arguments)?.spawn(&places)?)
        };
        let _server = start(&self.server, &self.server_arguments(job))?;
        let status = start(&self.qemu, &arguments(job, socket))?.wait()?;
        ensure!(status == Some(0), "QEMU ended with {status:?}");
        Ok(())
    }

    fn server_arguments(&self, job: &Job) -> Vec<String> {
        let (cache, threads) = (self.cache, self.threads);
        let source = job.place.display();
        vec![
            format!("--fd={LISTENER}"),
            format!("--thread-pool-size={threads}"),
            "-o".to_owned(),
            format!("source={source},cache={cache},sandbox=chroot,flock,posix_lock,xattr"),
        ]
    }
}

fn arguments(job: &Job, socket: &Path) -> Vec<String> {
    let memory = job.memory_mib;
    let size = job.size.words().join(" ");
    let machine = "microvm,accel=kvm,kernel-irqchip=on,acpi=on,pic=off,pit=off,rtc=off,ioapic2=off,pcie=off,\
                   usb=off,x-option-roms=off,isa-serial=on,auto-kernel-cmdline=off,memory-backend=ram";
    [
        "-no-user-config",
        "-nodefaults",
        "-M",
        machine,
        "-cpu",
        "host",
        "-smp",
        "1",
        "-m",
        &format!("{memory}M"),
        "-object",
        &format!("memory-backend-memfd,id=ram,size={memory}M,share=on"),
        // Of version 1 of virtio, which a file system needs.
        "-global",
        "virtio-mmio.force-legacy=false",
        "-chardev",
        &format!("socket,id=files,path={}", socket.display()),
        "-device",
        &format!("vhost-user-fs-device,chardev=files,tag={TAG},queue-size=1024"),
        "-display",
        "none",
        "-monitor",
        "none",
        "-no-reboot",
        "-chardev",
        "stdio,id=serial,signal=off",
        "-serial",
        "chardev:serial",
        "-kernel",
        &job.kernel.display().to_string(),
        "-initrd",
        &job.root.display().to_string(),
        "-append",
        &format!("{} reboot=t panic=-1 rdinit=/{PROGRAM} -- {size}", job.cmdline),
    ]
    .map(str::to_owned)
    .to_vec()
}
