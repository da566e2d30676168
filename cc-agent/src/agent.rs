//! The agent itself: what it has, who uses it, and how it ends.
//!
//! Its sessions live in [`crate::session`], its workers in [`crate::supervise`]. It ends
//! when it is told to (a client's order, SIGTERM) or when its lease runs out, and always in
//! the same order: it accepts nobody any more, tells its sessions, ends its workers, lets go. It
//! never touches the machine beyond the processes that it started.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cc_core::limits;
use cc_core::net::identity::Credentials;
use cc_core::wire::PROTOCOL;
use cc_core::wire::bootstrap::Settings;
use cc_core::wire::control::{
    Hello, Holder, NodeStatus, Refusal, RefusalKind, SessionKind, lease as bounded,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, timeout};

use crate::lease::{Extensions, Lease};
use crate::session;
use crate::status;
use crate::store::Store;
use crate::supervise::spawn::childless;
use crate::supervise::{Supervisor, SupervisorSettings};
use crate::transfer::TransferNode;

/// Connections beyond [`limits::SESSIONS`] that are told so; further ones are turned away
/// unheard.
const BUSY_SESSIONS: usize = 16;
/// Ending every worker by force, and a little more for the guards' reports.
const STOP_WAIT: Duration = limits::STOP_GRACE
    .saturating_add(limits::KILL_WAIT)
    .saturating_add(Duration::from_secs(3));
/// For the last packets to leave. A client that misses them finds out by the lock.
const CLOSE_WAIT: Duration = Duration::from_millis(100);

/// How often an agent looks whether its directory is still there.
const HOME_LOOK: Duration = Duration::from_secs(5);

/// How far an agent is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It serves.
    Running,
    /// It ends, for this reason; workers may still run.
    Ending(String),
    /// Its workers are gone, for that reason.
    Released(String),
}

impl Phase {
    /// Why the agent ends, once it does.
    pub(crate) fn end(&self) -> Option<&str> {
        match self {
            Self::Running => None,
            Self::Ending(reason) | Self::Released(reason) => Some(reason),
        }
    }
}

/// An agent. One thread has it; nothing of it is held across an `await`.
pub(crate) struct Agent {
    pub(crate) settings: Settings,
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) store: Arc<Store>,
    pub(crate) transfer: TransferNode,
    /// The working directory of workers and commands.
    pub(crate) work: PathBuf,
    started: Instant,
    lease: RefCell<Lease>,
    extensions: Extensions,
    /// The lock's file, as it was at the start.
    home: Option<(u64, u64)>,
    /// Wakes who waits for the lease's end when that has come nearer.
    arrived: Notify,
    phase: watch::Sender<Phase>,
    owner: RefCell<Option<Owner>>,
    sessions: Cell<usize>,
    tools: Cell<u32>,
    last_session: Cell<u64>,
}

/// The session that owns the cluster.
struct Owner {
    session: u64,
    holder: Holder,
    heard: Rc<Cell<Instant>>,
    /// Ends the session.
    evict: oneshot::Sender<Refusal>,
}

/// A session's place in its agent, given back when dropped.
pub(crate) struct Place {
    agent: Rc<Agent>,
    /// The session's number, never used twice by one agent.
    pub(crate) session: u64,
    kind: SessionKind,
    /// Fires when another driver takes the cluster over.
    pub(crate) evicted: Option<oneshot::Receiver<Refusal>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let agent = &self.agent;
        agent.sessions.set(agent.sessions.get().saturating_sub(1));
        match self.kind {
            SessionKind::Owner => {
                let mut owner = agent.owner.borrow_mut();
                if owner.as_ref().is_some_and(|o| o.session == self.session) {
                    *owner = None;
                }
            }
            SessionKind::Tool => agent.tools.set(agent.tools.get().saturating_sub(1)),
            SessionKind::Peer => {}
        }
    }
}

impl Agent {
    /// An agent that has its directory and identity, and does not listen yet.
    pub(crate) fn new(
        settings: Settings,
        credentials: Credentials,
        started: Instant,
    ) -> Result<Rc<Self>, String> {
        let work = settings.directory.join("work");
        let store = Store::open(&settings.store)
            .map_err(|e| format!("open the content store {}: {e}", settings.store.display()))?;
        let supervisor = Supervisor::new(SupervisorSettings {
            node: settings.node,
            directory: settings.directory.clone(),
            store: Arc::clone(&store),
            cores: status::machine().cores,
            workers_per_node: settings.workers,
        });
        let transfer = TransferNode {
            node: settings.node,
            handle: settings.handle,
            store: Arc::clone(&store),
            base: work.clone(),
            credentials,
            turns: Arc::new(Semaphore::new(limits::TRANSFERS)),
        };
        let mut lease = Lease::new(
            started,
            bounded(settings.driver_timeout),
            limits::FIRST_DRIVER,
        );
        let (extensions, until) = Extensions::open(settings.directory.join("lease.json"));
        if let Some(until) = until {
            lease.keep(started, bounded(until.saturating_sub(unix_now())));
        }
        let home = lock_file(&settings.directory).ok();
        Ok(Rc::new(Self {
            home,
            settings,
            supervisor,
            store,
            transfer,
            work,
            started,
            lease: RefCell::new(lease),
            extensions,
            arrived: Notify::new(),
            phase: watch::Sender::new(Phase::Running),
            owner: RefCell::new(None),
            sessions: Cell::new(0),
            tools: Cell::new(0),
            last_session: Cell::new(0),
        }))
    }

