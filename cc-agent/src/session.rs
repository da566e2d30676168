//! One connection: who it is from, what it may do, and the serving of its control stream.
//!
//! Whatever a peer sends, it can end its own connection and nothing else. A client that
//! does not read holds up its own session only; its lanes and other streams are in
//! [`crate::streams`].

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cc_core::limits;
use cc_core::net::framed::{self, FramedError};
use cc_core::net::identity::{self, Role, Subject};
use cc_core::wire::PROTOCOL;
use cc_core::wire::control::{
    self, Answer, Frame, FromAgent, Hello, Refusal, RefusalKind, Request, SessionKind, Shutdown,
    ToAgent, Welcome,
};
use cc_core::wire::stream::StreamHeader;
use quinn::{Connection, Incoming, RecvStream, SendStream, VarInt};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::agent::{self, Agent, Phase};
use crate::status;
use crate::streams;
use crate::supervise::Subscription;

/// Closes a connection that has nothing more to say.
pub(crate) const CLOSE_ORDERLY: VarInt = VarInt::from_u32(0);
/// Closes a connection whose bytes are not the protocol's.
pub(crate) const CLOSE_MALFORMED: VarInt = VarInt::from_u32(1);
/// Closes a connection whose certificate is not for this cluster or this use.
pub(crate) const CLOSE_IDENTITY: VarInt = VarInt::from_u32(2);
/// Closes a connection that did not say what it wants in time.
pub(crate) const CLOSE_LATE: VarInt = VarInt::from_u32(3);
/// Closes a connection after a refusal.
pub(crate) const CLOSE_REFUSED: VarInt = VarInt::from_u32(4);

/// Longest grace that a client can ask for between a stop and a kill.
const GRACE_MAX: Duration = Duration::from_secs(600);
/// Longest reason in a connection's close; it must fit into one small packet.
const REASON_MAX: usize = 200;

/// Why the agent closes a connection.
#[derive(Debug)]
pub(crate) struct Close {
    code: VarInt,
    reason: String,
}

impl Close {
    pub(crate) fn malformed(reason: impl std::fmt::Display) -> Self {
        Self {
            code: CLOSE_MALFORMED,
            reason: reason.to_string(),
        }
    }

    /// The connection or its control stream is gone: nobody to tell.
    pub(crate) fn lost(reason: impl std::fmt::Display) -> Self {
        Self {
            code: CLOSE_ORDERLY,
            reason: reason.to_string(),
        }
    }
}

impl From<FramedError> for Close {
    fn from(error: FramedError) -> Self {
        match error {
            FramedError::Wire(e) => Self::malformed(e),
            FramedError::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::malformed("the stream ended inside a frame")
            }
            FramedError::Io(e) => Self::lost(e),
        }
    }
}

/// What a session's futures share.
pub(crate) struct Session {
    pub(crate) agent: Rc<Agent>,
    pub(crate) id: u64,
    pub(crate) kind: SessionKind,
    /// Bounds the bulk streams under way.
    pub(crate) bulk: Semaphore,
    /// Bounds the transfers under way.
    pub(crate) transfers: Semaphore,
    heard: Rc<Cell<Instant>>,
    /// Whether its client has ordered the agent's end.
    asked_to_end: Cell<bool>,
    pending: Cell<usize>,
    out: mpsc::Sender<Out>,
    logs: mpsc::Sender<(u64, bool)>,
}

/// What is written to a control stream.
enum Out {
    /// An encoded frame.
    Frame(Vec<u8>),
    /// The last: a refusal, or the stream's end alone.
    Last(Option<Refusal>),
}

