//! The control socket between an agent and a worker: one message a packet, at most one
//! descriptor with it.
//!
//! Both ends use this type. It never waits for the peer outside of an `async fn`, never takes
//! a packet beyond [`limits::LOCAL_FRAME`], and closes every descriptor that it was not
//! asked for.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use cc_core::limits;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
    recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's `SCM_MAX_FD`.
const DESCRIPTORS: usize = 253;

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

    /// Sends a packet at once or fails with [`io::ErrorKind::WouldBlock`].
    pub(crate) fn try_send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        // Past tokio's readiness, which is not known before the runtime has waited once.
        send_packet(self.socket.get_ref(), bytes, fd)
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
    let length = match recv(socket.as_raw_fd(), &mut [], peek) {
        Ok(0) | Err(nix::Error::ECONNRESET) => return Ok(None),
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
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
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
        let full = loop {
            if let Err(error) = a.try_send(&[7; 1000], None) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        b.recv().await.unwrap().unwrap();
        drop(b);
        assert!(a.send(b"x", None).await.is_err());
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
