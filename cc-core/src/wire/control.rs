//! The control stream: frames of `u32` length (little-endian, of what follows), a kind byte,
//! and a body.
//!
//! [`Hello`], [`Refusal`] and [`Shutdown`] are JSON under kinds 0, 1 and 2, and never change
//! but by new optional fields, so that any version can greet, refuse and end any other.
//! Everything else is kind 16 and belongs to [`super::PROTOCOL`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::death::Death;
use crate::ids::{ContentHash, Handle, NodeIndex, WorkerKey};
use crate::limits;
use crate::wire::WireError;
use crate::wire::stream::Place;

const HELLO: u8 = 0;
const REFUSAL: u8 = 1;
const SHUTDOWN: u8 = 2;
const MESSAGE: u8 = 16;

/// A frame of the control stream. `M` is [`ToAgent`] or [`FromAgent`].
#[derive(Debug, Clone, PartialEq)]
pub enum Frame<M> {
    /// The first frame of a session, from its client.
    Hello(Hello),
    /// The agent's refusal: the last frame of a session.
    Refusal(Refusal),
    /// The order to end the agent and all it runs.
    Shutdown(Shutdown),
    /// Anything else.
    Message(M),
}

/// Who connects, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's [`super::PROTOCOL`].
    pub protocol: u32,
    /// The cluster it means.
    pub handle: Handle,
    /// The node it means.
    pub node: NodeIndex,
    /// What kind of session it wants.
    pub session: SessionKind,
    /// End the present owner's session if there is one.
    #[serde(default)]
    pub take_over: bool,
    /// Who it is, for people.
    pub holder: Holder,
}

/// The kinds of session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionKind {
    /// The driver's program: calls, restart, the lease. At most one.
    Owner,
    /// Status, logs, files, commands: any number.
    Tool,
    /// Another agent of the cluster, passing content on.
    Peer,
}

/// A process that holds a session, for people who wonder who does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its host's name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Its executable's name.
    pub program: String,
    /// When the process started, in seconds since 1970.
    pub started: u64,
}

/// The last second of the year 9999, beyond which dates have no usual form.
const LAST_SECOND: u64 = 253_402_300_799;

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} (pid {} on {}, started {})",
            self.program,
            self.pid,
            self.host,
            humantime::format_rfc3339_seconds(
                std::time::UNIX_EPOCH + Duration::from_secs(self.started.min(LAST_SECOND))
            )
        )
    }
}

/// Why an agent does not serve a session, or serves it no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason's kind, for programs.
    pub kind: RefusalKind,
    /// The reason, for people.
    pub message: String,
    /// Who holds the cluster, where that is the reason.
    #[serde(default)]
    pub holder: Option<Holder>,
    /// The agent's [`super::PROTOCOL`].
    pub protocol: u32,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalKind {
    /// The two protocols differ.
    Protocol,
    /// The certificate's role does not allow this kind of session.
    Role,
    /// Another cluster or node was meant.
    WrongNode,
    /// Another driver owns the cluster.
    Owned,
    /// Another driver has just taken the cluster over.
    TakenOver,
    /// Too many sessions.
    Busy,
    /// The agent is ending.
    Ending,
    /// A kind that this version does not know.
    #[serde(other)]
    Other,
}

/// The order to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Why, for the agent's log and the workers' evidence.
    pub reason: String,
}

/// From a session's client to the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Are you there? Answered by [`FromAgent::Pong`] with the same number.
    Ping(u64),
    /// Keep what you have for at least this long from now (owner sessions only).
    Renew {
        /// Seconds from the receipt.
        seconds: u64,
    },
    /// Do something and answer with [`FromAgent::Answer`] of the same number.
    Request {
        /// Chosen by the client, not in use.
        id: u64,
        /// What to do.
        request: Request,
    },
}

/// What a client may ask of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Start workers in slots that have none (owner only). Answered by [`Answer::Workers`] when
    /// each is ready or has failed.
    StartWorkers(WorkerCommand, Vec<u32>),
    /// End workers: politely first, by force after the grace (owner only). Answered by
    /// [`Answer::Done`] when nothing of them is left.
    StopWorkers {
        /// Which ones; those that are gone already are skipped.
        workers: Vec<WorkerKey>,
        /// Milliseconds between the request and the kill.
        grace_ms: u64,
        /// Why, for the evidence.
        reason: String,
    },
    /// Which of these are in the content store? Answered by [`Answer::Present`].
    Have(Vec<ContentHash>),
    /// Make a file from content in the store (not for peers). Answered by [`Answer::Done`].
    Place(ContentHash, Place),
    /// Send the log from now on, and first what the rings still hold if asked. Answered by
    /// [`Answer::Done`]; lines come as [`FromAgent::Log`].
    Logs {
        /// Whether to send what is remembered, too.
        history: bool,
    },
    /// Answered by [`Answer::Status`].
    Status,
    /// Set the lease's end to this many seconds from now, whoever asks. Answered by
    /// [`Answer::Done`].
    Extend {
        /// Seconds from the receipt.
        seconds: u64,
    },
    /// Start workers in all slots that have none with the command that was used last, for a
    /// restart without the program (any session). Answered as [`Request::StartWorkers`].
    RestartWorkers,
}

/// How to start a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCommand {
    /// The executable.
    pub program: Program,
    /// Its name, for people and for the process list.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Additional environment variables.
    pub environment: Vec<(String, String)>,
    /// Its working directory, made if missing; the node's own if none is given.
    pub directory: Option<String>,
    /// Blocking tasks that it runs at once; cores ÷ workers of the node if none is given.
    pub slots: Option<u32>,
    /// The most address space it may take, in bytes (`RLIMIT_AS`), if limited.
    pub memory_limit: Option<u64>,
}

