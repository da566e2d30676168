//! The header of a QUIC stream: `u16` length (little-endian), then the encoded
//! [`StreamHeader`]. The initiator of every stream is the connection's client (a driver, a
//! tool, or an agent that passes something on).

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::ids::{ContentHash, WorkerId, WorkerKey};
use crate::wire::WireError;

/// What a stream is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamHeader {
    /// The session's control stream: always the first, once a connection.
    Control,
    /// A driver's lane to a worker; its bytes are the worker's from here on.
    Lane {
        /// The worker.
        worker: WorkerKey,
        /// The driver's number for it.
        id: WorkerId,
    },
    /// One value of a task, to or from a worker; its bytes are the worker's from here on.
    Bulk {
        /// The worker.
        worker: WorkerKey,
        /// The task's id in the lane.
        task: u32,
        /// Which way the value goes.
        direction: Direction,
    },
    /// Content for the agent's store or a file on the node, zstd-compressed.
    Put(Put),
    /// A file, or a folder as an archive, from the node, zstd-compressed.
    Get(Get),
    /// A command to run on the node.
    Exec(Exec),
}

/// Which way a value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// An argument: from the driver to the worker.
    Argument,
    /// A result: from the worker to the driver.
    Result,
}

/// Content on its way into a node, and on to further nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// What the content must hash to (uncompressed).
    pub hash: ContentHash,
    /// Its uncompressed length in bytes.
    pub length: u64,
    /// Where it goes besides the store: on this node only. For a driver or tool; one agent may
    /// not make files on another's node.
    pub place: Option<Place>,
    /// The agents that this one passes the content on to, in a tree, for their stores only.
    pub onward: Vec<PeerAddress>,
}

/// A file to make from content in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The path on the node; a relative one is inside the node's working directory.
    pub path: String,
    /// Permission bits, such as `0o644`.
    pub mode: u32,
}

/// How an agent reaches another agent of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddress {
    /// The other's node.
    pub node: crate::ids::NodeIndex,
    /// Where it listens.
    pub address: std::net::SocketAddr,
}

/// A file to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// The path on the node; a relative one is inside the node's working directory.
    pub path: String,
}

/// A command to run on a node, as `std::process::Command` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Additional environment variables.
    pub env: Vec<(String, String)>,
    /// The working directory; the node's own if none is given.
    pub directory: Option<String>,
    /// A terminal of this many columns and rows for the command, if it is to have one.
    pub terminal: Option<(u16, u16)>,
}

/// The answer to a [`StreamHeader::Put`] or [`StreamHeader::Get`], sent as a frame (`u32`
/// length, encoded body) before and after the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transfer {
    /// To a put: send the data. To a get: the data follows.
    Data {
        /// The uncompressed length in bytes, where it is known.
        length: Option<u64>,
        /// Permission bits of the file.
        mode: u32,
    },
    /// To a put: the content is there already, send nothing (it still goes onward).
    Present,
    /// Everything is in its place, here and onward.
    Done,
    /// It failed; the text says in which phase, on which node and why.
    Failed(String),
}

/// Frames of an exec stream, both ways (`u32` length, encoded body).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecFrame {
    /// Bytes for the command's standard input; empty means its end.
    Input(#[serde(with = "serde_bytes_vec")] Vec<u8>),
    /// The terminal's new size in columns and rows.
    Resize(u16, u16),
    /// A signal for the command's process group.
    Signal(i32),
    /// Bytes from standard output (or the terminal).
    Output(#[serde(with = "serde_bytes_vec")] Vec<u8>),
    /// Bytes from standard error.
    Error(#[serde(with = "serde_bytes_vec")] Vec<u8>),
    /// The command ended: the last frame.
    Ended(crate::death::Cause),
    /// The command could not be started, and why: the last frame.
    Failed(String),
}

/// Encodes byte vectors as byte strings and not item by item.
mod serde_bytes_vec {
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        d.deserialize_byte_buf(Visitor)
    }
}

/// Largest stream header.
pub const HEADER_LIMIT: usize = u16::MAX as usize;

/// A header with its length in front, ready to be written.
///
/// # Errors
/// Fails when the header is larger than [`HEADER_LIMIT`] (a tree of more than about 2,000
/// nodes in one put, or a huge environment).
pub fn encode_header(header: &StreamHeader) -> Result<Vec<u8>, WireError> {
    let mut out = vec![0, 0];
    codec::encode_into(header, &mut out)?;
    let length = out.len() - 2;
    let short = u16::try_from(length).map_err(|_| WireError::TooLong {
        what: "stream header",
        claimed: length as u64,
        limit: HEADER_LIMIT as u64,
    })?;
    out[..2].copy_from_slice(&short.to_le_bytes());
    Ok(out)
}

/// Reads a header's body (without its length).
///
/// # Errors
/// Fails on anything that [`encode_header`] cannot have made.
pub fn decode_header(body: &[u8]) -> Result<StreamHeader, WireError> {
    Ok(codec::decode(body)?)
}
