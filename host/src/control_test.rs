use cloister_vmm::control::StartTimes;
use rustix::net::{RecvAncillaryMessage, shutdown};

use super::*;

/// The vmm's end, as the vmm's own code sees it.
fn read_command(vmm: &OwnedFd) -> (Command, Vec<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; MAX_MESSAGE];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg(vmm, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    (postcard::from_bytes(&buffer[..message.bytes]).unwrap(), descriptors)
}

fn write_bytes(vmm: &OwnedFd, bytes: &[u8]) {
    rustix::io::write(vmm, bytes).unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_command_arrives_with_its_descriptors_in_order() {
    let (host, vmm) = ControlSocket::pair().unwrap();
    let (one, one_write) = rustix::pipe::pipe().unwrap();
    let (two, two_write) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&one_write, b"1").unwrap();
    rustix::io::write(&two_write, b"2").unwrap();
    let command = Command::Accept { id: 5 };
    host.send(&Packet::new(&command, vec![one, two]).unwrap()).await.unwrap();
    let (received, descriptors) = read_command(&vmm);
    assert_eq!(received, command);
    let mut byte = [0];
    for (descriptor, expected) in descriptors.iter().zip([b'1', b'2']) {
        rustix::io::read(descriptor, &mut byte).unwrap();
        assert_eq!(byte[0], expected);
        let flags = rustix::io::fcntl_getfd(descriptor).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    assert_eq!(descriptors.len(), 2);
}

#[tokio::test(flavor = "current_thread")]
async fn events_arrive_and_the_end_is_none() {
    let (host, vmm) = ControlSocket::pair().unwrap();
    let events = [Event::Running(StartTimes::default()), Event::Incoming { id: u32::MAX, port: 1 }];
    for event in &events {
        write_bytes(&vmm, &postcard::to_allocvec(event).unwrap());
    }
    drop(vmm);
    for event in events {
        assert_eq!(host.receive().await.unwrap(), Some(event));
    }
    assert_eq!(host.receive().await.unwrap(), None);
}

#[tokio::test(flavor = "current_thread")]
async fn the_last_words_of_a_vmm_that_left_commands_unread_arrive() {
    let (host, vmm) = ControlSocket::pair().unwrap();
    host.send(&Packet::new(&Command::Stats, Vec::new()).unwrap()).await.unwrap();
    write_bytes(&vmm, &postcard::to_allocvec(&Event::Paused).unwrap());
    // With an unread command this makes ECONNRESET of the next receive.
    drop(vmm);
    assert_eq!(host.receive().await.unwrap(), Some(Event::Paused));
    assert_eq!(host.receive().await.unwrap(), None);
}

#[tokio::test(flavor = "current_thread")]
async fn bad_packets_are_errors() {
    let (host, vmm) = ControlSocket::pair().unwrap();
    write_bytes(&vmm, &[0xff; 9]);
    let error = host.receive().await.unwrap_err();
    assert!(matches!(error, ControlError::Malformed { length: 9, .. }), "{error:?}");

    let trailing = [postcard::to_allocvec(&Event::Paused).unwrap(), vec![0, 0]].concat();
    write_bytes(&vmm, &trailing);
    let error = host.receive().await.unwrap_err();
    assert!(matches!(error, ControlError::TrailingBytes { extra: 2 }), "{error:?}");

    write_bytes(&vmm, &[0; MAX_MESSAGE + 1]);
    let error = host.receive().await.unwrap_err();
    assert!(matches!(error, ControlError::TooLong), "{error:?}");

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let rights = [vmm.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
    let bytes = postcard::to_allocvec(&Event::Paused).unwrap();
    sendmsg(&vmm, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty()).unwrap();
    let error = host.receive().await.unwrap_err();
    assert!(matches!(error, ControlError::Descriptors), "{error:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_vmm_that_reads_no_more_is_an_error_and_no_signal() {
    let (host, vmm) = ControlSocket::pair().unwrap();
    shutdown(&vmm, rustix::net::Shutdown::Both).unwrap();
    let packet = Packet::new(&Command::Stop, Vec::new()).unwrap();
    assert!(matches!(host.send(&packet).await, Err(ControlError::Send(_))));
}

#[test]
fn what_does_not_fit_a_packet_is_refused() {
    let vm = cloister_vmm::spec::VmSpec {
        vcpus: 1,
        memory_mib: 64,
        extra_cmdline: "x".repeat(MAX_MESSAGE),
    };
    let refused = Packet::new(&Command::Start(vm), Vec::new());
    assert!(matches!(refused, Err(ControlError::Unencodable)));
}