/// Serves a connection until its end.
pub(crate) async fn serve(agent: Rc<Agent>, incoming: Incoming) {
    let address = incoming.remote_address();
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(e) => return tracing::debug!(%address, "no connection: {e}"),
    };
    let connection = match timeout(limits::HELLO_WAIT, connecting).await {
        Ok(Ok(connection)) => connection,
        // A wrong certificate ends here, in the handshake.
        Ok(Err(e)) => return tracing::info!(%address, "no connection: {e}"),
        Err(_) => return tracing::info!(%address, "no connection: the handshake took too long"),
    };
    let mut streams = JoinSet::new();
    let control = open_control(&agent, &connection).await;
    let (close, control) = match control {
        Ok((subject, mut control)) => {
            let served = begin(&agent, &connection, subject, &mut control, &mut streams).await;
            let over = || Close::lost("the session is over");
            (served.err().unwrap_or_else(over), Some(control))
        }
        Err(close) => (close, None),
    };
    tracing::info!(%address, code = %close.code, "connection closed: {}", close.reason);
    let reason = &close.reason.as_bytes()[..close.reason.len().min(REASON_MAX)];
    connection.close(close.code, reason);
    // Only now: the frames that dropping a stream queues are subject to congestion control, and
    // in one packet with them the close would be, too.
    drop((control, streams));
}

/// A control stream's two halves.
type Control = (SendStream, RecvStream);

/// Checks who connects, and waits for the control stream.
async fn open_control(agent: &Agent, connection: &Connection) -> Result<(Subject, Control), Close> {
    let handle = agent.settings.handle;
    let subject = identity::peer_subject(connection)
        .filter(|subject| subject.handle == handle)
        .ok_or_else(|| Close {
            code: CLOSE_IDENTITY,
            reason: format!("the certificate is not one of cluster {handle}"),
        })?;
    let control = timeout(limits::HELLO_WAIT, connection.accept_bi()).await;
    Ok((subject, control.map_err(late)?.map_err(Close::lost)?))
}

fn late(_: tokio::time::error::Elapsed) -> Close {
    Close {
        code: CLOSE_LATE,
        reason: format!("no hello within {} s", limits::HELLO_WAIT.as_secs()),
    }
}

/// Finds out what the client connects for, and serves that.
async fn begin(
    agent: &Rc<Agent>,
    connection: &Connection,
    subject: Subject,
    (send, recv): &mut Control,
    streams: &mut JoinSet<Result<(), Close>>,
) -> Result<(), Close> {
    let first = timeout(limits::HELLO_WAIT, greet(recv))
        .await
        .map_err(late)??;
    let heard = Rc::new(Cell::new(Instant::now()));
    let admitted = match &first {
        Frame::Hello(hello) => check(agent, subject, hello)
            .and_then(|()| agent.admit(hello, &heard))
            .map(|place| (place, hello)),
        // Of any protocol: this one frame never changes.
        Frame::Shutdown(shutdown) if subject.role == Role::Driver => {
            return end_agent(agent, shutdown, send).await;
        }
        _ => return Err(Close::malformed("the first frame is not a hello")),
    };
    let (mut place, hello) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let close = refused(&refusal);
            let goodbye = timeout(limits::GOODBYE_WAIT, say_last(send, Some(refusal)));
            // The close says it, too.
            let _ = goodbye.await;
            return Err(close);
        }
    };
    tracing::info!(
        session = place.session,
        kind = ?hello.session,
        holder = %hello.holder,
        address = %connection.remote_address(),
        "session begins"
    );
    let (out, outbox) = mpsc::channel(limits::SESSION_FRAMES);
    let (logs, log_requests) = mpsc::channel(1);
    let session = Rc::new(Session {
        agent: Rc::clone(agent),
        id: place.session,
        kind: hello.session,
        bulk: Semaphore::new(limits::BULK_STREAMS),
        transfers: Semaphore::new(limits::SESSION_TRANSFERS),
        heard,
        asked_to_end: Cell::new(false),
        pending: Cell::new(0),
        out,
        logs,
    });
    let evicted = place.evicted.take();
    // Before the welcome's status, so that no death falls between them.
    let subscription = agent.supervisor.subscribe();
    let welcome = FromAgent::Welcome(Box::new(Welcome {
        session: session.id,
        status: agent.status(),
    }));
    framed::write_control(send, &Frame::Message(welcome)).await?;

    let writer = write(send, outbox);
    tokio::pin!(writer);
    let refusal = tokio::select! {
        written = &mut writer => return written,
        ended = read(&session, recv) => return ended,
        ended = streams::serve(&session, connection, streams) => return ended,
        never = forward(&session, subscription, log_requests) => match never {},
        refusal = goodbye(&session, evicted) => refusal,
    };
    // Nothing is called in the name of this session any more; what is left is to say why.
    streams.abort_all();
    let close = refusal.as_ref().map(refused);
    if status::is_gone(&hello.holder) {
        // A client that was killed takes no last frame, and the agent's end would wait for it.
        return close.map_or(Ok(()), Err);
    }
    let last = async { session.out.send(Out::Last(refusal)).await };
    let _ = timeout(limits::GOODBYE_WAIT, async { tokio::join!(last, writer) }).await;
    close.map_or(Ok(()), Err)
}

