//! A blank's parent: starts one vmm in its jail, hands it to whoever has its connection, and sees it off.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use cloister_vmm::control::Command;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::net::UnixStream;

use super::{PoolError, Word};
use crate::control::{ControlSocket, Packet};
use crate::launch::files::Files;
use crate::launch::jail::{JailSpec, limits_of_blank};
use crate::launch::process::{Spawned, VmmProcess};
use crate::warden::channel::Channel;

/// How long a vmm whose user has gone may take to end by itself: not at all.
const GRACE: Duration = Duration::ZERO;

/// Starts a vmm and stays until it has ended. Standard input is the connection.
///
/// # Errors
/// It can't be started. When the other end closes, that is no error.
pub async fn run(files: &Files, jail: &JailSpec) -> Result<(), PoolError> {
    let mut channel = connection().map_err(PoolError::setup("a blank without `cloister pool`"))?;
    let cell = jail.cell(limits_of_blank())?;
    let group = cell.group.path().to_owned();
    let (control, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| PoolError::setup("a control socket")(errno.into()))?;
    let spawned = Spawned::start(&files.jailer, &files.vmm, &cell, theirs)?;
    let pid = spawned.pid.as_raw_nonzero().get();
    let copy = |fd: &OwnedFd| fd.try_clone().map_err(PoolError::setup("a descriptor"));
    let (handle, words) = (copy(&spawned.handle)?, copy(&spawned.words)?);
    let mut process = VmmProcess::of_child(spawned, cell)?;
    prepare(copy(&control)?, files).await?;
    // Not read here: it is for whoever takes the vmm.
    process.leave_stderr();
    let ready = Word::Ready { pid, group };
    let handed = channel.send(&ready, &[control.as_fd(), handle.as_fd(), words.as_fd()]).await;
    // Nobody waits for the end of what the pool says because of a machine that goes on.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        rustix::stdio::dup2_stderr(null).ok();
    }
    // Only the user's end of the control socket is to be left: when it closes, the vmm ends too.
    drop((control, handle, words));
    if handed.is_err() {
        process.end(GRACE).await;
        return Ok(());
    }
    let status = tokio::select! {
        () = process.ended() => process.end(GRACE).await,
        // Nothing is ever said here but the end of it.
        _ = channel.receive::<()>() => {
            process.end(GRACE).await;
            return Ok(());
        }
    };
    if let Some(status) = status {
        // Whoever would like to know may have gone.
        channel.send(&Word::Ended { status: status.into_raw() }, &[]).await.ok();
    }
    Ok(())
}

/// Has the vmm make what every machine needs of KVM, while nobody waits for it.
async fn prepare(control: OwnedFd, files: &Files) -> Result<(), PoolError> {
    let kvm = files.open_kvm()?;
    let control = ControlSocket::of_host(control)?;
    Ok(control.send(&Packet::new(&Command::Prepare, vec![kvm.into()])?).await?)
}

fn connection() -> io::Result<Channel> {
    let stream = io::stdin().as_fd().try_clone_to_owned()?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true)?;
    // A socket, or somebody has called this by hand.
    stream.peer_addr()?;
    Ok(Channel::new(UnixStream::from_std(stream)?))
}
