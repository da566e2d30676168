//! One worker's life: from its start until nothing of it is left and its death is told.
//!
//! A task of its own attends each worker, so that a session that ends while workers start
//! or stop leaves nothing half done. Every phase but the running itself has a deadline.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use cc_core::codec;
use cc_core::death::{Cause, Death, signal_name};
use cc_core::ids::{WorkerId, WorkerKey};
use cc_core::limits;
use cc_core::wire::control::{LogSource, WorkerStatus};
use cc_core::wire::local::{FromWorker, GuardReport, ToWorker};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::evidence::Baseline;
use super::logs::{Splitter, Tail};
use super::process::{self, Process};
use super::socket::{ControlSocket, Parcel};
use super::{Supervisor, lock, spawn};

/// What became of a start.
pub(super) type Started = Result<WorkerKey, Death>;

/// A worker as its agent knows it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) key: WorkerKey,
    /// Its address space in bytes, if limited.
    memory_limit: Option<u64>,
    control: ControlSocket,
    queue: Mutex<VecDeque<Parcel>>,
    queued: Notify,
    order: watch::Sender<Option<Order>>,
    ended: watch::Sender<bool>,
    life: Mutex<Life>,
}

/// What changes while a worker lives.
#[derive(Debug, Default)]
struct Life {
    /// Since when it takes lanes, and its process id by its own account.
    ready: Option<(Instant, u32)>,
    /// What the last driver with a lane to it calls it.
    id: Option<WorkerId>,
}

/// The order to end.
#[derive(Debug, Clone)]
struct Order {
    kill_at: Instant,
    reason: String,
}

impl Worker {
    pub(super) fn new(
        key: WorkerKey,
        memory_limit: Option<u64>,
        control: ControlSocket,
    ) -> Arc<Self> {
        Arc::new(Self {
            key,
            memory_limit,
            control,
            queue: Mutex::default(),
            queued: Notify::new(),
            order: watch::channel(None).0,
            ended: watch::channel(false).0,
            life: Mutex::default(),
        })
    }

    /// Sends a message without waiting. In order, and at once if the worker takes it.
    pub(super) fn send(&self, message: &ToWorker, socket: Option<OwnedFd>) -> Result<(), String> {
        let bytes = codec::encode(message).map_err(|error| error.to_string())?;
        let mut queue = lock(&self.queue);
        if queue.len() >= limits::CONTROL_QUEUE {
            return Err(format!(
                "worker in {} does not read its control socket: {} messages wait already",
                self.key,
                queue.len()
            ));
        }
        queue.push_back((bytes, socket));
        // What could not be sent now is sent by the attendant, which sees failures, too.
        let sent = self.control.try_send_all(&mut queue);
        drop(queue);
        self.queued.notify_one();
        match sent {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                Err(format!("worker in {} cannot be reached: {error}", self.key))
            }
            _ => {
                if let ToWorker::Lane { id, .. } = message {
                    lock(&self.life).id = Some(*id);
                }
                Ok(())
            }
        }
    }

    /// Whether it takes lanes.
    pub(super) fn is_ready(&self) -> bool {
        lock(&self.life).ready.is_some()
    }

    /// Orders the end; the earliest of several deadlines and the first of several reasons
    /// count.
    pub(super) fn order_end(&self, kill_at: Instant, reason: &str) {
        self.order.send_modify(|order| match order {
            Some(order) => order.kill_at = order.kill_at.min(kill_at),
            None => {
                *order = Some(Order {
                    kill_at,
                    reason: reason.to_owned(),
                });
            }
        });
    }

    /// Returns when nothing of it is left.
    pub(super) async fn ended(&self) {
        // The sender is in `self`, so waiting cannot fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Its state, once it is ready.
    pub(super) fn status(&self) -> Option<WorkerStatus> {
        let life = lock(&self.life);
        let (since, pid) = life.ready?;
        Some(WorkerStatus {
            key: self.key,
            pid,
            resident: resident(pid),
            uptime: since.elapsed().as_secs(),
            id: life.id,
        })
    }

    /// Sends what waits; returns when something was sent or failed.
    async fn flush(&self) -> std::io::Result<()> {
        let waits = !lock(&self.queue).is_empty();
        if !waits {
            self.queued.notified().await;
        }
        self.control.send_all(&self.queue).await
    }
}

