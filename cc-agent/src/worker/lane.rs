//! A driver's lane: its socket, what was read of a frame that is not whole yet, and the
//! results that are gathered for one write.
//!
//! Nothing here waits: a slot must never stand still because a driver reads slowly. What
//! the socket does not take stays in the buffer until epoll says that there is room; it is
//! bounded by the tasks that the driver may have outstanding.

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use cc_core::ids::{ContentHash, WorkerId};
use cc_core::limits;
use cc_core::wire::lane::{self, Done};
use nix::libc::{MSG_DONTWAIT, MSG_NOSIGNAL};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::Socket;

use super::bulk::Parts;
use super::lock;

/// Kept for the next results when the buffer is empty.
const KEPT: usize = 1024 * 1024;

/// One driver's lane. The reader of a moment is whichever slot thread epoll gives it to.
pub(super) struct Lane {
    /// Its number in this worker; epoll's data is twice that, plus one for writing.
    pub(super) token: u64,
    /// The driver's session with the agent.
    pub(super) session: u64,
    /// What the driver calls this worker.
    pub(super) worker: WorkerId,
    /// Where stored values are.
    pub(super) store: PathBuf,
    /// The stored value used last: a broadcast value serves many tasks in a row.
    pub(super) stored: Mutex<Option<(ContentHash, Parts)>>,
    epoll: Arc<Epoll>,
    /// Registered for reading, one event at a time, so that one thread reads at a time.
    reader: Socket,
    /// The same socket under another descriptor, registered for room to write in once that
    /// is wanted, so that asking for it never makes a second reader.
    writer: Socket,
    input: Mutex<BytesMut>,
    output: Mutex<Output>,
    outstanding: AtomicUsize,
    ended: AtomicBool,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    /// How much of `bytes` is written.
    sent: usize,
    /// When the oldest result that waits for company was put here.
    since: Option<Instant>,
    /// The socket is full: only [`Lane::writable`] writes.
    blocked: bool,
    /// Epoll knows the writer.
    registered: bool,
}

/// The lane is over: closed, broken, or not what the protocol allows.
#[derive(Debug)]
pub(super) struct Over;

