//! The agent's end of transfers: content into the store and onward to other agents, and files
//! out of the node.
//!
//! Streams are handled on the runtime; compression, hashing and files on blocking threads,
//! with a bounded pipe between, so that no lane waits for a disk. Content has its name in the
//! store only after its length and hash have been checked. A failure here never keeps the content
//! from the nodes below: every node of the tree is tried, and every failure reported.

use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cc_core::ids::{ContentHash, Handle, NodeIndex};
use cc_core::limits;
use cc_core::net::framed;
use cc_core::net::identity::Credentials;
use cc_core::tree::branches;
use cc_core::wire::stream::{PeerAddress, Put, Transfer};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::store::Store;
use crate::transfer::onward::{Below, Fan};
use crate::transfer::pipe::{Part, PartReader};

pub(crate) mod folder;
mod get;
mod onward;
pub(crate) mod pipe;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use get::serve_get;

/// How many agents one passes content on to itself.
const FAN_OUT: usize = 2;

/// What transfers need to know of the node that they are on.
#[derive(Debug, Clone)]
pub(crate) struct TransferNode {
    /// The node.
    pub(crate) node: NodeIndex,
    /// The cluster.
    pub(crate) handle: Handle,
    /// Where content is kept.
    pub(crate) store: Arc<Store>,
    /// What relative paths are relative to.
    pub(crate) base: PathBuf,
    /// What this agent shows to other agents.
    pub(crate) credentials: Credentials,
    /// Bounds the transfers under way, of all sessions.
    pub(crate) turns: Arc<Semaphore>,
}

/// A transfer's turn. Others wait for it while it is held.
pub(crate) struct Turn<'a> {
    _session: SemaphorePermit<'a>,
    _agent: SemaphorePermit<'a>,
}

impl TransferNode {
    /// Waits until few enough transfers are under way, in the session and in all.
    pub(crate) async fn turn<'a>(&'a self, session: &'a Semaphore) -> Result<Turn<'a>, String> {
        let turn = async {
            // First the session's: who waits for that takes nothing from others.
            let session = session.acquire().await?;
            let agent = self.turns.acquire().await?;
            Ok::<_, AcquireError>(Turn {
                _session: session,
                _agent: agent,
            })
        };
        match timeout(limits::TRANSFER_TURN, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(e)) => Err(format!("{}: {e}", self.node)),
            Err(_) => Err(format!(
                "{}: waiting for other transfers: none of them has ended within {} s; try again \
                 when they have",
                self.node,
                limits::TRANSFER_TURN.as_secs()
            )),
        }
    }
}

/// How long to wait for the answer after the last of the data.
pub(crate) fn settle_wait(length: u64) -> Duration {
    limits::TRANSFER_SILENCE + Duration::from_secs(length / limits::TRANSFER_PACE)
}

/// Serves a put stream to its end.
pub(crate) async fn serve_put(
    node: &TransferNode,
    put: Put,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let errors = match run_put(node, &put, &mut send, &mut recv).await {
        Ok(errors) => errors,
        // Nobody is left to tell.
        Err(error) => {
            tracing::debug!(%error, hash = %put.hash, "a put ended early");
            return;
        }
    };
    // More than was asked for is not read.
    let _ = recv.stop(VarInt::from_u32(0));
    let answer = if errors.is_empty() {
        Transfer::Done
    } else {
        Transfer::Failed(report(&errors))
    };
    if let Transfer::Failed(text) = &answer {
        tracing::warn!(hash = %put.hash, "a put failed: {text}");
    }
    answer_with(&mut send, &answer).await;
    let _ = send.finish();
}

/// Answers a put or get with the reason why nothing comes of it.
pub(crate) async fn refuse(reason: String, mut send: SendStream, mut recv: RecvStream) {
    tracing::warn!("a transfer is refused: {reason}");
    let _ = recv.stop(VarInt::from_u32(0));
    answer_with(&mut send, &Transfer::Failed(reason)).await;
    let _ = send.finish();
}

/// Writes an answer, for as long as the other end may reasonably take to read it.
async fn answer_with(send: &mut SendStream, answer: &Transfer) {
    let write = framed::write_value(send, answer);
    if let Ok(Err(error)) = timeout(limits::TRANSFER_STALL, write).await {
        tracing::debug!(%error, "nobody takes a transfer's answer");
    }
}

fn report(errors: &[String]) -> String {
    let mut text = errors.join("; ");
    if text.len() > limits::TRANSFER_REPORT {
        text.truncate(text.floor_char_boundary(limits::TRANSFER_REPORT));
    }
    text
}