/// Bytes resident of a process; 0 if it is gone.
fn resident(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    pages
        * page
            .ok()
            .flatten()
            .and_then(|size| size.try_into().ok())
            .unwrap_or(4096)
}

/// Attends a worker that was just spawned. `started` hears when it is ready or has failed.
pub(super) async fn attend(
    supervisor: Arc<Supervisor>,
    worker: Arc<Worker>,
    process: Process,
    started: oneshot::Sender<Started>,
) {
    let Process {
        guard,
        reports,
        stdout,
        stderr,
    } = process;
    let tail = Arc::new(Mutex::new(Tail::default()));
    let mut pumps = JoinSet::new();
    for (source, pipe) in [
        (LogSource::Stdout, Pipe::Out(stdout)),
        (LogSource::Stderr, Pipe::Err(stderr)),
    ] {
        let (supervisor, tail) = (supervisor.clone(), tail.clone());
        let key = worker.key;
        pumps.spawn(async move {
            match pipe {
                Pipe::Out(pipe) => pump(&supervisor, key, source, pipe, None).await,
                Pipe::Err(pipe) => pump(&supervisor, key, source, pipe, Some(&tail)).await,
            }
        });
    }
    let guard_pid = guard.id().unwrap_or(0);
    let (read, write) = reports.into_split();
    let mut watch = Watch {
        worker: &worker,
        baseline: Baseline::of(guard_pid),
        started: Some(started),
        guard: Some(write),
        verdict: None,
        deadline: Some(Instant::now() + limits::WORKER_START),
        asked_to_stop: false,
        heard: true,
    };
    let report = watch.run(read, guard_pid).await;
    let was_ready = watch.started.is_none();
    let (verdict, baseline, started) = (watch.verdict, watch.baseline, watch.started);

    let what = format!("worker in {}", worker.key);
    let mark = process::mark(worker.key);
    spawn::clear_up(guard, report.as_ref(), &what, &mark).await;
    // The pipes have ended unless something could not be killed.
    let drained = async { while pumps.join_next().await.is_some() {} };
    let _ = timeout(limits::STOP_GRACE, drained).await;
    pumps.abort_all();

    let stderr_tail = lock(&tail).take();
    let seen = report.as_ref().map_or(
        // A worker's parent-death signal is SIGKILL.
        Cause::Signalled(nix::libc::SIGKILL),
        |report| report.cause.clone(),
    );
    let out_of_memory =
        supervisor
            .kills
            .evidence(&baseline, &seen, &stderr_tail, worker.memory_limit);
    let asked = verdict.is_some();
    let death = Death {
        cause: verdict.unwrap_or(if was_ready { seen } else { not_started(seen) }),
        peak_memory: report.and_then(|report| report.peak_memory),
        // Who was killed on purpose did not die for lack of memory.
        out_of_memory: out_of_memory.filter(|_| !asked),
        stderr_tail,
    };
    supervisor.forget(&worker);
    tracing::info!(
        "worker in {} {}",
        worker.key,
        Death::of(death.cause.clone())
    );
    match started {
        // Nobody may be waiting any more, which is fine: there is nothing to clear up.
        Some(started) => drop(started.send(Err(death))),
        None => supervisor.tell_down(worker.key, death),
    }
    worker.ended.send_replace(true);
}

enum Pipe {
    Out(tokio::process::ChildStdout),
    Err(tokio::process::ChildStderr),
}

/// A worker under way.
struct Watch<'a> {
    worker: &'a Worker,
    baseline: Baseline,
    /// Who waits for the start; gone once it is ready.
    started: Option<oneshot::Sender<Started>>,
    /// Dropping it makes the guard kill.
    guard: Option<OwnedWriteHalf>,
    /// Why it ends, if that is this agent's doing.
    verdict: Option<Cause>,
    /// When the next step towards the end is taken.
    deadline: Option<Instant>,
    asked_to_stop: bool,
    /// Whether the control socket is open.
    heard: bool,
}

