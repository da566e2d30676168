//! The workers of one cluster and the tasks that wait for or are on them.
//!
//! One lock, no I/O: user threads submit, the network thread reports frames and losses, and
//! both carry out the [`Effects`] after the lock is released. Which worker gets a task is
//! decided here, how many it gets ahead in [`crate::balance`].

mod effects;
mod entry;
mod state;
mod tasks;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use cc_core::death::{Cause, Death};
use cc_core::function::{Function, Runner};
use cc_core::ids::{ContentHash, NodeIndex, WorkerId, WorkerKey};
use cc_core::wire::WireError;
use cc_core::wire::lane::{self, Functions};
use tokio::sync::Notify;

use self::effects::Effects;
pub(crate) use self::effects::{Fetch, Link, Push};
use self::entry::{Entry, Presence};
use self::state::{State, no_worker};
use self::tasks::Tasks;
use crate::balance::{Kind, Load};
use crate::completion::{CallState, Completion, Inbox};
use crate::error::CallError;
use crate::task::Arguments;

/// A task on its way: from submission to its completion.
pub(crate) struct Job {
    pub(crate) function: &'static Function,
    pub(crate) arguments: JobArguments,
    pub(crate) completion: Completion,
    /// Whether it may be run again after a worker's loss.
    pub(crate) again: bool,
    /// How often it may still be begun again then.
    pub(crate) retries: u32,
    /// How long it may run once started.
    pub(crate) limit: Option<Duration>,
    /// Send the result at once rather than with others.
    pub(crate) urgent: bool,
}

impl Job {
    pub(crate) fn kind(&self) -> Kind {
        match self.function.runner {
            Runner::Blocking(_) => Kind::Blocking,
            Runner::Async(_) => Kind::Asynchronous,
        }
    }
}

/// Where a job's arguments are.
#[derive(Clone)]
pub(crate) enum JobArguments {
    /// In the driver's memory.
    Here(Arguments),
    /// In the nodes' content stores, shipped before.
    Stored(ContentHash, u64),
}

impl JobArguments {
    fn bytes(&self) -> u64 {
        match self {
            Self::Here(arguments) => arguments.size(),
            Self::Stored(..) => 64,
        }
    }
}

/// Which workers may run a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The freest.
    Any,
    /// This one.
    Worker(WorkerId),
}

/// Room for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// This many could be sent at once.
    Jobs(u32),
    /// There is no worker: any job will fail at once.
    Hopeless,
}

/// How long what an ended worker had written may take to arrive.
const LAST_RESULTS: Duration = Duration::from_secs(1);

/// The workers of one cluster and their tasks.
pub(crate) struct Pool {
    me: Weak<Self>,
    state: Mutex<State>,
    /// Wakes the timer when it slept because there was nothing to watch.
    pub(crate) timer: Notify,
    /// Workers that did not come back after a deadline.
    hung: tokio::sync::mpsc::Sender<WorkerId>,
    network: tokio::runtime::Handle,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// What is known of a worker, for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkerInfo {
    pub(crate) id: WorkerId,
    pub(crate) node: NodeIndex,
    pub(crate) key: WorkerKey,
    pub(crate) slots: u32,
}

