//! The one place that names bincode: every value that is encoded or decoded goes through here.
//!
//! A decode is bounded by the bytes it is given, consumes all of them, and cannot panic,
//! whatever a peer sends. RUSTSEC-2025-0141 records that bincode is complete and frozen; the
//! way out, should it ever be needed, is another serde format behind these functions.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes could not be decoded, or a value not encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The value's own `Serialize` refused, or it is not representable.
    #[error("cannot encode: {0}")]
    Encode(String),
    /// The bytes are not an encoding of the expected type.
    #[error("cannot decode: {0}")]
    Decode(String),
    /// The bytes hold a value and then more.
    #[error("cannot decode: {0} bytes left over after the value")]
    Trailing(usize),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard()
}

/// Appends the encoding of `value` to `out`.
///
/// # Errors
/// Fails when the value's `Serialize` implementation does.
pub fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    bincode::serde::encode_into_std_write(value, out, config())
        .map(|_| ())
        .map_err(|e| CodecError::Encode(e.to_string()))
}

/// Encodes `value`.
///
/// # Errors
/// Fails when the value's `Serialize` implementation does.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    encode_into(value, &mut out)?;
    Ok(out)
}

/// Decodes a value that takes up all of `bytes`.
///
/// # Errors
/// Fails on malformed bytes, on bytes left over, and on nesting or item counts beyond
/// [`crate::limits`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|e| CodecError::Decode(e.to_string()))?;
    if used == bytes.len() {
        Ok(value)
    } else {
        Err(CodecError::Trailing(bytes.len() - used))
    }
}