    /// Where the agent is in its life, and every change of it.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Begins the agent's end. The first reason stays.
    pub(crate) fn end(&self, reason: String) {
        self.phase.send_if_modified(|phase| {
            let running = *phase == Phase::Running;
            if running {
                *phase = Phase::Ending(reason);
            }
            running
        });
    }

    /// Keeps the lease for at least this many seconds from now, for the driver that owns the
    /// cluster.
    pub(crate) fn renew(&self, seconds: u64) {
        let mut lease = self.lease.borrow_mut();
        lease.keep(Instant::now(), bounded(seconds));
        if lease.arrived() {
            self.arrived.notify_one();
        }
    }

    /// Keeps the lease for at least this many seconds from now, in later processes too.
    pub(crate) async fn extend(&self, seconds: u64) -> Result<(), String> {
        let now = Instant::now();
        self.lease.borrow_mut().keep(now, bounded(seconds));
        let until = unix_now().saturating_add(bounded(seconds).as_secs());
        let written = self.extensions.extend(until).await;
        written.map_err(|reason| {
            format!("the lease is extended until the agent ends, but not beyond: {reason}")
        })
    }

    /// The state of the node.
    pub(crate) fn status(&self) -> NodeStatus {
        let machine = status::machine();
        NodeStatus {
            node: self.settings.node,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            hostname: machine.hostname.clone(),
            cores: machine.cores,
            memory: machine.memory,
            architecture: std::env::consts::ARCH.to_owned(),
            uptime: self.started.elapsed().as_secs(),
            lease_left: self.lease.borrow().left(Instant::now()).as_secs(),
            owner: self.owner.borrow().as_ref().map(|o| o.holder.clone()),
            tools: self.tools.get(),
            workers: self.supervisor.statuses(),
            last_command: self.supervisor.last_command(),
        }
    }

    /// Gives a session its place, if there is one for it. `heard` is when the session's client
    /// was last heard of.
    pub(crate) fn admit(
        self: &Rc<Self>,
        hello: &Hello,
        heard: &Rc<Cell<Instant>>,
    ) -> Result<Place, Refusal> {
        if let Some(reason) = self.phase.borrow().end() {
            return Err(ending(reason));
        }
        if self.sessions.get() >= limits::SESSIONS {
            let text = format!(
                "{} has {} sessions already",
                self.settings.node,
                limits::SESSIONS
            );
            return Err(refusal(RefusalKind::Busy, text));
        }
        let session = self.last_session.get() + 1;
        let mut evicted = None;
        match hello.session {
            SessionKind::Owner => evicted = Some(self.own(session, hello, heard)?),
            SessionKind::Tool => self.tools.set(self.tools.get() + 1),
            SessionKind::Peer => {}
        }
        self.last_session.set(session);
        self.sessions.set(self.sessions.get() + 1);
        Ok(Place {
            agent: Rc::clone(self),
            session,
            kind: hello.session,
            evicted,
        })
    }

    fn own(
        &self,
        session: u64,
        hello: &Hello,
        heard: &Rc<Cell<Instant>>,
    ) -> Result<oneshot::Receiver<Refusal>, Refusal> {
        let mut owner = self.owner.borrow_mut();
        if let Some(present) = owner.take() {
            // A driver that was killed says no goodbye: QUIC alone would notice much later.
            let lost =
                present.heard.get().elapsed() >= limits::LOST || status::is_gone(&present.holder);
            if !hello.take_over && !lost {
                let refusal = Refusal {
                    holder: Some(present.holder.clone()),
                    ..refusal(
                        RefusalKind::Owned,
                        format!(
                            "{} is owned by {}; end it, or take the cluster over",
                            self.settings.node, present.holder
                        ),
                    )
                };
                *owner = Some(present);
                return Err(refusal);
            }
            tracing::info!(from = %present.holder, to = %hello.holder, lost, "the owner changes");
            // The session may have ended by itself meanwhile.
            let _ = present.evict.send(Refusal {
                holder: Some(hello.holder.clone()),
                ..refusal(
                    RefusalKind::TakenOver,
                    format!("{} was taken over by {}", self.settings.node, hello.holder),
                )
            });
        }
        let (evict, evicted) = oneshot::channel();
        *owner = Some(Owner {
            session,
            holder: hello.holder.clone(),
            heard: Rc::clone(heard),
            evict,
        });
        Ok(evicted)
    }

