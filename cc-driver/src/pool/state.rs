//! The pool's state behind its lock: who gets which job, and what a frame or a loss changes.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use cc_core::death::Death;
use cc_core::function::Function;
use cc_core::ids::{NodeIndex, WorkerId};
use cc_core::limits;
use cc_core::wire::WireError;
use cc_core::wire::lane::{self, Frame, Outcome, Value};

use super::Job;
use super::effects::{Effects, Fetch};
use super::entry::{Entry, Presence};
use crate::balance::Kind;
use crate::completion::Raw;
use crate::error::CallError;

/// The phase of an answer that is not what a worker sends: its task has been answered by it
/// nevertheless, and its caller is to know.
const READ: &str = "read the worker's answer";

/// Jobs that no worker has room for, by what they occupy there: neither kind waits for room
/// of the other's.
#[derive(Default)]
pub(super) struct Queue {
    blocking: VecDeque<Job>,
    asynchronous: VecDeque<Job>,
}

impl Queue {
    pub(super) fn of(&self, kind: Kind) -> &VecDeque<Job> {
        match kind {
            Kind::Blocking => &self.blocking,
            Kind::Asynchronous => &self.asynchronous,
        }
    }

    pub(super) fn of_mut(&mut self, kind: Kind) -> &mut VecDeque<Job> {
        match kind {
            Kind::Blocking => &mut self.blocking,
            Kind::Asynchronous => &mut self.asynchronous,
        }
    }

    pub(super) fn push_back(&mut self, job: Job) {
        self.of_mut(job.kind()).push_back(job);
    }

    pub(super) fn push_front(&mut self, job: Job) {
        self.of_mut(job.kind()).push_front(job);
    }

    pub(super) fn len(&self) -> usize {
        self.blocking.len() + self.asynchronous.len()
    }

    /// Moves the jobs that nobody waits for to `dropped`.
    pub(super) fn drop_abandoned(&mut self, dropped: &mut Vec<Job>) {
        drop_abandoned(&mut self.blocking, dropped);
        drop_abandoned(&mut self.asynchronous, dropped);
    }
}

fn drop_abandoned(queue: &mut VecDeque<Job>, dropped: &mut Vec<Job>) {
    if queue.iter().any(|job| job.completion.is_abandoned()) {
        for job in std::mem::take(queue) {
            if job.completion.is_abandoned() {
                dropped.push(job);
            } else {
                queue.push_back(job);
            }
        }
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) workers: Vec<Entry>,
    pub(super) index: HashMap<WorkerId, usize>,
    pub(super) queue: Queue,
    /// Maps that have items left and would submit them if there were room.
    pub(super) eager: u32,
    /// Workers on their way; while there are some, jobs without a worker wait.
    pub(super) expected: u32,
    pub(super) sequence: u64,
    /// Calls given up while they waited, since the last look through the queues.
    pub(super) abandoned: usize,
    /// Outstanding tasks whose time is limited or over.
    pub(super) watched: u64,
    pub(super) last_death: Option<(WorkerId, NodeIndex, Arc<Death>)>,
    pub(super) closed: Option<String>,
}

