//! Asynchronous functions, on a tokio runtime of their own: one that blocks it holds up others
//! like it, and never a lane, a cancellation or the end of the process.

use std::sync::Arc;

use cc_core::context::{Cancellation, Context};
use cc_core::function::Runner;
use cc_core::limits;
use cc_core::payload::Payload;
use cc_core::wire::lane::Outcome;

use super::lane::Lane;
use super::pool::{Pool, load};
use super::state::{Effects, Held, Job, State};
use super::{lock, run};

impl Pool {
    /// Starts an asynchronous task, or queues it behind too many others.
    pub(super) fn start_async(
        self: &Arc<Self>,
        state: &mut State,
        job: Job,
        effects: &mut Effects,
    ) {
        if state.async_busy >= limits::ASYNC_TASKS {
            state.async_queue.push_back(job);
            return;
        }
        let runtime = self.runtime.get_or_init(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(self.slots)
                .thread_name("cc-async")
                .enable_all()
                .build()
                .ok()
        });
        let Some(runtime) = runtime else {
            let why = "the worker could not start its asynchronous runtime".to_owned();
            let answer = (job.lane, job.task, Outcome::Fault, why);
            effects.answers.push(answer);
            return;
        };
        let (token, task) = (job.lane.token, job.task);
        let ticket = state.number();
        let Some(session) = state.sessions.get_mut(&token) else {
            return;
        };
        let cancellation = Arc::<Cancellation>::default();
        let context = self.context(&job.lane, Arc::clone(&cancellation));
        let end = AsyncEnd {
            pool: Arc::clone(self),
            lane: Arc::clone(&job.lane),
            task,
            urgent: job.urgent,
            ticket,
            ended: None,
        };
        let abort = runtime.spawn(run_async(end, job, context)).abort_handle();
        state.async_busy += 1;
        let held = Held::Async {
            ticket,
            cancellation,
            abort,
        };
        session.held.insert(task, held);
    }
}

async fn run_async(mut end: AsyncEnd, job: Job, context: Context) {
    let Job {
        lane,
        function,
        arguments,
        ..
    } = job;
    let (runner, loaded) = (function.runner, load(&lane, arguments));
    end.ended = Some(match (runner, loaded) {
        (Runner::Async(start), Ok(parts)) => {
            run::asynchronous(move || start(context, &parts.body, parts.attachments)).await
        }
        (_, Err(why)) => failed(why),
        (Runner::Blocking(_), Ok(_)) => {
            failed("a blocking function was put onto the asynchronous runtime")
        }
    });
}

fn failed(why: impl Into<String>) -> (Outcome, Payload) {
    let payload = Payload {
        body: run::fault(why),
        attachments: Vec::new(),
    };
    (Outcome::Fault, payload)
}

/// Answers an asynchronous task however it ends, also when the runtime drops it.
struct AsyncEnd {
    pool: Arc<Pool>,
    lane: Arc<Lane>,
    task: u32,
    urgent: bool,
    ticket: u64,
    ended: Option<(Outcome, Payload)>,
}

impl Drop for AsyncEnd {
    fn drop(&mut self) {
        let mut effects = Effects::default();
        let mut state = lock(&self.pool.state);
        state.async_busy -= 1;
        let last = state.async_busy == 0;
        let mine = state
            .sessions
            .get_mut(&self.lane.token)
            .and_then(|session| match session.held.get(&self.task) {
                Some(Held::Async { ticket, .. }) if *ticket == self.ticket => {
                    session.held.remove(&self.task)
                }
                _ => None,
            });
        if let Some(job) = state.async_queue.pop_front() {
            self.pool.start_async(&mut state, job, &mut effects);
        }
        drop(state);
        self.pool.after(effects, false);
        if let Some(Held::Async { cancellation, .. }) = mine {
            let (outcome, mut payload) = self
                .ended
                .take()
                // Nobody would fetch its result.
                .filter(|_| !cancellation.is_cancelled())
                .unwrap_or((Outcome::Cancelled, Payload::default()));
            let Payload { body, attachments } = &mut payload;
            let attachments = std::mem::take(attachments);
            let now = self.urgent || last;
            self.pool
                .finish(&self.lane, self.task, outcome, body, attachments, now);
        }
    }
}
