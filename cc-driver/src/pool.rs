//! The workers of one cluster and the tasks that wait for or are on them.
//!
//! One lock, no I/O: user threads submit, the network thread reports frames and losses, and
//! both carry out the [`Effects`] after the lock is released. Which worker gets a task is
//! decided here, how many it gets ahead in [`crate::balance`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cc_core::death::{Cause, Death};
use cc_core::function::{self, Function};
use cc_core::ids::{ContentHash, NodeIndex, WorkerId, WorkerKey};
use cc_core::limits;
use cc_core::wire::WireError;
use cc_core::wire::lane::{self, Frame, Functions, Outcome, Value};
use slab::Slab;
use tokio::sync::Notify;

use crate::balance::Load;
use crate::completion::{CallState, Completion, Inbox, Raw};
use crate::error::CallError;
use crate::task::Arguments;

/// A task on its way: from submission to its completion.
pub(crate) struct Job {
    pub(crate) function: &'static Function,
    pub(crate) arguments: JobArguments,
    pub(crate) completion: Completion,
    /// How often it may still be run again after a worker's loss.
    pub(crate) retries: u32,
    /// How long it may run once started.
    pub(crate) limit: Option<Duration>,
    /// Send the result at once rather than with others.
    pub(crate) urgent: bool,
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

/// A job that a worker has been sent and not answered.
struct Outstanding {
    /// `None` when nobody waits for it any more.
    job: Option<Job>,
    bytes: u64,
    /// Distinguishes uses of the same id.
    sequence: u64,
    sent: Instant,
    started: Option<Instant>,
    taking_back: bool,
    /// When the worker is given up if it has not answered (set after a deadline).
    give_up: Option<Instant>,
    /// Counted in [`State::watched`].
    watched: bool,
    asynchronous: bool,
    pinned: bool,
}

impl Outstanding {
    fn is_of(&self, call: &Arc<CallState>) -> bool {
        self.job
            .as_ref()
            .is_some_and(|j| matches!(&j.completion, Completion::Call(c) if Arc::ptr_eq(c, call)))
    }
}

/// Why a worker takes no tasks.
enum Presence {
    /// It does.
    Alive,
    /// It ended.
    Dead(Arc<Death>),
}

/// A worker as the pool sees it.
struct Entry {
    id: WorkerId,
    node: NodeIndex,
    key: WorkerKey,
    presence: Presence,
    /// The numbers of the worker's functions, by name and signature.
    theirs: HashMap<(String, u64), u32>,
    /// The same by the address of this program's entry, filled as they are used.
    functions: HashMap<usize, u32>,
    recent: (usize, u32),
    load: Load,
    tasks: Slab<Outstanding>,
    /// Blocking tasks in the order sent; entries whose sequence does not match are stale.
    order: VecDeque<(u32, u64)>,
    /// Jobs for this worker alone that do not fit its lane yet.
    pinned: VecDeque<Job>,
    /// Tasks that are being taken back.
    returning: u32,
    out: Vec<u8>,
    link: Link,
}

/// How the network side of a worker is reached.
#[derive(Clone)]
pub(crate) struct Link {
    /// Told when there is something to write to the lane.
    pub(crate) writer: Arc<Notify>,
    /// The connection to its node.
    pub(crate) connection: quinn::Connection,
    /// Limits the bulk streams at once on that connection.
    pub(crate) bulk: Arc<tokio::sync::Semaphore>,
}

/// What is to be done after the lock is released.
#[derive(Default)]
pub(crate) struct Effects {
    writers: Vec<Arc<Notify>>,
    done: Vec<(Completion, Result<Raw, CallError>)>,
    /// Arguments to send out of band.
    push: Vec<(Link, WorkerKey, u32, Arguments)>,
    /// Results to fetch out of band.
    fetch: Vec<Fetch>,
}

/// A result that is to be fetched in a bulk stream.
pub(crate) struct Fetch {
    pub(crate) link: Link,
    pub(crate) worker: WorkerKey,
    pub(crate) id: WorkerId,
    pub(crate) node: NodeIndex,
    pub(crate) task: u32,
    pub(crate) length: u64,
    pub(crate) function: &'static Function,
    pub(crate) completion: Completion,
}

/// Room for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// This many could be sent at once.
    Jobs(u32),
    /// There is no worker: any job will fail at once.
    Hopeless,
}

