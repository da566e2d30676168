//! Content to every node: the worker binary and broadcast values. It crosses the driver's
//! network once; the agents pass it on. What a node has already is not sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cc_agent::client::{self, Source, TransferError};
use cc_core::ids::ContentHash;
use cc_core::limits;
use cc_core::wire::control::{Answer, Request};
use cc_core::wire::stream::{PeerAddress, Place, Put};
use futures::future::join_all;

use crate::binary::Binary;
use crate::bulk;
use crate::cluster::ClusterCore;
use crate::error::DriverError;
use crate::session::Session;
use crate::task::Arguments;

/// The nodes that something is brought to.
pub(crate) struct Receivers {
    pub(crate) sessions: Vec<Arc<Session>>,
    /// Whether what one has in its store, all have.
    pub(crate) one_store: bool,
}

/// Brings the worker binary to the stores of these nodes.
pub(crate) async fn binary(nodes: &Receivers, binary: &Binary) -> Result<ContentHash, DriverError> {
    let (hash, length) = binary.content().await?;
    everywhere(nodes, hash, length, binary.file(), None, |_| {}).await?;
    Ok(hash)
}

/// Brings a value to every node's store, in the form of a bulk stream.
pub(crate) async fn value(
    cluster: &Arc<ClusterCore>,
    arguments: &Arguments,
) -> Result<ContentHash, DriverError> {
    let parts = bulk::stored_form(arguments);
    let hashing = parts.clone();
    let hash = move || ContentHash::of_parts(hashing.iter().map(|part| &part[..]));
    let hash = tokio::task::spawn_blocking(hash)
        .await
        .map_err(|e| DriverError::local("hash a value", e))?;
    let length = parts.iter().map(|p| p.len() as u64).sum();
    everywhere(&cluster.receivers(), hash, length, parts, None, |_| {}).await?;
    Ok(hash)
}

/// Brings content to every node, and to a place on each if one is given.
pub(crate) async fn everywhere(
    nodes: &Receivers,
    hash: ContentHash,
    length: u64,
    source: impl Source + Clone,
    place: Option<Place>,
    mut progress: impl FnMut(u64),
) -> Result<(), DriverError> {
    let sessions = &nodes.sessions;
    let asks = sessions.iter().map(|session| async move {
        let request = Request::Have(vec![hash]);
        let answer = session
            .request("look for content", request, limits::REQUEST_WAIT)
            .await?;
        Ok::<_, DriverError>(matches!(answer, Answer::Present(present) if present == [true]))
    });
    let mut errors = Vec::new();
    let (mut holders, mut without) = (Vec::new(), VecDeque::new());
    for (session, has) in sessions.iter().zip(join_all(asks).await) {
        match has {
            Ok(true) => holders.push(session),
            Ok(false) => without.push_back(session),
            Err(error) => errors.push(error),
        }
    }
    // The first node passes it on to the others. One that cannot even be talked to is no reason
    // to leave the others without.
    while let Some(root) = without.pop_front() {
        let others = without.iter().filter(|_| !nodes.one_store);
        let onward = others.map(|s| PeerAddress {
            node: s.node,
            address: s.connection.remote_address(),
        });
        let put = Put {
            hash,
            length,
            place: None,
            onward: onward.collect(),
        };
        let sent = client::put(&root.connection, put, source.clone(), &mut progress).await;
        match sent {
            Ok(_) => {
                holders.push(root);
                holders.extend(without.drain(..));
            }
            // The tree has done what it could, and names who has not got it.
            Err(error @ TransferError::Node(_)) => {
                errors.push(DriverError::node(root.node, "ship content", error));
                if !nodes.one_store {
                    holders.extend(without.drain(..));
                }
            }
            Err(error) => errors.push(DriverError::node(root.node, "ship content", error)),
        }
    }
    if let Some(place) = place {
        let wait = limits::REQUEST_WAIT + Duration::from_secs(length / limits::TRANSFER_PACE);
        let places = holders.iter().map(|session| {
            let request = Request::Place(hash, place.clone());
            session.request("place a file", request, wait)
        });
        let placed = join_all(places).await;
        errors.extend(placed.into_iter().filter_map(Result::err));
    }
    DriverError::all(errors)
}
