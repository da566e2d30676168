//! A function over many items, balanced over the workers as they deliver.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cc_core::limits;
use futures::Stream;
use serde::de::DeserializeOwned;

use crate::balance::Kind;
use crate::completion::{Completion, Finished, Inbox, Raw};
use crate::error::CallError;
use crate::pool::{Job, JobArguments, Pool, Room};
use crate::progress::Progress;
use crate::task::Task;

/// A function over many items. The items are made one by one as workers can take them, so the
/// iterator may be endless; how many a worker gets at once follows what it delivers, so there
/// is no chunk size to choose.
///
/// It is run by [`collect`](Self::collect), or as a stream by [`stream`](Self::stream) (in the
/// items' order) or [`as_completed`](Self::as_completed).
#[must_use = "a map does nothing until it is collected or streamed"]
pub struct Map<I, F, O> {
    pool: Arc<Pool>,
    items: I,
    task: F,
    retries: u32,
    deadline: Option<Duration>,
    progress: Option<String>,
    output: PhantomData<fn() -> O>,
}

impl<I, F, O> std::fmt::Debug for Map<I, F, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map").finish_non_exhaustive()
    }
}

impl<I, F, O> Map<I, F, O>
where
    I: Iterator,
    F: FnMut(I::Item) -> Task<O>,
    O: DeserializeOwned,
{
    pub(crate) fn new(pool: &Arc<Pool>, items: I, task: F) -> Self {
        Self {
            pool: Arc::clone(pool),
            items,
            task,
            retries: 0,
            deadline: None,
            progress: None,
            output: PhantomData,
        }
    }

    /// Run an item again on another worker, up to `times` times, when its worker is lost. What
    /// the function did before the loss may then be done twice; the result counts once.
    pub fn retries(mut self, times: u32) -> Self {
        self.retries = times;
        self
    }

    /// The longest that a single item may run on a worker, to within some milliseconds. A
    /// worker that does not come back within a second after is replaced.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Show a progress bar with this label on standard error, if that is a terminal.
    pub fn progress(mut self, label: impl Into<String>) -> Self {
        self.progress = Some(label.into());
        self
    }

    /// Waits for everything and gives the outputs in the items' order.
    ///
    /// # Errors
    /// Gives the first error that arrives; the remaining items are cancelled then.
    pub async fn collect(self) -> Result<Vec<O>, CallError> {
        let mut run = self.run();
        let mut outputs: Vec<Option<O>> =
            Vec::with_capacity(run.items.size_hint().0.min(limits::ORDERED_WINDOW));
        let mut left = 0usize;
        std::future::poll_fn(|cx| {
            loop {
                run.fill();
                run.receive(cx);
                if run.arrived.is_empty() {
                    if run.exhausted && run.received == run.made {
                        return Poll::Ready(Ok(()));
                    }
                    return Poll::Pending;
                }
                while let Some((index, result)) = run.arrived.pop_front() {
                    let index = index as usize;
                    if outputs.len() <= index {
                        left += index + 1 - outputs.len();
                        outputs.resize_with(index + 1, || None);
                    }
                    match run.decode(result) {
                        Ok(output) => {
                            outputs[index] = Some(output);
                            left -= 1;
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
            }
        })
        .await?;
        run.done();
        debug_assert_eq!(left, 0, "every item was answered");
        Ok(outputs.into_iter().flatten().collect())
    }

    /// The outputs in the items' order, as they become available. A consumer that does not take
    /// them holds the map back: at most 65,536 finished items wait.
    pub fn stream(self) -> Ordered<I, F, O> {
        Ordered {
            run: self.run(),
            window: VecDeque::new(),
            first: 0,
        }
    }

    /// The outputs with the number of their item, in the order in which they finish. A consumer
    /// that does not take them holds the map back.
    pub fn as_completed(self) -> AsCompleted<I, F, O> {
        AsCompleted { run: self.run() }
    }

    fn run(self) -> Run<I, F, O> {
        let length = match self.items.size_hint() {
            (low, Some(high)) if low == high => Some(low as u64),
            _ => None,
        };
        self.pool.eager(true);
        Run {
            pool: self.pool,
            items: self.items,
            task: self.task,
            retries: self.retries,
            deadline: self.deadline,
            progress: self.progress.map(|label| Progress::items(&label, length)),
            inbox: Arc::default(),
            jobs: Vec::new(),
            arrived: VecDeque::new(),
            kind: Kind::Blocking,
            made: 0,
            received: 0,
            limit: u64::MAX,
            exhausted: false,
            eager: true,
            output: PhantomData,
        }
    }
}

/// Most items made between two looks at the workers' room.
const BATCH: u32 = 512;
/// Most items made between two looks at the results.
const FILL: u64 = 4_096;
/// Most bytes of arguments made between two looks at the workers' room.
const BATCH_BYTES: u64 = 64 * 1024;

/// A map under way.
struct Run<I, F, O> {
    pool: Arc<Pool>,
    items: I,
    task: F,
    retries: u32,
    deadline: Option<Duration>,
    progress: Option<Progress>,
    inbox: Arc<Inbox>,
    /// Empty between fills; kept for its memory.
    jobs: Vec<Job>,
    arrived: VecDeque<Finished>,
    /// What the tasks occupy, as far as the last one tells.
    kind: Kind,
    /// Items made and submitted.
    made: u64,
    /// Results taken from the inbox.
    received: u64,
    /// Make items only below this number.
    limit: u64,
    exhausted: bool,
    /// Whether the pool counts on more items.
    eager: bool,
    output: PhantomData<fn() -> O>,
}

impl<I, F, O> Run<I, F, O>
where
    I: Iterator,
    F: FnMut(I::Item) -> Task<O>,
    O: DeserializeOwned,
{
    /// Submits as many items as the workers have room for. The items are made without the
    /// pool's lock: the iterator is the user's code.
    fn fill(&mut self) {
        let mut jobs = std::mem::take(&mut self.jobs);
        // Workers that keep up make room as fast as it is filled: results are looked at in
        // between, or they would pile up.
        let until = self.limit.min(self.made + FILL);
        while !self.exhausted && self.made < until {
            let (room, hopeless) = match self.pool.room(self.kind, self.made - self.received) {
                Room::Jobs(0) => break,
                Room::Jobs(room) => (room.min(BATCH), false),
                Room::Hopeless => (1, true),
            };
            let (mut bytes, mut refused) = (0, false);
            while (jobs.len() as u32) < room && bytes < BATCH_BYTES && self.made < until {
                let Some(item) = self.items.next() else {
                    self.exhausted = true;
                    break;
                };
                let index = self.made;
                self.made += 1;
                let Task {
                    function,
                    arguments,
                    ..
                } = (self.task)(item);
                match arguments {
                    Ok(arguments) => {
                        bytes += arguments.size();
                        let job = Job {
                            function,
                            arguments: JobArguments::Here(arguments),
                            completion: Completion::Map(Arc::clone(&self.inbox), index),
                            again: self.retries > 0,
                            retries: self.retries,
                            limit: self.deadline,
                            // With retries it matters whose result had come when a worker
                            // was lost: whose had not, has used up one.
                            urgent: self.retries > 0,
                        };
                        self.kind = job.kind();
                        jobs.push(job);
                    }
                    Err(error) => {
                        // It takes no worker's room: what has finished is looked at first, or an
                        // endless iterator of such items would fill the memory.
                        self.inbox.refuse(index, function.name, &error);
                        refused = true;
                        break;
                    }
                }
            }
            self.pool.submit_all(jobs.drain(..));
            if hopeless || refused {
                break;
            }
        }
        self.jobs = jobs;
        self.set_eager(!self.exhausted && self.made < self.limit);
    }

    /// Takes what has finished; when there is nothing the task is woken later.
    fn receive(&mut self, cx: &mut Context<'_>) {
        let before = self.arrived.len();
        self.inbox.drain(&mut self.arrived, cx);
        let new = (self.arrived.len() - before) as u64;
        self.received += new;
        if let Some(progress) = &self.progress {
            progress.add(new);
        }
    }

    fn decode(&self, result: Result<Raw, CallError>) -> Result<O, CallError> {
        result.and_then(|raw| {
            raw.decode().map_err(|e| CallError::Framework {
                function: "map",
                phase: "decode the result",
                worker: None,
                reason: e.to_string(),
            })
        })
    }
}

impl<I, F, O> Run<I, F, O> {
    fn set_eager(&mut self, eager: bool) {
        if std::mem::replace(&mut self.eager, eager) != eager {
            self.pool.eager(eager);
        }
    }

    fn done(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
    }
}

impl<I, F, O> Drop for Run<I, F, O> {
    fn drop(&mut self) {
        self.set_eager(false);
        if self.received < self.made || !self.exhausted {
            self.inbox.abandon();
            self.pool.abandon_map(&self.inbox);
        }
    }
}

/// The outputs of a [`Map`] in the items' order.
#[must_use = "streams do nothing unless polled"]
pub struct Ordered<I, F, O> {
    run: Run<I, F, O>,
    /// Results from the next to yield on; `None` where one is still missing.
    window: VecDeque<Option<Result<Raw, CallError>>>,
    /// The number of the next item to yield.
    first: u64,
}

// Nothing in it is pinned: items and closures are only ever used by `&mut`.
impl<I, F, O> Unpin for Ordered<I, F, O> {}
impl<I, F, O> Unpin for AsCompleted<I, F, O> {}

impl<I, F, O> Stream for Ordered<I, F, O>
where
    I: Iterator,
    F: FnMut(I::Item) -> Task<O>,
    O: DeserializeOwned,
{
    type Item = Result<O, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(Some(_)) = this.window.front()
                && let Some(Some(result)) = this.window.pop_front()
            {
                this.first += 1;
                return Poll::Ready(Some(this.run.decode(result)));
            }
            this.run.limit = this.first + limits::ORDERED_WINDOW as u64;
            this.run.fill();
            this.run.receive(cx);
            if this.run.arrived.is_empty() {
                if this.run.exhausted && this.first == this.run.made {
                    this.run.done();
                    return Poll::Ready(None);
                }
                return Poll::Pending;
            }
            while let Some((index, result)) = this.run.arrived.pop_front() {
                let place = (index - this.first) as usize;
                if this.window.len() <= place {
                    this.window.resize_with(place + 1, || None);
                }
                this.window[place] = Some(result);
            }
        }
    }
}

/// The outputs of a [`Map`] in the order in which they finish.
#[must_use = "streams do nothing unless polled"]
pub struct AsCompleted<I, F, O> {
    run: Run<I, F, O>,
}

impl<I, F, O> Stream for AsCompleted<I, F, O>
where
    I: Iterator,
    F: FnMut(I::Item) -> Task<O>,
    O: DeserializeOwned,
{
    type Item = (u64, Result<O, CallError>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.run.arrived.is_empty() {
            this.run.fill();
            this.run.receive(cx);
        }
        match this.run.arrived.pop_front() {
            Some((index, result)) => Poll::Ready(Some((index, this.run.decode(result)))),
            None if this.run.exhausted && this.run.received == this.run.made => {
                this.run.done();
                Poll::Ready(None)
            }
            None => Poll::Pending,
        }
    }
}

macro_rules! debug_by_name {
    ($($name:ident),*) => {$(
        impl<I, F, O> std::fmt::Debug for $name<I, F, O> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
debug_by_name!(Ordered, AsCompleted);