#[derive(Default)]
struct State {
    workers: Vec<Entry>,
    index: HashMap<WorkerId, usize>,
    queue: VecDeque<Job>,
    /// Maps that have items left and would submit them if there were room.
    eager: u32,
    /// Workers on their way; while there are some, jobs without a worker wait.
    expected: u32,
    sequence: u64,
    outstanding: u64,
    /// Outstanding tasks whose time is limited or over.
    watched: u64,
    last_death: Option<(WorkerId, NodeIndex, Arc<Death>)>,
    closed: Option<String>,
}

/// The workers of one cluster and their tasks.
pub(crate) struct Pool {
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
        Arc::new(Self {
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
        self.timer.notify_one();
        effects.carry_out(self);
    }

    /// How many more jobs for any worker could be sent at once.
    pub(crate) fn room(&self) -> Room {
        let state = self.lock();
        if state.closed.is_some() || state.nobody() {
            Room::Hopeless
        } else {
            Room::Jobs(state.room())
        }
    }

    /// Takes many jobs for any worker on under one lock.
    pub(crate) fn submit_all(&self, jobs: impl Iterator<Item = Job>) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            state.queue.extend(jobs);
            state.dispatch(&mut effects);
        }
        self.timer.notify_one();
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
            if let Some((worker, task)) = call.place()
                && let Some(entry) = state.entry(worker)
                && let Some(outstanding) = entry.tasks.get_mut(task as usize)
                && outstanding.is_of(call)
            {
                outstanding.job = None;
                entry.write(&mut effects, |out| lane::put_cancel(out, task));
            }
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
                entry.tasks.get(task as usize)?.is_of(call).then_some(())?;
                Some(entry.overdue(task as usize, deadline, Instant::now(), &mut effects))
            });
            match found {
                Some(newly) => state.watched += u64::from(newly),
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
        self.timer.notify_one();
        effects.carry_out(self);
    }

    /// Nobody waits for this map any more: its queued items are dropped, its sent ones cancelled.
    pub(crate) fn abandon_map(&self, inbox: &Arc<Inbox>) {
        let unwanted = |completion: &Completion| matches!(completion, Completion::Map(theirs, _) if Arc::ptr_eq(theirs, inbox));
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            state.queue.retain(|job| !unwanted(&job.completion));
            for entry in &mut state.workers {
                let mut cancelled = Vec::new();
                for (task, outstanding) in &mut entry.tasks {
                    if outstanding
                        .job
                        .as_ref()
                        .is_some_and(|j| unwanted(&j.completion))
                    {
                        outstanding.job = None;
                        cancelled.push(task as u32);
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
                theirs,
                functions: HashMap::new(),
                recent: (0, 0),
                load: Load::new(info.slots),
                tasks: Slab::new(),
                order: VecDeque::new(),
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
            let more = state.eager > 0 || !state.queue.is_empty();
            if let Some(entry) = state.entry(id) {
                let round_trip = entry.link.connection.rtt();
                entry.load.adapt(now, round_trip, more);
                entry.forget_stale();
            }
            state.dispatch(&mut effects);
            state.take_back(now, &mut effects);
            result
        };
        effects.carry_out(self);
        result
    }

    /// A worker is gone: its tasks are run again where asked, and lost otherwise.
    pub(crate) fn lost(&self, id: WorkerId, death: Death) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            state.lose(id, Arc::new(death), &mut effects);
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
            let alive: Vec<WorkerId> = state.alive().map(|e| e.id).collect();
            let death = Arc::new(Death::of(Cause::Stopped(reason.to_owned())));
            for id in alive {
                state.lose(id, Arc::clone(&death), &mut effects);
            }
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
            state.outstanding > 0
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

impl Entry {
    fn alive(&self) -> bool {
        matches!(self.presence, Presence::Alive)
    }

    fn write(&mut self, effects: &mut Effects, put: impl FnOnce(&mut Vec<u8>)) {
        if !self.alive() {
            return;
        }
        if self.out.is_empty() {
            effects.writers.push(Arc::clone(&self.link.writer));
        }
        put(&mut self.out);
    }

    fn number(&mut self, function: &'static Function) -> Option<u32> {
        let address = address(function);
        if self.recent.0 == address {
            return Some(self.recent.1);
        }
        let number = match self.functions.get(&address) {
            Some(number) => *number,
            None => {
                let number = *self.theirs.get(&(function.name.to_owned(), (function.hash)()))?;
                self.functions.insert(address, number);
                number
            }
        };
        self.recent = (address, number);
        Some(number)
    }

    /// Sends a job; a job that this worker cannot run is completed with why.
    fn send(
        &mut self,
        job: Job,
        pinned: bool,
        sequence: u64,
        now: Instant,
        effects: &mut Effects,
    ) -> bool {
        let Some(function) = self.number(job.function) else {
            let error = CallError::Framework {
                function: job.function.name,
                phase: "find the function on the worker",
                worker: Some(self.id),
                reason: "the worker's executable has no function of this name and signature: it is another build; restart the cluster with this program".into(),
            };
            effects.done.push((job.completion, Err(error)));
            return false;
        };
        let asynchronous = matches!(job.function.runner, function::Runner::Async(_));
        let bytes = job.arguments.bytes();
        let task = self.tasks.vacant_key() as u32;
        let urgent = job.urgent;
        match &job.arguments {
            JobArguments::Here(arguments)
                if lane::fits_inline(arguments.body.len(), &arguments.attachments) =>
            {
                let parts = arguments.attachments.iter().map(|a| &a[..]).collect();
                let arguments = Value::Inline(&arguments.body, parts);
                let frame = lane::Task {
                    id: task,
                    urgent,
                    function,
                    arguments,
                };
                self.write(effects, |out| lane::put_task(out, &frame));
            }
            JobArguments::Here(arguments) => {
                let frame = lane::Task {
                    id: task,
                    urgent,
                    function,
                    arguments: Value::Bulk(bytes),
                };
                self.write(effects, |out| lane::put_task(out, &frame));
                effects
                    .push
                    .push((self.link.clone(), self.key, task, arguments.clone()));
            }
            JobArguments::Stored(hash, length) => {
                let arguments = Value::Stored(*hash, *length);
                let frame = lane::Task {
                    id: task,
                    urgent,
                    function,
                    arguments,
                };
                self.write(effects, |out| lane::put_task(out, &frame));
            }
        }
        if let Completion::Call(call) = &job.completion {
            call.sent_to(self.id, task);
        }
        let watched = job.limit.is_some();
        self.tasks.insert(Outstanding {
            job: Some(job),
            bytes,
            sequence,
            sent: now,
            started: asynchronous.then_some(now),
            taking_back: false,
            give_up: None,
            watched,
            asynchronous,
            pinned,
        });
        self.load.sent(bytes, now);
        if !asynchronous {
            self.order.push_back((task, sequence));
        }
        true
    }

    /// Completes a job whose time is up and asks the worker to drop it. Gives whether the task
    /// is to be counted as watched from now on.
    fn overdue(
        &mut self,
        task: usize,
        deadline: Duration,
        now: Instant,
        effects: &mut Effects,
    ) -> bool {
        let id = self.id;
        let Some(outstanding) = self.tasks.get_mut(task) else {
            return false;
        };
        let newly = !std::mem::replace(&mut outstanding.watched, true);
        if let Some(job) = outstanding.job.take() {
            let error = CallError::DeadlineExceeded {
                function: job.function.name,
                worker: Some(id),
                deadline,
            };
            effects.done.push((job.completion, Err(error)));
            outstanding.give_up = Some(now + limits::DEADLINE_GRACE);
            self.write(effects, |out| lane::put_cancel(out, task as u32));
        }
        newly
    }

    fn check_limits(&mut self, now: Instant, effects: &mut Effects, hung: &mut Vec<WorkerId>) {
        if !self.alive() {
            return;
        }
        self.forget_stale();
        // The first ones sent and not back are what the slots are busy with.
        let slots = self.load.slots() as usize;
        for (task, sequence) in self.order.iter().take(slots) {
            if let Some(outstanding) = self
                .tasks
                .get_mut(*task as usize)
                .filter(|o| o.sequence == *sequence)
            {
                outstanding.started.get_or_insert(now);
            }
        }
        let late: Vec<(usize, Duration)> = self
            .tasks
            .iter()
            .filter_map(|(task, o)| {
                let limit = o.job.as_ref()?.limit?;
                (now.saturating_duration_since(o.started?) >= limit).then_some((task, limit))
            })
            .collect();
        for (task, limit) in late {
            // It is watched already: it has a limit.
            self.overdue(task, limit, now, effects);
        }
        if self
            .tasks
            .iter()
            .any(|(_, o)| o.give_up.is_some_and(|at| now >= at))
        {
            hung.push(self.id);
        }
    }

    /// Drops what is answered from the front of the order.
    fn forget_stale(&mut self) {
        while let Some((task, sequence)) = self.order.front() {
            if self
                .tasks
                .get(*task as usize)
                .is_some_and(|o| o.sequence == *sequence)
            {
                break;
            }
            self.order.pop_front();
        }
    }
}

impl State {
    fn entry(&mut self, id: WorkerId) -> Option<&mut Entry> {
        let index = *self.index.get(&id)?;
        self.workers.get_mut(index)
    }

    fn alive(&self) -> impl Iterator<Item = &Entry> {
        self.workers.iter().filter(|e| e.alive())
    }

    /// Whether there is no worker and none on its way.
    fn nobody(&self) -> bool {
        self.expected == 0 && self.alive().next().is_none()
    }

    fn room(&self) -> u32 {
        let room: u32 = self
            .alive()
            .map(|e| e.load.room())
            .fold(0, u32::saturating_add);
        room.saturating_sub(self.queue.len() as u32)
    }

    /// Sends what can be sent.
    fn dispatch(&mut self, effects: &mut Effects) {
        let now = Instant::now();
        for index in 0..self.workers.len() {
            while let Some(job) = self.next_pinned(index) {
                let entry = &self.workers[index];
                if let Presence::Dead(death) = &entry.presence {
                    let error = CallError::Lost {
                        function: job.function.name,
                        worker: entry.id,
                        node: entry.node,
                        death: Arc::clone(death),
                    };
                    effects.done.push((job.completion, Err(error)));
                } else {
                    self.send(index, job, true, now, effects);
                }
            }
        }
        if self.queue.is_empty() {
            return;
        }
        if self.closed.is_some() || self.nobody() {
            while let Some(job) = self.queue.pop_front() {
                let error = self.hopeless(job.function);
                effects.done.push((job.completion, Err(error)));
            }
            return;
        }
        if self.queue.len() < 4 {
            while let Some(index) = self.freest() {
                let Some(job) = self.next_queued() else { break };
                self.send(index, job, false, now, effects);
            }
            return;
        }
        // Many jobs: keep the workers in a heap by pressure instead of looking at all of them
        // for each job.
        let mut heap: std::collections::BinaryHeap<_> = self
            .workers
            .iter()
            .enumerate()
            .filter(|(_, e)| e.alive() && e.load.room() > 0)
            .map(|(index, e)| std::cmp::Reverse((e.load.pressure(), index)))
            .collect();
        while let Some(mut top) = heap.peek_mut() {
            let index = top.0.1;
            let Some(job) = self.next_queued() else { break };
            self.send(index, job, false, now, effects);
            let load = &self.workers[index].load;
            if load.room() > 0 {
                top.0.0 = load.pressure();
            } else {
                std::collections::binary_heap::PeekMut::pop(top);
            }
        }
    }

    fn next_queued(&mut self) -> Option<Job> {
        loop {
            let job = self.queue.pop_front()?;
            if !job.completion.is_abandoned() {
                return Some(job);
            }
        }
    }

    fn next_pinned(&mut self, index: usize) -> Option<Job> {
        let entry = &mut self.workers[index];
        let full = entry.load.outstanding() as usize >= limits::LANE_TASKS;
        if entry.alive() && full {
            return None;
        }
        loop {
            let job = entry.pinned.pop_front()?;
            if !job.completion.is_abandoned() {
                return Some(job);
            }
        }
    }

    fn freest(&self) -> Option<usize> {
        self.workers
            .iter()
            .enumerate()
            .filter(|(_, e)| e.alive() && e.load.room() > 0)
            .min_by_key(|(_, e)| e.load.pressure())
            .map(|(index, _)| index)
    }

    fn send(&mut self, index: usize, job: Job, pinned: bool, now: Instant, effects: &mut Effects) {
        self.sequence += 1;
        let limited = job.limit.is_some();
        if self.workers[index].send(job, pinned, self.sequence, now, effects) {
            self.outstanding += 1;
            self.watched += u64::from(limited);
        }
    }

    fn hopeless(&self, function: &'static Function) -> CallError {
        if let Some(reason) = &self.closed {
            return no_worker(function, None, reason);
        }
        match &self.last_death {
            Some((worker, node, death)) => CallError::Framework {
                function: function.name,
                phase: "find a worker",
                worker: None,
                reason: format!(
                    "no worker is left; the last, worker {worker} on {node}, {death}; `restart` brings workers back"
                ),
            },
            None => no_worker(
                function,
                None,
                "the cluster has no workers; `restart` starts them",
            ),
        }
    }

    fn on_frame(
        &mut self,
        id: WorkerId,
        bytes: &bytes::Bytes,
        range: std::ops::Range<usize>,
        effects: &mut Effects,
    ) -> Result<(), WireError> {
        let Frame::Done(done) = lane::decode(&bytes[range])? else {
            return Err(WireError::Malformed("lane frame: not for a driver"));
        };
        let Some(entry) = self.entry(id).filter(|e| e.alive()) else {
            return Ok(());
        };
        let Some(outstanding) = entry.tasks.try_remove(done.id as usize) else {
            return Err(WireError::Malformed(
                "lane frame: end of a task that was not sent",
            ));
        };
        let worked = !matches!(done.outcome, Outcome::TakenBack);
        entry.load.returned(outstanding.bytes, worked);
        entry.returning -= u32::from(outstanding.taking_back);
        let (node, key, link) = (entry.node, entry.key, &entry.link);
        let mut requeue = None;
        if let Some(job) = outstanding.job {
            let function = job.function;
            let fault = |phase, reason| CallError::Framework {
                function: function.name,
                phase,
                worker: Some(id),
                reason,
            };
            match (done.outcome, done.value) {
                (Outcome::Returned, Value::Inline(body, attachments)) => {
                    let raw = Raw {
                        body: bytes.slice_ref(body),
                        attachments: attachments
                            .into_iter()
                            .map(|a| bytes.slice_ref(a))
                            .collect(),
                    };
                    effects.done.push((job.completion, Ok(raw)));
                }
                (Outcome::Returned, Value::Bulk(length)) => effects.fetch.push(Fetch {
                    link: link.clone(),
                    worker: key,
                    id,
                    node,
                    task: done.id,
                    length,
                    function,
                    completion: job.completion,
                }),
                (Outcome::Panicked, Value::Inline(body, _)) => {
                    let panic: lane::Panic = cc_core::codec::decode(body)?;
                    let error = CallError::Panicked {
                        function: function.name,
                        worker: id,
                        message: panic.message,
                        location: panic.location,
                    };
                    effects.done.push((job.completion, Err(error)));
                }
                (Outcome::Fault, Value::Inline(body, _)) => {
                    let reason: String = cc_core::codec::decode(body)?;
                    effects
                        .done
                        .push((job.completion, Err(fault("run the function", reason))));
                }
                // Taken back to be run elsewhere, or a stray answer to a cancellation that
                // is no longer wanted: either way the job has not run.
                (Outcome::TakenBack, _) => requeue = Some((job, outstanding.pinned)),
                (Outcome::Cancelled, _) => {
                    let error = fault("run the function", "the worker dropped it".into());
                    effects.done.push((job.completion, Err(error)));
                }
                _ => return Err(WireError::Malformed("lane frame: value of an outcome")),
            }
        }
        self.outstanding -= 1;
        self.watched -= u64::from(outstanding.watched);
        match requeue {
            Some((job, true)) => {
                if let Some(entry) = self.entry(id) {
                    entry.pinned.push_front(job);
                }
            }
            Some((job, false)) => self.queue.push_front(job),
            None => {}
        }
        Ok(())
    }

    fn lose(&mut self, id: WorkerId, death: Arc<Death>, effects: &mut Effects) {
        let Some(entry) = self.entry(id).filter(|e| e.alive()) else {
            return;
        };
        entry.presence = Presence::Dead(Arc::clone(&death));
        entry.out = Vec::new();
        entry.link.writer.notify_one();
        let node = entry.node;
        let slots = entry.load.slots() as usize;
        entry.forget_stale();
        // What the slots were busy with may have run; what was behind it has not.
        let begun: Vec<u32> = entry
            .order
            .iter()
            .take(slots)
            .map(|(task, _)| *task)
            .collect();
        let tasks = std::mem::take(&mut entry.tasks);
        entry.order.clear();
        let mut again = Vec::new();
        let count = tasks.len() as u64;
        for (task, outstanding) in tasks {
            self.watched -= u64::from(outstanding.watched);
            let Some(mut job) = outstanding.job else {
                continue;
            };
            let started = outstanding.asynchronous || begun.contains(&(task as u32));
            if job.retries > 0 && !outstanding.pinned {
                job.retries -= u32::from(started);
                again.push((outstanding.sequence, job));
                continue;
            }
            let error = CallError::Lost {
                function: job.function.name,
                worker: id,
                node,
                death: Arc::clone(&death),
            };
            effects.done.push((job.completion, Err(error)));
        }
        again.sort_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
        for (_, job) in again {
            self.queue.push_front(job);
        }
        self.outstanding = self.outstanding.saturating_sub(count);
        self.last_death = Some((id, node, death));
    }

    /// Takes unstarted work back from loaded workers when others have nothing to do.
    fn take_back(&mut self, now: Instant, effects: &mut Effects) {
        if self.eager > 0 || !self.queue.is_empty() {
            return;
        }
        let idle = self.alive().filter(|e| e.load.is_idle()).count();
        if idle == 0 {
            return;
        }
        for entry in self
            .workers
            .iter_mut()
            .filter(|e| e.alive() && e.returning == 0)
        {
            entry.forget_stale();
            let Some(oldest) = entry
                .order
                .front()
                .and_then(|(t, _)| entry.tasks.get(*t as usize))
            else {
                continue;
            };
            let spare = entry.load.spare(now.saturating_duration_since(oldest.sent)) as usize;
            // From the end of the order: what would start last.
            let candidates: Vec<(u32, u64)> =
                entry.order.iter().rev().take(spare).copied().collect();
            for (task, sequence) in candidates {
                let Some(outstanding) = entry
                    .tasks
                    .get_mut(task as usize)
                    .filter(|o| o.sequence == sequence)
                else {
                    continue;
                };
                if outstanding.pinned || outstanding.job.is_none() || outstanding.taking_back {
                    continue;
                }
                outstanding.taking_back = true;
                entry.returning += 1;
                entry.write(effects, |out| lane::put_take_back(out, task));
            }
        }
    }
}

impl Effects {
    fn carry_out(self, pool: &Pool) {
        for writer in self.writers {
            writer.notify_one();
        }
        crate::completion::complete(self.done);
        for (link, worker, task, arguments) in self.push {
            pool.network
                .spawn(crate::bulk::push(link, worker, task, arguments));
        }
        for fetch in self.fetch {
            pool.network.spawn(crate::bulk::fetch(fetch));
        }
    }
}

fn address(function: &'static Function) -> usize {
    std::ptr::from_ref(function).addr()
}

fn no_worker(function: &'static Function, worker: Option<WorkerId>, reason: &str) -> CallError {
    CallError::Framework {
        function: function.name,
        phase: "find a worker",
        worker,
        reason: reason.to_owned(),
    }
}
