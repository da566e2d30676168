//! What a running task is given besides its arguments: whether it is still wanted, which
//! worker it runs on, and the worker's state.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use crate::ids::{NodeIndex, WorkerId};

/// Typed values that live as long as the worker.
type States = Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>;

/// Told to a task when nobody waits for it any more.
#[derive(Debug, Default)]
pub struct Cancellation {
    cancelled: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Cancellation {
    /// Marks the task as unwanted and wakes who waits for that.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        let wakers =
            std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether the task is unwanted.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

/// The worker that a task runs on; one per worker process, shared by its tasks.
#[derive(Debug, Default)]
pub struct Site {
    states: States,
}

/// The context of a running task: take `&Context` as a parameter of a remote function to
/// have it injected (the caller does not pass it).
///
/// ```
/// use cc_core::context::Context;
/// fn step(context: &Context, limit: u64) -> u64 {
///     let calls = context.state(|| std::sync::atomic::AtomicU64::new(0));
///     calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///     (0..limit).take_while(|_| !context.is_cancelled()).count() as u64
/// }
/// assert_eq!(step(&Context::detached(), 3), 3);
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    worker: WorkerId,
    node: NodeIndex,
    site: Arc<Site>,
    cancellation: Arc<Cancellation>,
}

impl Context {
    /// The context of a task on a worker. The worker runtime makes these.
    #[doc(hidden)]
    pub fn new(
        worker: WorkerId,
        node: NodeIndex,
        site: Arc<Site>,
        cancellation: Arc<Cancellation>,
    ) -> Self {
        Self {
            worker,
            node,
            site,
            cancellation,
        }
    }

    /// A context outside of any worker, for calling a remote function locally or in a test.
    /// Its worker is the driver (1) and it is never cancelled.
    pub fn detached() -> Self {
        Self::new(WorkerId(1), NodeIndex(0), Arc::default(), Arc::default())
    }

    /// The id of the worker that runs this task.
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// The node that the worker runs on.
    pub fn node(&self) -> NodeIndex {
        self.node
    }

    /// Whether nobody waits for this task any more (its future was dropped, its deadline has
    /// passed, the driver is gone). A long function looks at this from time to time.
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// Resolves when the task is cancelled.
    pub async fn cancelled(&self) {
        poll_fn(|cx| {
            if self.is_cancelled() {
                return Poll::Ready(());
            }
            let mut wakers = self
                .cancellation
                .wakers
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if !wakers.iter().any(|w| w.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            drop(wakers);
            if self.is_cancelled() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// The worker's value of type `T`, made by `make` if this is the first use. It outlives
    /// the call and is shared by all calls on this worker.
    pub fn state<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(found) = self.existing_state() {
            return found;
        }
        let fresh: Arc<dyn Any + Send + Sync> = Arc::new(make());
        let mut states = self
            .site
            .states
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let kept = Arc::clone(states.entry(TypeId::of::<T>()).or_insert(fresh));
        drop(states);
        #[expect(clippy::unwrap_used, reason = "the map's key is the value's type")]
        kept.downcast().ok().unwrap()
    }

    /// The worker's value of type `T`, if it has one.
    pub fn existing_state<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let states = self
            .site
            .states
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        states.get(&TypeId::of::<T>()).cloned()?.downcast().ok()
    }

    /// Replaces the worker's value of type `T`; calls that hold the old one keep it.
    pub fn set_state<T: Send + Sync + 'static>(&self, value: T) {
        let mut states = self
            .site
            .states
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        states.insert(TypeId::of::<T>(), Arc::new(value));
    }
}