impl State {
    pub(super) fn entry(&mut self, id: WorkerId) -> Option<&mut Entry> {
        let index = *self.index.get(&id)?;
        self.workers.get_mut(index)
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = &Entry> {
        self.workers.iter().filter(|e| e.alive())
    }

    /// Whether there is no worker and none on its way.
    pub(super) fn nobody(&self) -> bool {
        self.expected == 0 && self.workers.iter().all(Entry::dead)
    }

    pub(super) fn room(&self, kind: Kind) -> u32 {
        let room: u32 = self
            .alive()
            .map(|e| e.room(kind))
            .fold(0, u32::saturating_add);
        room.saturating_sub(self.queue.of(kind).len() as u32)
    }

    /// Sends what can be sent.
    pub(super) fn dispatch(&mut self, effects: &mut Effects) {
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
        for kind in [Kind::Blocking, Kind::Asynchronous] {
            if !self.queue.of(kind).is_empty() {
                self.dispatch_queue(kind, now, effects);
            }
        }
    }

    fn dispatch_queue(&mut self, kind: Kind, now: Instant, effects: &mut Effects) {
        if self.closed.is_some() || self.nobody() {
            while let Some(job) = self.queue.of_mut(kind).pop_front() {
                let error = self.hopeless(job.function);
                effects.done.push((job.completion, Err(error)));
            }
            return;
        }
        if self.queue.of(kind).len() < 4 {
            while let Some(index) = self.freest(kind) {
                let Some(job) = self.next_queued(kind) else {
                    break;
                };
                self.send(index, job, false, now, effects);
            }
            return;
        }
        // Many jobs: keep the workers in a heap by pressure instead of looking at all of them
        // for each job.
        let mut heap: BinaryHeap<_> = self
            .workers
            .iter()
            .enumerate()
            .filter(|(_, e)| e.room(kind) > 0)
            .map(|(index, e)| std::cmp::Reverse((e.load.pressure(kind), index)))
            .collect();
        while let Some(mut top) = heap.peek_mut() {
            let index = top.0.1;
            let Some(job) = self.next_queued(kind) else {
                break;
            };
            self.send(index, job, false, now, effects);
            let load = &self.workers[index].load;
            if load.room(kind) > 0 {
                top.0.0 = load.pressure(kind);
            } else {
                std::collections::binary_heap::PeekMut::pop(top);
            }
        }
    }

    pub(super) fn next_queued(&mut self, kind: Kind) -> Option<Job> {
        loop {
            let job = self.queue.of_mut(kind).pop_front()?;
            if !job.completion.is_abandoned() {
                return Some(job);
            }
        }
    }

    pub(super) fn next_pinned(&mut self, index: usize) -> Option<Job> {
        let entry = &mut self.workers[index];
        let full = entry.load.outstanding() as usize >= limits::LANE_TASKS;
        if (entry.alive() && full) || matches!(entry.presence, Presence::Dying(_)) {
            return None;
        }
        loop {
            let job = entry.pinned.pop_front()?;
            if !job.completion.is_abandoned() {
                return Some(job);
            }
        }
    }

    pub(super) fn freest(&self, kind: Kind) -> Option<usize> {
        self.workers
            .iter()
            .enumerate()
            .filter(|(_, e)| e.room(kind) > 0)
            .min_by_key(|(_, e)| e.load.pressure(kind))
            .map(|(index, _)| index)
    }

    pub(super) fn send(
        &mut self,
        index: usize,
        job: Job,
        pinned: bool,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.sequence += 1;
        let limited = job.limit.is_some();
        if self.workers[index].send(job, pinned, self.sequence, now, effects) {
            self.watched += u64::from(limited);
            // Time alone matters to limits, and to work that others could do.
            effects.watch |= limited || self.workers[index].load.is_crowded();
        }
    }

    pub(super) fn hopeless(&self, function: &'static Function) -> CallError {
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

    pub(super) fn on_frame(
        &mut self,
        id: WorkerId,
        bytes: &bytes::Bytes,
        range: std::ops::Range<usize>,
        effects: &mut Effects,
    ) -> Result<(), WireError> {
        let Frame::Done(done) = lane::decode(&bytes[range])? else {
            return Err(WireError::Malformed("lane frame: not for a driver"));
        };
        let Some(entry) = self.entry(id).filter(|e| !e.dead()) else {
            return Ok(());
        };
        let Some(outstanding) = entry.tasks.remove(done.id) else {
            return Err(WireError::Malformed(
                "lane frame: end of a task that was not sent",
            ));
        };
        let worked = !matches!(done.outcome, Outcome::TakenBack);
        entry
            .load
            .returned(outstanding.kind, outstanding.bytes, worked);
        entry.returning -= u32::from(outstanding.taking_back);
        let (node, key, link) = (entry.node, entry.key, &entry.link);
        let mut requeue = None;
        let mut nonsense: Option<WireError> = None;
        if let Some(mut job) = outstanding.job {
            if outstanding.pinned {
                // It runs there or nowhere.
                job.again = false;
            }
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
                    job,
                }),
                (Outcome::Panicked, Value::Inline(body, _)) => {
                    let error = match cc_core::codec::decode::<lane::Panic>(body) {
                        Ok(panic) => CallError::Panicked {
                            function: function.name,
                            worker: id,
                            message: panic.message,
                            location: panic.location,
                        },
                        Err(error) => fault(READ, nonsense.insert(error.into()).to_string()),
                    };
                    effects.done.push((job.completion, Err(error)));
                }
                (Outcome::Fault, Value::Inline(body, _)) => {
                    let error = match cc_core::codec::decode(body) {
                        Ok(reason) => fault("run the function", reason),
                        Err(error) => fault(READ, nonsense.insert(error.into()).to_string()),
                    };
                    effects.done.push((job.completion, Err(error)));
                }
                // Taken back to be run elsewhere, or a stray answer to a cancellation that
                // is no longer wanted: either way the job has not run.
                (Outcome::TakenBack, _) => requeue = Some((job, outstanding.pinned)),
                (Outcome::Cancelled, _) => {
                    let error = fault("run the function", "the worker dropped it".into());
                    effects.done.push((job.completion, Err(error)));
                }
                _ => {
                    let error = WireError::Malformed("lane frame: value of an outcome");
                    let error = fault(READ, nonsense.insert(error).to_string());
                    effects.done.push((job.completion, Err(error)));
                }
            }
        } else if matches!(done.value, Value::Bulk(_)) {
            // Nobody will fetch it: the worker need not keep it.
            entry.write(effects, |out| lane::put_cancel(out, done.id));
        }
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
        nonsense.map_or(Ok(()), Err)
    }

    pub(super) fn lose(&mut self, id: WorkerId, death: Arc<Death>, effects: &mut Effects) {
        let Some(entry) = self.entry(id).filter(|e| !e.dead()) else {
            return;
        };
        entry.presence = Presence::Dead(Arc::clone(&death));
        entry.out = Vec::new();
        entry.link.writer.notify_one();
        let node = entry.node;
        let slots = entry.load.slots() as usize;
        // What the slots were busy with may have run; what was behind it has not.
        let begun: Vec<u32> = entry.tasks.oldest().take(slots).collect();
        let tasks = std::mem::take(&mut entry.tasks);
        let mut again = Vec::new();
        for (task, outstanding) in tasks.into_values() {
            self.watched -= u64::from(outstanding.watched);
            let Some(mut job) = outstanding.job else {
                continue;
            };
            let started = outstanding.kind == Kind::Asynchronous || begun.contains(&task);
            let left = job.retries.checked_sub(u32::from(started));
            if let Some(left) = left.filter(|_| job.again && !outstanding.pinned) {
                job.retries = left;
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
        self.last_death = Some((id, node, death));
    }

    /// Every worker is gone, also those whose last results were awaited.
    pub(super) fn lose_all(&mut self, death: &Arc<Death>, effects: &mut Effects) {
        let there = self.workers.iter().filter(|e| !e.dead());
        let there: Vec<WorkerId> = there.map(|e| e.id).collect();
        for id in there {
            self.lose(id, Arc::clone(death), effects);
        }
    }

    /// One more job may be waiting that nobody waits for: when there are many, they go.
    pub(super) fn forget_abandoned(&mut self, effects: &mut Effects) {
        self.abandoned += 1;
        let waiting = self.queue.len() + self.workers.iter().map(|e| e.pinned.len()).sum::<usize>();
        if self.abandoned * 2 < waiting {
            return;
        }
        self.abandoned = 0;
        self.queue.drop_abandoned(&mut effects.dropped);
        for entry in &mut self.workers {
            drop_abandoned(&mut entry.pinned, &mut effects.dropped);
        }
    }

    /// Takes unstarted work back from loaded workers when others have nothing to do.
    pub(super) fn take_back(&mut self, now: Instant, effects: &mut Effects) {
        if self.eager > 0 || !self.queue.of(Kind::Blocking).is_empty() {
            return;
        }
        let idle = self
            .alive()
            .filter(|e| !e.lane_over && e.load.is_idle())
            .count();
        if idle == 0 {
            return;
        }
        for entry in self.workers.iter_mut().filter(|e| e.alive()) {
            entry.tasks.forget_ended();
            entry.give_up_started();
            if entry.returning > 0 {
                continue;
            }
            let Some(oldest) = entry
                .tasks
                .oldest()
                .next()
                .and_then(|id| entry.tasks.get(id))
            else {
                continue;
            };
            let spare = entry.load.spare(now.saturating_duration_since(oldest.sent)) as usize;
            // From the end of the order: what would start last.
            let candidates: Vec<u32> = entry.tasks.oldest().rev().take(spare).collect();
            for task in candidates {
                let Some(outstanding) = entry.tasks.get_mut(task) else {
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

pub(super) fn no_worker(
    function: &'static Function,
    worker: Option<WorkerId>,
    reason: &str,
) -> CallError {
    CallError::Framework {
        function: function.name,
        phase: "find a worker",
        worker,
        reason: reason.to_owned(),
    }
}
