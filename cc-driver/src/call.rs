//! The future of a single remote call.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cc_core::function::Function;
use cc_core::ids::{ContentHash, WorkerId};
use serde::de::DeserializeOwned;

use crate::completion::{CallState, Completion};
use crate::error::CallError;
use crate::pool::{Job, JobArguments, Pool, Target};
use crate::task::Task;

/// A remote call. It starts when it is first polled (awaited), and is cancelled when it is
/// dropped: a call that waits is forgotten, one that a worker has not begun is taken back, an
/// asynchronous function is dropped at its next await, and a blocking one can ask its
/// [`Context`](cc_core::context::Context).
///
/// Several are awaited together with the tools of the futures crates (`join_all`,
/// `FuturesUnordered`, `select`).
#[must_use = "a call does nothing until it is awaited"]
pub struct Call<O> {
    pool: Arc<Pool>,
    state: Arc<CallState>,
    function: &'static Function,
    /// Present until it is started.
    waiting: Option<Result<JobArguments, CallError>>,
    target: Target,
    retries: u32,
    deadline: Option<Duration>,
    timer: Option<tokio::task::JoinHandle<()>>,
    finished: bool,
    output: PhantomData<fn() -> O>,
}

impl<O> std::fmt::Debug for Call<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("function", &self.function.name)
            .finish_non_exhaustive()
    }
}

impl<O: DeserializeOwned> Call<O> {
    pub(crate) fn new(pool: &Arc<Pool>, task: Task<O>, target: Target) -> Self {
        let function = task.function;
        let arguments = task
            .arguments
            .map(JobArguments::Here)
            .map_err(|e| CallError::Framework {
                function: function.name,
                phase: "encode the arguments",
                worker: None,
                reason: e.to_string(),
            });
        Self {
            pool: Arc::clone(pool),
            state: Arc::default(),
            function,
            waiting: Some(arguments),
            target,
            retries: 0,
            deadline: None,
            timer: None,
            finished: false,
            output: PhantomData,
        }
    }

    /// Uses arguments that were shipped to every node before.
    pub(crate) fn stored(mut self, hash: ContentHash, length: u64) -> Self {
        self.waiting = Some(Ok(JobArguments::Stored(hash, length)));
        self
    }

    /// Run it again on another worker, up to `times` times, when its worker is lost. What the
    /// function did before the loss may then be done twice; the result counts once.
    pub fn retries(mut self, times: u32) -> Self {
        self.retries = times;
        self
    }

    /// Fail when there is no result this long after the call started. The worker that
    /// runs the function is replaced if it does not come back within a second after.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The worker that the call was sent to last, if it was.
    pub fn worker(&self) -> Option<WorkerId> {
        self.state.place().map(|(worker, _)| worker)
    }

    fn start(&mut self) -> Result<(), CallError> {
        let Some(arguments) = self.waiting.take() else {
            return Ok(());
        };
        let arguments = arguments?;
        self.pool.submit(
            Job {
                function: self.function,
                arguments,
                completion: Completion::Call(Arc::clone(&self.state)),
                again: self.retries > 0,
                retries: self.retries,
                limit: None,
                urgent: true,
            },
            self.target,
        );
        if let Some(deadline) = self.deadline {
            let (pool, state, function) = (
                Arc::clone(&self.pool),
                Arc::clone(&self.state),
                self.function,
            );
            self.timer = Some(self.pool.network().spawn(async move {
                tokio::time::sleep(deadline).await;
                pool.expire_call(&state, function, deadline);
            }));
        }
        Ok(())
    }
}

impl<O: DeserializeOwned> Future for Call<O> {
    type Output = Result<O, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Err(error) = this.start() {
            this.finished = true;
            return Poll::Ready(Err(error));
        }
        let Poll::Ready(result) = this.state.poll(cx) else {
            return Poll::Pending;
        };
        this.finished = true;
        if let Some(timer) = this.timer.take() {
            timer.abort();
        }
        Poll::Ready(result.and_then(|raw| {
            raw.decode().map_err(|e| CallError::Framework {
                function: this.function.name,
                phase: "decode the result",
                worker: this.worker(),
                reason: e.to_string(),
            })
        }))
    }
}

impl<O> Drop for Call<O> {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        if !self.finished && self.waiting.is_none() {
            self.pool.abandon_call(&self.state);
        }
    }
}
