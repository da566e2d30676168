//! The other end of an agent's put, get and exec streams, for drivers, tools and agents that pass
//! content on.
//!
//! All functions take an established session's connection and open a stream of their own on it.
//! Files appear under their final names complete or not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use cc_core::limits;
use cc_core::net::framed::{self, FramedError};
use cc_core::wire::stream::{Exec, Get, Put, StreamHeader, Transfer};
use quinn::{RecvStream, SendStream, VarInt, WriteError};
use tokio::time::timeout;

mod command;
mod fetch;
mod source;

pub use command::{ExecInput, ExecOutput, ExecSession};
pub use source::{Source, hash_file, pack_folder};

use crate::transfer::{pipe, settle_wait};

/// In [`cc_core::wire::stream::Place::mode`] and in the answer to a get: the content is a tar
/// archive, and the path is the folder to unpack it into.
pub const FOLDER: u32 = crate::transfer::folder::BIT;

/// A transfer that failed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The connection to the node's agent is lost.
    #[error("connection: {0}")]
    Connection(#[from] quinn::ConnectionError),
    /// The stream failed in this phase.
    #[error("{0}: {1}")]
    Stream(&'static str, String),
    /// Nothing moved for this long, in this phase.
    #[error("{0}: nothing moved for {wait} s", wait = .1.as_secs())]
    Stalled(&'static str, Duration),
    /// The node, or a node that it passes content on to, says what failed: phase, node and
    /// reason of everything that did.
    #[error("{0}")]
    Node(String),
    /// A file on this side: phase, path and reason.
    #[error("{0} {1}: {2}")]
    Local(&'static str, PathBuf, io::Error),
}

/// What a put cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutReport {
    /// Bytes that were written to the connection, compressed.
    pub sent: u64,
    /// Whether the first node had the content already.
    pub present: bool,
}

impl TransferError {
    /// A stream of a connection that is lost says only that: the connection says why.
    pub(crate) fn because_of(self, connection: &quinn::Connection) -> Self {
        match (self, connection.close_reason()) {
            (Self::Stream(..), Some(reason)) => Self::Connection(reason),
            (error, _) => error,
        }
    }
}

/// Awaits a phase of a transfer, for a limited time.
async fn within<T, E: Into<FramedError>>(
    wait: Duration,
    phase: &'static str,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, TransferError> {
    match timeout(wait, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(TransferError::Stream(phase, error.into().to_string())),
        Err(_) => Err(TransferError::Stalled(phase, wait)),
    }
}

async fn open(
    connection: &quinn::Connection,
    header: &StreamHeader,
) -> Result<(SendStream, RecvStream), TransferError> {
    // Waits when the peer allows no more streams.
    let (mut send, recv) = timeout(limits::TRANSFER_SILENCE, connection.open_bi())
        .await
        .map_err(|_| TransferError::Stalled("opening a stream", limits::TRANSFER_SILENCE))??;
    let write = framed::write_header(&mut send, header);
    within(limits::TRANSFER_STALL, "sending the header", write).await?;
    Ok((send, recv))
}

async fn answer(
    recv: &mut RecvStream,
    wait: Duration,
    phase: &'static str,
) -> Result<Transfer, TransferError> {
    match within(wait, phase, framed::read_value(recv)).await? {
        Some(Transfer::Failed(text)) => Err(TransferError::Node(text)),
        Some(answer) => Ok(answer),
        None => Err(TransferError::Stream(
            phase,
            "the node broke off".to_owned(),
        )),
    }
}

/// A put stream, for whoever has the compressed data already.
#[derive(Debug)]
pub(crate) struct PutStream {
    send: SendStream,
    recv: RecvStream,
    length: u64,
    sent: u64,
}

impl PutStream {
    /// Opens the stream. The answer is `Data` or `Present`.
    pub(crate) async fn open(
        connection: &quinn::Connection,
        put: Put,
    ) -> Result<(Self, Transfer), TransferError> {
        let length = put.length;
        let (send, mut recv) = open(connection, &StreamHeader::Put(put)).await?;
        let first = answer(&mut recv, limits::TRANSFER_SILENCE, "offering the content").await?;
        if !matches!(first, Transfer::Data { .. } | Transfer::Present) {
            let text = "an answer that does not belong here".to_owned();
            return Err(TransferError::Stream("offering the content", text));
        }
        let stream = Self {
            send,
            recv,
            length,
            sent: 0,
        };
        Ok((stream, first))
    }

    /// Writes some data; `false` if the node wants no more: its answer says why.
    pub(crate) async fn write(&mut self, chunks: &mut [Bytes]) -> Result<bool, TransferError> {
        let length: usize = chunks.iter().map(Bytes::len).sum();
        let write = self.send.write_all_chunks(chunks);
        match timeout(limits::TRANSFER_SILENCE, write).await {
            Ok(Ok(())) => {
                self.sent += length as u64;
                Ok(true)
            }
            Ok(Err(WriteError::Stopped(_))) => Ok(false),
            Ok(Err(error)) => Err(TransferError::Stream("sending", error.to_string())),
            Err(_) => Err(TransferError::Stalled("sending", limits::TRANSFER_SILENCE)),
        }
    }

    /// Breaks the data off.
    pub(crate) fn abandon(&mut self) {
        let _ = self.send.reset(VarInt::from_u32(1));
    }

    /// Ends the data and waits for the answer.
    pub(crate) async fn finish(&mut self) -> Result<(), TransferError> {
        let _ = self.send.finish();
        let wait = settle_wait(self.length);
        match answer(
            &mut self.recv,
            wait,
            "waiting for the content to be in place",
        )
        .await?
        {
            Transfer::Done => Ok(()),
            _ => Err(TransferError::Stream(
                "waiting for the content to be in place",
                "an answer that does not belong here".to_owned(),
            )),
        }
    }
}

/// Sends content to a node's store, to a place on it if the header has one, and onward to the
/// stores of the nodes that the header lists.
///
/// `progress` is told how many bytes of the content, uncompressed, have been sent; all of
/// them if the node had it.
///
/// # Errors
/// Fails when any of the nodes did not get it, naming every one that did not; the others have
/// it. Fails when the source does not have the header's length and hash.
pub async fn put(
    connection: &quinn::Connection,
    header: Put,
    source: impl Source,
    progress: impl FnMut(u64),
) -> Result<PutReport, TransferError> {
    put_source(connection, header, source, progress)
        .await
        .map_err(|error| error.because_of(connection))
}

async fn put_source(
    connection: &quinn::Connection,
    header: Put,
    source: impl Source,
    mut progress: impl FnMut(u64),
) -> Result<PutReport, TransferError> {
    let length = header.length;
    let (mut stream, first) = PutStream::open(connection, header).await?;
    let present = first == Transfer::Present;
    if present {
        progress(length);
    } else {
        let (mut parts, counter, task) = pipe::compress(source.into_reader());
        let mut wanted = true;
        while wanted && let Some(part) = parts.recv().await {
            match part {
                pipe::Part::Data(mut chunks) => {
                    wanted = stream.write(&mut chunks).await?;
                    progress(counter.get());
                }
                pipe::Part::End => break,
            }
        }
        drop(parts);
        let read = task.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        if let (true, Err(error)) = (wanted, read) {
            stream.abandon();
            return Err(TransferError::Local(
                "reading",
                PathBuf::from("the content"),
                error,
            ));
        }
    }
    stream.finish().await?;
    Ok(PutReport {
        sent: stream.sent,
        present,
    })
}

/// Fetches a file, or a folder with everything in it, from a node. Returns the bytes of the
/// file, or of the folder's archive.
///
/// A file replaces the one at `destination`, if there is one, when it is complete; a folder is
/// merged into a folder that is there. `progress` is told the bytes so far, and how many it
/// will be where that is known.
///
/// # Errors
/// Fails when the path is not on the node or cannot be read, when the destination cannot be
/// written, or the connection breaks.
pub async fn get(
    connection: &quinn::Connection,
    path: &str,
    destination: &Path,
    progress: impl FnMut(u64, Option<u64>),
) -> Result<u64, TransferError> {
    let header = StreamHeader::Get(Get {
        path: path.to_owned(),
    });
    let fetched = async {
        let (mut send, mut recv) = open(connection, &header).await?;
        let _ = send.finish();
        match answer(&mut recv, limits::TRANSFER_SILENCE, "asking for the file").await? {
            Transfer::Data { length, mode } => {
                fetch::fetch(recv, length, mode, destination, progress).await
            }
            _ => Err(TransferError::Stream(
                "asking for the file",
                "an answer that does not belong here".to_owned(),
            )),
        }
    };
    fetched.await.map_err(|error| error.because_of(connection))
}

/// Starts a command on a node.
///
/// Whether it could be started is its session's first news. Dropping the session ends the command.
///
/// # Errors
/// Fails when the connection does.
pub async fn exec(
    connection: &quinn::Connection,
    exec: Exec,
) -> Result<ExecSession, TransferError> {
    let (send, recv) = open(connection, &StreamHeader::Exec(exec)).await?;
    Ok(ExecSession::new(send, recv))
}
