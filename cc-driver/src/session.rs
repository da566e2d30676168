//! A session with one node's agent: its connection, its control stream, its liveness.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cc_core::death::Death;
use cc_core::ids::{Handle, NodeIndex, WorkerKey};
use cc_core::limits;
use cc_core::net::{endpoint, framed};
use cc_core::wire::PROTOCOL;
use cc_core::wire::control::{
    Answer, Frame, FromAgent, Hello, Holder, LogLine, Refusal, Request, SessionKind, Shutdown,
    ToAgent, Welcome,
};
use cc_core::wire::stream::StreamHeader;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::DriverError;

/// What happens on a node besides answers.
#[derive(Debug)]
pub(crate) enum Event {
    /// A worker ended.
    WorkerDown(WorkerKey, Death),
    /// Workers wrote lines.
    Log(Vec<LogLine>),
    /// The agent has not answered for a while.
    Silent(Duration),
    /// The session is over, and why.
    Over(String),
}

/// Where a session goes and as what.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) handle: Handle,
    pub(crate) node: NodeIndex,
    pub(crate) address: SocketAddr,
    pub(crate) tls: quinn::ClientConfig,
    pub(crate) kind: SessionKind,
    pub(crate) take_over: bool,
    /// What each renewal gives, for an owner.
    pub(crate) lease: Duration,
}

/// A session with one node's agent.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) node: NodeIndex,
    pub(crate) connection: quinn::Connection,
    pub(crate) welcome: Box<Welcome>,
    /// Bulk streams at once.
    pub(crate) bulk: Arc<tokio::sync::Semaphore>,
    outgoing: mpsc::Sender<Frame<ToAgent>>,
    next: AtomicU64,
    pending: Mutex<HashMap<u64, oneshot::Sender<Result<Answer, String>>>>,
    heard: Mutex<Instant>,
    over: watch::Sender<Option<String>>,
}

/// Frames waiting to be written to a control stream. Requests wait for their answers, so
/// this many are only reached by a stuck stream.
const OUTGOING: usize = 256;

/// Shortest pause between two renewals, for a lease of a second or less.
const HEARTBEAT_MIN: Duration = Duration::from_millis(250);

impl Session {
    /// Connects and says hello. Events go to `events`, with the node.
    pub(crate) async fn open(
        endpoint: &quinn::Endpoint,
        target: Target,
        events: mpsc::Sender<(NodeIndex, Event)>,
    ) -> Result<Arc<Self>, DriverError> {
        let Target {
            handle,
            node,
            address,
            tls,
            kind,
            take_over,
            lease,
        } = target;
        let fail = |phase, e: &dyn std::fmt::Display| DriverError::node(node, phase, e);
        let connection = endpoint::connect(endpoint, tls, address, handle, node)
            .await
            .map_err(|e| fail("connect to the agent", &e))?;
        let hello = async {
            let (mut send, mut recv) = connection.open_bi().await.map_err(std::io::Error::other)?;
            framed::write_header(&mut send, &StreamHeader::Control).await?;
            let hello = Hello {
                protocol: PROTOCOL,
                handle,
                node,
                session: kind,
                take_over,
                holder: holder(),
            };
            framed::write_control::<ToAgent>(&mut send, &Frame::Hello(hello)).await?;
            let first = framed::read_control::<FromAgent>(&mut recv).await?;
            Ok::<_, framed::FramedError>((send, recv, first))
        };
        let (send, recv, first) = tokio::time::timeout(limits::HELLO_WAIT, hello)
            .await
            .map_err(|_| fail("greet the agent", &"no answer in time"))?
            .map_err(|e| fail("greet the agent", &closed_reason(&connection, &e)))?;
        let welcome = match first {
            Some(Frame::Message(FromAgent::Welcome(welcome))) => welcome,
            Some(Frame::Refusal(refusal)) => {
                connection.close(0u32.into(), b"refused");
                return Err(DriverError::Refused {
                    handle,
                    node,
                    refusal: Box::new(refusal),
                });
            }
            _ => return Err(fail("greet the agent", &"it answered with something else")),
        };
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let session = Arc::new(Self {
            node,
            connection,
            welcome,
            bulk: Arc::new(tokio::sync::Semaphore::new(limits::BULK_STREAMS)),
            outgoing,
            next: AtomicU64::new(1),
            pending: Mutex::default(),
            heard: Mutex::new(Instant::now()),
            over: watch::Sender::new(None),
        });
        tokio::spawn(write(send, queue));
        tokio::spawn(Arc::clone(&session).read(recv, kind, events.clone()));
        if kind == SessionKind::Owner {
            // What workers write is this program's output. Nobody waits for the answer: number
            // 0 is no request's.
            let request = Request::Logs { history: false };
            let _ = session
                .outgoing
                .try_send(Frame::Message(ToAgent::Request { id: 0, request }));
        }
        let lease = (kind == SessionKind::Owner).then_some(lease);
        tokio::spawn(heartbeat(Arc::downgrade(&session), lease, events));
        Ok(session)
    }

