//! Remote functions: how they are registered in an executable, named on the wire, and run.

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use crate::codec::CodecError;
use crate::context::Context;

/// The future of an asynchronous function, which gives the encoded result.
pub type TaskFuture =
    Pin<Box<dyn Future<Output = Result<crate::payload::Payload, TaskFault>> + Send>>;

/// Runs a blocking function: decodes arguments from the body and attachments, appends
/// the encoded result to the last parameter, and gives the result's attachments.
pub type BlockingRunner =
    fn(&Context, &[u8], Vec<bytes::Bytes>, &mut Vec<u8>) -> Result<Vec<bytes::Bytes>, TaskFault>;

/// Starts an asynchronous function: decodes arguments from the body and attachments, and gives
/// the future.
pub type AsyncRunner = fn(Context, &[u8], Vec<bytes::Bytes>) -> Result<TaskFuture, TaskFault>;

/// How a function is run.
#[derive(Clone, Copy)]
pub enum Runner {
    /// An `fn`: runs on one of the worker's slots.
    Blocking(BlockingRunner),
    /// An `async fn`: decodes its arguments at once, then runs on the worker's tokio runtime.
    Async(AsyncRunner),
}

/// Why a function was not run to its end, though the worker could.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskFault {
    /// The arguments are not what the function takes.
    #[error("the arguments do not decode: {0}")]
    Arguments(CodecError),
    /// The result cannot be encoded.
    #[error("the result does not encode: {0}")]
    Result(CodecError),
}

/// A remote function in this executable. `#[remote]` makes and registers these.
pub struct Function {
    /// Its path, such as `my_program::count`.
    pub name: &'static str,
    /// The hash of its signature (see [`signature_hash`]).
    pub hash: fn() -> u64,
    /// Its code.
    pub runner: Runner,
    /// The source file and line, for people.
    pub location: (&'static str, u32),
}

inventory::collect!(Function);

/// What a handshake says of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionName {
    /// The function's path.
    pub name: String,
    /// The hash of its signature.
    pub hash: u64,
}

/// Every function of this executable in the order of their names: a function's number on
/// the wire is its place in the worker's list.
pub fn all() -> Vec<&'static Function> {
    let mut functions: Vec<_> = inventory::iter::<Function>.into_iter().collect();
    functions.sort_by_key(|f| f.name);
    functions
}

/// Hashes a signature: its tokens, and the full type names of arguments and output.
///
/// Equal hashes mean that the two sides agree on what the encoded arguments are, short of
/// a type that was changed under the same name.
pub fn signature_hash(tokens: &str, types: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(&tokens).chain(types) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}
