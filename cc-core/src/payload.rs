//! Values as they travel: an encoded body, and out-of-band attachments that are never copied
//! into it.
//!
//! [`Bytes`] and [`Array`] put themselves into the attachments while a value is being
//! encoded by [`Payload::encode`]; with any other serializer they behave like a plain byte
//! string and a plain sequence.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{self, CodecError};
use crate::limits;

thread_local! {
    /// Attachments of the value that this thread is encoding or decoding, if it is.
    static ATTACHMENTS: RefCell<Option<Attachments>> = const { RefCell::new(None) };
}

/// Each attachment is taken once by a decode.
type Attachments = Vec<Option<bytes::Bytes>>;

/// Puts attachments into the thread's scope for the duration of `body`; gives back what is
/// there afterwards. Scopes nest.
fn with_attachments<R>(attachments: Attachments, body: impl FnOnce() -> R) -> (R, Attachments) {
    struct Restore(Option<Attachments>);
    impl Drop for Restore {
        fn drop(&mut self) {
            let outer = self.0.take();
            ATTACHMENTS.with(|scope| *scope.borrow_mut() = outer);
        }
    }
    let _restore = Restore(ATTACHMENTS.with(|scope| scope.borrow_mut().replace(attachments)));
    let result = body();
    let left = ATTACHMENTS
        .with(|scope| scope.borrow_mut().take())
        .unwrap_or_default();
    (result, left)
}

/// An encoded value: its body and its attachments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// The encoded value, with a placeholder where an attachment belongs.
    pub body: Vec<u8>,
    /// Large byte strings, by reference.
    pub attachments: Vec<bytes::Bytes>,
}

impl Payload {
    /// Encodes a value.
    ///
    /// # Errors
    /// Fails when the value's `Serialize` does, or with more than
    /// [`limits::ATTACHMENTS`] attachments.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, CodecError> {
        let mut body = Vec::new();
        let attachments = encode_value(value, &mut body)?;
        Ok(Self { body, attachments })
    }

    /// Decodes a value that takes up the whole body and all the attachments.
    ///
    /// # Errors
    /// Fails on anything that [`Payload::encode`] of the same type cannot have made.
    pub fn decode<T: DeserializeOwned>(self) -> Result<T, CodecError> {
        decode_value(&self.body, self.attachments)
    }

    /// Bytes in the body and all attachments.
    pub fn size(&self) -> u64 {
        self.body.len() as u64 + self.attachments.iter().map(|a| a.len() as u64).sum::<u64>()
    }
}

/// Appends the encoding of `value` to `out` and gives its attachments.
///
/// # Errors
/// As [`Payload::encode`].
pub fn encode_value<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
) -> Result<Vec<bytes::Bytes>, CodecError> {
    let (result, attachments) = with_attachments(Vec::new(), || codec::encode_into(value, out));
    result?;
    let attachments: Vec<bytes::Bytes> = attachments.into_iter().flatten().collect();
    if attachments.len() > limits::ATTACHMENTS {
        return Err(CodecError::Encode(format!(
            "{} `Bytes` or arrays in one value, at most {} can travel together",
            attachments.len(),
            limits::ATTACHMENTS
        )));
    }
    Ok(attachments)
}

/// Decodes a value from a body and attachments. An attachment may be taken once.
///
/// # Errors
/// As [`Payload::decode`].
pub fn decode_value<T: DeserializeOwned>(
    body: &[u8],
    attachments: Vec<bytes::Bytes>,
) -> Result<T, CodecError> {
    let attachments = attachments.into_iter().map(Some).collect();
    let (value, left) = with_attachments(attachments, || codec::decode(body));
    let value = value?;
    match left.iter().flatten().count() {
        0 => Ok(value),
        left => Err(CodecError::Decode(format!(
            "{left} attachments that the value does not name"
        ))),
    }
}

/// How a byte string stands in a body.
#[derive(Serialize, Deserialize)]
enum Place {
    Inline,
    Attached(u32),
}