/// Everything but the last answer. An error is one of the stream; what goes wrong here and below
/// is in the list.
async fn run_put(
    node: &TransferNode,
    put: &Put,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<Vec<String>, framed::FramedError> {
    let mut errors = Vec::new();
    let mut unreached = put.onward.clone();
    let mut here = node.store.holds(put.hash, put.length);
    if here {
        framed::write_value(send, &Transfer::Present).await?;
    } else {
        let answer = Transfer::Data {
            length: Some(put.length),
            mode: 0,
        };
        framed::write_value(send, &answer).await?;

        let mut below = Below::start(node, put, &branches(&put.onward, FAN_OUT));
        let (sink, received) = receive(node, put);
        let mut fan = below.fan();
        fan.add(sink, limits::TRANSFER_STALL);
        pump(recv, fan).await;
        match received.await {
            Ok(()) => here = true,
            Err(error) => errors.push(error),
        }
        unreached = below.finish(&mut errors).await;
    }
    if here && let Some(place) = &put.place {
        let placed = node.store.place(put.hash, place, &node.base).await;
        errors.extend(placed.err().map(|e| format!("{}: {e}", node.node)));
    }
    // Below a node that failed, and below one that had the content already, others still wait.
    while here && !unreached.is_empty() {
        unreached = from_store(node, put, &unreached, &mut errors).await;
    }
    for peer in unreached {
        errors.push(format!(
            "{}: not reached, because {} could not pass the content on",
            peer.node, node.node
        ));
    }
    Ok(errors)
}

/// Passes what arrives to everyone who wants it, until nobody does.
async fn pump(recv: &mut RecvStream, mut fan: Fan) {
    let mut batch: [Bytes; pipe::BATCH] = Default::default();
    while !fan.is_empty() {
        match timeout(limits::TRANSFER_SILENCE, recv.read_chunks(&mut batch)).await {
            Ok(Ok(Some(count))) => {
                let chunks = batch[..count].iter_mut().map(std::mem::take).collect();
                fan.send(Part::Data(chunks)).await;
            }
            Ok(Ok(None)) => {
                fan.send(Part::End).await;
                return;
            }
            // Dropping the fan without an end tells everyone.
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Sends content of the store to nodes that do not have it. Returns those below nodes that failed.
async fn from_store(
    node: &TransferNode,
    put: &Put,
    onward: &[PeerAddress],
    errors: &mut Vec<String>,
) -> Vec<PeerAddress> {
    let mut below = Below::start(node, put, &branches(onward, FAN_OUT));
    if below.wanted().await {
        match std::fs::File::open(node.store.path(put.hash)) {
            Ok(file) => {
                let (mut parts, _, _) = pipe::compress(Box::new(file));
                let mut fan = below.fan();
                while !fan.is_empty()
                    && let Some(part) = parts.recv().await
                {
                    fan.send(part).await;
                }
            }
            Err(error) => errors.push(format!("{}: reading the store: {error}", node.node)),
        }
    }
    below.finish(errors).await
}

/// Starts to receive into the store. The future says how it went.
fn receive(
    node: &TransferNode,
    put: &Put,
) -> (
    mpsc::Sender<Part>,
    impl Future<Output = Result<(), String>> + use<>,
) {
    let (sender, parts) = mpsc::channel(pipe::DEPTH);
    let (store, hash, length) = (Arc::clone(&node.store), put.hash, put.length);
    let task = tokio::task::spawn_blocking(move || {
        store_content(&store, hash, length, PartReader::new(parts))
    });
    let name = node.node;
    let received = async move {
        let result = task.await.unwrap_or_else(|e| Err(e.to_string()));
        result.map_err(|e| format!("{name}: {e}"))
    };
    (sender, received)
}

fn store_content(
    store: &Store,
    hash: ContentHash,
    length: u64,
    mut parts: PartReader,
) -> Result<(), String> {
    let writing = |e: io::Error| format!("writing to {}: {e}", store.directory().display());
    let receiving = |e: io::Error| format!("receiving: {e}");
    let mut file = store.unfinished().map_err(writing)?;
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; limits::CHUNK];
    let mut total = 0;
    {
        let mut decoder = pipe::decompress(&mut parts).map_err(receiving)?;
        loop {
            let read = decoder.read(&mut chunk).map_err(receiving)?;
            if read == 0 {
                break;
            }
            total += read as u64;
            if total > length {
                return Err(format!(
                    "receiving: more than the {length} bytes that were announced"
                ));
            }
            hasher.update(&chunk[..read]);
            file.as_file_mut()
                .write_all(&chunk[..read])
                .map_err(writing)?;
        }
    }
    if parts.read(&mut [0]).map_err(receiving)? != 0 {
        return Err("receiving: more data after the content's end".to_owned());
    }
    if total < length {
        return Err(format!(
            "receiving: {total} bytes instead of the {length} that were announced"
        ));
    }
    let found = ContentHash(*hasher.finalize().as_bytes());
    if found != hash {
        return Err(format!(
            "checking: the content's hash is {found} and not {hash}: it changed while it was sent"
        ));
    }
    store.commit(file, hash).map_err(writing)
}