impl Watch<'_> {
    /// Runs until the guard has reported, or is gone without.
    async fn run(&mut self, guard: OwnedReadHalf, guard_pid: u32) -> Option<GuardReport> {
        let worker = self.worker;
        let mut order = worker.order.subscribe();
        order.mark_changed();
        let mut report = std::pin::pin!(spawn::read_report(guard));
        loop {
            let deadline = self.deadline;
            tokio::select! {
                // What a worker said comes before its end, orders before what it says.
                biased;
                // The sender is in the worker.
                _ = order.changed() => {
                    let order = order.borrow_and_update().clone();
                    if let Some(order) = order {
                        self.obey(order);
                    }
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.press(guard_pid);
                }
                message = worker.control.recv(), if self.heard => match message {
                    Ok(Some((bytes, _))) => self.hear(&bytes),
                    Ok(None) | Err(_) => self.deaf(),
                },
                sent = worker.flush(), if self.heard => {
                    if sent.is_err() {
                        self.deaf();
                    }
                }
                report = &mut report => return report,
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        match codec::decode::<FromWorker>(bytes) {
            Ok(FromWorker::Ready { pid }) => {
                // Too late if it is being killed.
                let Some(started) = self.started.take_if(|_| self.guard.is_some()) else {
                    return;
                };
                lock(&self.worker.life).ready = Some((Instant::now(), pid));
                // A wrapper may have moved it to a cgroup of its own.
                self.baseline = Baseline::of(pid);
                if !self.asked_to_stop {
                    self.deadline = None;
                }
                let _ = started.send(Ok(self.worker.key));
            }
            Ok(FromWorker::Unable(mut why)) => {
                truncate(&mut why, 2048);
                self.verdict.get_or_insert(Cause::NotStarted(why));
                self.deadline = Some(Instant::now());
            }
            Err(error) => {
                tracing::warn!("worker in {} says nonsense: {error}", self.worker.key);
            }
        }
    }

    /// The control socket has ended: the worker is ending, or has closed what it must not.
    fn deaf(&mut self) {
        self.heard = false;
        lock(&self.worker.queue).clear();
        if !self.asked_to_stop && self.guard.is_some() {
            let soon = Instant::now() + limits::STOP_GRACE;
            self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
        }
    }

    fn obey(&mut self, order: Order) {
        if !self.asked_to_stop {
            self.asked_to_stop = true;
            self.verdict.get_or_insert(Cause::Stopped(order.reason));
            // If it cannot be told it is killed.
            let _ = self.worker.send(&ToWorker::Stop, None);
        }
        if self.guard.is_some() {
            self.deadline = Some(order.kill_at);
        }
    }

    /// The deadline has passed: has the guard kill, and at the next one kills the guard.
    fn press(&mut self, guard_pid: u32) {
        if self.guard.take().is_some() {
            let why = if !self.heard {
                "it had closed its control socket and went on".to_owned()
            } else {
                let seconds = limits::WORKER_START.as_secs();
                format!("not ready after {seconds} s")
            };
            self.verdict.get_or_insert(match self.started {
                Some(_) => Cause::NotStarted(why),
                None => Cause::Stopped(why),
            });
            // The guard has its own deadlines, for the worker and then for descendants.
            self.deadline = Some(Instant::now() + 2 * limits::KILL_WAIT + limits::STOP_GRACE);
        } else {
            self.deadline = None;
            if let Ok(pid) = i32::try_from(guard_pid) {
                tracing::error!(
                    "guard {pid} of {} does not end: killing it",
                    self.worker.key
                );
                // It has not been waited for, so the number is its own.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }
}

/// The cause of a death before readiness.
fn not_started(seen: Cause) -> Cause {
    Cause::NotStarted(match seen {
        Cause::NotStarted(why) => why,
        Cause::Exited(status) => format!("it exited with status {status} before it was ready"),
        Cause::Signalled(signal) => format!(
            "signal {signal} ({}) killed it before it was ready",
            signal_name(signal)
        ),
        Cause::Stopped(why) | Cause::NodeLost(why) => why,
    })
}

fn truncate(text: &mut String, limit: usize) {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// Turns what a worker writes into lines of its ring, until it ends.
async fn pump(
    supervisor: &Supervisor,
    key: WorkerKey,
    source: LogSource,
    mut pipe: impl AsyncRead + Unpin,
    tail: Option<&Mutex<Tail>>,
) {
    let mut buffer = vec![0; 8 * 1024];
    let mut splitter = Splitter::default();
    loop {
        let (lines, end) = match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => (Vec::from_iter(splitter.finish()), true),
            Ok(count) => (splitter.push(&buffer[..count]), false),
        };
        if let Some(tail) = tail {
            let mut tail = lock(tail);
            lines.iter().for_each(|line| tail.push(line));
        }
        if !lines.is_empty() {
            supervisor.log(key, source, lines);
        }
        if end {
            return;
        }
    }
}