fn refused(refusal: &Refusal) -> Close {
    Close {
        code: CLOSE_REFUSED,
        reason: refusal.message.clone(),
    }
}

async fn greet(recv: &mut RecvStream) -> Result<Frame<ToAgent>, Close> {
    if framed::read_header(recv).await? != StreamHeader::Control {
        return Err(Close::malformed("the first stream is not a control stream"));
    }
    let first = framed::read_control(recv).await?;
    first.ok_or_else(|| Close::malformed("the control stream ended at once"))
}

/// Checks that the client speaks our language, means us, and may ask for what it asks for.
fn check(agent: &Agent, subject: Subject, hello: &Hello) -> Result<(), Refusal> {
    let settings = &agent.settings;
    if hello.protocol != PROTOCOL {
        return Err(agent::refusal(
            RefusalKind::Protocol,
            format!(
                "{} (version {}) speaks protocol {PROTOCOL}, its client {}: use one version, or \
                 restart the cluster's agents with this one",
                settings.node,
                env!("CARGO_PKG_VERSION"),
                hello.protocol
            ),
        ));
    }
    if hello.handle != settings.handle || hello.node != settings.node {
        return Err(agent::refusal(
            RefusalKind::WrongNode,
            format!(
                "this is {} of cluster {}, not {} of cluster {}",
                settings.node, settings.handle, hello.node, hello.handle
            ),
        ));
    }
    match (subject.role, hello.session) {
        (Role::Driver, SessionKind::Owner | SessionKind::Tool)
        | (Role::Agent(_), SessionKind::Peer) => Ok(()),
        (role, session) => Err(agent::refusal(
            RefusalKind::Role,
            format!("a certificate of role {role:?} is not for a session of kind {session:?}"),
        )),
    }
}

/// Ends the agent by order of a client that has no session.
async fn end_agent(agent: &Agent, shutdown: &Shutdown, send: &mut SendStream) -> Result<(), Close> {
    let mut phase = agent.phase();
    agent.end(shutdown.reason.clone());
    released(&mut phase).await;
    let _ = timeout(limits::GOODBYE_WAIT, say_last(send, None)).await;
    Ok(())
}

async fn released(phase: &mut watch::Receiver<Phase>) {
    // The sender lives in the agent, which outlives its sessions.
    let _ = phase
        .wait_for(|phase| matches!(phase, Phase::Released(_)))
        .await;
}

/// Writes the last frame, if any, ends the stream, and waits until the client has it all.
async fn say_last(send: &mut SendStream, refusal: Option<Refusal>) -> Result<(), Close> {
    if let Some(refusal) = refusal {
        framed::write_control(send, &Frame::<FromAgent>::Refusal(refusal)).await?;
    }
    send.finish().map_err(Close::lost)?;
    send.stopped().await.map_err(Close::lost)?;
    Ok(())
}