    /// Whether the node's directory is not there any more: nobody could find this agent, then.
    fn is_homeless(&self) -> bool {
        self.home
            .is_some_and(|home| match lock_file(&self.settings.directory) {
                Ok(present) => present != home,
                Err(e) => e.kind() == std::io::ErrorKind::NotFound,
            })
    }

    /// Waits until nothing is left of the lease.
    async fn lease_end(&self) {
        loop {
            let end = {
                let lease = self.lease.borrow();
                if lease.expired(Instant::now()) {
                    return;
                }
                lease.end()
            };
            // It only grows, but when the first driver comes, which was waited for longer.
            let _ = tokio::time::timeout_at(end.into(), self.arrived.notified()).await;
        }
    }
}

/// The file that is a directory's lock.
fn lock_file(directory: &Path) -> std::io::Result<(u64, u64)> {
    let metadata = std::fs::metadata(directory.join("agent.lock"))?;
    Ok((metadata.dev(), metadata.ino()))
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A refusal that names no holder.
pub(crate) fn refusal(kind: RefusalKind, message: String) -> Refusal {
    Refusal {
        kind,
        message,
        holder: None,
        protocol: PROTOCOL,
    }
}

/// The refusal of an agent that ends.
pub(crate) fn ending(reason: &str) -> Refusal {
    refusal(
        RefusalKind::Ending,
        format!("the agent is ending: {reason}"),
    )
}

/// The signals that an agent minds.
pub(crate) struct Signals {
    terminate: Signal,
}

impl Signals {
    /// Installs the handlers, for the rest of the process's life.
    pub(crate) fn install() -> std::io::Result<Self> {
        // Handled and not ignored: what is ignored stays so in every process that is started.
        drop(signal(SignalKind::hangup())?);
        drop(signal(SignalKind::interrupt())?);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
        })
    }
}

/// Serves until the agent's end, and ends it. Gives the process's exit status.
pub(crate) async fn run(agent: Rc<Agent>, endpoint: quinn::Endpoint, mut signals: Signals) -> i32 {
    let sweeper = tokio::task::spawn_local(keep_swept(Arc::clone(&agent.store)));
    let mut sessions = JoinSet::new();
    let mut phase = agent.phase();
    let mut looks = tokio::time::interval(HOME_LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => if agent.is_homeless() {
                agent.end("its directory was removed".to_owned());
            },
            incoming = endpoint.accept() => match incoming {
                Some(incoming) if sessions.len() < limits::SESSIONS + BUSY_SESSIONS => {
                    sessions.spawn_local(session::serve(Rc::clone(&agent), incoming));
                }
                Some(incoming) => incoming.refuse(),
                None => agent.end("its endpoint is closed".to_owned()),
            },
            Some(ended) = sessions.join_next() => report_panic("session", &ended),
            () = agent.lease_end() => {
                agent.end("its lease has run out: no driver was heard of in time".to_owned());
            }
            _ = signals.terminate.recv() => agent.end("it was sent SIGTERM".to_owned()),
            _ = phase.wait_for(|phase| phase.end().is_some()) => break,
        }
    }
    sweeper.abort();
    let reason = phase.borrow().end().unwrap_or_default().to_owned();
    tracing::info!(reason, "ending");
    endpoint.set_server_config(None);
    let stopped = timeout(
        STOP_WAIT,
        agent.supervisor.stop_all(limits::STOP_GRACE, &reason),
    );
    if stopped.await.is_err() {
        // Their guards kill them when this process is gone.
        tracing::error!("some workers did not end in time");
    }
    agent.phase.send_replace(Phase::Released(reason));
    let _ = timeout(2 * limits::GOODBYE_WAIT, async {
        while let Some(ended) = sessions.join_next().await {
            report_panic("session", &ended);
        }
    })
    .await;
    sessions.abort_all();
    // Commands ended with their sessions, or are being ended by their guards.
    if timeout(STOP_WAIT, childless()).await.is_err() {
        tracing::error!("some commands did not end in time");
    }
    endpoint.close(session::CLOSE_ORDERLY, b"the agent has ended");
    let _ = timeout(CLOSE_WAIT, endpoint.wait_idle()).await;
    0
}

/// Sweeps the store now and then, for as long as it is awaited.
async fn keep_swept(store: Arc<Store>) {
    loop {
        let store = Arc::clone(&store);
        match tokio::task::spawn_blocking(move || store.sweep()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!("sweep the content store: {e}"),
            Err(e) => tracing::error!("sweep the content store: {e}"),
        }
        tokio::time::sleep(limits::STORE_SWEEP).await;
    }
}

/// Logs a task that panicked; its message is in the log already.
pub(crate) fn report_panic<T>(what: &str, ended: &Result<T, JoinError>) {
    if let Err(e) = ended
        && e.is_panic()
    {
        tracing::error!("a {what} panicked; this is a mistake in the agent");
    }
}
