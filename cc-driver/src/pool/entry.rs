//! One worker as the pool sees it: what it was sent, how it is reached, what it can run.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cc_core::death::Death;
use cc_core::function::Function;
use cc_core::ids::{NodeIndex, WorkerId, WorkerKey};
use cc_core::limits;
use cc_core::wire::lane::{self, Value};

use super::effects::{Effects, Link, Push};
use super::tasks::{Outstanding, Tasks};
use super::{Job, JobArguments};
use crate::balance::{Kind, Load};
use crate::completion::Completion;
use crate::error::CallError;

/// Why a worker takes no tasks.
pub(super) enum Presence {
    /// It does.
    Alive,
    /// It ended; what it had finished may still be on its way through the lane.
    Dying(Arc<Death>),
    /// It ended.
    Dead(Arc<Death>),
}

/// A worker as the pool sees it.
pub(super) struct Entry {
    pub(super) id: WorkerId,
    pub(super) node: NodeIndex,
    pub(super) key: WorkerKey,
    pub(super) presence: Presence,
    /// Its lane has ended: nothing more comes through it.
    pub(super) lane_over: bool,
    /// The numbers of the worker's functions, by name and signature.
    pub(super) theirs: HashMap<(String, u64), u32>,
    /// The same by the address of this program's entry, filled as they are used.
    pub(super) functions: HashMap<usize, u32>,
    pub(super) recent: (usize, u32),
    pub(super) load: Load,
    pub(super) tasks: Tasks,
    /// Jobs for this worker alone that do not fit its lane yet.
    pub(super) pinned: VecDeque<Job>,
    /// Tasks that are being taken back.
    pub(super) returning: u32,
    pub(super) out: Vec<u8>,
    pub(super) link: Link,
}

impl Entry {
    pub(super) fn alive(&self) -> bool {
        matches!(self.presence, Presence::Alive)
    }

    pub(super) fn dead(&self) -> bool {
        matches!(self.presence, Presence::Dead(_))
    }

    /// How many more tasks it may be sent now: none through a lane that has ended, although
    /// it is not known yet how the worker did.
    pub(super) fn room(&self, kind: Kind) -> u32 {
        if self.alive() && !self.lane_over {
            self.load.room(kind)
        } else {
            0
        }
    }

    pub(super) fn write(&mut self, effects: &mut Effects, put: impl FnOnce(&mut Vec<u8>)) {
        if !self.alive() {
            return;
        }
        if self.out.is_empty() {
            effects.writers.push(Arc::clone(&self.link.writer));
        }
        put(&mut self.out);
    }

    pub(super) fn number(&mut self, function: &'static Function) -> Option<u32> {
        let address = address(function);
        if self.recent.0 == address {
            return Some(self.recent.1);
        }
        let number = match self.functions.get(&address) {
            Some(number) => *number,
            None => {
                let number = *self
                    .theirs
                    .get(&(function.name.to_owned(), (function.hash)()))?;
                self.functions.insert(address, number);
                number
            }
        };
        self.recent = (address, number);
        Some(number)
    }

    /// Tasks that started before they could be taken back are not on their way back.
    pub(super) fn give_up_started(&mut self) {
        let busy: Vec<u32> = self
            .tasks
            .oldest()
            .take(self.load.slots() as usize)
            .collect();
        for id in busy {
            if let Some(outstanding) = self.tasks.get_mut(id) {
                let was = std::mem::take(&mut outstanding.taking_back);
                self.returning -= u32::from(was);
            }
        }
    }

    /// Sends a job; a job that this worker cannot run is completed with why.
    pub(super) fn send(
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
        let kind = job.kind();
        let bytes = job.arguments.bytes();
        let task = self.tasks.next_id();
        let arguments = match &job.arguments {
            JobArguments::Here(arguments)
                if lane::fits_inline(arguments.body.len(), &arguments.attachments) =>
            {
                let parts = arguments.attachments.iter().map(|a| &a[..]).collect();
                Value::Inline(&arguments.body, parts)
            }
            JobArguments::Here(arguments) => {
                effects.push.push(Push {
                    link: self.link.clone(),
                    worker: self.key,
                    id: self.id,
                    task,
                    arguments: arguments.clone(),
                });
                Value::Bulk(bytes)
            }
            JobArguments::Stored(hash, length) => Value::Stored(*hash, *length),
        };
        let frame = lane::Task {
            id: task,
            urgent: job.urgent,
            function,
            arguments,
        };
        self.write(effects, |out| lane::put_task(out, &frame));
        if let Completion::Call(call) = &job.completion {
            call.sent_to(self.id, task);
        }
        let watched = job.limit.is_some();
        self.tasks.insert(Outstanding {
            job: Some(job),
            bytes,
            sequence,
            sent: now,
            started: (kind == Kind::Asynchronous).then_some(now),
            taking_back: false,
            give_up: None,
            watched,
            kind,
            pinned,
        });
        self.load.sent(kind, bytes, now);
        true
    }

    /// Completes a job whose time is up and asks the worker to drop it. Gives whether the task
    /// is to be counted as watched from now on.
    pub(super) fn overdue(
        &mut self,
        task: u32,
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
            self.write(effects, |out| lane::put_cancel(out, task));
        }
        newly
    }

    pub(super) fn check_limits(
        &mut self,
        now: Instant,
        effects: &mut Effects,
        hung: &mut Vec<WorkerId>,
    ) {
        if !self.alive() {
            return;
        }
        self.tasks.forget_ended();
        // The first ones sent and not back are what the slots are busy with.
        self.tasks.mark_started(self.load.slots() as usize, now);
        let late: Vec<(u32, Duration)> = self
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
}

fn address(function: &'static Function) -> usize {
    std::ptr::from_ref(function).addr()
}
