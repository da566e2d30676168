//! Matching the streams of values with the tasks that they belong to.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use cc_core::limits;
use cc_core::wire::lane::Outcome;
use cc_core::wire::stream::Direction;

use super::bulk::{self, Parts};
use super::lane::Over;
use super::lock;
use super::pool::Pool;
use super::state::{Arguments, Effects, Held, Job, State};

impl Pool {
    /// Takes the stream of a value. One that nobody asked for is closed.
    pub(super) fn stream(
        self: &Arc<Self>,
        session: u64,
        task: u32,
        direction: Direction,
        stream: UnixStream,
    ) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let Some(found) = state
            .sessions
            .values_mut()
            .find(|s| s.lane.session == session)
        else {
            return;
        };
        match direction {
            Direction::Result => {
                if let Some(payload) = found.results.remove(&task) {
                    self.io.spawn(bulk::send(stream, payload));
                }
            }
            Direction::Argument if found.comes_too_late(task) => {}
            Direction::Argument => match found.held.remove(&task) {
                Some(Held::Framed(job)) => {
                    let ticket = state.number();
                    self.receive(state, ticket, job, stream);
                }
                Some(held) => {
                    found.held.insert(task, held);
                }
                None => {
                    found.held.insert(task, Held::Early(stream));
                    let early = |held: &&Held| matches!(held, Held::Early(_));
                    if found.held.values().filter(early).count() > limits::EARLY_STREAMS {
                        let lane = Arc::clone(&found.lane);
                        drop(guard);
                        self.end(&lane);
                    }
                }
            },
        }
    }

    /// Reads a task's argument.
    fn receive(self: &Arc<Self>, state: &mut State, ticket: u64, job: Job, stream: UnixStream) {
        let Arguments::Stream(total) = job.arguments else {
            return;
        };
        let (token, task) = (job.lane.token, job.task);
        let Some(session) = state.sessions.get_mut(&token) else {
            return;
        };
        let pool = Arc::clone(self);
        let abort = self
            .io
            .spawn(async move {
                let parts = bulk::receive(stream, total).await;
                pool.received(token, task, ticket, parts);
            })
            .abort_handle();
        session
            .held
            .insert(task, Held::Reading { ticket, job, abort });
    }

    /// Goes on with a task whose argument has come, if it is still wanted.
    fn received(
        self: &Arc<Self>,
        token: u64,
        task: u32,
        ticket: u64,
        parts: Result<Parts, String>,
    ) {
        let mut effects = Effects::default();
        let mut state = lock(&self.state);
        let Some(session) = state.sessions.get_mut(&token) else {
            return;
        };
        let mine = matches!(session.held.get(&task), Some(Held::Reading { ticket: t, .. }) if *t == ticket);
        if !mine {
            return;
        }
        let Some(Held::Reading { mut job, .. }) = session.held.remove(&task) else {
            return;
        };
        match parts {
            Ok(parts) => {
                job.arguments = Arguments::Here(parts);
                self.place(&mut state, job, &mut effects);
            }
            Err(why) => effects.answers.push((job.lane, task, Outcome::Fault, why)),
        }
        let ring = state.wants_help();
        drop(state);
        self.after(effects, ring);
    }

    /// Waits for a task's stream, or reads it if it is there.
    pub(super) fn framed(self: &Arc<Self>, state: &mut State, job: Job) -> Result<(), Over> {
        let ticket = state.number();
        let session = state.sessions.get_mut(&job.lane.token).ok_or(Over)?;
        match session.held.remove(&job.task) {
            None => {
                session.held.insert(job.task, Held::Framed(job));
            }
            Some(Held::Early(stream)) => self.receive(state, ticket, job, stream),
            // The id is in use.
            Some(held) => {
                session.held.insert(job.task, held);
                return Err(Over);
            }
        }
        Ok(())
    }
}
