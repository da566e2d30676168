//! The worker's side of its control socket. The end of the socket is the end of the process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use cc_core::wire::local::{FromWorker, ToWorker};
use cc_core::{codec, function, limits};

use super::pool::Pool;
use crate::supervise::ControlSocket;

/// Stack of a thread that runs the user's functions: what a main thread has by default.
const STACK: usize = 8 * 1024 * 1024;

/// What the process's own exit handlers may take: less than an agent waits before it kills.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// Serves the control socket, then ends the process. Gives the pool to the main thread, which
/// is its first thread.
pub(super) fn serve(control: OwnedFd, ready: &SyncSender<Arc<Pool>>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let served = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let control = ControlSocket::from_fd(control)?;
            let served = converse(&control, ready).await;
            if let Err(error) = &served {
                // The agent may be gone, and then nobody needs to know.
                let _ = say(&control, &FromWorker::Unable(error.to_string())).await;
            }
            served
        })
    });
    let status = match served {
        Ok(()) => 0,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(io::stderr(), "worker: {error}");
            1
        }
    };
    end(status);
}

/// Ends the process, whatever the user's functions are doing. Standard output is flushed if
/// nobody holds it.
fn end(status: i32) -> ! {
    // Exit handlers, and a pipe that nobody empties, may wait for ever.
    let watch = std::thread::Builder::new().spawn(move || {
        std::thread::sleep(EXIT_WAIT);
        // SAFETY: ends the process without running anything more in it.
        unsafe { nix::libc::_exit(status) }
    });
    drop(watch);
    std::process::exit(status)
}

async fn converse(control: &ControlSocket, ready: &SyncSender<Arc<Pool>>) -> io::Result<()> {
    let first = tokio::time::timeout(limits::WORKER_START, receive(control)).await?;
    let pool = match first? {
        Some((ToWorker::Start { node, slots, .. }, _)) => {
            let io = tokio::runtime::Handle::current();
            Pool::new(function::all(), slots, node, crate::build::own_hash(), io)?
        }
        Some((ToWorker::Stop, _)) | None => return Ok(()),
        Some(_) => return Err(unexpected("a message before the start")),
    };
    for thread in 1..pool.threads() {
        let pool = Arc::clone(&pool);
        std::thread::Builder::new()
            .name(format!("cc-slot-{thread}"))
            .stack_size(STACK)
            .spawn(move || pool.work(thread))?;
    }
    ready
        .send(Arc::clone(&pool))
        .map_err(|_| io::Error::other("the main thread is gone"))?;
    let pid = std::process::id();
    say(control, &FromWorker::Ready { pid }).await?;

    while let Some((message, fd)) = receive(control).await? {
        match (message, fd) {
            (ToWorker::Stop, _) => break,
            (ToWorker::Lane { session, id, store }, Some(socket)) => {
                // A lane that cannot be registered is closed, which its driver sees.
                let _ = pool.lane(session, id, PathBuf::from(store), socket);
            }
            (
                ToWorker::Bulk {
                    session,
                    task,
                    direction,
                },
                Some(socket),
            ) => pool.stream(session, task, direction, UnixStream::from(socket)),
            (ToWorker::Start { .. }, _) => return Err(unexpected("a second start")),
            (ToWorker::Lane { .. } | ToWorker::Bulk { .. }, None) => {
                // What the kernel does when this process has no descriptors left.
                use std::io::Write as _;
                let _ = writeln!(
                    io::stderr(),
                    "worker: a socket from the agent was lost: too many open files?"
                );
            }
        }
    }
    Ok(())
}

async fn receive(control: &ControlSocket) -> io::Result<Option<(ToWorker, Option<OwnedFd>)>> {
    match control.recv().await? {
        None => Ok(None),
        Some((bytes, fd)) => {
            let message = codec::decode(&bytes).map_err(|_| unexpected("a malformed message"))?;
            Ok(Some((message, fd)))
        }
    }
}

fn unexpected(what: &str) -> io::Error {
    io::Error::other(format!(
        "{what} from the agent: are agent and worker of the same version?"
    ))
}

async fn say(control: &ControlSocket, message: &FromWorker) -> io::Result<()> {
    let bytes = codec::encode(message).map_err(io::Error::other)?;
    tokio::time::timeout(limits::REQUEST_WAIT, control.send(&bytes, None)).await?
}