/// Where a worker's executable is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// In the content store.
    Content(ContentHash),
    /// At a path on the node.
    Path(String),
}

/// From the agent to a session's client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum FromAgent {
    /// The first frame if the session is accepted.
    Welcome(Box<Welcome>),
    /// The answer to [`ToAgent::Ping`].
    Pong(u64),
    /// The answer to a request: a failure's text says in which phase and why.
    Answer {
        /// The request's number.
        id: u64,
        /// The answer.
        result: Result<Answer, String>,
    },
    /// A worker ended.
    WorkerDown {
        /// Which one.
        worker: WorkerKey,
        /// How.
        death: Death,
    },
    /// Lines that a worker wrote.
    Log(Vec<LogLine>),
}

/// What a session begins with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The agent's session number, for its log.
    pub session: u64,
    /// The state of the node.
    pub status: NodeStatus,
}

/// The state of a node as its agent sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeIndex,
    /// The agent's version, such as `0.1.0`.
    pub version: String,
    /// The agent's process id.
    pub pid: u32,
    /// The machine's host name.
    pub hostname: String,
    /// Logical processors that the agent may use.
    pub cores: u32,
    /// Bytes of memory on the machine.
    pub memory: u64,
    /// The processor architecture, as Rust names it: `x86_64`, `aarch64`.
    pub architecture: String,
    /// Seconds since the agent started.
    pub uptime: u64,
    /// Seconds until the lease ends unless it is renewed.
    pub lease_left: u64,
    /// Who owns the cluster at present.
    pub owner: Option<Holder>,
    /// Tool sessions at present.
    pub tools: u32,
    /// The running workers.
    pub workers: Vec<WorkerStatus>,
    /// The command that workers were started with last.
    pub last_command: Option<WorkerCommand>,
}

/// A running worker as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name on the wire.
    pub key: WorkerKey,
    /// Its process id.
    pub pid: u32,
    /// Bytes resident at present.
    pub resident: u64,
    /// Seconds since it became ready.
    pub uptime: u64,
    /// The number that the last driver with a lane to it knows it by.
    pub id: Option<crate::ids::WorkerId>,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// What became of each slot.
    Workers(Vec<(u32, Result<WorkerKey, Death>)>),
    /// Which of the contents are there, in the order asked.
    Present(Vec<bool>),
    /// The state of the node.
    Status(Box<NodeStatus>),
}

/// One line that a worker wrote, without its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The worker.
    pub worker: WorkerKey,
    /// Where it wrote.
    pub source: LogSource,
    /// The line; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Where a log line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogSource {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The agent: lines were dropped because nobody took them in time; this many.
    Dropped(u64),
}

/// A frame with its length in front, ready to be written.
///
/// # Errors
/// Fails when the message is larger than [`limits::CONTROL_FRAME`].
pub fn encode<M: Serialize>(frame: &Frame<M>) -> Result<Vec<u8>, WireError> {
    let mut out = vec![0; 5];
    let json = |out: &mut Vec<u8>, result: serde_json::Result<Vec<u8>>| {
        result
            .map(|body| out.extend_from_slice(&body))
            .map_err(|e| codec::CodecError::Encode(e.to_string()))
    };
    out[4] = match frame {
        Frame::Hello(hello) => {
            json(&mut out, serde_json::to_vec(hello))?;
            HELLO
        }
        Frame::Refusal(refusal) => {
            json(&mut out, serde_json::to_vec(refusal))?;
            REFUSAL
        }
        Frame::Shutdown(shutdown) => {
            json(&mut out, serde_json::to_vec(shutdown))?;
            SHUTDOWN
        }
        Frame::Message(message) => {
            codec::encode_into(message, &mut out)?;
            MESSAGE
        }
    };
    let length = out.len() - 4;
    check_length(length as u64)?;
    out[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(out)
}

/// Checks the length that stands before a frame.
///
/// # Errors
/// Fails above [`limits::CONTROL_FRAME`].
pub fn check_length(length: u64) -> Result<(), WireError> {
    if length > limits::CONTROL_FRAME as u64 {
        return Err(WireError::TooLong {
            what: "control frame",
            claimed: length,
            limit: limits::CONTROL_FRAME as u64,
        });
    }
    Ok(())
}

/// Reads a frame (kind and body, without its length).
///
/// # Errors
/// Fails on anything that [`encode`] cannot have made, but for JSON fields it does not know.
pub fn decode<M: serde::de::DeserializeOwned>(frame: &[u8]) -> Result<Frame<M>, WireError> {
    fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
        serde_json::from_slice(body).map_err(|e| codec::CodecError::Decode(e.to_string()).into())
    }
    let (kind, body) = frame
        .split_first()
        .ok_or(WireError::Malformed("empty control frame"))?;
    match *kind {
        HELLO => json(body).map(Frame::Hello),
        REFUSAL => json(body).map(Frame::Refusal),
        SHUTDOWN => json(body).map(Frame::Shutdown),
        MESSAGE => Ok(Frame::Message(codec::decode(body)?)),
        _ => Err(WireError::Malformed("kind of control frame")),
    }
}

/// The lease that a renewal gives, bounded so that a mistake cannot keep a node for ever.
pub fn lease(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(365 * 24 * 3600))
}
