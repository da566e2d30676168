//! Commands on the node, for `exec`: a program with its input and output on a stream, with or
//! without a terminal.
//!
//! A command has a session of its own, and a guard, which leaves nothing of it behind: neither
//! when the command ends, nor when whoever ordered it is gone, nor when this agent is killed.
//! Back-pressure reaches from the client's reading to the command's writing.

use std::io;
use std::path::Path;
use std::process::Stdio;

use cc_core::death::Cause;
use cc_core::limits;
use cc_core::net::framed::{self, FramedError};
use cc_core::wire::WireError;
use cc_core::wire::stream::{Exec, ExecFrame};
use quinn::{RecvStream, SendStream, VarInt};
use rustix::process::Signal;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::timeout;

mod job;
mod terminal;
#[cfg(test)]
mod tests;

use job::{End, Job};
use terminal::{Terminal, Window};

use crate::supervise::spawn;

/// Output bytes in one frame.
const PIECE: usize = 64 * 1024;
/// Frames that wait for the stream.
const QUEUE: usize = 4;
/// The most that a pipe or terminal may still hold when the command has ended: the kernel's
/// limit for what users may set. More was written by somebody who outlived it.
const LEFT_BEHIND: usize = 1 << 20;
/// What a piece of waiting input costs besides its bytes, so that empty ones are bounded, too.
const PIECE_COST: usize = 64;
/// What ends a terminal's input: control-D.
const END_OF_INPUT: &[u8] = &[4];

/// Serves an exec stream to its end. Dropping the future ends the command.
pub(crate) async fn serve_exec(base: &Path, exec: Exec, mut send: SendStream, recv: RecvStream) {
    match start(base, &exec) {
        Ok((program, running)) => run(program, running, send, recv).await,
        Err(why) => {
            let failed = ExecFrame::Failed(why);
            let write = framed::write_value(&mut send, &failed);
            let _ = timeout(limits::TRANSFER_STALL, write).await;
            let _ = send.finish();
        }
    }
}

struct Running {
    job: Job,
    end: End,
    input: Input,
    output: Output,
    /// A terminal has none.
    error: Option<Output>,
    window: Option<Window>,
}

enum Input {
    Pipe(pipe::Sender),
    Terminal(Terminal),
    Closed,
}

impl Input {
    async fn write(&mut self, mut bytes: &[u8]) {
        if bytes.is_empty() {
            match self {
                Self::Terminal(_) => bytes = END_OF_INPUT,
                _ => *self = Self::Closed,
            }
        }
        let written = match self {
            Self::Pipe(pipe) => tokio::io::AsyncWriteExt::write_all(pipe, bytes).await,
            Self::Terminal(terminal) => terminal.write_all(bytes).await,
            Self::Closed => Ok(()),
        };
        // The command reads no more, which is no error.
        if written.is_err() {
            *self = Self::Closed;
        }
    }
}

enum Output {
    Pipe(pipe::Receiver),
    Terminal(Terminal),
}

impl Output {
    async fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => tokio::io::AsyncReadExt::read(pipe, piece).await,
            Self::Terminal(terminal) => terminal.read(piece).await,
        }
    }
}

/// Gives the program's name, too.
fn start<'a>(base: &Path, exec: &'a Exec) -> Result<(&'a str, Running), String> {
    let (program, arguments) = exec
        .argv
        .split_first()
        .ok_or("starting: no command was given")?;
    let directory = exec.directory.as_deref().unwrap_or("");
    let directory = base.join(directory);
    // Said here, because the system's answer to spawning does not tell which one is missing.
    let found = std::fs::metadata(&directory).and_then(|metadata| {
        if metadata.is_dir() {
            Ok(())
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    });
    found.map_err(|e| format!("starting in {}: {e}", directory.display()))?;
    if exec
        .env
        .iter()
        .any(|(name, _)| name.is_empty() || name.contains(['=', '\0']))
    {
        return Err("starting: an environment variable's name is empty or has a `=`".to_owned());
    }
    let mut command = spawn::guarded(program.as_ref(), arguments, &directory);
    for (name, value) in &exec.env {
        spawn::set(&mut command, name, value);
    }
    let started = match exec.terminal {
        Some((columns, rows)) => on_terminal(command, columns, rows),
        None => on_pipes(command),
    };
    let running = started.map_err(|e| not_started(program, e))?;
    Ok((program, running))
}

fn not_started(program: &str, why: impl std::fmt::Display) -> String {
    format!("starting {program}: {why}")
}

fn on_pipes(mut command: Command) -> io::Result<Running> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (job, mut end) = Job::start(command, false)?;
    let (input, output, error) = end.pipes()?;
    Ok(Running {
        job,
        end,
        input: Input::Pipe(pipe::Sender::from_owned_fd(input)?),
        output: Output::Pipe(pipe::Receiver::from_owned_fd(output)?),
        error: Some(Output::Pipe(pipe::Receiver::from_owned_fd(error)?)),
        window: None,
    })
}