    /// Asks the agent for something and waits for the answer.
    pub(crate) async fn request(
        &self,
        phase: &'static str,
        request: Request,
        wait: Duration,
    ) -> Result<Answer, DriverError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.pending).insert(id, answer);
        let over = self.over.subscribe();
        let asked = async {
            if let Some(reason) = self.over_reason() {
                return Err(reason);
            }
            let frame = Frame::Message(ToAgent::Request { id, request });
            self.outgoing
                .send(frame)
                .await
                .map_err(|_| "the session is over".to_owned())?;
            tokio::select! {
                answer = answered => {
                    answer.unwrap_or_else(|_| Err(self.over_reason().unwrap_or_default()))
                }
                reason = ended(over) => Err(reason),
            }
        };
        let result = tokio::time::timeout(wait, asked).await;
        lock(&self.pending).remove(&id);
        match result {
            Ok(answer) => answer.map_err(|e| DriverError::node(self.node, phase, e)),
            Err(_) => Err(DriverError::node(
                self.node,
                phase,
                format!("the agent did not answer within {} s", wait.as_secs()),
            )),
        }
    }

    /// Orders the agent to end everything and waits until it has.
    pub(crate) async fn shut_down(&self, reason: &str) -> Result<(), DriverError> {
        let order = Frame::Shutdown(Shutdown {
            reason: reason.to_owned(),
        });
        let wait = limits::STOP_GRACE + limits::KILL_WAIT + limits::GOODBYE_WAIT;
        let ordered = async {
            // A session that is over already has nothing to wait for.
            let _ = self.outgoing.send(order).await;
            ended(self.over.subscribe()).await
        };
        let ended = tokio::time::timeout(wait, ordered).await;
        ended.map(|_| ()).map_err(|_| {
            let reason = format!("it was still there after {} s", wait.as_secs());
            DriverError::node(self.node, "end the agent", reason)
        })
    }

    /// Why the session is over, if it is.
    pub(crate) fn over_reason(&self) -> Option<String> {
        self.over.borrow().clone()
    }

    /// Ends the session from this side.
    pub(crate) fn close(&self, reason: &str) {
        self.finish(reason);
        self.connection.close(0u32.into(), reason.as_bytes());
    }

    fn finish(&self, reason: &str) {
        self.over.send_if_modified(|over| {
            let first = over.is_none();
            if first {
                *over = Some(reason.to_owned());
            }
            first
        });
        lock(&self.pending).clear();
    }

    async fn read(
        self: Arc<Self>,
        mut recv: quinn::RecvStream,
        kind: SessionKind,
        events: mpsc::Sender<(NodeIndex, Event)>,
    ) {
        let reason = loop {
            let frame = match framed::read_control::<FromAgent>(&mut recv).await {
                Ok(Some(Frame::Message(message))) => message,
                Ok(Some(Frame::Refusal(refusal))) => break refused(&refusal),
                Ok(Some(_)) => break "the agent sent something that only drivers send".to_owned(),
                Ok(None) => break "the agent ended".to_owned(),
                Err(error) => break closed_reason(&self.connection, &error),
            };
            *lock(&self.heard) = Instant::now();
            let event = match frame {
                FromAgent::Pong(_) | FromAgent::Welcome(_) => continue,
                FromAgent::Answer { id, result } => {
                    if let Some(pending) = lock(&self.pending).remove(&id) {
                        // The asker may have stopped waiting.
                        let _ = pending.send(result);
                    }
                    continue;
                }
                // Tools look at workers when they want to know; what they do not take must not
                // stand in the way of answers.
                FromAgent::WorkerDown { .. } if kind != SessionKind::Owner => continue,
                FromAgent::WorkerDown { worker, death } => Event::WorkerDown(worker, death),
                FromAgent::Log(lines) => Event::Log(lines),
            };
            if events.send((self.node, event)).await.is_err() {
                break "nobody listens".to_owned();
            }
        };
        self.finish(&reason);
        self.connection.close(0u32.into(), b"over");
        // Nobody listens when the cluster's handle is gone.
        let _ = events.send((self.node, Event::Over(reason))).await;
    }
}

