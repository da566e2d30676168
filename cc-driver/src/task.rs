//! A typed remote call that has not been sent anywhere yet.

use std::fmt;
use std::marker::PhantomData;

use cc_core::codec::CodecError;
use cc_core::function::Function;
use cc_core::payload::encode_value;
use serde::Serialize;

/// A function's id and its encoded arguments: what `f::task(…)` of a `#[remote]` function
/// gives. It does nothing until it is passed to `call`, `map` or `everywhere`.
#[must_use = "a task does nothing until it is called on a cluster or worker"]
pub struct Task<O> {
    pub(crate) function: &'static Function,
    pub(crate) arguments: Result<Arguments, CodecError>,
    output: PhantomData<fn() -> O>,
}

/// Encoded arguments; cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Arguments {
    pub(crate) body: bytes::Bytes,
    pub(crate) attachments: Vec<bytes::Bytes>,
}

impl Arguments {
    /// Bytes in the body and all attachments.
    pub(crate) fn size(&self) -> u64 {
        self.body.len() as u64 + self.attachments.iter().map(|a| a.len() as u64).sum::<u64>()
    }
}

impl<O> Task<O> {
    /// A task for a function of this executable. `#[remote]` generates calls of this.
    #[doc(hidden)]
    pub fn new<A: Serialize>(function: &'static Function, arguments: &A) -> Self {
        let mut body = Vec::new();
        let arguments = encode_value(arguments, &mut body).map(|attachments| Arguments {
            body: body.into(),
            attachments,
        });
        Self {
            function,
            arguments,
            output: PhantomData,
        }
    }

    /// The function's path.
    pub fn function(&self) -> &'static str {
        self.function.name
    }
}

impl<O> Clone for Task<O> {
    fn clone(&self) -> Self {
        Self {
            function: self.function,
            arguments: self.arguments.clone(),
            output: PhantomData,
        }
    }
}

impl<O> fmt::Debug for Task<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("function", &self.function.name)
            .finish_non_exhaustive()
    }
}
