//! A warden's socket: frames of [`cloister_protocol::frame`] on a Unix stream, with descriptors.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use cloister_protocol::frame::{Decoder, FrameError, encode};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};

/// Most descriptors of one message; the kernel's own bound is 253 (`SCM_MAX_FD`).
pub(super) const MAX_DESCRIPTORS: usize = 128;
/// What is read at once.
const CHUNK: usize = 64 << 10;

/// Why a connection can't be used any further.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// It can't be made.
    #[error("can't reach the team's warden")]
    Connect(#[source] io::Error),
    /// It broke.
    #[error("the connection to the team's warden failed")]
    Broken(#[source] io::Error),
    /// What came is not a message.
    #[error("the team's warden is of another version, or broken")]
    Frame(#[from] FrameError),
    /// It ended in the middle.
    #[error("the team's warden has gone")]
    Gone,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    decoder: Decoder,
    /// Read and not decoded yet.
    unread: VecDeque<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    /// Over a connected stream.
    #[must_use]
    pub const fn new(stream: UnixStream) -> Self {
        let descriptors = VecDeque::new();
        Self { stream, decoder: Decoder::new(), unread: VecDeque::new(), descriptors }
    }

    /// Connects to the socket `name` in `folder`.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(folder: &Path, name: &str) -> Result<Self, ChannelError> {
        let (_folder, path) = short(folder, name).map_err(ChannelError::Connect)?;
        let stream = UnixStream::connect(path).await.map_err(ChannelError::Connect)?;
        Ok(Self::new(stream))
    }

    /// The user of the process at the other end, as it was when the connection was made.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(self.stream.peer_cred()?.uid())
    }

    /// Sends one message with its descriptors. Not cancel safe: dropped half-way, the connection is
    /// of no use any more.
    ///
    /// # Errors
    /// The other side has gone, or the message is too long.
    pub async fn send(
        &mut self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let frame = encode(message)?;
        let mut rest = frame.as_slice();
        let mut descriptors = descriptors;
        while !rest.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || send(self.stream.as_fd(), rest, descriptors))
                .await
                .map_err(ChannelError::Broken)?;
            // They went with the first byte.
            descriptors = &[];
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Tells the other side that nothing more will be sent; what it sends still comes.
    ///
    /// # Errors
    /// It has gone.
    pub async fn close_sending(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Receives a message; `None` when the other side has closed. Cancel safe.
    ///
    /// # Errors
    /// What came is no message, or the connection broke.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ChannelError> {
        loop {
            while !self.unread.is_empty() {
                let mut front = self.unread.as_slices().0;
                let had = front.len();
                let message = self.decoder.decode(&mut front)?;
                let used = had.saturating_sub(front.len());
                self.unread.drain(..used);
                if let Some(message) = message {
                    return Ok(Some(message));
                }
            }
            let mut buffer = vec![0; CHUNK];
            let (count, descriptors) = self
                .stream
                .async_io(Interest::READABLE, || receive(self.stream.as_fd(), &mut buffer))
                .await
                .map_err(ChannelError::Broken)?;
            self.descriptors.extend(descriptors);
            match buffer.get(..count) {
                None | Some([]) if self.decoder.is_between_frames() => return Ok(None),
                None | Some([]) => return Err(ChannelError::Gone),
                Some(bytes) => self.unread.extend(bytes),
            }
        }
    }

    /// The descriptors that came with the message just received, `count` of them.
    ///
    /// # Errors
    /// There are fewer.
    pub fn take_descriptors(&mut self, count: usize) -> Result<Vec<OwnedFd>, ChannelError> {
        if self.descriptors.len() < count {
            return Err(ChannelError::Gone);
        }
        Ok(self.descriptors.drain(..count).collect())
    }
}

/// Listens on the socket `name` in `folder`, in place of one that a dead warden left. The caller
/// holds the team's lock.
///
/// # Errors
/// The file system refuses.
pub fn listen(folder: &Path, name: &str) -> io::Result<UnixListener> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, path) = short(folder, name)?;
    UnixListener::bind(path)
}

/// A path that fits a socket's address (108 bytes) wherever the folder is; good while the first part
/// lives.
fn short(folder: &Path, name: &str) -> io::Result<(std::fs::File, String)> {
    use std::os::fd::AsRawFd as _;
    let folder = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_PATH)
        .open(folder)?;
    let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    Ok((folder, path))
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?)
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut parts = [IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg(socket, &mut parts, &mut ancillary, flags) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?,
        }
    };
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut descriptors = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    Ok((message.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::warden::api::{Call, Reply};

    #[tokio::test]
    async fn messages_and_descriptors_arrive_together() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than a socket's address may be.
        let deep = folder.path().join("d".repeat(150));
        std::fs::create_dir(&deep).unwrap();
        let listener = listen(&deep, "control").unwrap();
        let serve = async {
            let mut channel = Channel::new(listener.accept().await.unwrap().0);
            let call: Call = channel.receive().await.unwrap().unwrap();
            assert_eq!(call, Call::Usage);
            let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            ours.write_all(b"x").unwrap();
            let reply = Reply::Started { descriptors: 1 };
            channel.send(&reply, &[theirs.as_fd()]).await.unwrap();
            channel.send(&Reply::Done, &[]).await.unwrap();
        };
        let call = async {
            let mut channel = Channel::connect(&deep, "control").await.unwrap();
            channel.send(&Call::Usage, &[]).await.unwrap();
            let reply: Reply = channel.receive().await.unwrap().unwrap();
            assert_eq!(reply, Reply::Started { descriptors: 1 });
            let stream = channel.take_descriptors(1).unwrap().pop().unwrap();
            let mut byte = [0];
            std::os::unix::net::UnixStream::from(stream).read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x");
            let reply: Reply = channel.receive().await.unwrap().unwrap();
            assert_eq!(reply, Reply::Done);
            assert!(channel.receive::<Reply>().await.unwrap().is_none());
            assert!(channel.take_descriptors(1).is_err());
        };
        tokio::join!(serve, call);
    }
}
