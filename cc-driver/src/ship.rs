//! Content to every node: the worker binary and broadcast values. It crosses the driver's
//! network once; the agents pass it on. What a node has already is not sent.

use std::sync::Arc;

use cc_agent::client::{self, Source};
use cc_core::ids::ContentHash;
use cc_core::limits;
use cc_core::wire::control::{Answer, Request};
use cc_core::wire::stream::{PeerAddress, Place, Put};

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
    source: impl Source,
    place: Option<Place>,
    progress: impl FnMut(u64),
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
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for (session, has) in sessions.iter().zip(futures::future::join_all(asks).await) {
        match has {
            Ok(true) => with.push(session),
            Ok(false) => without.push(session),
            Err(error) => errors.push(error),
        }
    }
    if let Some((first, mut others)) = without.split_first() {
        if nodes.one_store {
            // What the first has, the others have too.
            with.extend(others);
            others = &[];
        }
        let onward = others
            .iter()
            .map(|s| PeerAddress {
                node: s.node,
                address: s.connection.remote_address(),
            })
            .collect();
        let put = Put {
            hash,
            length,
            place: place.clone(),
            onward,
        };
        if let Err(error) = client::put(&first.connection, put, source, progress).await {
            errors.push(DriverError::node(first.node, "ship content", error));
        }
    }
    if let Some(place) = place {
        let places = with.iter().map(|session| {
            let request = Request::Place(hash, place.clone());
            session.request("place a file", request, limits::REQUEST_WAIT)
        });
        let placed = futures::future::join_all(places).await;
        errors.extend(placed.into_iter().filter_map(Result::err));
    }
    DriverError::all(errors)
}
