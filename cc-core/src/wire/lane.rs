//! The lane between a driver and a worker: frames of `u16` length (little-endian, of what
//! follows), a kind byte, and fields as LEB128 varints. Written by hand because a lane
//! carries millions of frames a second and a frame is about ten bytes.
//!
//! Every [`Task`] is answered by exactly one [`Done`], also when it is cancelled, so that
//! its id can be used again.

use std::ops::Range;

use crate::function::FunctionName;
use crate::ids::ContentHash;
use crate::limits;
use crate::payload::Payload;
use crate::wire::WireError;

const TASK: u8 = 1;
const CANCEL: u8 = 2;
const DONE: u8 = 3;
const FUNCTIONS: u8 = 4;
const TAKE_BACK: u8 = 5;

const INLINE: u8 = 0;
const BULK: u8 = 1;
const STORED: u8 = 2;

/// Set in a task's flags when its result is to be sent at once rather than with others.
const URGENT: u8 = 1;

/// Where a frame's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// In the frame: the body and the attachments.
    Inline(&'a [u8], Vec<&'a [u8]>),
    /// In a bulk stream named by the task's id, of this total length in bytes.
    Bulk(u64),
    /// In the node's content store, in the format of a bulk stream.
    Stored(ContentHash, u64),
}

/// A task, from the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task<'a> {
    /// Its id; free again after its [`Done`].
    pub id: u32,
    /// Whether the result is to be sent at once.
    pub urgent: bool,
    /// The function's place in the worker's list.
    pub function: u32,
    /// The encoded arguments.
    pub arguments: Value<'a>,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// The function returned; the value is its output.
    Returned = 0,
    /// The function panicked; the value is an encoded [`Panic`].
    Panicked = 1,
    /// The arguments did not decode or the output did not encode; the value is an encoded
    /// `String`.
    Fault = 2,
    /// The task was cancelled before it started.
    TakenBack = 3,
    /// The task was cancelled after it started; its output, if any, is dropped.
    Cancelled = 4,
}

/// What is known of a panic.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Panic {
    /// The panic's message.
    pub message: String,
    /// File, line and column.
    pub location: Option<String>,
}

/// The end of a task, from the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done<'a> {
    /// The task's id.
    pub id: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// The output, panic or fault.
    pub value: Value<'a>,
}

/// Part of the worker's list of functions; the first frames from a worker.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Functions {
    /// More frames of the list follow.
    pub more: bool,
    /// Blocking tasks that the worker runs at once.
    pub slots: u32,
    /// A hash of the worker's executable, to recognise another build.
    pub build: u64,
    /// The functions, in the order of their numbers.
    pub functions: Vec<FunctionName>,
}

/// A frame of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A task to run.
    Task(Task<'a>),
    /// A task that nobody waits for any more: unstarted, it is answered with
    /// [`Outcome::TakenBack`]; started, it is told so and answered when it ends.
    Cancel(u32),
    /// A task that another worker could run: unstarted, it is answered with
    /// [`Outcome::TakenBack`]; started, it goes on and this has no effect.
    TakeBack(u32),
    /// The end of a task.
    Done(Done<'a>),
    /// The worker's functions.
    Functions(Functions),
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Starts a frame; [`end`] fills in its length.
fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, kind]);
    start
}

/// Ends a frame. The callers keep frames within [`limits::LANE_FRAME`].
fn end(out: &mut [u8], start: usize) {
    let length = out.len() - start - 2;
    debug_assert!(
        length <= limits::LANE_FRAME,
        "a lane frame of {length} bytes"
    );
    out[start..start + 2].copy_from_slice(&(length as u16).to_le_bytes());
}

