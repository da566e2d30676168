//! What generated code needs of `cc_driver`, without its processes and connections.

use std::marker::PhantomData;

use cc_core::function::Function;
use cc_core::payload::Payload;
use serde::Serialize;

pub struct Driver;

pub struct Task<T> {
    pub function: &'static Function,
    pub payload: Payload,
    output: PhantomData<fn() -> T>,
}

impl<T> Task<T> {
    pub fn new<A: Serialize>(function: &'static Function, arguments: &A) -> Self {
        Self {
            function,
            payload: Payload::encode(arguments).unwrap(),
            output: PhantomData,
        }
    }
}

pub mod __private {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    pub use cc_core::{function, inventory, payload};

    pub fn run_main<F, Fut, R>(main: F) -> R
    where
        F: FnOnce(super::Driver) -> Fut,
        Fut: Future<Output = R>,
    {
        let mut future = pin!(main(super::Driver));
        loop {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
                return result;
            }
        }
    }
}
