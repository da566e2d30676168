//! The limits: the same bytes over the same transports, with nothing of the framework in between.
//!
//! Where the real thing has separate processes, so does this: the driver's end is here, the
//! agent's is a process with a QUIC endpoint ([`server`]), and the worker's is one with nothing
//! but a unix socket ([`unix`]). Both are this executable, started with a hidden option; they
//! end when the one that started them closes their standard input. Nothing here may use more of
//! the project than the transport settings of `cc_core::net`.

mod client;
mod server;
mod spawn;
mod unix;

pub(crate) use client::{Far, Quic};
pub(crate) use spawn::processes;
pub(crate) use unix::Socket;

/// The option that makes a process one of these.
pub(crate) const ROLE_OPTION: &str = "--raw";
/// The process with the QUIC endpoint.
const SERVER: &str = "server";
/// The process behind a unix socket, which is its standard input.
const UNIX: &str = "unix";
/// A process that says a byte and ends.
const HELLO: &str = "hello";

/// Bytes of a message in a ping, and of a frame: what a no-op's frame on a lane takes.
pub(crate) const FRAME: usize = 10;
/// Bytes that are read and written at a time.
const CHUNK: usize = 256 * 1024;

/// What the far end does with a stream from its first byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Sends everything back as it came.
    Echo,
    /// Reads frames one by one and answers each with a frame.
    Frames,
    /// Reads values into a buffer that it uses again and again, and answers each with a byte.
    Discard,
    /// Reads values into fresh memory, and answers each with a byte.
    Keep,
    /// Sends a value for each request.
    Source,
}

impl Mode {
    const ALL: [Self; 5] = [
        Self::Echo,
        Self::Frames,
        Self::Discard,
        Self::Keep,
        Self::Source,
    ];

    fn byte(self) -> u8 {
        self as u8
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.byte() == byte)
    }
}

/// Runs one of these processes to its end.
///
/// # Errors
/// Fails on an unknown role, and when sockets cannot be had.
pub(crate) fn run(role: &str) -> anyhow::Result<()> {
    match role {
        SERVER => server::run(),
        UNIX => unix::run(),
        HELLO => spawn::hello(),
        other => anyhow::bail!("no such role: {other}"),
    }
}

/// Memory that nobody has touched, in pages as large as the kernel has: what a value that is
/// kept costs at least.
fn fresh_memory(length: usize) -> std::io::Result<memmap2::MmapMut> {
    let memory = memmap2::MmapMut::map_anon(length)?;
    // A kernel without huge pages gives ordinary ones.
    let _ = memory.advise(memmap2::Advice::HugePage);
    Ok(memory)
}

/// This executable in a role.
fn command(role: &str) -> std::process::Command {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args([ROLE_OPTION, role]);
    command
}
