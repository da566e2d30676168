//! Values that travel beside a lane, each in a stream of its own.

use std::sync::Weak;
use std::time::Duration;

use cc_core::limits;
use cc_core::net::framed;
use cc_core::net::pages::{PAGES_MIN, Pages};
use cc_core::wire::WireError;
use cc_core::wire::lane;
use cc_core::wire::stream::{Direction, StreamHeader};

use crate::completion::{Raw, complete};
use crate::error::CallError;
use crate::lane::EVIDENCE_WAIT;
use crate::pool::{Fetch, Pool, Push};
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
    #[error("the worker or its agent did not take the value")]
    Closed,
    #[error("stream: {0}")]
    Stopped(quinn::StoppedError),
    #[error("nothing moved for {} s", limits::TRANSFER_STALL.as_secs())]
    Stalled,
    #[error("nobody waits for it any more")]
    Unwanted,
}

/// Sends a task's arguments; a task that does not get them fails.
pub(crate) async fn push(pool: Weak<Pool>, push: Push) {
    let (id, task) = (push.id, push.task);
    if let Err(error) = try_push(push).await
        && let Some(pool) = pool.upgrade()
    {
        pool.push_failed(id, task, error.to_string());
    }
}

async fn try_push(push: Push) -> Result<(), BulkError> {
    let Push {
        link,
        worker,
        task,
        arguments,
        ..
    } = push;
    let _permit = link.bulk.acquire().await;
    let (mut send, _recv) = link.connection.open_bi().await?;
    let direction = Direction::Argument;
    let header = StreamHeader::Bulk {
        worker,
        task,
        direction,
    };
    framed::write_header(&mut send, &header).await?;
    let mut parts = vec![
        bytes::Bytes::from(head(&arguments)),
        arguments.body.to_bytes(),
    ];
    parts.extend(arguments.attachments);
    let mut parts = &mut parts[..];
    while !parts.is_empty() {
        let written = moving(send.write_chunks(parts)).await??;
        parts = &mut parts[written.chunks..];
    }
    send.finish().map_err(|_| BulkError::Closed)?;
    // Until the agent has taken it all: the permit bounds what is under way.
    match moving(send.stopped()).await? {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(BulkError::Closed),
        Err(error) => Err(BulkError::Stopped(error)),
    }
}

/// Bounds the wait for the other end to take or give some bytes.
async fn moving<T>(step: impl Future<Output = T>) -> Result<T, BulkError> {
    tokio::time::timeout(limits::TRANSFER_STALL, step)
        .await
        .map_err(|_| BulkError::Stalled)
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
        // Nobody is there to be told.
        Err(BulkError::Unwanted) => return,
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
    read(&mut recv, &mut count, fetch).await?;
    let count = lane::bulk_parts(u64::from_le_bytes(count))?;
    let mut lengths = vec![0; count * 8];
    read(&mut recv, &mut lengths, fetch).await?;
    let mut parts = Vec::with_capacity(count);
    for length in lane::bulk_lengths(&lengths, fetch.length)? {
        parts.push(read_part(&mut recv, length, fetch).await?);
    }
    let body = parts.remove(0);
    Ok(Raw {
        body,
        attachments: parts,
    })
}

async fn read_part(
    recv: &mut quinn::RecvStream,
    length: usize,
    fetch: &Fetch,
) -> Result<bytes::Bytes, BulkError> {
    if length >= PAGES_MIN {
        let mut pages = Pages::take(length).map_err(|_| BulkError::Memory(length as u64))?;
        read(recv, pages.as_mut(), fetch).await?;
        return Ok(bytes::Bytes::from_owner(pages));
    }
    let mut part = vec![0; length];
    read(recv, &mut part, fetch).await?;
    Ok(part.into())
}

/// Fills `into`, as long as something comes and somebody waits for it.
async fn read(
    recv: &mut quinn::RecvStream,
    mut into: &mut [u8],
    fetch: &Fetch,
) -> Result<(), BulkError> {
    while !into.is_empty() {
        if fetch.job.completion.is_abandoned() {
            return Err(BulkError::Unwanted);
        }
        let missing = into.len();
        match moving(recv.read(into)).await? {
            Ok(Some(got)) => into = &mut into[got..],
            Ok(None) => return Err(quinn::ReadExactError::FinishedEarly(missing).into()),
            Err(error) => return Err(quinn::ReadExactError::ReadError(error).into()),
        }
    }
    Ok(())
}

/// The whole of a value in the form of a bulk stream, for the content store.
pub(crate) fn stored_form(arguments: &Arguments) -> Vec<bytes::Bytes> {
    let mut parts = vec![
        bytes::Bytes::from(head(arguments)),
        arguments.body.to_bytes(),
    ];
    parts.extend(arguments.attachments.iter().cloned());
    parts
}
