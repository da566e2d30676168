//! The control socket between an agent and a worker: one message a packet, at most one
//! descriptor with it.
//!
//! Both ends use this type. It never waits for the peer outside of an `async fn`, never takes
//! a packet beyond [`limits::LOCAL_FRAME`], and closes every descriptor that it was not
//! asked for.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::sync::Mutex;

use cc_core::limits;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
    recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's `SCM_MAX_FD`.
const DESCRIPTORS: usize = 253;

/// A message, and the descriptor that goes with it, that waits to be sent.
pub(super) type Parcel = (Vec<u8>, Option<OwnedFd>);

/// One end of a control socket, on the tokio runtime that it was made in.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    socket: AsyncFd<OwnedFd>,
}

impl ControlSocket {
    /// Two connected ends, neither inherited by children: the agent keeps one (see
    /// [`Self::from_fd`]) and gives the other to a worker.
    pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        Ok(socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?)
    }

    /// Takes an end over. Must be called within a tokio runtime with I/O enabled.
    pub(crate) fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&socket)?;
        // SAFETY: an `OwnedFd` is open, and names the same descriptor for as long as it lives.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// Sends a packet, with a descriptor if one is given. Cancel-safe: a packet is sent whole
    /// or not at all.
    ///
    /// # Errors
    /// Fails when the peer is gone or the packet is too large.
    pub(crate) async fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.socket
            .async_io(Interest::WRITABLE, |socket| send_packet(socket, bytes, fd))
            .await
    }

    /// Sends what is in a queue as far as it goes without waiting; what was sent, or cannot
    /// be sent ever, is no longer in it.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when something is left, otherwise as [`Self::send`].
    pub(super) fn try_send_all(&self, queue: &mut VecDeque<Parcel>) -> io::Result<()> {
        // Past tokio's readiness, which is not known before the runtime has waited once.
        send_packets(self.socket.get_ref(), queue)
    }

    /// Sends all that is in a queue. Cancel-safe.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(super) async fn send_all(&self, queue: &Mutex<VecDeque<Parcel>>) -> io::Result<()> {
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                send_packets(socket, &mut super::lock(queue))
            })
            .await
    }

    /// Receives a packet, and the descriptor that came with it; `None` when the peer is gone.
    /// Cancel-safe.
    ///
    /// # Errors
    /// Fails on a packet beyond [`limits::LOCAL_FRAME`], and when the socket does.
    pub(crate) async fn recv(&self) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
        self.socket
            .async_io(Interest::READABLE, receive_packet)
            .await
    }
}

/// Makes reads and writes of a descriptor return instead of wait.
pub(super) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn send_packets(socket: &OwnedFd, queue: &mut VecDeque<Parcel>) -> io::Result<()> {
    while let Some((bytes, fd)) = queue.front() {
        let sent = send_packet(socket, bytes, fd.as_ref().map(AsFd::as_fd));
        if matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            return sent;
        }
        queue.pop_front();
        sent?;
    }
    Ok(())
}

fn send_packet(socket: &OwnedFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    if bytes.is_empty() || bytes.len() > limits::LOCAL_FRAME {
        // An empty packet reads like the end of the socket.
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a control message of {} bytes", bytes.len()),
        ));
    }
    let fds = fd.map(|fd| [fd.as_raw_fd()]);
    let rights = fds.as_ref().map(|fds| ControlMessage::ScmRights(fds));
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        rights.as_slice(),
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

fn receive_packet(socket: &OwnedFd) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    // The length first, so that no buffer of the largest size is needed. This is the only
    // reader, so the packet that is looked at is the one that is then taken.
    let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
    let length = match retried(|| recv(socket.as_raw_fd(), &mut [], peek)) {
        Ok(0) => return Ok(None),
        Ok(length) => length,
        Err(error) => return Err(error.into()),
    };
    if length > limits::LOCAL_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a control message of {length} bytes"),
        ));
    }
    let mut bytes = vec![0; length];
    // Room for as many descriptors as the kernel passes at once: those that do not fit would
    // be cut off together with the means to close the others.
    let mut space = nix::cmsg_space!([i32; DESCRIPTORS]);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let cloexec = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = match recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), cloexec) {
        // As in `retried`; the packet is still there for the next call.
        Err(Errno::ECONNRESET) => return receive_packet(socket),
        other => other?,
    };
    let mut received = Vec::new();
    if let Ok(messages) = message.cmsgs() {
        for message in messages {
            if let ControlMessageOwned::ScmRights(fds) = message {
                // SAFETY: the kernel has just made these descriptors for this process, and
                // nothing else knows them.
                received.extend(
                    fds.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
    }
    received.truncate(1);
    Ok(Some((bytes, received.pop())))
}

/// A peer that ends without having read everything leaves an error, which is reported once
/// and ahead of the packets that it had sent.
fn retried<T>(mut receive: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    match receive() {
        Err(Errno::ECONNRESET) => receive(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    fn pair() -> (ControlSocket, ControlSocket) {
        let (a, b) = ControlSocket::pair().unwrap();
        (
            ControlSocket::from_fd(a).unwrap(),
            ControlSocket::from_fd(b).unwrap(),
        )
    }

    #[tokio::test]
    async fn packets_keep_their_bounds_and_carry_a_descriptor() {
        let (a, b) = pair();
        let (mut near, far) = UnixStream::pair().unwrap();
        a.send(b"one", None).await.unwrap();
        a.send(b"three", Some(far.as_fd())).await.unwrap();
        drop(far);
        assert_eq!(b.recv().await.unwrap().unwrap().0, b"one");
        let (bytes, fd) = b.recv().await.unwrap().unwrap();
        assert_eq!(bytes, b"three");
        let mut far = UnixStream::from(fd.unwrap());
        far.write_all(b"x").unwrap();
        let mut byte = [0];
        near.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        drop(a);
        assert!(b.recv().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_full_socket_says_so_and_a_closed_one_fails() {
        let (a, b) = pair();
        let packet = |number: u16| (number.to_le_bytes().repeat(500), None);
        let mut queue = VecDeque::new();
        let mut sent = 0;
        let full = loop {
            queue.push_back(packet(sent));
            sent += 1;
            if let Err(error) = a.try_send_all(&mut queue) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(queue.len(), 1);
        let queue = Mutex::new(queue);
        let receive = async {
            for number in 0..sent {
                assert_eq!(b.recv().await.unwrap().unwrap().0, packet(number).0);
            }
        };
        tokio::join!(async { a.send_all(&queue).await.unwrap() }, receive);
        assert!(queue.lock().unwrap().is_empty());
        drop(b);
        assert!(a.send(b"x", None).await.is_err());
    }

    #[tokio::test]
    async fn what_a_peer_said_is_heard_though_it_ended_without_listening() {
        let (a, b) = pair();
        a.send(b"unheard", None).await.unwrap();
        b.send(b"last words", None).await.unwrap();
        drop(b);
        assert_eq!(a.recv().await.unwrap().unwrap().0, b"last words");
        assert!(a.recv().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn descriptors_beyond_the_first_are_closed() {
        let (a, b) = pair();
        let (near, far) = UnixStream::pair().unwrap();
        let fds = [far.as_raw_fd(); 2];
        sendmsg::<()>(
            a.socket.get_ref().as_raw_fd(),
            &[IoSlice::new(b"x")],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        drop(far);
        let (_, fd) = b.recv().await.unwrap().unwrap();
        drop(fd.unwrap());
        let mut end = Vec::new();
        (&near).read_to_end(&mut end).unwrap();
    }
}
