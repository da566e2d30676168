//! Copies bytes between a QUIC stream and a worker's socket, both ways, and reads none of them.
//!
//! This is on the path of every call: there is no task, no channel and no buffer per lane
//! between the two ends. What is read from a socket lands in a block that all splices of the
//! thread share and goes on from there without a copy, so an idle lane holds nothing.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};
use cc_core::limits;
use nix::sys::socket::{setsockopt, sockopt};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::net::UnixStream;

/// Kernel buffer of each end of a socket pair, in bytes; the kernel may give less.
const SOCKET_BUFFER: usize = 1 << 20;
/// Chunks that are written to a socket with one system call. On a network a chunk is one
/// datagram's share, so this makes a good 64 KiB.
const CHUNKS: usize = 32;
/// The least room in the shared block that a read is made into.
const READ_MIN: usize = limits::CHUNK / 2;
/// The code of streams that a splice resets or stops because the other side is gone.
pub(crate) const GONE: VarInt = VarInt::from_u32(1);

/// Why a splice ended before both ends had finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpliceError {
    /// The peer reset its stream, or the connection ended.
    #[error("reading the stream: {0}")]
    Read(#[from] ReadError),
    /// The peer takes no more, or the connection ended.
    #[error("writing the stream: {0}")]
    Write(#[from] WriteError),
}

/// A pair of connected sockets: one for [`run`], one to pass to a worker.
pub(crate) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (here, there) = std::os::unix::net::UnixStream::pair()?;
    for end in [&here, &there] {
        // A smaller buffer than asked for is slower and not an error.
        let _ = setsockopt(end, sockopt::SndBuf, &SOCKET_BUFFER);
    }
    here.set_nonblocking(true)?;
    Ok((UnixStream::from_std(here)?, there.into()))
}

/// Copies both ways until both ends have finished. The end of one direction is passed on and
/// leaves the other open; a reset, or the connection's end, closes the socket.
pub(crate) async fn run(
    mut send: SendStream,
    mut recv: RecvStream,
    socket: UnixStream,
) -> Result<(), SpliceError> {
    let ended = tokio::try_join!(to_socket(&mut recv, &socket), to_stream(&socket, &mut send));
    if ended.is_err() {
        // Errors are of streams that are closed already.
        let _ = send.reset(GONE);
        let _ = recv.stop(GONE);
    }
    ended.map(|_| ())
}

async fn to_socket(recv: &mut RecvStream, socket: &UnixStream) -> Result<(), SpliceError> {
    let mut chunks: [Bytes; CHUNKS] = Default::default();
    while let Some(count) = recv.read_chunks(&mut chunks).await? {
        if write_all(socket, &mut chunks[..count]).await.is_err() {
            // The worker is gone or reads no more. What it has written still goes out.
            let _ = recv.stop(GONE);
            return Ok(());
        }
    }
    // The socket may be closed at its other end; then there is nobody to tell.
    let _ = nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(socket),
        nix::sys::socket::Shutdown::Write,
    );
    Ok(())
}