/// Waits for the reason to end the session from this side.
async fn goodbye(
    session: &Session,
    evicted: Option<oneshot::Receiver<Refusal>>,
) -> Option<Refusal> {
    let evicted = async {
        match evicted {
            Some(evicted) => match evicted.await {
                Ok(refusal) => refusal,
                // Nobody can evict any more.
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    };
    let mut phase = session.agent.phase();
    let agent_ends = async {
        let reason = match phase.wait_for(|phase| phase.end().is_some()).await {
            Ok(phase) => phase.end().unwrap_or_default().to_owned(),
            // The sender lives in the agent, which outlives its sessions.
            Err(_) => return None,
        };
        if session.asked_to_end.get() {
            released(&mut phase).await;
            None
        } else {
            Some(agent::ending(&reason))
        }
    };
    tokio::select! {
        refusal = evicted => Some(refusal),
        refusal = agent_ends => refusal,
    }
}

async fn write(send: &mut SendStream, mut outbox: mpsc::Receiver<Out>) -> Result<(), Close> {
    while let Some(out) = outbox.recv().await {
        match out {
            Out::Frame(frame) => send.write_all(&frame).await.map_err(Close::lost)?,
            Out::Last(refusal) => return say_last(send, refusal).await,
        }
    }
    Ok(())
}

/// Passes on what the supervisor tells: workers' deaths, and log lines once they are asked for.
async fn forward(
    session: &Session,
    mut subscription: Subscription,
    mut log_requests: mpsc::Receiver<(u64, bool)>,
) -> std::convert::Infallible {
    loop {
        tokio::select! {
            event = subscription.next() => session.tell(event).await,
            Some((id, history)) = log_requests.recv() => {
                subscription.logs(history);
                session.answer(id, Ok(Answer::Done)).await;
            }
        }
    }
}

/// Reads the control stream until its client ends it.
async fn read(session: &Rc<Session>, recv: &mut RecvStream) -> Result<(), Close> {
    while let Some(frame) = framed::read_control(recv).await? {
        session.heard.set(Instant::now());
        match frame {
            Frame::Message(ToAgent::Ping(number)) => session.tell(FromAgent::Pong(number)).await,
            Frame::Message(ToAgent::Renew { seconds }) if session.kind == SessionKind::Owner => {
                session.agent.renew(seconds);
            }
            Frame::Message(ToAgent::Renew { .. }) => {
                return Err(Close::malformed(
                    "a renewal from a session that owns nothing",
                ));
            }
            Frame::Message(ToAgent::Request { id, request }) => session.take(id, request).await,
            Frame::Shutdown(shutdown) if session.kind != SessionKind::Peer => {
                session.asked_to_end.set(true);
                session.agent.end(shutdown.reason);
            }
            Frame::Hello(_) | Frame::Refusal(_) | Frame::Shutdown(_) => {
                return Err(Close::malformed(
                    "a frame that has no place in this session",
                ));
            }
        }
    }
    if session.asked_to_end.get() {
        // Its client says nothing more and waits for the end.
        std::future::pending::<()>().await;
    }
    Ok(())
}

impl Session {
    async fn tell(&self, message: FromAgent) {
        match control::encode(&Frame::Message(message)) {
            // Fails when the session is over.
            Ok(frame) => drop(self.out.send(Out::Frame(frame)).await),
            Err(e) => tracing::error!(session = self.id, "a message is not sent: {e}"),
        }
    }

    async fn answer(&self, id: u64, result: Result<Answer, String>) {
        let answer = Frame::Message(FromAgent::Answer { id, result });
        // An answer there must be, even if it is that the real one cannot be sent.
        let frame = control::encode(&answer).or_else(|e| {
            let result = Err(format!("{}: answer: {e}", self.agent.settings.node));
            control::encode(&Frame::Message(FromAgent::Answer { id, result }))
        });
        if let Ok(frame) = frame {
            // Fails when the session is over.
            let _ = self.out.send(Out::Frame(frame)).await;
        }
    }

    /// Takes a request on. It is carried out even if the session ends meanwhile: half a
    /// start or stop would be worse than one that nobody waits for.
    async fn take(self: &Rc<Self>, id: u64, request: Request) {
        if let Err(reason) = self.may(&request) {
            return self.answer(id, Err(reason)).await;
        }
        if let Request::Logs { history } = request {
            // Fails when the session is over.
            let _ = self.logs.send((id, history)).await;
            return;
        }
        self.pending.set(self.pending.get() + 1);
        let session = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let result = perform(&session.agent, request).await;
            session.pending.set(session.pending.get().saturating_sub(1));
            session.answer(id, result).await;
        });
    }

    fn may(&self, request: &Request) -> Result<(), String> {
        let node = self.agent.settings.node;
        let allowed = match request {
            Request::StartWorkers(..) | Request::StopWorkers { .. } => {
                self.kind == SessionKind::Owner
            }
            Request::Have(_) => true,
            // An agent that is no longer its cluster's must not be every other node's.
            Request::Place(..)
            | Request::Logs { .. }
            | Request::Status
            | Request::Extend { .. }
            | Request::RestartWorkers => self.kind != SessionKind::Peer,
        };
        if !allowed {
            return Err(format!(
                "{node}: a session of kind {:?} may not ask for this",
                self.kind
            ));
        }
        if self.pending.get() >= limits::SESSION_REQUESTS {
            return Err(format!(
                "{node}: {} requests of this session are under way already; wait for answers",
                limits::SESSION_REQUESTS
            ));
        }
        Ok(())
    }
}