impl Lane {
    /// Takes a lane's socket over and sends `hello`.
    pub(super) fn new(
        token: u64,
        session: u64,
        worker: WorkerId,
        store: PathBuf,
        epoll: &Arc<Epoll>,
        socket: OwnedFd,
        hello: &[u8],
    ) -> io::Result<Arc<Self>> {
        let reader = Socket::from(socket);
        // As much as the system allows; less is slower and no error.
        let _ = reader.set_send_buffer_size(KEPT);
        let lane = Arc::new(Self {
            token,
            session,
            worker,
            store,
            stored: Mutex::default(),
            epoll: Arc::clone(epoll),
            writer: reader.try_clone()?,
            reader,
            input: Mutex::default(),
            output: Mutex::default(),
            outstanding: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        epoll.add(&lane.reader, lane.event(EpollFlags::empty()))?;
        let mut output = lock(&lane.output);
        output.bytes.extend_from_slice(hello);
        lane.send(&mut output);
        drop(output);
        Ok(lane)
    }

    fn event(&self, flags: EpollFlags) -> EpollEvent {
        let writing = u64::from(flags.contains(EpollFlags::EPOLLOUT));
        EpollEvent::new(flags | EpollFlags::EPOLLONESHOT, self.token << 1 | writing)
    }

    /// Lets epoll hand the lane to a reader, once.
    pub(super) fn listen(&self) -> Result<(), Over> {
        let event = &mut self.event(EpollFlags::EPOLLIN);
        self.epoll.modify(&self.reader, event).map_err(|_| Over)
    }

    /// Reads what there is, at most [`limits::CHUNK`], and gives the whole frames.
    pub(super) fn read(&self) -> Result<Bytes, Over> {
        let mut input = lock(&self.input);
        if input.capacity() - input.len() <= limits::LANE_FRAME + 2 {
            input.reserve(limits::CHUNK);
        }
        let room: &mut [MaybeUninit<u8>] = input.spare_capacity_mut();
        match self.reader.recv_with_flags(room, MSG_DONTWAIT) {
            Ok(0) => return Err(Over),
            Ok(read) => {
                let length = input.len() + read;
                // SAFETY: the kernel has written `read` bytes behind the buffer's content.
                unsafe { input.set_len(length) };
            }
            Err(error) if transient(&error) => {}
            Err(_) => return Err(Over),
        }
        let mut whole = 0;
        while let Some(frame) = lane::next_frame(&input[whole..]) {
            whole += frame.end;
        }
        Ok(input.split_to(whole).freeze())
    }

    /// Counts tasks that have come.
    pub(super) fn came(&self, tasks: usize) -> Result<(), Over> {
        let before = self.outstanding.fetch_add(tasks, Ordering::Relaxed);
        if before + tasks > limits::LANE_TASKS {
            return Err(Over);
        }
        Ok(())
    }

    /// Answers a task. The answer is written at once if `now`, or if enough has been
    /// gathered for long enough; true means that it has yet to be.
    pub(super) fn answer(&self, done: &Done<'_>, now: bool) -> bool {
        let mut output = lock(&self.output);
        if self.has_ended() {
            return false;
        }
        // Before the driver can know of it and send the next.
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
        lane::put_done(&mut output.bytes, done);
        if output.blocked {
            return false;
        }
        let gathered = output.bytes.len() - output.sent;
        let write = now
            || gathered >= limits::RESULT_BATCH
            || output
                .since
                .is_some_and(|since| since.elapsed() >= limits::RESULT_WAIT);
        if write {
            self.send(&mut output);
        } else {
            output.since.get_or_insert_with(Instant::now);
        }
        !write
    }

    /// Writes what is gathered.
    pub(super) fn flush(&self) {
        let mut output = lock(&self.output);
        if output.since.is_some() && !output.blocked {
            self.send(&mut output);
        }
    }

    /// Goes on writing after the socket was full.
    pub(super) fn writable(&self) {
        let mut output = lock(&self.output);
        output.blocked = false;
        self.send(&mut output);
    }

    fn send(&self, output: &mut Output) {
        output.since = None;
        while output.sent < output.bytes.len() {
            let rest = &output.bytes[output.sent..];
            match self
                .writer
                .send_with_flags(rest, MSG_DONTWAIT | MSG_NOSIGNAL)
            {
                Ok(sent) => output.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    output.blocked = true;
                    if output.sent >= KEPT {
                        output.bytes.drain(..output.sent);
                        output.sent = 0;
                    }
                    let mut event = self.event(EpollFlags::EPOLLOUT);
                    let asked = if output.registered {
                        self.epoll.modify(&self.writer, &mut event)
                    } else {
                        self.epoll.add(&self.writer, event)
                    };
                    output.registered = true;
                    if asked.is_err() {
                        self.shut();
                    }
                    return;
                }
                Err(_) => {
                    // The reader sees the end and does what it takes.
                    self.shut();
                    break;
                }
            }
        }
        output.bytes.clear();
        output.bytes.shrink_to(KEPT);
        output.sent = 0;
    }

    fn shut(&self) {
        let _ = self.reader.shutdown(Shutdown::Both);
    }

    /// Whether results are of no use any more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Ends the lane; the descriptors close with the last reference.
    pub(super) fn end(&self) {
        let mut output = lock(&self.output);
        self.ended.store(true, Ordering::Relaxed);
        // Both by name: epoll forgets a socket only when no descriptor of it is open.
        let _ = self.epoll.delete(&self.reader);
        let _ = self.epoll.delete(&self.writer);
        self.shut();
        *output = Output::default();
        drop(output);
        *lock(&self.stored) = None;
    }
}

fn transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
