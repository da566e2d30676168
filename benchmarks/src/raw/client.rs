//! The driver's end of the raw transports: a runtime of one thread, as a driver's network has.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use cc_core::ids::{Handle, NodeIndex};
use cc_core::net::endpoint;
use cc_core::net::identity::{Authority, Role, Subject};
use tokio::runtime::Runtime;

use super::server::{self, Start};
use super::{CHUNK, FRAME, Mode, SERVER, command, fresh_memory};

/// Longest time for one measurement.
const WAIT: Duration = Duration::from_secs(120);

/// Where a stream's far end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Far {
    /// In the process with the QUIC endpoint.
    Endpoint,
    /// In a process behind that, at the other end of a unix socket.
    Socket,
}

/// A connection to a process of ours, with streams open for each measurement.
pub(crate) struct Quic {
    runtime: Runtime,
    connection: quinn::Connection,
    child: Child,
    // The endpoint works as long as it is held.
    _endpoint: quinn::Endpoint,
}

struct Stream {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
}

impl Quic {
    /// Starts the process and connects to it.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let handle = Handle::random();
        let (authority, _) = Authority::create(handle)?;
        let issue = |role| authority.issue(Subject { handle, role });
        let theirs = issue(Role::Agent(NodeIndex(0)))?;
        let start = Start {
            certificate: theirs.certificate,
            key: theirs.key,
            ca: theirs.ca,
        };
        let mut child = command(SERVER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the process with an endpoint")?;
        let input = child.stdin.as_mut().context("no standard input")?;
        writeln!(input, "{}", serde_json::to_string(&start)?)?;
        let mut line = String::new();
        let output = child.stdout.take().context("no standard output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address: SocketAddr = line.trim().parse().context("its address")?;

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let config = endpoint::client_config(&issue(Role::Driver)?, true)?;
        let (endpoint, connection) = runtime.block_on(async {
            let endpoint = endpoint::client(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
            let connection =
                endpoint::connect(&endpoint, config, address, handle, NodeIndex(0)).await?;
            anyhow::Ok((endpoint, connection))
        })?;
        Ok(Self {
            runtime,
            connection,
            child,
            _endpoint: endpoint,
        })
    }

    fn run<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        self.runtime.block_on(async {
            tokio::time::timeout(WAIT, work)
                .await
                .context("a raw transport took too long")?
        })
    }

    async fn open(&self, far: Far, mode: Mode) -> anyhow::Result<Stream> {
        let (mut send, recv) = self.connection.open_bi().await?;
        match far {
            Far::Endpoint => send.write_all(&[server::HERE]).await?,
            Far::Socket => send.write_all(&[server::BEHIND, mode.byte()]).await?,
        }
        Ok(Stream { send, recv })
    }

    /// Times messages there and back on one open stream, one after the other.
    pub(crate) fn ping(&self, far: Far, count: usize) -> anyhow::Result<Vec<Duration>> {
        self.run(async {
            let mut stream = self.open(far, Mode::Echo).await?;
            let message = [5; FRAME];
            let mut answer = [0; FRAME];
            let mut times = Vec::with_capacity(count);
            for at in 0..count + 50 {
                let start = Instant::now();
                stream.send.write_all(&message).await?;
                stream.recv.read_exact(&mut answer).await?;
                // The first ones start a process.
                if at >= 50 {
                    times.push(start.elapsed());
                }
            }
            Ok(times)
        })
    }

    /// Frames a second, there and back on one open stream, that many in each write.
    pub(crate) fn frames(&self, far: Far, total: usize, a_write: usize) -> anyhow::Result<f64> {
        self.run(async {
            let mut stream = self.open(far, Mode::Frames).await?;
            let mut frame = [3; FRAME];
            frame[..2].copy_from_slice(&(FRAME as u16 - 2).to_le_bytes());
            stream.send.write_all(&frame).await?;
            stream.recv.read_exact(&mut [0; FRAME]).await?;

            let writes = total.div_ceil(a_write);
            let all = writes * a_write * FRAME;
            let batch = frame.repeat(a_write);
            let start = Instant::now();
            let Stream { send, recv } = &mut stream;
            let write = async {
                for _ in 0..writes {
                    send.write_all(&batch).await?;
                    // As a driver's lane would: the reader has its turn after each write.
                    tokio::task::yield_now().await;
                }
                anyhow::Ok(())
            };
            let read = async {
                let mut received = 0;
                while received < all {
                    let chunk = recv.read_chunk(CHUNK, true).await?;
                    received += chunk.context("the stream ended")?.bytes.len();
                }
                Ok(())
            };
            tokio::try_join!(write, read)?;
            Ok((writes * a_write) as f64 / start.elapsed().as_secs_f64())
        })
    }

    /// Times a value's way into a process behind a socket, to its acknowledgement; `keep` it
    /// there in fresh memory, or not at all.
    pub(crate) fn put(
        &self,
        value: &Bytes,
        keep: bool,
        count: usize,
    ) -> anyhow::Result<Vec<Duration>> {
        let mode = if keep { Mode::Keep } else { Mode::Discard };
        self.run(async {
            let mut stream = self.open(Far::Socket, mode).await?;
            let mut times = Vec::with_capacity(count);
            for at in 0..=count {
                let start = Instant::now();
                let length = (value.len() as u64).to_le_bytes();
                stream.send.write_all(&length).await?;
                stream.send.write_chunk(value.clone()).await?;
                stream.recv.read_exact(&mut [0]).await?;
                // The first one finds the path's largest datagram.
                if at > 0 {
                    times.push(start.elapsed());
                }
            }
            Ok(times)
        })
    }

    /// Times messages to a process behind a socket and back, while values go to another one on
    /// a stream of their own.
    pub(crate) fn ping_beside_put(
        &self,
        value: &Bytes,
        count: usize,
    ) -> anyhow::Result<Vec<Duration>> {
        self.run(async {
            let mut pings = self.open(Far::Socket, Mode::Echo).await?;
            let mut values = self.open(Far::Socket, Mode::Discard).await?;
            let over = Cell::new(false);
            let moving = async {
                for _ in 0..count {
                    let length = (value.len() as u64).to_le_bytes();
                    values.send.write_all(&length).await?;
                    values.send.write_chunk(value.clone()).await?;
                    values.recv.read_exact(&mut [0]).await?;
                }
                over.set(true);
                anyhow::Ok(())
            };
            let pinging = async {
                let mut times = Vec::new();
                while !over.get() {
                    let start = Instant::now();
                    pings.send.write_all(&[5; FRAME]).await?;
                    pings.recv.read_exact(&mut [0; FRAME]).await?;
                    times.push(start.elapsed());
                }
                anyhow::Ok(times)
            };
            Ok(tokio::try_join!(moving, pinging)?.1)
        })
    }

    /// Times a value's way from a process behind a socket; `keep` it here in fresh memory, or
    /// not at all.
    pub(crate) fn get(
        &self,
        length: usize,
        keep: bool,
        count: usize,
    ) -> anyhow::Result<Vec<Duration>> {
        self.run(async {
            let mut stream = self.open(Far::Socket, Mode::Source).await?;
            let mut times = Vec::with_capacity(count);
            for at in 0..=count {
                let start = Instant::now();
                stream
                    .send
                    .write_all(&(length as u64).to_le_bytes())
                    .await?;
                let mut value = fresh_memory(if keep { length } else { 1 })?;
                let mut received = 0;
                while received < length {
                    let chunk = stream.recv.read_chunk(CHUNK, true).await?;
                    let bytes = chunk.context("the stream ended")?.bytes;
                    if keep {
                        value[received..received + bytes.len()].copy_from_slice(&bytes);
                    }
                    received += bytes.len();
                }
                std::hint::black_box(&value);
                if at > 0 {
                    times.push(start.elapsed());
                }
            }
            Ok(times)
        })
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.connection.close(0u32.into(), b"");
        // The process ends with its standard input.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
