//! A typed remote call that has not been sent anywhere yet.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

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
    pub(crate) body: Body,
    pub(crate) attachments: Vec<bytes::Bytes>,
}

thread_local! {
    /// Where arguments are encoded, so that small ones need no memory of their own.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Arguments up to this length are kept in place: a map has thousands of them on their way.
const IN_PLACE: usize = 38;

/// An encoded body; cloning shares or copies a few bytes.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    InPlace(u8, [u8; IN_PLACE]),
    Shared(bytes::Bytes),
}

impl Body {
    /// Takes what was encoded, and leaves the memory where it was if it is little.
    fn take(encoded: &mut Vec<u8>) -> Self {
        let length = encoded.len();
        if length > IN_PLACE {
            return Self::Shared(std::mem::take(encoded).into());
        }
        let mut bytes = [0; IN_PLACE];
        bytes[..length].copy_from_slice(encoded);
        Self::InPlace(length as u8, bytes)
    }

    /// The body as shared bytes, for a stream.
    pub(crate) fn to_bytes(&self) -> bytes::Bytes {
        match self {
            Self::InPlace(..) => bytes::Bytes::copy_from_slice(self),
            Self::Shared(bytes) => bytes.clone(),
        }
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::InPlace(length, bytes) => &bytes[..usize::from(*length)],
            Self::Shared(bytes) => bytes,
        }
    }
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
        let arguments = SCRATCH.with(|scratch| {
            // A value whose `Serialize` makes tasks of its own finds the scratch taken.
            let mut body = scratch.take();
            body.clear();
            let encoded = encode_value(arguments, &mut body);
            let arguments = encoded.map(|attachments| Arguments {
                body: Body::take(&mut body),
                attachments,
            });
            scratch.set(body);
            arguments
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
