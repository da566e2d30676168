//! From the frames that were read to the queue.

use std::sync::Arc;

use bytes::Bytes;
use cc_core::function::{Function, Runner};
use cc_core::wire::lane::{self, Frame, Outcome, Value};

use super::bulk::Parts;
use super::lane::{Lane, Over};
use super::lock;
use super::pool::Pool;
use super::state::{Arguments, Effects, Job, State};

/// Tasks handed over at a time, so that the slots can start on the first ones of a
/// long read, and never wait long for the lock.
const HANDFUL: usize = 256;

/// What was read and has yet to be handed over.
#[derive(Default)]
pub(super) struct Batch {
    jobs: Vec<Job>,
    cancels: Vec<u32>,
    take_backs: Vec<u32>,
    /// Tasks of functions that this worker does not have.
    unknown: Vec<(u32, u32)>,
}

impl Batch {
    fn add(
        &mut self,
        lane: &Arc<Lane>,
        frames: &Bytes,
        task: lane::Task<'_>,
        functions: &[&'static Function],
    ) {
        let Some(function) = functions.get(task.function as usize) else {
            self.unknown.push((task.id, task.function));
            return;
        };
        let arguments = match task.arguments {
            Value::Inline(body, attachments) => Arguments::Here(Parts {
                body: frames.slice_ref(body),
                // Copied: what a function keeps must not keep everything that was read
                // with it, and an array wants to be aligned.
                attachments: attachments
                    .into_iter()
                    .map(Bytes::copy_from_slice)
                    .collect(),
            }),
            Value::Bulk(total) => Arguments::Stream(total),
            Value::Stored(hash, total) => Arguments::Stored(hash, total),
        };
        self.jobs.push(Job {
            lane: Arc::clone(lane),
            task: task.id,
            urgent: task.urgent,
            function,
            arguments,
        });
    }
}

impl Pool {
    /// Hands over everything in `frames`.
    pub(super) fn hand_over(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        frames: &Bytes,
        batch: &mut Batch,
    ) -> Result<(), Over> {
        let mut at = 0;
        while let Some(range) = lane::next_frame(&frames[at..]) {
            let frame = &frames[at..][range.clone()];
            at += range.end;
            match lane::decode(frame).map_err(|_| Over)? {
                Frame::Task(task) => {
                    // What was cancelled was an earlier task with this id.
                    if batch.cancels.contains(&task.id) || batch.take_backs.contains(&task.id) {
                        self.commit(lane, batch)?;
                    }
                    batch.add(lane, frames, task, &self.functions);
                }
                Frame::Cancel(id) => batch.cancels.push(id),
                Frame::TakeBack(id) => batch.take_backs.push(id),
                Frame::Done(_) | Frame::Functions(_) => return Err(Over),
            }
            if batch.jobs.len() + batch.cancels.len() + batch.take_backs.len() >= HANDFUL {
                self.commit(lane, batch)?;
            }
        }
        self.commit(lane, batch)
    }

    fn commit(self: &Arc<Self>, lane: &Arc<Lane>, batch: &mut Batch) -> Result<(), Over> {
        let mut effects = Effects::default();
        lane.came(batch.jobs.len() + batch.unknown.len())?;
        for (task, function) in batch.unknown.drain(..) {
            let why = format!("the worker has no function number {function}");
            effects
                .answers
                .push((Arc::clone(lane), task, Outcome::Fault, why));
        }
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if !state.sessions.contains_key(&lane.token) {
            return Err(Over);
        }
        for job in batch.jobs.drain(..) {
            match job.arguments {
                Arguments::Stream(_) => self.framed(state, job)?,
                _ => self.place(state, job, &mut effects),
            }
        }
        if !batch.cancels.is_empty() {
            state.cancel(lane.token, &mut batch.cancels, &mut effects);
        }
        if !batch.take_backs.is_empty() {
            state.take_back(lane.token, &mut batch.take_backs, &mut effects);
        }
        // The caller takes one itself, unless there is more to hand over.
        let ring = state.queue.len() > 1 && state.wants_help();
        drop(guard);
        self.after(effects, ring);
        Ok(())
    }

    /// Puts a task whose arguments are here to where it will run.
    pub(super) fn place(self: &Arc<Self>, state: &mut State, job: Job, effects: &mut Effects) {
        match job.function.runner {
            Runner::Blocking(_) => state.queue.push_back(job),
            Runner::Async(_) => self.start_async(state, job, effects),
        }
    }
}
