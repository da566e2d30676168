//! Supervision of a node's workers: starts them, stops them, passes them sockets, tells of
//! their ends and of what they wrote.
//!
//! Every worker runs under a guard ([`guard`]), a process that leaves none of its descendants
//! behind, not even when this agent is killed. What a worker says on its sockets is never
//! trusted with more than itself.

mod attendant;
mod evidence;
mod explain;
mod family;
mod guard;
mod logs;
mod process;
mod socket;
pub(crate) mod spawn;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cc_core::death::{Cause, Death};
use cc_core::ids::{NodeIndex, WorkerKey};
use cc_core::limits;
use cc_core::wire::control::{LogSource, Program, WorkerCommand, WorkerStatus};
use cc_core::wire::local::ToWorker;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use self::attendant::{Started, Worker};
pub(crate) use self::guard::{COMMAND, TERMINAL, guard_main};
pub(crate) use self::socket::ControlSocket;
pub(crate) use self::subscription::Subscription;
use crate::store::Store;

/// The command that workers were started with last, in the node's directory.
const COMMAND_FILE: &str = "worker.json";
/// The program that workers run, in the node's directory.
const PROGRAMS: &str = "program";

/// A worker's end, shared by all who hear of it.
type Ended = Arc<(WorkerKey, Death)>;

/// What a supervisor is made with.
#[derive(Debug)]
pub(crate) struct SupervisorSettings {
    /// The node.
    pub(crate) node: NodeIndex,
    /// The node's directory. Workers run in `work` within it unless told otherwise.
    pub(crate) directory: PathBuf,
    /// Where shipped programs are.
    pub(crate) store: Arc<Store>,
    /// Logical processors for the workers.
    pub(crate) cores: u32,
    /// Workers that the node is meant to have.
    pub(crate) workers_per_node: u32,
}

/// The workers of one node. Lives on the agent's tokio runtime.
#[derive(Debug)]
pub(crate) struct Supervisor {
    settings: SupervisorSettings,
    next_incarnation: AtomicU64,
    /// By slot, from the spawning until nothing is left.
    workers: Mutex<BTreeMap<u32, Arc<Worker>>>,
    command: Mutex<Option<WorkerCommand>>,
    logs: Mutex<logs::Logs>,
    /// Whom to tell of deaths.
    listeners: Mutex<Vec<mpsc::Sender<Ended>>>,
    /// Wakes every subscription.
    news: Notify,
    kills: evidence::Kills,
}