fn on_terminal(mut command: Command, columns: u16, rows: u16) -> io::Result<Running> {
    let (terminal, theirs) = Terminal::open()?;
    let window = terminal.window();
    window.resize(columns, rows);
    command
        .stdin(theirs.try_clone()?)
        .stdout(theirs.try_clone()?)
        .stderr(theirs);
    let (job, end) = Job::start(command, true)?;
    Ok(Running {
        job,
        end,
        input: Input::Terminal(terminal.clone()),
        output: Output::Terminal(terminal),
        error: None,
        window: Some(window),
    })
}

async fn run(program: &str, running: Running, mut send: SendStream, mut recv: RecvStream) {
    let Running {
        job,
        end,
        mut input,
        output,
        error,
        window,
    } = running;
    let gone = send.stopped();
    let (frames, mut queue) = mpsc::channel(QUEUE);
    let (over, ended) = watch::channel(false);

    let outputs = {
        let frames = frames.clone();
        async move {
            tokio::join!(
                forward(Some(output), ExecFrame::Output, &frames, ended.clone()),
                forward(error, ExecFrame::Error, &frames, ended.clone()),
            );
        }
    };
    let life = async {
        let cause = end.wait().await;
        // Whoever still has the pipes open is gone now, or cannot be killed.
        over.send_replace(true);
        cause
    };
    let all = async move {
        let ((), cause) = tokio::join!(outputs, life);
        let last = match cause {
            Cause::NotStarted(why) => ExecFrame::Failed(not_started(program, why)),
            cause => ExecFrame::Ended(cause),
        };
        let _ = frames.send(last).await;
    };
    let write = async {
        while let Some(frame) = queue.recv().await {
            // No deadline: whoever does not read holds up their own command only, and a client
            // that is gone ends its stream.
            if framed::write_value(&mut send, &frame).await.is_err() {
                return false;
            }
        }
        true
    };
    let read = async {
        let ended = feed(&mut recv, &mut input, &job, window.as_ref()).await;
        match ended {
            // Nothing more to say, but perhaps to hear.
            Ok(()) => std::future::pending().await,
            Err(error) => tracing::debug!(%error, "an exec stream broke off"),
        }
    };
    tokio::select! {
        ((), told) = async { tokio::join!(all, write) } => {
            if told {
                let _ = send.finish();
            }
        }
        _ = gone => {}
        () = read => {
            let _ = send.reset(VarInt::from_u32(1));
        }
    }
}

/// Passes output on until its end, or until the command is over and nothing comes any more.
async fn forward(
    output: Option<Output>,
    frame: impl Fn(Vec<u8>) -> ExecFrame,
    frames: &mpsc::Sender<ExecFrame>,
    ended: watch::Receiver<bool>,
) {
    let Some(mut output) = output else {
        return;
    };
    let mut piece = vec![0; PIECE];
    let mut left = LEFT_BEHIND;
    while left > 0 {
        let mut watched = ended.clone();
        let silent = async {
            let _ = watched.wait_for(|over| *over).await;
            tokio::time::sleep(limits::STOP_GRACE).await;
        };
        let read = tokio::select! {
            read = output.read(&mut piece) => read,
            () = silent => return,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                if *ended.borrow() {
                    left = left.saturating_sub(read);
                }
                if frames.send(frame(piece[..read].to_vec())).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Gives the command what comes from the client, until that ends. Signals and sizes do not wait
/// for the command to read its input.
async fn feed(
    recv: &mut RecvStream,
    input: &mut Input,
    job: &Job,
    window: Option<&Window>,
) -> Result<(), FramedError> {
    let room = Semaphore::new(limits::EXEC_INPUT);
    // Has no more pieces than there is room for.
    let (queue, mut waiting) = mpsc::unbounded_channel::<Piece<'_>>();
    let write = async {
        while let Some((bytes, taken)) = waiting.recv().await {
            input.write(&bytes).await;
            drop(taken);
        }
        *input = Input::Closed;
        Ok(())
    };
    let read = receive(recv, queue, &room, job, window);
    tokio::try_join!(read, write).map(|_| ())
}

/// A piece of input, with its part of the room.
type Piece<'a> = (Vec<u8>, SemaphorePermit<'a>);

/// Acts on the client's frames until their end.
async fn receive<'a>(
    recv: &mut RecvStream,
    queue: mpsc::UnboundedSender<Piece<'a>>,
    room: &'a Semaphore,
    job: &Job,
    window: Option<&Window>,
) -> Result<(), FramedError> {
    loop {
        match framed::read_value(recv).await? {
            Some(ExecFrame::Input(bytes)) => {
                let takes = bytes.len().saturating_add(PIECE_COST);
                let takes = takes.min(limits::EXEC_INPUT) as u32;
                // Neither is closed before this ends.
                if let Ok(taken) = room.acquire_many(takes).await {
                    let _ = queue.send((bytes, taken));
                }
            }
            Some(ExecFrame::Resize(columns, rows)) => {
                if let Some(window) = window {
                    window.resize(columns, rows);
                }
            }
            Some(ExecFrame::Signal(number)) => {
                // Numbers that are no signals do nothing.
                if let Some(signal) = Signal::from_named_raw(number) {
                    job.signal(signal);
                }
            }
            Some(_) => return Err(WireError::Malformed("frame to a command").into()),
            None => return Ok(()),
        }
    }
}
