//! A process behind a unix socket, with blocking reads and writes: the worker's end.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::{CHUNK, FRAME, Mode, UNIX, command, fresh_memory};

/// Longest wait for a message on a socket.
const WAIT: Duration = Duration::from_secs(60);

/// Starts a process behind one end of a socket pair; gives the other end.
pub(super) fn start() -> anyhow::Result<(UnixStream, Child)> {
    let (here, there) = UnixStream::pair().context("socket pair")?;
    let child = command(UNIX)
        .stdin(Stdio::from(OwnedFd::from(there)))
        .stdout(Stdio::null())
        .spawn()
        .context("start the process behind a unix socket")?;
    Ok((here, child))
}

/// The process: does what the first byte says, to the end of the socket.
pub(super) fn run() -> anyhow::Result<()> {
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut mode = [0];
    socket.read_exact(&mut mode)?;
    let result = match Mode::from_byte(mode[0]).context("no such mode")? {
        Mode::Echo => echo(&mut socket),
        Mode::Frames => frames(&mut socket),
        Mode::Discard => sink(&mut socket, false),
        Mode::Keep => sink(&mut socket, true),
        Mode::Source => source(&mut socket),
    };
    match result {
        Err(e) if [ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe].contains(&e.kind()) => Ok(()),
        result => Ok(result?),
    }
}

fn echo(socket: &mut UnixStream) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = socket.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        socket.write_all(&buffer[..read])?;
    }
}

/// Frames are a length of two bytes and what it counts, as on a lane.
fn frames(socket: &mut UnixStream) -> std::io::Result<()> {
    let mut input = vec![0; CHUNK];
    let mut output = Vec::with_capacity(CHUNK);
    let mut have = 0;
    loop {
        let read = socket.read(&mut input[have..])?;
        if read == 0 {
            return Ok(());
        }
        have += read;
        let mut at = 0;
        while let Some(length) = input[at..have].first_chunk() {
            let end = at + 2 + usize::from(u16::from_le_bytes(*length));
            if end > have {
                break;
            }
            output.extend_from_slice(&input[at..end]);
            at = end;
        }
        input.copy_within(at..have, 0);
        have -= at;
        socket.write_all(&output)?;
        output.clear();
    }
}

fn length(socket: &mut UnixStream) -> std::io::Result<usize> {
    let mut length = [0; 8];
    socket.read_exact(&mut length)?;
    Ok(u64::from_le_bytes(length) as usize)
}

fn sink(socket: &mut UnixStream, keep: bool) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut left = length(socket)?;
        if keep {
            let mut value = fresh_memory(left)?;
            socket.read_exact(&mut value)?;
            std::hint::black_box(&value);
        } else {
            while left > 0 {
                let want = left.min(CHUNK);
                socket.read_exact(&mut buffer[..want])?;
                left -= want;
            }
        }
        socket.write_all(&[1])?;
    }
}

fn source(socket: &mut UnixStream) -> std::io::Result<()> {
    let mut value = Vec::new();
    loop {
        let length = length(socket)?;
        if value.len() != length {
            value = vec![7; length];
        }
        socket.write_all(&value)?;
    }
}

/// A unix socket with an echoing process behind it.
pub(crate) struct Socket {
    socket: UnixStream,
    child: Child,
}

impl Socket {
    /// Starts the process.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (mut socket, child) = start()?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.write_all(&[Mode::Echo.byte()])?;
        let mut this = Self { socket, child };
        this.ping(100)?;
        Ok(this)
    }

    /// Times messages there and back, one after the other.
    pub(crate) fn ping(&mut self, count: usize) -> anyhow::Result<Vec<Duration>> {
        let message = [5; FRAME];
        let mut answer = [0; FRAME];
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.socket.write_all(&message)?;
            self.socket.read_exact(&mut answer)?;
            times.push(start.elapsed());
        }
        if answer != message {
            bail!("the echo differs");
        }
        Ok(times)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The process ends with the socket; only a broken one needs more.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}
