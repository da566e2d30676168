//! Values beside the lane: large arguments and results in streams of their own, and stored
//! values mapped from the node's content store. None of them is copied.
//!
//! Lengths are checked before anything is reserved, and a reservation that fails is an
//! error of that one task.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;

use bytes::{Buf as _, BufMut as _, Bytes};
use cc_core::ids::ContentHash;
use cc_core::net::pages::{PAGES_MIN, Pages};
use cc_core::payload::Payload;
use cc_core::wire::lane;
use memmap2::MmapOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// What the kernel may hold of a result that the driver has not taken yet.
const SEND_BUFFER: usize = 1024 * 1024;

/// An argument's body and attachments.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    pub(super) body: Bytes,
    pub(super) attachments: Vec<Bytes>,
}

/// Reads an argument of `total` bytes.
///
/// # Errors
/// Says why there is none.
pub(super) async fn receive(stream: StdStream, total: u64) -> Result<Parts, String> {
    let mut stream = register(stream).map_err(broken)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).await.map_err(broken)?;
    let parts = lane::bulk_parts(u64::from_le_bytes(count)).map_err(malformed)?;
    let mut lengths = vec![0; 8 * parts];
    stream.read_exact(&mut lengths).await.map_err(broken)?;
    let lengths = lane::bulk_lengths(&lengths, total).map_err(malformed)?;
    let mut read = Vec::with_capacity(lengths.len());
    for length in lengths {
        read.push(receive_part(&mut stream, length).await?);
    }
    let body = read.remove(0);
    Ok(Parts {
        body,
        attachments: read,
    })
}

async fn receive_part(stream: &mut UnixStream, length: usize) -> Result<Bytes, String> {
    if length >= PAGES_MIN {
        let mut pages = Pages::take(length).map_err(|error| no_memory(length, error))?;
        stream.read_exact(pages.as_mut()).await.map_err(broken)?;
        return Ok(Bytes::from_owner(pages));
    }
    let mut part = Vec::new();
    part.try_reserve_exact(length)
        .map_err(|error| no_memory(length, error))?;
    while part.len() < length {
        let missing = length - part.len();
        let read = stream.read_buf(&mut (&mut part).limit(missing)).await;
        if read.map_err(broken)? == 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
    }
    Ok(part.into())
}

/// Writes a result and ends the stream.
///
/// # Errors
/// Fails when the driver does not want it any more.
pub(super) async fn send(stream: StdStream, payload: Payload) -> io::Result<()> {
    let mut stream = register(stream)?;
    stream.write_all(&lane::bulk_head(&payload)).await?;
    stream.write_all(&payload.body).await?;
    for attachment in &payload.attachments {
        stream.write_all(attachment).await?;
    }
    stream.shutdown().await
}

fn register(stream: StdStream) -> io::Result<UnixStream> {
    // As much as the system allows; less is slower and no error.
    let _ = socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Maps a value of `total` bytes from the content store.
///
/// # Errors
/// Says why there is none.
pub(super) fn stored(store: &Path, hash: ContentHash, total: u64) -> Result<Parts, String> {
    let missing = |error: io::Error| {
        format!("the stored value {hash} of the arguments is not to be had: {error}")
    };
    let file = File::open(store.join(hash.to_hex())).map_err(missing)?;
    // SAFETY: content is put into the store whole, under its hash, and never written again.
    let mapping = unsafe { MmapOptions::new().map_copy_read_only(&file) }.map_err(missing)?;
    let mut rest = Bytes::from_owner(mapping);
    let short = || format!("the stored value {hash} of the arguments is cut short");
    let wrong = |error| format!("the stored value {hash} of the arguments: {error}");

    let count = rest.try_get_u64_le().map_err(|_| short())?;
    let parts = lane::bulk_parts(count).map_err(wrong)?;
    if rest.len() < 8 * parts {
        return Err(short());
    }
    let lengths = lane::bulk_lengths(&rest.split_to(8 * parts), total).map_err(wrong)?;
    // They add up to `total`, which is no larger than a value may be.
    if rest.len() as u64 != total {
        return Err(short());
    }
    let mut parts = lengths.into_iter().map(|length| rest.split_to(length));
    Ok(Parts {
        body: parts.next().unwrap_or_default(),
        attachments: parts.collect(),
    })
}

fn broken(error: io::Error) -> String {
    format!("the stream of the arguments broke off: {error}")
}

fn malformed(error: cc_core::wire::WireError) -> String {
    format!("the stream of the arguments: {error}")
}

fn no_memory(length: usize, error: impl std::fmt::Display) -> String {
    format!("no memory for an argument of {length} bytes: {error}")
}