impl Pool {
    pub(crate) fn new(
        network: tokio::runtime::Handle,
        hung: tokio::sync::mpsc::Sender<WorkerId>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            state: Mutex::default(),
            timer: Notify::new(),
            hung,
            network,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- submission (any thread) ----

    /// Takes a job on. It is sent now if there is room, later otherwise.
    pub(crate) fn submit(&self, job: Job, target: Target) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            match target {
                Target::Any => state.queue.push_back(job),
                Target::Worker(id) => match state.index.get(&id).copied() {
                    Some(index) => state.workers[index].pinned.push_back(job),
                    None => {
                        let error = no_worker(
                            job.function,
                            Some(id),
                            "there is no such worker in this cluster",
                        );
                        effects.done.push((job.completion, Err(error)));
                    }
                },
            }
            state.dispatch(&mut effects);
        }
        effects.carry_out(self);
    }

    /// How many more jobs for any worker a map should submit that has `mine` of them under way.
    ///
    /// A map whose jobs others leave no room for may queue as many as there are workers: it
    /// has its turn then, and is woken by their results; nothing else would wake it.
    pub(crate) fn room(&self, kind: Kind, mine: u64) -> Room {
        let state = self.lock();
        if state.closed.is_some() || state.nobody() {
            return Room::Hopeless;
        }
        let share = state.alive().count().max(1) as u64;
        let turn = share.saturating_sub(mine) as u32;
        Room::Jobs(state.room(kind).max(turn))
    }

    /// Takes many jobs for any worker on under one lock.
    pub(crate) fn submit_all(&self, jobs: impl Iterator<Item = Job>) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            jobs.for_each(|job| state.queue.push_back(job));
            state.dispatch(&mut effects);
        }
        effects.carry_out(self);
    }

    /// A map begins (`true`) or stops (`false`) having items that it would submit.
    pub(crate) fn eager(&self, more: bool) {
        let mut state = self.lock();
        state.eager = if more {
            state.eager + 1
        } else {
            state.eager.saturating_sub(1)
        };
    }

    /// Nobody waits for this call any more: queued, it will be skipped; sent, it is cancelled.
    pub(crate) fn abandon_call(&self, call: &Arc<CallState>) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            call.abandon();
            let cancelled = call.place().and_then(|(worker, task)| {
                let entry = state.entry(worker)?;
                let outstanding = entry.tasks.get_mut(task).filter(|o| o.is_of(call))?;
                let job = outstanding.job.take();
                entry.write(&mut effects, |out| lane::put_cancel(out, task));
                job
            });
            if cancelled.is_none() {
                state.forget_abandoned(&mut effects);
            }
            effects.dropped.extend(cancelled);
        }
        effects.carry_out(self);
    }

    /// The deadline of a call has passed: it is completed with that, and its worker is given up
    /// if it does not come back from it soon.
    pub(crate) fn expire_call(
        &self,
        call: &Arc<CallState>,
        function: &'static Function,
        deadline: Duration,
    ) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            let found = call.place().and_then(|(worker, task)| {
                let entry = state.entry(worker)?;
                entry.tasks.get(task)?.is_of(call).then_some(())?;
                Some(entry.overdue(task, deadline, Instant::now(), &mut effects))
            });
            match found {
                Some(newly) => {
                    state.watched += u64::from(newly);
                    effects.watch = true;
                }
                None => {
                    // Still queued: it will be skipped.
                    call.abandon();
                    let error = CallError::DeadlineExceeded {
                        function: function.name,
                        worker: None,
                        deadline,
                    };
                    effects
                        .done
                        .push((Completion::Call(Arc::clone(call)), Err(error)));
                }
            }
        }
        effects.carry_out(self);
    }

    /// Nobody waits for this map any more: its queued items are dropped, its sent ones cancelled.
    pub(crate) fn abandon_map(&self, inbox: &Arc<Inbox>) {
        let unwanted = |completion: &Completion| matches!(completion, Completion::Map(theirs, _) if Arc::ptr_eq(theirs, inbox));
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            // The inbox says so too.
            state.queue.drop_abandoned(&mut effects.dropped);
            for entry in &mut state.workers {
                let mut cancelled = Vec::new();
                for (task, outstanding) in entry.tasks.iter_mut() {
                    if outstanding
                        .job
                        .as_ref()
                        .is_some_and(|j| unwanted(&j.completion))
                    {
                        effects.dropped.extend(outstanding.job.take());
                        cancelled.push(task);
                    }
                }
                for task in cancelled {
                    entry.write(&mut effects, |out| lane::put_cancel(out, task));
                }
            }
            state.dispatch(&mut effects);
        }
        effects.carry_out(self);
    }

    // ---- the network side ----

    /// The arguments of a task could not be brought to its worker.
    pub(crate) fn push_failed(&self, id: WorkerId, task: u32, reason: String) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            if let Some(entry) = state.entry(id).filter(|e| e.alive())
                && let Some(outstanding) = entry.tasks.get_mut(task)
                && let Some(job) = outstanding.job.take()
            {
                let error = CallError::Framework {
                    function: job.function.name,
                    phase: "send the arguments",
                    worker: Some(id),
                    reason,
                };
                effects.done.push((job.completion, Err(error)));
                entry.write(&mut effects, |out| lane::put_cancel(out, task));
            }
        }
        effects.carry_out(self);
    }

    /// Workers that are on their way: jobs wait for them rather than fail.
    pub(crate) fn expect(&self, workers: u32) {
        self.lock().expected += workers;
    }

    /// Workers that were expected and do not come.
    pub(crate) fn unexpect(&self, workers: u32) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            state.expected = state.expected.saturating_sub(workers);
            state.dispatch(&mut effects);
        }
        effects.carry_out(self);
    }

    /// A worker has told its functions and takes tasks from now on.
    pub(crate) fn add(&self, info: WorkerInfo, functions: &[Functions], link: Link) {
        let theirs = functions
            .iter()
            .flat_map(|part| &part.functions)
            .zip(0..)
            .map(|(f, number)| ((f.name.clone(), f.hash), number))
            .collect();
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            let entry = Entry {
                id: info.id,
                node: info.node,
                key: info.key,
                presence: Presence::Alive,
                lane_over: false,
                theirs,
                functions: HashMap::new(),
                recent: (0, 0),
                load: Load::new(info.slots),
                tasks: Tasks::default(),
                pinned: VecDeque::new(),
                returning: 0,
                out: Vec::new(),
                link,
            };
            let index = state.workers.len();
            state.index.insert(info.id, index);
            state.workers.push(entry);
            state.expected = state.expected.saturating_sub(1);
            state.dispatch(&mut effects);
        }
        effects.carry_out(self);
    }

    /// Takes what is to be written to a worker's lane; `None` when it is dead.
    pub(crate) fn take_output(&self, id: WorkerId, spare: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        let Some(entry) = state.entry(id) else {
            return false;
        };
        spare.clear();
        std::mem::swap(&mut entry.out, spare);
        matches!(entry.presence, Presence::Alive)
    }

    /// Frames from a worker: whole ones at the front of `bytes`. Gives how many bytes they
    /// took.
    ///
    /// # Errors
    /// Fails on frames that a worker cannot have sent; its lane is to be given up.
    pub(crate) fn received(&self, id: WorkerId, bytes: &bytes::Bytes) -> Result<usize, WireError> {
        let mut effects = Effects::default();
        let mut used = 0;
        let result = {
            let mut state = self.lock();
            let result = loop {
                let Some(frame) = lane::next_frame(&bytes[used..]) else {
                    break Ok(used);
                };
                let range = used + frame.start..used + frame.end;
                match state.on_frame(id, bytes, range.clone(), &mut effects) {
                    Ok(()) => used = range.end,
                    Err(error) => break Err(error),
                }
            };
            let now = Instant::now();
            let more = state.eager > 0 || !state.queue.of(Kind::Blocking).is_empty();
            if let Some(entry) = state.entry(id) {
                let round_trip = entry.link.connection.rtt();
                entry.load.adapt(now, round_trip, more);
                entry.tasks.forget_ended();
            }
            state.dispatch(&mut effects);
            state.take_back(now, &mut effects);
            result
        };
        effects.carry_out(self);
        result
    }

    /// A worker has ended. It is lost when its lane has ended too, so that what it had
    /// finished counts, or soon.
    pub(crate) fn down(&self, id: WorkerId, death: Death) {
        let death = Arc::new(death);
        {
            let mut state = self.lock();
            let Some(entry) = state.entry(id).filter(|e| e.alive()) else {
                return;
            };
            if !entry.lane_over {
                entry.presence = Presence::Dying(Arc::clone(&death));
                let pool = self.me.clone();
                self.network.spawn(async move {
                    tokio::time::sleep(LAST_RESULTS).await;
                    if let Some(pool) = pool.upgrade() {
                        pool.lost(id, death);
                    }
                });
                return;
            }
        }
        self.lost(id, death);
    }

    /// A worker's lane has ended. Gives whether it is known why, and the worker lost by that.
    pub(crate) fn lane_over(&self, id: WorkerId) -> bool {
        let death = {
            let mut state = self.lock();
            let Some(entry) = state.entry(id) else {
                return true;
            };
            entry.lane_over = true;
            match &entry.presence {
                Presence::Alive => return false,
                Presence::Dying(death) => Arc::clone(death),
                Presence::Dead(_) => return true,
            }
        };
        self.lost(id, death);
        true
    }

    /// A worker's result could not be fetched because the worker ended: its job is run again
    /// where asked, and lost otherwise.
    pub(crate) fn fetch_lost(&self, fetch: Fetch, reason: &str) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            let death = match state.entry(fetch.id).map(|e| &e.presence) {
                Some(Presence::Dying(death) | Presence::Dead(death)) => Arc::clone(death),
                _ => Arc::new(Death::of(Cause::NodeLost(reason.to_owned()))),
            };
            let Fetch { mut job, .. } = fetch;
            if job.again && job.retries > 0 {
                job.retries -= 1;
                state.queue.push_front(job);
            } else {
                let error = CallError::Lost {
                    function: job.function.name,
                    worker: fetch.id,
                    node: fetch.node,
                    death,
                };
                effects.done.push((job.completion, Err(error)));
            }
            state.dispatch(&mut effects);
        }
        effects.carry_out(self);
    }

    /// Whether this worker takes tasks.
    pub(crate) fn is_alive(&self, id: WorkerId) -> bool {
        self.lock().entry(id).is_some_and(|e| e.alive())
    }

    /// A worker is gone: its tasks are run again where asked, and lost otherwise.
    pub(crate) fn lost(&self, id: WorkerId, death: impl Into<Arc<Death>>) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            state.lose(id, death.into(), &mut effects);
            state.dispatch(&mut effects);
        }
        effects.carry_out(self);
    }

    /// The cluster is no more: every waiting job fails with this reason.
    pub(crate) fn close(&self, reason: &str) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            state.closed = Some(reason.to_owned());
            state.lose_all(
                &Arc::new(Death::of(Cause::Stopped(reason.to_owned()))),
                &mut effects,
            );
            state.dispatch(&mut effects);
        }
        effects.carry_out(self);
    }

    /// Looks after what only time brings: limits, workers to give up, work to take back.
    /// Gives when to look again; `None` when there is nothing to watch.
    pub(crate) fn tick(&self, now: Instant) -> Option<Duration> {
        let mut effects = Effects::default();
        let mut hung = Vec::new();
        let watch = {
            let mut state = self.lock();
            if state.watched > 0 {
                for entry in &mut state.workers {
                    entry.check_limits(now, &mut effects, &mut hung);
                }
            }
            state.take_back(now, &mut effects);
            state.watched > 0 || state.alive().any(|e| e.load.is_crowded())
        };
        effects.carry_out(self);
        for id in hung {
            // Full: the one who handles them is busy, and will be told again at the next tick.
            let _ = self.hung.try_send(id);
        }
        watch.then_some(Duration::from_millis(5))
    }

    /// Where background work of calls runs.
    pub(crate) fn network(&self) -> &tokio::runtime::Handle {
        &self.network
    }

    /// The living workers, in the order of their ids.
    pub(crate) fn workers(&self) -> Vec<WorkerInfo> {
        let state = self.lock();
        let mut workers: Vec<WorkerInfo> = state
            .alive()
            .map(|e| WorkerInfo {
                id: e.id,
                node: e.node,
                key: e.key,
                slots: e.load.slots(),
            })
            .collect();
        workers.sort_by_key(|w| w.id);
        workers
    }

    /// The worker with this name on the wire, dead or alive.
    pub(crate) fn find(&self, node: NodeIndex, key: WorkerKey) -> Option<WorkerId> {
        self.lock()
            .workers
            .iter()
            .rev()
            .find(|e| e.node == node && e.key == key)
            .map(|e| e.id)
    }
}

#[cfg(test)]
mod tests;
