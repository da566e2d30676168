//! Running one function: whatever the user's code does short of ending the process, the
//! outcome is an outcome.

use std::any::Any;
use std::cell::RefCell;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::task::Poll;

use cc_core::codec;
use cc_core::context::Context;
use cc_core::function::{BlockingRunner, TaskFault, TaskFuture};
use cc_core::limits;
use cc_core::payload::Payload;
use cc_core::wire::lane::{Outcome, Panic};

thread_local! {
    /// The last panic of this thread, as the hook saw it: the payload that unwinding
    /// brings does not know the place.
    static LAST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// Lets panics be recorded with their places, once per process. The hook that was there
/// before still runs, so that the message reaches standard error too.
pub(super) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let panic = Panic {
                message: info.payload_as_str().unwrap_or(OPAQUE).to_owned(),
                location: info.location().map(ToString::to_string),
            };
            // Never a panic in here: a thread that is ending has lost its place for this.
            let _ = LAST.try_with(|last| {
                if let Ok(mut last) = last.try_borrow_mut() {
                    *last = Some(panic);
                }
            });
            before(info);
        }));
    });
}

const OPAQUE: &str = "a panic whose payload is not text";

/// What a caught panic is told as.
fn describe(payload: Box<dyn Any + Send>) -> Panic {
    let message = if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        OPAQUE.to_owned()
    };
    let last = LAST
        .try_with(|last| last.try_borrow_mut().ok().and_then(|mut last| last.take()))
        .ok()
        .flatten();
    // The payload's own drop is user code as well, and may panic itself.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    let location = last
        // Another one if this panic was resumed and did not begin here.
        .filter(|last| last.message == message)
        .and_then(|last| last.location);
    Panic {
        message: shorten(message),
        location: location.map(shorten),
    }
}

/// Texts travel inside a frame.
fn shorten(mut text: String) -> String {
    if text.len() > limits::LOG_LINE {
        text.truncate(text.floor_char_boundary(limits::LOG_LINE));
        text.push('…');
    }
    text
}

/// The value of a fault.
pub(super) fn fault(text: impl Into<String>) -> Vec<u8> {
    // A `String` always encodes.
    codec::encode(&shorten(text.into())).unwrap_or_default()
}

fn panicked(payload: Box<dyn Any + Send>) -> Vec<u8> {
    codec::encode(&describe(payload)).unwrap_or_default()
}

/// Runs a blocking function. `out` is replaced by the body of the outcome's value; the
/// attachments are given back.
pub(super) fn blocking(
    runner: BlockingRunner,
    context: &Context,
    body: &[u8],
    attachments: Vec<bytes::Bytes>,
    out: &mut Vec<u8>,
) -> (Outcome, Vec<bytes::Bytes>) {
    out.clear();
    let call = AssertUnwindSafe(|| runner(context, body, attachments, out));
    match catch_unwind(call) {
        Ok(Ok(attachments)) => (Outcome::Returned, attachments),
        Ok(Err(error)) => {
            *out = fault(error.to_string());
            (Outcome::Fault, Vec::new())
        }
        Err(payload) => {
            *out = panicked(payload);
            (Outcome::Panicked, Vec::new())
        }
    }
}

/// Runs an asynchronous function: the call that makes the future, every poll and its drop
/// may panic.
pub(super) async fn asynchronous(
    start: impl FnOnce() -> Result<TaskFuture, TaskFault>,
) -> (Outcome, Payload) {
    let made = catch_unwind(AssertUnwindSafe(start));
    let polled = match made {
        Ok(Ok(future)) => {
            let mut future = Some(future);
            poll_fn(move |cx| {
                let caught = catch_unwind(AssertUnwindSafe(|| {
                    let polled = future.as_mut().map(|f| f.as_mut().poll(cx));
                    if !matches!(polled, Some(Poll::Pending)) {
                        future = None;
                    }
                    polled
                }));
                match caught {
                    Ok(Some(Poll::Ready(result))) => Poll::Ready(Ok(result)),
                    Ok(_) => Poll::Pending,
                    Err(payload) => {
                        if let Err(second) = catch_unwind(AssertUnwindSafe(|| future = None)) {
                            std::mem::forget(second);
                        }
                        Poll::Ready(Err(payload))
                    }
                }
            })
            .await
        }
        Ok(Err(error)) => Ok(Err(error)),
        Err(payload) => Err(payload),
    };
    let value = |body| Payload {
        body,
        attachments: Vec::new(),
    };
    match polled {
        Ok(Ok(payload)) => (Outcome::Returned, payload),
        Ok(Err(error)) => (Outcome::Fault, value(fault(error.to_string()))),
        Err(payload) => (Outcome::Panicked, value(panicked(payload))),
    }
}