fn serialize_bytes<S: Serializer>(
    serializer: S,
    length: usize,
    attach: impl FnOnce() -> bytes::Bytes,
    plain: &[u8],
) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeTuple as _;
    let attached =
        length >= limits::ATTACHMENT_MIN && ATTACHMENTS.with(|scope| scope.borrow().is_some());
    let mut tuple = serializer.serialize_tuple(2)?;
    if attached {
        let index = ATTACHMENTS.with(|scope| {
            let mut scope = scope.borrow_mut();
            let list = scope.get_or_insert_default();
            list.push(Some(attach()));
            list.len() as u32 - 1
        });
        tuple.serialize_element(&Place::Attached(index))?;
        tuple.serialize_element(&PlainBytes(&[]))?;
    } else {
        tuple.serialize_element(&Place::Inline)?;
        tuple.serialize_element(&PlainBytes(plain))?;
    }
    tuple.end()
}

struct PlainBytes<'a>(&'a [u8]);

impl Serialize for PlainBytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

struct OwnedBytes(Vec<u8>);

impl<'de> Deserialize<'de> for OwnedBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = OwnedBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<OwnedBytes, E> {
                Ok(OwnedBytes(bytes.to_vec()))
            }

            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<OwnedBytes, E> {
                Ok(OwnedBytes(bytes))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<OwnedBytes, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(OwnedBytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

fn deserialize_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bytes::Bytes, D::Error> {
    let (place, inline) = <(Place, OwnedBytes)>::deserialize(deserializer)?;
    match place {
        Place::Inline => Ok(inline.0.into()),
        Place::Attached(index) => ATTACHMENTS
            .with(|scope| {
                let mut scope = scope.borrow_mut();
                scope.as_mut()?.get_mut(index as usize)?.take()
            })
            .ok_or_else(|| D::Error::custom(format!("there is no attachment {index}"))),
    }
}

/// Immutable shared bytes, as an argument or result of a remote function: above
/// 4 KiB they travel out of band and are not copied. Cloning shares.
///
/// ```
/// use cc_core::payload::{Bytes, Payload};
/// let image = Bytes::from(vec![7; 1 << 20]);
/// let payload = Payload::encode(&("cat.png", &image))?;
/// assert!(payload.body.len() < 32);
/// assert_eq!(payload.decode::<(String, Bytes)>()?.1, image);
/// # Ok::<(), cc_core::codec::CodecError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Bytes(pub bytes::Bytes);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} bytes)", self.0.len())
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<bytes::Bytes> for Bytes {
    fn from(bytes: bytes::Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Bytes> for bytes::Bytes {
    fn from(bytes: Bytes) -> Self {
        bytes.0
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_bytes(serializer, self.0.len(), || self.0.clone(), &self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_bytes(deserializer).map(Self)
    }
}

/// An immutable shared array of plain data (numbers, or structures that are
/// [`bytemuck::Pod`]), which travels like [`Bytes`]: uncopied, as it lies in memory.
///
/// Both ends must have the same byte order; every supported architecture is little-endian.
///
/// ```
/// use cc_core::payload::{Array, Payload};
/// let weights: Array<f64> = (0..10_000).map(f64::from).collect();
/// let received: Array<f64> = Payload::encode(&weights)?.decode()?;
/// assert_eq!(received[9_999], 9_999.0);
/// # Ok::<(), cc_core::codec::CodecError>(())
/// ```
#[derive(Clone)]
pub struct Array<T: bytemuck::Pod> {
    /// Always aligned for `T`, and a whole number of them long.
    bytes: bytes::Bytes,
    items: PhantomData<T>,
}

/// Lets a `Vec<T>` own the memory behind a `bytes::Bytes`.
struct PodOwner<T>(Vec<T>);

impl<T: bytemuck::Pod> AsRef<[u8]> for PodOwner<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl<T: bytemuck::Pod + Send> From<Vec<T>> for Array<T> {
    fn from(items: Vec<T>) -> Self {
        Self {
            bytes: bytes::Bytes::from_owner(PodOwner(items)),
            items: PhantomData,
        }
    }
}

impl<T: bytemuck::Pod + Send> FromIterator<T> for Array<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        items.into_iter().collect::<Vec<T>>().into()
    }
}

impl<T: bytemuck::Pod> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.bytes)
    }
}