async fn perform(agent: &Agent, request: Request) -> Result<Answer, String> {
    let node = agent.settings.node;
    let starts = matches!(request, Request::StartWorkers(..) | Request::RestartWorkers);
    if starts && agent.phase().borrow().end().is_some() {
        return Err(format!("{node}: start workers: the agent is ending"));
    }
    match request {
        Request::StartWorkers(command, mut slots) => {
            slots.sort_unstable();
            slots.dedup();
            if let Some(slot) = slots.last().filter(|s| **s >= limits::WORKERS_PER_NODE) {
                return Err(format!(
                    "{node}: start workers: there is no slot {slot}; the last one is {}",
                    limits::WORKERS_PER_NODE - 1
                ));
            }
            Ok(Answer::Workers(
                agent.supervisor.start(command, slots).await,
            ))
        }
        Request::StopWorkers {
            workers,
            grace_ms,
            reason,
        } => {
            let grace = Duration::from_millis(grace_ms).min(GRACE_MAX);
            agent.supervisor.stop(&workers, grace, &reason).await;
            Ok(Answer::Done)
        }
        Request::RestartWorkers => agent
            .supervisor
            .restart_with_last_command()
            .await
            .map(Answer::Workers)
            .map_err(|reason| format!("{node}: restart workers: {reason}")),
        Request::Have(hashes) => {
            let mut present = Vec::with_capacity(hashes.len());
            for (i, hash) in hashes.into_iter().enumerate() {
                if i % 64 == 63 {
                    // Each one is a look at the disk; lanes must not wait for many.
                    tokio::task::yield_now().await;
                }
                present.push(agent.store.has(hash));
            }
            Ok(Answer::Present(present))
        }
        Request::Place(hash, place) => agent
            .store
            .place(hash, &place, &agent.work)
            .await
            .map(|()| Answer::Done)
            .map_err(|reason| format!("{node}: {reason}")),
        Request::Status => Ok(Answer::Status(Box::new(agent.status()))),
        Request::Extend { seconds } => agent
            .extend(seconds)
            .await
            .map(|()| Answer::Done)
            .map_err(|reason| format!("{node}: {reason}")),
        Request::Logs { .. } => Err(format!("{node}: logs are the session's")),
    }
}
