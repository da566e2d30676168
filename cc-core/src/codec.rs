//! The one place that names bincode: every value that is encoded or decoded goes through here.
//!
//! A decode is bounded by the bytes it is given, consumes all of them, and cannot panic,
//! whatever a peer sends: bincode by itself allocates what a string's length claims, loops over
//! any number of items that take no bytes, and recurses as deep as it is told, so it only
//! ever runs under the `guard`. RUSTSEC-2025-0141 records that bincode is complete and frozen;
//! the way out, should it ever be needed, is another serde format behind these functions.

mod guard;

use std::marker::PhantomData;

use bincode::error::DecodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits;

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
/// Fails on malformed bytes, on bytes left over, on more items in sequences and maps than
/// there are bytes and [`limits::ZERO_SIZED_ITEMS`] together, and on nesting beyond
/// [`limits::DECODE_DEPTH`].
#[inline]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    // Each item that takes bytes has at least one of its own; the others are the allowance.
    let items = guard::Budget::new(bytes.len().saturating_add(limits::ZERO_SIZED_ITEMS));
    let root = guard::root(PhantomData::<T>, &items);
    match bincode::serde::seed_decode_from_slice(root, bytes, config()) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok((_, used)) => Err(CodecError::Trailing(bytes.len() - used)),
        Err(error) => Err(CodecError::Decode(describe(error))),
    }
}

/// What bincode has to say, in words where it has only its own names.
#[cold]
fn describe(error: DecodeError) -> String {
    match error {
        DecodeError::UnexpectedEnd { additional } => {
            format!("the bytes end early, at least {additional} more are needed")
        }
        DecodeError::Utf8 { inner } => format!("a text is not UTF-8: {inner}"),
        DecodeError::InvalidBooleanValue(byte) => format!("{byte} is neither true nor false"),
        DecodeError::Other(text) => text.to_owned(),
        DecodeError::OtherString(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::rc::Rc;

    use serde::Deserialize;

    use super::*;

    /// The varint of 2^60.
    const HUGE: [u8; 9] = [253, 0, 0, 0, 0, 0, 0, 0, 16];

    fn refusal<T: DeserializeOwned + std::fmt::Debug>(bytes: &[u8]) -> String {
        decode::<T>(bytes).unwrap_err().to_string()
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf,
        Pair(Box<Tree>, Box<Tree>),
        Named { below: Box<Tree> },
        Wrapped(Box<Tree>),
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Chain(Option<Box<Chain>>);

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Nest(Vec<Nest>);

    #[test]
    fn everything_serde_has_comes_back() {
        type All = (
            (bool, char, i8, u64, f64),
            (String, Option<u8>, Option<()>, Rc<str>),
            Vec<Tree>,
            BTreeMap<String, Vec<u32>>,
            HashMap<u8, ()>,
            [Result<u8, String>; 2],
            std::time::Duration,
        );
        let value: All = (
            (true, 'ß', -1, u64::MAX, 0.5),
            ("text".into(), Some(3), None, "shared".into()),
            vec![
                Tree::Leaf,
                Tree::Pair(Box::new(Tree::Leaf), Box::new(Tree::Leaf)),
                Tree::Named {
                    below: Box::new(Tree::Wrapped(Box::new(Tree::Leaf))),
                },
            ],
            [("a".into(), vec![1, 2]), ("b".into(), vec![])].into(),
            [(1, ())].into(),
            [Ok(1), Err("no".into())],
            std::time::Duration::from_millis(1500),
        );
        let bytes = encode(&value).unwrap();
        assert_eq!(decode::<All>(&bytes), Ok(value));
        for cut in 0..bytes.len() {
            assert!(decode::<All>(&bytes[..cut]).is_err());
        }
        let longer = [&bytes[..], &[0, 0]].concat();
        assert_eq!(decode::<All>(&longer), Err(CodecError::Trailing(2)));
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        // Each of these would abort the process if it were believed.
        assert!(refusal::<String>(&HUGE).contains("the bytes end early"));
        assert!(refusal::<Box<str>>(&HUGE).contains("the bytes end early"));
        assert!(refusal::<std::path::PathBuf>(&HUGE).contains("the bytes end early"));
        assert!(
            refusal::<crate::payload::Bytes>(&[&[0], &HUGE[..]].concat()).contains("end early")
        );
        for refusal in [
            refusal::<Vec<u64>>(&HUGE),
            refusal::<Vec<String>>(&HUGE),
            refusal::<HashMap<u64, u64>>(&HUGE),
        ] {
            assert!(refusal.contains("more items than"), "{refusal}");
        }
    }

    #[test]
    fn items_without_bytes_are_bounded() {
        let most = limits::ZERO_SIZED_ITEMS;
        assert_eq!(
            decode::<Vec<()>>(&encode(&vec![(); most]).unwrap()),
            Ok(vec![(); most])
        );
        assert!(refusal::<Vec<()>>(&encode(&vec![(); most + 10]).unwrap()).contains("more items"));
        assert!(refusal::<Vec<()>>(&HUGE).contains("more items"));
        assert!(refusal::<HashMap<(), ()>>(&HUGE).contains("more items"));
        // The allowance is the whole value's, not each sequence's.
        let many = vec![vec![(); most / 2]; 3];
        assert!(refusal::<Vec<Vec<()>>>(&encode(&many).unwrap()).contains("more items"));
        // Items that take bytes do not use it up.
        let dense = vec![vec![7u8; 1_000]; 1_000];
        assert_eq!(decode(&encode(&dense).unwrap()), Ok(dense));
    }

    #[test]
    fn nesting_is_bounded_for_every_kind_of_recursion() {
        let deep = 1 << 20;
        assert!(refusal::<Tree>(&vec![1; deep]).contains("nested deeper"));
        assert!(refusal::<Tree>(&vec![2; deep]).contains("nested deeper"));
        assert!(refusal::<Tree>(&vec![3; deep]).contains("nested deeper"));
        assert!(refusal::<Chain>(&vec![1; deep]).contains("nested deeper"));
        assert!(refusal::<Nest>(&vec![1; deep]).contains("nested deeper"));

        let allowed = limits::DECODE_DEPTH - 1;
        let bytes = [vec![1; allowed], vec![0]].concat();
        assert!(decode::<Nest>(&bytes).is_ok());
        let bytes = [vec![1; allowed + 1], vec![0]].concat();
        assert!(decode::<Nest>(&bytes).is_err());
    }
}
