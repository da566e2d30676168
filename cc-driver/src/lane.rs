//! The network side of a lane: opens it, writes what the pool has for the worker, and gives
//! the pool what the worker sends.

use std::sync::Arc;
use std::time::Duration;

use cc_core::death::{Cause, Death};
use cc_core::ids::{WorkerId, WorkerKey};
use cc_core::limits;
use cc_core::net::endpoint::LANE_PRIORITY;
use cc_core::net::framed;
use cc_core::wire::lane::{self, Frame, Functions};
use cc_core::wire::stream::StreamHeader;
use tokio::sync::Notify;

use crate::error::DriverError;
use crate::pool::{Link, Pool, WorkerInfo};
use crate::session::Session;

/// How long the end of a lane waits for the agent's word on why, before it counts as the
/// worker's loss by itself.
pub(crate) const EVIDENCE_WAIT: Duration = Duration::from_secs(3);

/// Opens a lane to a worker that runs, learns its functions, and adds it to the pool. Gives
/// what tells the worker's build from others.
pub(crate) async fn open(
    session: &Arc<Session>,
    pool: &Arc<Pool>,
    key: WorkerKey,
    id: WorkerId,
) -> Result<u64, DriverError> {
    let fail = |e: &dyn std::fmt::Display| {
        DriverError::node(
            session.node,
            "open a lane",
            format!("worker {id} in slot {}: {e}", key.slot),
        )
    };
    let opening = async {
        let (mut send, mut recv) = session.connection.open_bi().await.map_err(|e| fail(&e))?;
        // Small frames go before the large values of the same connection.
        let _ = send.set_priority(LANE_PRIORITY);
        framed::write_header(&mut send, &StreamHeader::Lane { worker: key, id })
            .await
            .map_err(|e| fail(&e))?;
        let (functions, rest) = read_functions(&mut recv).await.map_err(|e| fail(&e))?;
        Ok::<_, DriverError>((send, recv, functions, rest))
    };
    let (send, recv, functions, rest) = tokio::time::timeout(limits::REQUEST_WAIT, opening)
        .await
        .map_err(|_| fail(&"it did not tell its functions in time"))??;
    let writer = Arc::new(Notify::new());
    let link = Link {
        writer: Arc::clone(&writer),
        connection: session.connection.clone(),
        bulk: Arc::clone(&session.bulk),
    };
    let (slots, build) = functions.first().map_or((1, 0), |f| (f.slots, f.build));
    let info = WorkerInfo {
        id,
        node: session.node,
        key,
        slots,
    };
    pool.add(info, &functions, link);
    tokio::spawn(write(Arc::clone(pool), id, send, writer));
    tokio::spawn(read(Arc::clone(pool), id, recv, rest));
    Ok(build)
}

async fn read_functions(
    recv: &mut quinn::RecvStream,
) -> Result<(Vec<Functions>, bytes::BytesMut), String> {
    let mut buffer = bytes::BytesMut::new();
    let mut parts = Vec::new();
    loop {
        while let Some(range) = lane::next_frame(&buffer) {
            let end = range.end;
            let Frame::Functions(part) = lane::decode(&buffer[range]).map_err(|e| e.to_string())?
            else {
                return Err("it began with something other than its functions".into());
            };
            bytes::Buf::advance(&mut buffer, end);
            let more = part.more;
            parts.push(part);
            if !more {
                return Ok((parts, buffer));
            }
            // A list of this many frames holds more functions than any program.
            if parts.len() > 1_000 {
                return Err("its list of functions does not end".into());
            }
        }
        match recv.read_chunk(limits::CHUNK, true).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
            Ok(None) => return Err("it ended at once".into()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn write(pool: Arc<Pool>, id: WorkerId, mut send: quinn::SendStream, ready: Arc<Notify>) {
    let mut buffer = Vec::new();
    loop {
        ready.notified().await;
        let alive = pool.take_output(id, &mut buffer);
        if !buffer.is_empty()
            && let Err(error) = send.write_all(&buffer).await
        {
            tracing::debug!(worker = %id, %error, "lane");
            return;
        }
        if !alive {
            return;
        }
    }
}

async fn read(
    pool: Arc<Pool>,
    id: WorkerId,
    mut recv: quinn::RecvStream,
    mut rest: bytes::BytesMut,
) {
    let reason = loop {
        let chunk = match recv.read_chunk(limits::CHUNK, true).await {
            Ok(Some(chunk)) => chunk.bytes,
            Ok(None) => break "its lane ended".to_owned(),
            Err(error) => break format!("its lane failed: {error}"),
        };
        // Whole frames are handled where they lie; only one cut in two is copied.
        let whole = if rest.is_empty() {
            chunk
        } else {
            rest.extend_from_slice(&chunk);
            rest.split().freeze()
        };
        match pool.received(id, &whole) {
            Ok(used) => rest.extend_from_slice(&whole[used..]),
            Err(error) => break format!("it sent what no worker sends: {error}"),
        }
    };
    if pool.lane_over(id) {
        return;
    }
    // The agent knows more than that the lane ended; give its word time to arrive.
    tokio::time::sleep(EVIDENCE_WAIT).await;
    pool.lost(id, Death::of(Cause::NodeLost(reason)));
}