impl<T: bytemuck::Pod + fmt::Debug> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array({} items)", self.len())
    }
}

impl<T: bytemuck::Pod + PartialEq> PartialEq for Array<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: bytemuck::Pod> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_bytes(
            serializer,
            self.bytes.len(),
            || self.bytes.clone(),
            &self.bytes,
        )
    }
}

impl<'de, T: bytemuck::Pod + Send> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserialize_bytes(deserializer)?;
        let length = bytes.len();
        match bytemuck::try_cast_slice::<u8, T>(&bytes) {
            Ok(_) => Ok(Self {
                bytes,
                items: PhantomData,
            }),
            // Small values lie anywhere inside a frame: copy them to where `T` may lie.
            Err(bytemuck::PodCastError::TargetAlignmentGreaterAndInputNotAligned) => {
                let size = size_of::<T>().max(1);
                if length % size != 0 {
                    return Err(D::Error::custom("array of a fractional number of items"));
                }
                let mut items = vec![<T as bytemuck::Zeroable>::zeroed(); length / size];
                bytemuck::cast_slice_mut::<T, u8>(&mut items).copy_from_slice(&bytes);
                Ok(items.into())
            }
            Err(error) => Err(D::Error::custom(format!(
                "array of {length} bytes: {error}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bytes_leave_the_body_and_come_back() {
        let large = Bytes::from(vec![1u8; 100_000]);
        let small = Bytes::from(vec![2u8; 10]);
        let payload = Payload::encode(&(&large, &small, 5u8)).unwrap();
        assert_eq!(payload.attachments.len(), 1);
        assert_eq!(
            payload.attachments[0].as_ptr(),
            large.as_ptr(),
            "not copied"
        );
        let back: (Bytes, Bytes, u8) = payload.decode().unwrap();
        assert_eq!(back.0.as_ptr(), large.as_ptr(), "not copied");
        assert_eq!((back.1, back.2), (small, 5));
    }

    #[test]
    fn a_missing_attachment_is_an_error() {
        let mut payload = Payload::encode(&Bytes::from(vec![1u8; 100_000])).unwrap();
        payload.attachments.clear();
        assert!(payload.decode::<Bytes>().is_err());
    }

    #[test]
    fn an_attachment_is_taken_once_and_none_is_left() {
        let large = Bytes::from(vec![1u8; 100_000]);
        let mut twice = Payload::encode(&(&large, &large)).unwrap();
        twice.body = Payload::encode(&large).unwrap().body.repeat(2);
        assert!(
            twice.clone().decode::<(Bytes, Bytes)>().is_err(),
            "the first one twice"
        );
        let mut spare = Payload::encode(&large).unwrap();
        spare.attachments.push(large.0.clone());
        assert!(spare.decode::<Bytes>().is_err(), "one that nothing names");
    }

    #[test]
    fn other_serializers_see_plain_bytes() {
        let bytes = Bytes::from(vec![3u8; 5000]);
        let json = serde_json::to_string(&bytes).unwrap();
        assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap(), bytes);
    }

    #[test]
    fn arrays_of_any_alignment() {
        for length in [0usize, 1, 3, 511, 512, 10_000] {
            let array: Array<f64> = (0..length).map(|i| i as f64).collect();
            let mut payload = Payload::encode(&array).unwrap();
            if let Some(first) = payload.attachments.first_mut() {
                let mut shifted = vec![0u8];
                shifted.extend_from_slice(first);
                *first = bytes::Bytes::from(shifted).slice(1..);
            }
            assert_eq!(payload.decode::<Array<f64>>().unwrap(), array);
        }
        let odd = Payload::encode(&Bytes::from(vec![0u8; 9])).unwrap();
        assert!(odd.decode::<Array<f64>>().is_err());
    }
}