fn put_inline<'a>(
    out: &mut Vec<u8>,
    body: &[u8],
    attachments: impl ExactSizeIterator<Item = &'a [u8]>,
) {
    out.push(INLINE);
    put_varint(out, body.len() as u64);
    out.extend_from_slice(body);
    put_varint(out, attachments.len() as u64);
    for attachment in attachments {
        put_varint(out, attachment.len() as u64);
        out.extend_from_slice(attachment);
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Inline(body, attachments) => put_inline(out, body, attachments.iter().copied()),
        Value::Bulk(length) => {
            out.push(BULK);
            put_varint(out, *length);
        }
        Value::Stored(hash, length) => {
            out.push(STORED);
            out.extend_from_slice(&hash.0);
            put_varint(out, *length);
        }
    }
}

/// Whether a payload travels inside its frame.
pub fn fits_inline(body: usize, attachments: &[bytes::Bytes]) -> bool {
    // Ten bytes are the longest varint before each attachment.
    body + attachments.iter().map(|a| a.len() + 10).sum::<usize>() <= limits::INLINE_VALUE
}

/// Appends a task's frame. An inline value must pass [`fits_inline`].
pub fn put_task(out: &mut Vec<u8>, task: &Task<'_>) {
    let start = begin(out, TASK);
    put_varint(out, u64::from(task.id));
    out.push(if task.urgent { URGENT } else { 0 });
    put_varint(out, u64::from(task.function));
    put_value(out, &task.arguments);
    end(out, start);
}

/// Appends a cancellation.
pub fn put_cancel(out: &mut Vec<u8>, id: u32) {
    let start = begin(out, CANCEL);
    put_varint(out, u64::from(id));
    end(out, start);
}

/// Appends the wish to have a task back.
pub fn put_take_back(out: &mut Vec<u8>, id: u32) {
    let start = begin(out, TAKE_BACK);
    put_varint(out, u64::from(id));
    end(out, start);
}

/// Appends a task's end. An inline value must pass [`fits_inline`].
pub fn put_done(out: &mut Vec<u8>, done: &Done<'_>) {
    let start = begin(out, DONE);
    put_varint(out, u64::from(done.id));
    out.push(done.outcome as u8);
    put_value(out, &done.value);
    end(out, start);
}

/// Appends a part of the worker's list of functions.
///
/// # Errors
/// Fails when the part is larger than a frame; [`function_frames`] splits the list.
fn put_functions(out: &mut Vec<u8>, functions: &Functions) -> Result<(), WireError> {
    let start = begin(out, FUNCTIONS);
    crate::codec::encode_into(functions, out)?;
    let length = out.len() - start - 2;
    if length > limits::LANE_FRAME {
        out.truncate(start);
        return Err(WireError::TooLong {
            what: "list of functions",
            claimed: length as u64,
            limit: limits::LANE_FRAME as u64,
        });
    }
    end(out, start);
    Ok(())
}

/// The frames that tell a worker's functions.
///
/// # Errors
/// Fails when a single function's name is larger than a frame.
pub fn function_frames(
    functions: &[FunctionName],
    slots: u32,
    build: u64,
) -> Result<Vec<u8>, WireError> {
    let mut parts: Vec<&[FunctionName]> = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (index, function) in functions.iter().enumerate() {
        let more = function.name.len() + 16;
        if size + more > limits::INLINE_VALUE {
            parts.push(&functions[start..index]);
            (start, size) = (index, 0);
        }
        size += more;
    }
    parts.push(&functions[start..]);
    let mut out = Vec::new();
    let last = parts.len() - 1;
    for (index, part) in parts.into_iter().enumerate() {
        let frame = Functions {
            more: index < last,
            slots,
            build,
            functions: part.to_vec(),
        };
        put_functions(&mut out, &frame)?;
    }
    Ok(out)
}

