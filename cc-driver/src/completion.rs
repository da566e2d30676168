//! Where the result of a task goes: to the future of a call, or to a map's inbox.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use cc_core::codec::CodecError;
use cc_core::ids::WorkerId;
use cc_core::payload::decode_value;
use serde::de::DeserializeOwned;

use crate::error::CallError;

/// An encoded output. The user's thread decodes it.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) body: bytes::Bytes,
    pub(crate) attachments: Vec<bytes::Bytes>,
}

impl Raw {
    pub(crate) fn decode<O: DeserializeOwned>(self) -> Result<O, CodecError> {
        decode_value(&self.body, self.attachments)
    }
}

/// Who gets the result of a task.
#[derive(Clone)]
pub(crate) enum Completion {
    /// A single call.
    Call(Arc<CallState>),
    /// An item of a map, by its place among the items.
    Map(Arc<Inbox>, u64),
}

impl Completion {
    /// Whether nobody waits any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Call(call) => call.abandoned.load(Ordering::Relaxed),
            Self::Map(inbox, _) => inbox.abandoned.load(Ordering::Relaxed),
        }
    }
}

/// Where a call's future and the pool meet.
#[derive(Debug, Default)]
pub(crate) struct CallState {
    slot: Mutex<CallSlot>,
    abandoned: AtomicBool,
    /// Worker id and task, packed; 0 while it has not been sent (no worker has id 0).
    place: AtomicU64,
}

#[derive(Debug, Default)]
struct CallSlot {
    result: Option<Result<Raw, CallError>>,
    waker: Option<Waker>,
}

impl CallState {
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Noted under the pool's lock when the call is sent.
    pub(crate) fn sent_to(&self, worker: WorkerId, task: u32) {
        self.place.store(
            u64::from(worker.0) << 32 | u64::from(task),
            Ordering::Release,
        );
    }

    /// Where the call was sent last.
    pub(crate) fn place(&self) -> Option<(WorkerId, u32)> {
        let place = self.place.load(Ordering::Acquire);
        (place != 0).then_some((WorkerId((place >> 32) as u32), place as u32))
    }

    /// The result if it is there; otherwise `cx` is woken when it is.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Raw, CallError>> {
        let mut slot = lock(&self.slot);
        match slot.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn complete(&self, result: Result<Raw, CallError>) {
        let waker = {
            let mut slot = lock(&self.slot);
            // The first one counts: a deadline may pass while a result waits to be taken.
            slot.result.get_or_insert(result);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Finished items of a map, in the order in which they finished.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<InboxState>,
    abandoned: AtomicBool,
}

/// An item's place and its result.
pub(crate) type Finished = (u64, Result<Raw, CallError>);

#[derive(Debug, Default)]
struct InboxState {
    finished: VecDeque<Finished>,
    waker: Option<Waker>,
}

impl Inbox {
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Completes an item that could not be sent because its arguments do not encode.
    pub(crate) fn refuse(&self, index: u64, function: &'static str, error: &CodecError) {
        let error = CallError::Framework {
            function,
            phase: "encode the arguments",
            worker: None,
            reason: error.to_string(),
        };
        lock(&self.state).finished.push_back((index, Err(error)));
    }

    /// Moves what has finished to the end of `into`; when there is nothing `cx` is woken later.
    pub(crate) fn drain(&self, into: &mut VecDeque<Finished>, cx: &mut Context<'_>) {
        let mut state = lock(&self.state);
        if state.finished.is_empty() {
            state.waker = Some(cx.waker().clone());
        } else if into.is_empty() {
            std::mem::swap(into, &mut state.finished);
        } else {
            into.append(&mut state.finished);
        }
    }
}

/// Hands results over; many to one map under one lock and with one wake-up.
pub(crate) fn complete(done: Vec<(Completion, Result<Raw, CallError>)>) {
    let mut done = done.into_iter().peekable();
    while let Some((completion, result)) = done.next() {
        match completion {
            Completion::Call(call) => call.complete(result),
            Completion::Map(inbox, index) => {
                let waker = {
                    let mut state = lock(&inbox.state);
                    state.finished.push_back((index, result));
                    while let Some((Completion::Map(_, index), result)) = done.next_if(
                        |(next, _)| matches!(next, Completion::Map(other, _) if Arc::ptr_eq(other, &inbox)),
                    ) {
                        state.finished.push_back((index, result));
                    }
                    state.waker.take()
                };
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
