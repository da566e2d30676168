//! Values that travel beside a lane, each in a stream of its own.

use std::sync::Weak;
use std::time::Duration;

use cc_core::ids::WorkerKey;
use cc_core::net::framed;
use cc_core::net::pages::{PAGES_MIN, Pages};
use cc_core::wire::WireError;
use cc_core::wire::lane;
use cc_core::wire::stream::{Direction, StreamHeader};

use crate::completion::{Raw, complete};
use crate::error::CallError;
use crate::lane::EVIDENCE_WAIT;
use crate::pool::{Fetch, Link, Pool};
use crate::task::Arguments;

/// Why a value did not arrive.
#[derive(Debug, thiserror::Error)]
enum BulkError {
    #[error("connection: {0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error(transparent)]
    Framed(#[from] framed::FramedError),
    #[error("write: {0}")]
    Write(#[from] quinn::WriteError),
    #[error("read: {0}")]
    Read(#[from] quinn::ReadExactError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no memory for {0} bytes")]
    Memory(u64),
    #[error("stream already finished")]
    Closed,
}

/// Sends a task's arguments. A failure needs no report: the worker's lane fails too, or the
/// task was cancelled.
pub(crate) async fn push(link: Link, worker: WorkerKey, task: u32, arguments: Arguments) {
    if let Err(error) = try_push(&link, worker, task, arguments).await {
        tracing::debug!(%worker, task, %error, "arguments not sent");
    }
}

async fn try_push(
    link: &Link,
    worker: WorkerKey,
    task: u32,
    arguments: Arguments,
) -> Result<(), BulkError> {
    let _permit = link.bulk.acquire().await;
    let (mut send, _recv) = link.connection.open_bi().await?;
    let header = StreamHeader::Bulk {
        worker,
        task,
        direction: Direction::Argument,
    };
    framed::write_header(&mut send, &header).await?;
    let mut parts = vec![bytes::Bytes::from(head(&arguments)), arguments.body];
    parts.extend(arguments.attachments);
    send.write_all_chunks(&mut parts).await?;
    send.finish().map_err(|_| BulkError::Closed)?;
    // Until the agent has taken it all: the permit bounds what is under way.
    let _ = send.stopped().await;
    Ok(())
}

/// The head of a bulk stream, and the form of a stored value, for these arguments.
pub(crate) fn head(arguments: &Arguments) -> Vec<u8> {
    let lengths =
        std::iter::once(arguments.body.len()).chain(arguments.attachments.iter().map(|a| a.len()));
    lane::bulk_head_of(lengths)
}

/// Fetches a task's output and completes the task.
pub(crate) async fn fetch(pool: Weak<Pool>, fetch: Fetch) {
    let result = match try_fetch(&fetch).await {
        Ok(raw) => Ok(raw),
        Err(error @ (BulkError::Memory(_) | BulkError::Wire(_))) => Err(CallError::Framework {
            function: fetch.job.function.name,
            phase: "fetch the result",
            worker: Some(fetch.id),
            reason: error.to_string(),
        }),
        Err(error) => return lose(&pool, fetch, &error).await,
    };
    complete(vec![(fetch.job.completion, result)]);
}

/// Gives a result up whose worker seems to be gone, once it is known how it ended.
async fn lose(pool: &Weak<Pool>, fetch: Fetch, error: &BulkError) {
    let length = fetch.length;
    let reason = format!("while its result of {length} bytes was fetched: {error}");
    let until = tokio::time::Instant::now() + EVIDENCE_WAIT;
    while let Some(pool) = pool.upgrade() {
        if !pool.is_alive(fetch.id) || tokio::time::Instant::now() >= until {
            return pool.fetch_lost(fetch, &reason);
        }
        drop(pool);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn try_fetch(fetch: &Fetch) -> Result<Raw, BulkError> {
    let _permit = fetch.link.bulk.acquire().await;
    let (mut send, mut recv) = fetch.link.connection.open_bi().await?;
    let header = StreamHeader::Bulk {
        worker: fetch.worker,
        task: fetch.task,
        direction: Direction::Result,
    };
    framed::write_header(&mut send, &header).await?;
    send.finish().map_err(|_| BulkError::Closed)?;
    let mut count = [0; 8];
    recv.read_exact(&mut count).await?;
    let count = lane::bulk_parts(u64::from_le_bytes(count))?;
    let mut lengths = vec![0; count * 8];
    recv.read_exact(&mut lengths).await?;
    let mut parts = Vec::with_capacity(count);
    for length in lane::bulk_lengths(&lengths, fetch.length)? {
        parts.push(read_part(&mut recv, length).await?);
    }
    let body = parts.remove(0);
    Ok(Raw {
        body,
        attachments: parts,
    })
}

async fn read_part(recv: &mut quinn::RecvStream, length: usize) -> Result<bytes::Bytes, BulkError> {
    if length >= PAGES_MIN {
        let mut pages = Pages::take(length).map_err(|_| BulkError::Memory(length as u64))?;
        recv.read_exact(pages.as_mut()).await?;
        return Ok(bytes::Bytes::from_owner(pages));
    }
    let mut part = vec![0; length];
    recv.read_exact(&mut part).await?;
    Ok(part.into())
}

/// The whole of a value in the form of a bulk stream, for the content store.
pub(crate) fn stored_form(arguments: &Arguments) -> Vec<bytes::Bytes> {
    let mut parts = vec![bytes::Bytes::from(head(arguments)), arguments.body.clone()];
    parts.extend(arguments.attachments.iter().cloned());
    parts
}
