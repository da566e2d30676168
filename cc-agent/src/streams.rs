//! The streams of a session besides its control stream: lanes and bulk values, which are
//! passed to workers unread, and files and commands, which others serve.
//!
//! Every stream must say what it is in time. All of them end with their session.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use cc_core::ids::WorkerKey;
use cc_core::limits;
use cc_core::net::endpoint::LANE_PRIORITY;
use cc_core::net::framed::{self, FramedError};
use cc_core::wire::control::SessionKind;
use cc_core::wire::local::ToWorker;
use cc_core::wire::stream::StreamHeader;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::agent::report_panic;
use crate::session::{Close, Session};
use crate::{exec, splice, transfer};

/// Refuses a stream that the session's kind does not allow.
const FORBIDDEN: VarInt = VarInt::from_u32(2);
/// Refuses a stream that did not say what it is for in time.
const LATE: VarInt = VarInt::from_u32(3);

/// Serves the connection's streams until it ends, or until a peer's bytes are a reason to
/// end it.
pub(crate) async fn serve(
    session: &Rc<Session>,
    connection: &Connection,
    streams: &mut JoinSet<Result<(), Close>>,
) -> Result<(), Close> {
    loop {
        tokio::select! {
            accepted = connection.accept_bi() => {
                let (send, recv) = accepted.map_err(Close::lost)?;
                streams.spawn_local(serve_one(Rc::clone(session), send, recv));
            }
            Some(ended) = streams.join_next() => {
                report_panic("stream", &ended);
                if let Ok(Err(close)) = ended {
                    return Err(close);
                }
            }
        }
    }
}

async fn serve_one(
    session: Rc<Session>,
    send: SendStream,
    mut recv: RecvStream,
) -> Result<(), Close> {
    let header = timeout(limits::STREAM_HEADER_WAIT, framed::read_header(&mut recv)).await;
    let header = match header {
        Ok(Ok(header)) => header,
        Ok(Err(FramedError::Wire(e))) => return Err(Close::malformed(e)),
        // The client gave it up.
        Ok(Err(FramedError::Io(_))) => {
            reject(send, recv, splice::GONE);
            return Ok(());
        }
        Err(_) => {
            reject(send, recv, LATE);
            return Ok(());
        }
    };
    let allowed = match header {
        StreamHeader::Control => return Err(Close::malformed("a second control stream")),
        StreamHeader::Lane { .. } | StreamHeader::Bulk { .. } => session.kind == SessionKind::Owner,
        StreamHeader::Put(_) => true,
        StreamHeader::Get(_) | StreamHeader::Exec(_) => session.kind != SessionKind::Peer,
    };
    if !allowed {
        reject(send, recv, FORBIDDEN);
        return Ok(());
    }
    let agent = &session.agent;
    match header {
        StreamHeader::Control => {}
        StreamHeader::Lane { worker, id } => {
            // Small frames go before the large values of the same connection.
            let _ = send.set_priority(LANE_PRIORITY);
            let message = ToWorker::Lane {
                session: session.id,
                id,
                store: agent.store.directory().to_string_lossy().into_owned(),
            };
            to_worker(&session, worker, message, send, recv).await;
        }
        StreamHeader::Bulk {
            worker,
            task,
            direction,
        } => {
            // Never closed; bounds what one connection has under way.
            let _permit = session.bulk.acquire().await;
            let message = ToWorker::Bulk {
                session: session.id,
                task,
                direction,
            };
            to_worker(&session, worker, message, send, recv).await;
        }
        // An agent that is no longer its cluster's must not be every other node's.
        StreamHeader::Put(put) if session.kind == SessionKind::Peer && put.place.is_some() => {
            let node = agent.settings.node;
            let reason = format!("{node}: a session of kind Peer may not make files");
            transfer::refuse(reason, send, recv).await;
        }
        StreamHeader::Put(put) => match agent.transfer.turn(&session.transfers).await {
            Ok(_turn) => transfer::serve_put(&agent.transfer, put, send, recv).await,
            Err(reason) => transfer::refuse(reason, send, recv).await,
        },
        StreamHeader::Get(get) => match agent.transfer.turn(&session.transfers).await {
            Ok(_turn) => transfer::serve_get(&agent.transfer, get, send, recv).await,
            Err(reason) => transfer::refuse(reason, send, recv).await,
        },
        StreamHeader::Exec(exec) => exec::serve_exec(&agent.work, exec, send, recv).await,
    }
    Ok(())
}

/// Passes a socket to the worker and copies between it and the stream until they end.
async fn to_worker(
    session: &Session,
    worker: WorkerKey,
    message: ToWorker,
    send: SendStream,
    recv: RecvStream,
) {
    let attach = |theirs: OwnedFd| session.agent.supervisor.attach(worker, message, theirs);
    let passed = splice::pair()
        .map_err(|e| format!("make a socket pair: {e}"))
        .and_then(|(ours, theirs)| attach(theirs).map(|()| ours));
    match passed {
        Ok(socket) => {
            if let Err(e) = splice::run(send, recv, socket).await {
                tracing::debug!(session = session.id, %worker, "stream ended: {e}");
            }
        }
        Err(reason) => {
            tracing::info!(session = session.id, %worker, "no stream to it: {reason}");
            reject(send, recv, splice::GONE);
        }
    }
}

fn reject(mut send: SendStream, mut recv: RecvStream, code: VarInt) {
    // Errors are of streams that are closed already.
    let _ = send.reset(code);
    let _ = recv.stop(code);
}