/// Locks; a panic elsewhere leaves data that is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervisor {
    /// Makes the supervisor of this process, which becomes the parent of its guards' orphans.
    pub(crate) fn new(settings: SupervisorSettings) -> Arc<Self> {
        if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
            tracing::warn!("not a subreaper, a guard that is killed may leave processes: {error}");
        }
        let command = read_command(&settings.directory.join(COMMAND_FILE));
        // An agent that was stopped and started must not count from the same number again,
        // and does not start a million workers a second.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let first = since_epoch.map_or(1, |time| time.as_secs()) << 20;
        Arc::new(Self {
            settings,
            next_incarnation: AtomicU64::new(first),
            workers: Mutex::default(),
            command: Mutex::new(command),
            logs: Mutex::default(),
            listeners: Mutex::default(),
            news: Notify::new(),
            kills: evidence::Kills::default(),
        })
    }

    /// Starts a worker in each of these slots, all at once. Returns when each is ready or has
    /// failed, in the order asked. Dropping the future stops no worker.
    pub(crate) async fn start(
        self: &Arc<Self>,
        command: WorkerCommand,
        slots: Vec<u32>,
    ) -> Vec<(u32, Started)> {
        if let Err(error) = write_command(&self.settings.directory.join(COMMAND_FILE), &command) {
            // Only a restart without the program misses it.
            tracing::warn!("the workers' command cannot be written down: {error}");
        }
        *lock(&self.command) = Some(command.clone());
        let starting: Vec<_> = slots
            .into_iter()
            .map(|slot| (slot, self.spawn(&command, slot)))
            .collect();
        let mut results = Vec::with_capacity(starting.len());
        let mut tails = 0;
        for (slot, started) in starting {
            let mut result = match started {
                Ok(started) => started.await.unwrap_or_else(|_| {
                    let why = "the agent is ending".to_owned();
                    Err(Death::of(Cause::NotStarted(why)))
                }),
                Err(why) => Err(Death::of(Cause::NotStarted(why))),
            };
            if let Err(death) = &mut result {
                tails += 1;
                if tails > limits::STDERR_TAILS {
                    death.stderr_tail.clear();
                }
            }
            results.push((slot, result));
        }
        results
    }

    /// Starts the last command in every slot of the node that has no worker.
    ///
    /// # Errors
    /// Fails if there was no command yet.
    pub(crate) async fn restart_with_last_command(
        self: &Arc<Self>,
    ) -> Result<Vec<(u32, Started)>, String> {
        let command = self.last_command().ok_or_else(|| {
            format!(
                "{}: no worker was ever started here, so there is no program to start again: \
                 run a program on the cluster first",
                self.settings.node
            )
        })?;
        let slots = {
            let workers = lock(&self.workers);
            (0..self.settings.workers_per_node)
                .filter(|slot| !workers.contains_key(slot))
                .collect()
        };
        Ok(self.start(command, slots).await)
    }

    /// Begins a start; the receiver hears how it went.
    fn spawn(
        self: &Arc<Self>,
        command: &WorkerCommand,
        slot: u32,
    ) -> Result<oneshot::Receiver<Started>, String> {
        if slot >= limits::WORKERS_PER_NODE {
            return Err(format!(
                "slot {slot}: a node has at most {} workers",
                limits::WORKERS_PER_NODE
            ));
        }
        let mut workers = lock(&self.workers);
        let Entry::Vacant(place) = workers.entry(slot) else {
            return Err(format!("slot {slot} has a worker already"));
        };
        let key = WorkerKey {
            slot,
            incarnation: self.next_incarnation.fetch_add(1, Ordering::Relaxed),
        };
        let program = match &command.program {
            Program::Content(hash) => {
                if !self.settings.store.has(*hash) {
                    return Err(format!(
                        "its program {hash} is not in the content store of {}: ship it first",
                        self.settings.node
                    ));
                }
                // The node's own link: what it runs is not removed from the store.
                let programs = self.settings.directory.join(PROGRAMS);
                self.settings.store.keep(*hash, &programs)
            }
            Program::Path(path) => PathBuf::from(path),
        };
        let base = self.settings.directory.join("work");
        let (process, control) = process::spawn(key, command, &program, &base)?;
        let worker = Worker::new(key, command.memory_limit, control);
        let share = self.settings.cores / self.settings.workers_per_node.max(1);
        let start = ToWorker::Start {
            node: self.settings.node,
            key,
            slots: command.slots.unwrap_or(share).max(1),
        };
        // It is the first message; should it fail, the worker is seen to end.
        let _ = worker.send(&start, None);
        place.insert(worker.clone());
        lock(&self.logs).open(key);
        let (started, result) = oneshot::channel();
        tokio::spawn(attendant::attend(self.clone(), worker, process, started));
        Ok(result)
    }

    /// Asks workers to end, and kills them after the grace; those that are gone already are
    /// skipped. Returns when nothing of them is left, or could be killed.
    pub(crate) async fn stop(&self, workers: &[WorkerKey], grace: Duration, reason: &str) {
        let meant: Vec<_> = lock(&self.workers)
            .values()
            .filter(|worker| workers.contains(&worker.key))
            .cloned()
            .collect();
        end(meant, grace, reason).await;
    }

    /// Asks every worker to end, those that have just been started, too.
    pub(crate) async fn stop_all(&self, grace: Duration, reason: &str) {
        let all = lock(&self.workers).values().cloned().collect();
        end(all, grace, reason).await;
    }

    /// Passes a worker a message and a socket.
    ///
    /// # Errors
    /// Fails if there is no such worker, or it has not taken many earlier ones.
    pub(crate) fn attach(
        &self,
        worker: WorkerKey,
        message: ToWorker,
        socket: OwnedFd,
    ) -> Result<(), String> {
        let workers = lock(&self.workers);
        let found = workers
            .get(&worker.slot)
            .filter(|found| found.key == worker && found.is_ready())
            .ok_or_else(|| format!("no such worker: {worker} of {}", self.settings.node))?;
        found.send(&message, Some(socket))
    }

    /// The workers that are ready.
    pub(crate) fn statuses(&self) -> Vec<WorkerStatus> {
        let workers = lock(&self.workers);
        workers
            .values()
            .filter_map(|worker| worker.status())
            .collect()
    }

    /// The command that workers were started with last.
    pub(crate) fn last_command(&self) -> Option<WorkerCommand> {
        lock(&self.command).clone()
    }

    /// Begins to listen.
    pub(crate) fn subscribe(self: &Arc<Self>) -> Subscription {
        let (listener, deaths) = mpsc::channel(limits::DEATHS);
        let mut listeners = lock(&self.listeners);
        // Those of sessions that are over: a node may go on for long without a death.
        listeners.retain(|listener| !listener.is_closed());
        listeners.push(listener);
        drop(listeners);
        Subscription::new(self.clone(), deaths)
    }

    /// A worker is gone: its slot is free.
    fn forget(&self, worker: &Worker) {
        let mut workers = lock(&self.workers);
        if let Entry::Occupied(place) = workers.entry(worker.key.slot)
            && place.get().key == worker.key
        {
            place.remove();
        }
    }

    fn tell_down(&self, worker: WorkerKey, death: Death) {
        let death = Arc::new((worker, death));
        lock(&self.listeners).retain(|listener| match listener.try_send(death.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!("a session does not take the deaths of workers and misses one");
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        self.news.notify_waiters();
    }

    fn log(&self, worker: WorkerKey, source: LogSource, lines: Vec<String>) {
        lock(&self.logs).push(worker, source, lines);
        self.news.notify_waiters();
    }
}

/// Ends workers, all at once.
async fn end(workers: Vec<Arc<Worker>>, grace: Duration, reason: &str) {
    let kill_at = Instant::now() + grace;
    for worker in &workers {
        worker.order_end(kill_at, reason);
    }
    // The attendants' own deadlines end before this one.
    let give_up = kill_at + 4 * limits::KILL_WAIT;
    for worker in workers {
        if timeout_at(give_up, worker.ended()).await.is_err() {
            tracing::error!("worker in {} cannot be ended", worker.key);
        }
    }
}

fn read_command(path: &Path) -> Option<WorkerCommand> {
    let json = std::fs::read(path).ok()?;
    serde_json::from_slice(&json)
        .inspect_err(|error| tracing::warn!("{} is unreadable: {error}", path.display()))
        .ok()
}

/// Written beside and renamed, and for the owner's eyes only: an environment may hold secrets.
fn write_command(path: &Path, command: &WorkerCommand) -> std::io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&serde_json::to_vec(command)?)?;
    std::fs::rename(new, path)
}