async fn write(mut send: quinn::SendStream, mut queue: mpsc::Receiver<Frame<ToAgent>>) {
    while let Some(frame) = queue.recv().await {
        if let Err(error) = framed::write_control(&mut send, &frame).await {
            // The reader sees the end of the connection and reports it.
            tracing::debug!(%error, "control stream");
            return;
        }
    }
}

/// Pings, renews, and notices silence, as long as the session is there.
async fn heartbeat(
    session: std::sync::Weak<Session>,
    lease: Option<Duration>,
    events: mpsc::Sender<(NodeIndex, Event)>,
) {
    // A short lease must not run out between two renewals.
    let pause = lease.map_or(limits::HEARTBEAT, |lease| limits::HEARTBEAT.min(lease / 3));
    let mut ticks = tokio::time::interval(pause.max(HEARTBEAT_MIN));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = Instant::now();
    for number in 0.. {
        ticks.tick().await;
        // A process that was itself stopped (Ctrl-Z, a laptop's lid) has heard nothing for a
        // reason that is not the agent's.
        let slept = std::mem::replace(&mut last, Instant::now()).elapsed() > 3 * limits::HEARTBEAT;
        let Some(session) = session.upgrade() else {
            return;
        };
        if session.over_reason().is_some() {
            return;
        }
        if slept {
            *lock(&session.heard) = Instant::now();
        }
        let silence = lock(&session.heard).elapsed();
        if silence >= limits::LOST {
            let reason = format!("nothing heard for {} s", silence.as_secs());
            session.finish(&reason);
            session.connection.close(0u32.into(), b"lost");
            return;
        }
        if silence >= 2 * limits::HEARTBEAT + limits::HEARTBEAT / 2 {
            // Full means that there is enough to handle already.
            let _ = events.try_send((session.node, Event::Silent(silence)));
        }
        let _ = session
            .outgoing
            .try_send(Frame::Message(ToAgent::Ping(number)));
        if let Some(lease) = lease {
            let seconds = lease.as_secs().max(1);
            let _ = session
                .outgoing
                .try_send(Frame::Message(ToAgent::Renew { seconds }));
        }
    }
}

/// Waits for the end of a session and gives its reason.
async fn ended(mut over: watch::Receiver<Option<String>>) -> String {
    match over.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or_default(),
        Err(_) => "the session is over".to_owned(),
    }
}

fn refused(refusal: &Refusal) -> String {
    match &refusal.holder {
        // Agents of this version name the holder in their words already.
        Some(holder) if !refusal.message.contains(&holder.to_string()) => {
            format!("{} ({holder})", refusal.message)
        }
        _ => refusal.message.clone(),
    }
}

/// The connection's own reason where it has one: it says more than the stream's error.
fn closed_reason(connection: &quinn::Connection, error: &dyn std::fmt::Display) -> String {
    connection
        .close_reason()
        .map_or_else(|| error.to_string(), |reason| reason.to_string())
}

/// This process, for people who wonder who holds a cluster.
fn holder() -> Holder {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|h| h.into_string().ok());
    let program = std::env::current_exe().ok();
    Holder {
        host: host.unwrap_or_else(|| "unknown".into()),
        pid: std::process::id(),
        program: program
            .as_deref()
            .and_then(|p| p.file_name())
            .map_or_else(|| "driver".into(), |n| n.to_string_lossy().into_owned()),
        started: process_start(),
    }
}

/// When this process started, in seconds since 1970: the time of its directory in /proc.
fn process_start() -> u64 {
    std::fs::metadata("/proc/self")
        .and_then(|m| m.modified())
        .ok()
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |d| d.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