/// Reads a frame's fields one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn byte(&mut self) -> Result<u8, WireError> {
        let (first, rest) = self
            .0
            .split_first()
            .ok_or(WireError::Malformed("lane frame: cut short"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Malformed("lane frame: number beyond 64 bits"))
    }

    fn small(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.varint()?)
            .map_err(|_| WireError::Malformed("lane frame: number beyond 32 bits"))
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(length)
            .ok()
            .filter(|n| *n <= self.0.len())
            .ok_or(WireError::Malformed(
                "lane frame: a length beyond the frame",
            ))?;
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    fn value(&mut self) -> Result<Value<'a>, WireError> {
        match self.byte()? {
            INLINE => {
                let length = self.varint()?;
                let body = self.bytes(length)?;
                let count = self.varint()?;
                // Each attachment takes at least its length's byte.
                if count > self.0.len() as u64 {
                    return Err(WireError::Malformed("lane frame: a count beyond the frame"));
                }
                let mut attachments = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    let length = self.varint()?;
                    attachments.push(self.bytes(length)?);
                }
                Ok(Value::Inline(body, attachments))
            }
            BULK => Ok(Value::Bulk(self.value_length()?)),
            STORED => {
                let mut hash = [0; 32];
                hash.copy_from_slice(self.bytes(32)?);
                Ok(Value::Stored(ContentHash(hash), self.value_length()?))
            }
            _ => Err(WireError::Malformed("lane frame: kind of value")),
        }
    }

    fn value_length(&mut self) -> Result<u64, WireError> {
        check_value(self.varint()?)
    }

    fn finish(self) -> Result<(), WireError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(WireError::Malformed("lane frame: bytes left over"))
        }
    }
}

fn check_value(length: u64) -> Result<u64, WireError> {
    if length > limits::VALUE {
        return Err(WireError::TooLong {
            what: "value",
            claimed: length,
            limit: limits::VALUE,
        });
    }
    Ok(length)
}

/// Reads a frame (kind and fields, without its length).
///
/// # Errors
/// Fails on anything that the functions above cannot have made.
pub fn decode(frame: &[u8]) -> Result<Frame<'_>, WireError> {
    let mut fields = Fields(frame);
    let decoded = match fields.byte()? {
        TASK => {
            let id = fields.small()?;
            let flags = fields.byte()?;
            if flags & !URGENT != 0 {
                return Err(WireError::Malformed("lane frame: flags of a task"));
            }
            let function = fields.small()?;
            let arguments = fields.value()?;
            Frame::Task(Task {
                id,
                urgent: flags & URGENT != 0,
                function,
                arguments,
            })
        }
        CANCEL => Frame::Cancel(fields.small()?),
        TAKE_BACK => Frame::TakeBack(fields.small()?),
        DONE => {
            let id = fields.small()?;
            let outcome = match fields.byte()? {
                0 => Outcome::Returned,
                1 => Outcome::Panicked,
                2 => Outcome::Fault,
                3 => Outcome::TakenBack,
                4 => Outcome::Cancelled,
                _ => return Err(WireError::Malformed("lane frame: outcome of a task")),
            };
            Frame::Done(Done {
                id,
                outcome,
                value: fields.value()?,
            })
        }
        FUNCTIONS => return Ok(Frame::Functions(crate::codec::decode(fields.0)?)),
        _ => return Err(WireError::Malformed("lane frame: kind")),
    };
    fields.finish()?;
    Ok(decoded)
}

/// Finds the next whole frame in `bytes`: the range of its kind and fields, whose end is
/// where the next frame starts. `None` means that more bytes are needed.
pub fn next_frame(bytes: &[u8]) -> Option<Range<usize>> {
    let header = bytes.get(..2)?;
    let length = usize::from(u16::from_le_bytes([header[0], header[1]]));
    (bytes.len() >= 2 + length).then_some(2..2 + length)
}

/// The head of a bulk stream: the number of parts (the body and each attachment) and their
/// lengths as `u64`, little-endian; the parts follow.
pub fn bulk_head(payload: &Payload) -> Vec<u8> {
    let attachments = payload.attachments.iter().map(|a| a.len());
    bulk_head_of(std::iter::once(payload.body.len()).chain(attachments))
}