async fn to_stream(socket: &UnixStream, send: &mut SendStream) -> Result<(), SpliceError> {
    loop {
        match read(socket) {
            // An error means the same as the end: the worker closed the socket, or died. What
            // arrived before is complete, and a value's length is known to its reader.
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => send.write_chunk(bytes).await?,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if socket.readable().await.is_err() {
                    break;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // The stream may be closed already.
    let _ = send.finish();
    Ok(())
}

/// Reads what is there into the thread's block and gives that part of it away.
fn read(socket: &UnixStream) -> io::Result<Bytes> {
    thread_local! {
        static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    }
    BLOCK.with_borrow_mut(|block| {
        let room = block.capacity() - block.len();
        // What is on its way to a peer still holds the old block: then a new one is begun.
        if room < READ_MIN && !block.try_reclaim(limits::CHUNK) {
            *block = BytesMut::with_capacity(limits::CHUNK);
        }
        socket.try_read_buf(block)?;
        Ok(block.split().freeze())
    })
}

/// Writes all the chunks and leaves them empty.
async fn write_all(socket: &UnixStream, chunks: &mut [Bytes]) -> io::Result<()> {
    let mut first = 0;
    while first < chunks.len() {
        let left = &mut chunks[first..];
        let result = match left {
            [one] => socket.try_write(one),
            _ => {
                let mut slices = [IoSlice::new(&[]); CHUNKS];
                for (slice, chunk) in slices.iter_mut().zip(left.iter()) {
                    *slice = IoSlice::new(chunk);
                }
                socket.try_write_vectored(&slices[..left.len()])
            }
        };
        match result {
            Ok(written) => first += advance(left, written),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Takes `written` bytes from the front of the chunks; gives how many are done with.
fn advance(chunks: &mut [Bytes], mut written: usize) -> usize {
    let mut done = 0;
    for chunk in chunks {
        let taken = written.min(chunk.len());
        bytes::Buf::advance(chunk, taken);
        written -= taken;
        if !chunk.is_empty() {
            break;
        }
        *chunk = Bytes::new();
        done += 1;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advancing_counts_the_chunks_that_are_done() {
        let mut chunks = [
            Bytes::from_static(b"abc"),
            Bytes::new(),
            Bytes::from_static(b"de"),
        ];
        assert_eq!(advance(&mut chunks, 2), 0);
        assert_eq!(advance(&mut chunks, 2), 2);
        assert_eq!(chunks[2], "e");
        assert_eq!(advance(&mut chunks[2..], 1), 1);
    }
}

#[cfg(test)]
mod through_quic {
    use cc_core::ids::{Handle, NodeIndex};
    use cc_core::net::endpoint;
    use cc_core::net::identity::{Authority, Role, Subject};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::{Duration, timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Streams of a client, and the worker's end of what an agent splices them to. The
    /// endpoints and connections must live on.
    struct Spliced {
        send: SendStream,
        recv: RecvStream,
        worker: UnixStream,
        splice: tokio::task::JoinHandle<Result<(), SpliceError>>,
        _alive: (
            quinn::Endpoint,
            quinn::Endpoint,
            quinn::Connection,
            quinn::Connection,
        ),
    }

    async fn spliced() -> Spliced {
        let handle = Handle::random();
        let (authority, _) = Authority::create(handle).unwrap();
        let issue = |role| authority.issue(Subject { handle, role }).unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let node = NodeIndex(0);
        let server = endpoint::serve(address, &issue(Role::Agent(node))).unwrap();
        let client = endpoint::client(address.ip()).unwrap();
        let config = endpoint::client_config(&issue(Role::Driver), true).unwrap();
        let address = server.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(
            async { server.accept().await.unwrap().await.unwrap() },
            async {
                endpoint::connect(&client, config, address, handle, node)
                    .await
                    .unwrap()
            },
        );
        let (mut send, recv) = theirs.open_bi().await.unwrap();
        // A stream is seen when something is sent on it.
        send.write_all(b"!").await.unwrap();
        let (agent_send, mut agent_recv) = ours.accept_bi().await.unwrap();
        agent_recv.read_exact(&mut [0]).await.unwrap();
        let (socket, worker) = pair().unwrap();
        let worker = std::os::unix::net::UnixStream::from(worker);
        worker.set_nonblocking(true).unwrap();
        Spliced {
            send,
            recv,
            worker: UnixStream::from_std(worker).unwrap(),
            splice: tokio::spawn(run(agent_send, agent_recv, socket)),
            _alive: (server, client, ours, theirs),
        }
    }

    #[tokio::test]
    async fn bytes_and_half_closes_pass_both_ways() {
        let mut s = spliced().await;
        let sent: Vec<u8> = (0..8 << 20).map(|i: u32| (i ^ (i >> 11)) as u8).collect();
        let echo = async {
            let (mut read, mut write) = s.worker.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let put = async {
            s.send.write_all(&sent).await.unwrap();
            s.send.finish().unwrap();
        };
        let ((), (), got) = timeout(LONG, async {
            tokio::join!(echo, put, s.recv.read_to_end(usize::MAX))
        })
        .await
        .unwrap();
        assert!(got.unwrap() == sent);
        timeout(LONG, s.splice).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_reset_closes_the_socket() {
        let mut s = spliced().await;
        s.send.reset(VarInt::from_u32(9)).unwrap();
        let got = timeout(LONG, s.worker.read(&mut [0; 8])).await.unwrap();
        assert_eq!(got.unwrap(), 0);
        assert!(timeout(LONG, s.splice).await.unwrap().unwrap().is_err());
        assert!(s.recv.read_to_end(8).await.is_err());
    }

    #[tokio::test]
    async fn what_a_worker_wrote_before_it_died_arrives() {
        let mut s = spliced().await;
        // Unread by the worker: its close is a reset to our end.
        s.send.write_all(b"never read").await.unwrap();
        s.worker.readable().await.unwrap();
        s.worker.write_all(b"last words").await.unwrap();
        drop(s.worker);
        let got = timeout(LONG, s.recv.read_to_end(64)).await.unwrap();
        assert_eq!(got.unwrap(), b"last words");
        // The other direction ends when something is sent that nobody takes.
        assert!(
            timeout(LONG, async {
                while s.send.write_all(b"x").await.is_ok() {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .is_ok()
        );
        timeout(LONG, s.splice).await.unwrap().unwrap().unwrap();
    }
}
