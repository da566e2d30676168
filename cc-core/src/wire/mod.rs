//! What travels between driver, agents and workers, byte for byte, in one place.
//!
//! - [`stream`]: the header that says what a QUIC stream is for.
//! - [`control`]: sessions, requests, events between a driver and an agent.
//! - [`lane`]: tasks and results between a driver and a worker; agents copy these unread.
//! - [`local`]: between an agent, its guards and its workers, on one machine.
//! - [`bootstrap`]: how an agent that was just started gets its certificate.
//!
//! A message that changes anything below changes [`PROTOCOL`] and is listed there. The
//! snapshot tests hold the bytes of every frame.

pub mod bootstrap;
pub mod control;
pub mod lane;
pub mod local;
pub mod stream;

/// The protocol's version. A peer of another version is refused by name.
///
/// - 1: the first.
pub const PROTOCOL: u32 = 1;

/// Why bytes from a peer are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length beyond its limit.
    #[error("a {what} of {claimed} bytes, at most {limit} are allowed")]
    TooLong {
        /// What was too long.
        what: &'static str,
        /// The claimed length.
        claimed: u64,
        /// The limit, from [`crate::limits`].
        limit: u64,
    },
    /// A kind, flag or number that the protocol does not have.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A body that does not decode.
    #[error(transparent)]
    Codec(#[from] crate::codec::CodecError),
}