/// [`bulk_head`] for parts of these lengths, the body's first.
pub fn bulk_head_of(lengths: impl Iterator<Item = usize>) -> Vec<u8> {
    let mut head = vec![0; 8];
    for length in lengths {
        head.extend_from_slice(&(length as u64).to_le_bytes());
    }
    let count = (head.len() / 8 - 1) as u64;
    head[..8].copy_from_slice(&count.to_le_bytes());
    head
}

/// Checks the number of parts that a bulk stream begins with.
///
/// # Errors
/// Fails on none, and on more than [`limits::ATTACHMENTS`] besides the body.
pub fn bulk_parts(claimed: u64) -> Result<usize, WireError> {
    if claimed == 0 || claimed > limits::ATTACHMENTS as u64 + 1 {
        return Err(WireError::Malformed("number of parts of a value"));
    }
    Ok(claimed as usize)
}

/// Checks the parts' lengths against the total that the frame named.
///
/// # Errors
/// Fails when they do not add up to it.
pub fn bulk_lengths(lengths: &[u8], total: u64) -> Result<Vec<usize>, WireError> {
    let lengths: Vec<u64> = lengths
        .chunks_exact(8)
        .map(|b| b.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
        .collect();
    let sum = lengths.iter().try_fold(0u64, |sum, n| sum.checked_add(*n));
    if sum != Some(check_value(total)?) {
        return Err(WireError::Malformed("lengths of a value's parts"));
    }
    lengths
        .into_iter()
        .map(|n| usize::try_from(n).map_err(|_| WireError::Malformed("length of a value's part")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(frame: &[u8]) -> Frame<'_> {
        let range = next_frame(frame).unwrap();
        assert_eq!(range.end, frame.len());
        decode(&frame[range]).unwrap()
    }

    #[test]
    fn the_bytes_of_each_frame() {
        let mut out = Vec::new();
        let task = Task {
            id: 300,
            urgent: true,
            function: 7,
            arguments: Value::Inline(b"ab", vec![b"c"]),
        };
        put_task(&mut out, &task);
        assert_eq!(out, [12, 0, 1, 0xac, 2, 1, 7, 0, 2, b'a', b'b', 1, 1, b'c']);
        assert_eq!(one(&out), Frame::Task(task));

        out.clear();
        put_cancel(&mut out, 5);
        assert_eq!(out, [2, 0, 2, 5]);
        assert_eq!(one(&out), Frame::Cancel(5));

        out.clear();
        let done = Done {
            id: 1,
            outcome: Outcome::TakenBack,
            value: Value::Bulk(300),
        };
        put_done(&mut out, &done);
        assert_eq!(out, [6, 0, 3, 1, 3, 1, 0xac, 2]);
        assert_eq!(one(&out), Frame::Done(done));
    }

    #[test]
    fn many_functions_take_several_frames() {
        let functions: Vec<FunctionName> = (0..3000)
            .map(|i| FunctionName {
                name: format!("{i:0>60}"),
                hash: i,
            })
            .collect();
        let bytes = function_frames(&functions, 2, 9).unwrap();
        let (mut rest, mut seen, mut last) = (&bytes[..], Vec::new(), true);
        while let Some(range) = next_frame(rest) {
            let Frame::Functions(part) = decode(&rest[range.clone()]).unwrap() else {
                panic!()
            };
            seen.extend(part.functions);
            last = part.more;
            rest = &rest[range.end..];
        }
        assert!(rest.is_empty() && !last);
        assert_eq!(seen, functions);
    }

    #[test]
    fn claims_beyond_the_frame_are_refused() {
        for frame in [
            &[1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x7f][..],
            &[
                1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
            &[3, 0, 9, 0, 0, 0],
            &[2, 1, 1],
            &[],
            &[77],
        ] {
            assert!(decode(frame).is_err(), "{frame:?}");
        }
    }
}
