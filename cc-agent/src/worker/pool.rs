//! The threads that read lanes and run tasks.
//!
//! There is one thread more than slots. Threads with nothing to run wait together in one
//! epoll; whoever it gives a lane to reads it, lets epoll watch the lane again, and then runs
//! what it read. No thread is woken for reading on, because one waits already: a wake-up
//! would cost every call 50 µs. A thread is only woken for tasks that a free slot
//! could run. At most as many threads as slots are in the user's code, so at least one is
//! always there for the next frame, a cancellation, or the end.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use cc_core::context::{Context, Site};
use cc_core::function::{Function, FunctionName, Runner};
use cc_core::ids::{NodeIndex, WorkerId};
use cc_core::limits;
use cc_core::payload::Payload;
use cc_core::wire::lane::{self, Done, Outcome, Value};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::runtime::{Handle, Runtime};

use super::bulk::{self, Parts};
use super::handover::Batch;
use super::lane::{Lane, Over};
use super::state::{Arguments, Effects, Job, Next, Session, State};
use super::{lock, run};

/// Epoll's data of the descriptors that are no lanes, whose tokens begin at 1.
const BELL: u64 = 0;
const TIMER: u64 = 1;

/// A worker's threads and everything they share.
pub(super) struct Pool {
    pub(super) functions: Vec<&'static Function>,
    /// The first bytes on every lane.
    hello: Vec<u8>,
    pub(super) slots: usize,
    node: NodeIndex,
    site: Arc<Site>,
    epoll: Arc<Epoll>,
    bell: EventFd,
    timer: TimerFd,
    timer_set: AtomicBool,
    stopping: AtomicBool,
    /// Where streams are read and written.
    pub(super) io: Handle,
    /// Where asynchronous functions run; made for the first of them.
    pub(super) runtime: OnceLock<Option<Runtime>>,
    pub(super) state: Mutex<State>,
}

impl Pool {
    /// Makes the pool; [`Pool::work`] is then to be called on each of its threads.
    pub(super) fn new(
        functions: Vec<&'static Function>,
        slots: u32,
        node: NodeIndex,
        build: u64,
        io: Handle,
    ) -> io::Result<Arc<Self>> {
        let slots = slots.clamp(1, limits::WORKER_SLOTS);
        let names: Vec<FunctionName> = functions
            .iter()
            .map(|f| FunctionName {
                name: f.name.to_owned(),
                hash: (f.hash)(),
            })
            .collect();
        let hello = lane::function_frames(&names, slots, build).map_err(io::Error::other)?;
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        // Both wake one thread each time, and nobody needs to read them.
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&bell, EpollEvent::new(edge, BELL))?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        epoll.add(&timer, EpollEvent::new(edge, TIMER))?;
        run::install_hook();
        let slots = slots as usize;
        Ok(Arc::new(Self {
            functions,
            hello,
            slots,
            node,
            site: Arc::default(),
            epoll,
            bell,
            timer,
            timer_set: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            io,
            runtime: OnceLock::new(),
            state: Mutex::new(State::new(slots, slots + 1)),
        }))
    }

    /// The number of threads that are to [`Pool::work`].
    pub(super) fn threads(&self) -> usize {
        self.slots + 1
    }

    /// Takes a driver's lane.
    pub(super) fn lane(
        &self,
        session: u64,
        worker: WorkerId,
        store: PathBuf,
        socket: OwnedFd,
    ) -> io::Result<()> {
        let token = lock(&self.state).number();
        let lane = Lane::new(
            token,
            session,
            worker,
            store,
            &self.epoll,
            socket,
            &self.hello,
        )?;
        let session = Session::new(Arc::clone(&lane));
        lock(&self.state).sessions.insert(token, session);
        if lane.listen().is_err() {
            self.end(&lane);
        }
        Ok(())
    }

    pub(super) fn context(
        &self,
        lane: &Lane,
        cancellation: Arc<cc_core::context::Cancellation>,
    ) -> Context {
        let site = Arc::clone(&self.site);
        Context::new(lane.worker, self.node, site, cancellation)
    }

    /// Reads and runs until the pool stops. Each of the pool's threads has its own number,
    /// from 0 up to [`Pool::threads`].
    pub(super) fn work(self: &Arc<Self>, thread: usize) {
        let _abort = AbortOnPanic;
        let mut batch = Batch::default();
        let mut out = Vec::new();
        while !self.stopping.load(Ordering::Relaxed) {
            let mut state = lock(&self.state);
            let next = state.take(thread);
            let ring = state.wants_help();
            drop(state);
            if ring {
                self.ring();
            }
            match next {
                Some(next) => self.run(thread, next, &mut out),
                None => self.wait(&mut batch),
            }
        }
        // One thread wakes the next.
        self.ring();
    }

    /// Ends the threads, once their tasks have; used where the process goes on.
    #[cfg(test)]
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.ring();
    }

    pub(super) fn ring(&self) {
        // The counter is never read and cannot overflow in the life of a process.
        let _ = self.bell.write(1);
    }

    /// Waits for an event and handles it.
    fn wait(self: &Arc<Self>, batch: &mut Batch) {
        let mut events = [EpollEvent::empty()];
        // Without a time limit: this is where an idle worker rests.
        let came = self.epoll.wait(&mut events, EpollTimeout::NONE);
        let data = match came {
            Ok(1..) => events[0].data(),
            _ => BELL,
        };
        let mut state = lock(&self.state);
        state.woken();
        let lane = state.sessions.get(&(data >> 1)).map(|s| &s.lane).cloned();
        drop(state);
        match (data, lane) {
            (BELL, _) => {}
            (TIMER, _) => self.flush(),
            (_, None) => {}
            (_, Some(lane)) if data & 1 == 1 => lane.writable(),
            (_, Some(lane)) => {
                let read = lane
                    .read()
                    .and_then(|frames| self.hand_over(&lane, &frames, batch))
                    .and_then(|()| lane.listen());
                if let Err(Over) = read {
                    *batch = Batch::default();
                    self.end(&lane);
                }
            }
        }
    }

    /// Writes all the results that wait for company.
    fn flush(&self) {
        self.timer_set.store(false, Ordering::SeqCst);
        let state = lock(&self.state);
        let lanes: Vec<_> = state
            .sessions
            .values()
            .map(|s| Arc::clone(&s.lane))
            .collect();
        drop(state);
        lanes.iter().for_each(|lane| lane.flush());
    }

    /// Sees to it that [`Pool::flush`] is called soon.
    fn set_timer(&self) {
        if !self.timer_set.swap(true, Ordering::SeqCst) {
            let soon = Expiration::OneShot((limits::RESULT_WAIT * 2).into());
            let _ = self.timer.set(soon, TimerSetTimeFlags::empty());
        }
    }

    pub(super) fn after(&self, mut effects: Effects, ring: bool) {
        if ring {
            self.ring();
        }
        effects.perform();
        let mut answers = effects.answers.drain(..).peekable();
        while let Some((lane, task, outcome, why)) = answers.next() {
            let body = match outcome {
                Outcome::Fault => run::fault(why),
                _ => Vec::new(),
            };
            let done = Done {
                id: task,
                outcome,
                value: Value::Inline(&body, Vec::new()),
            };
            lane.answer(&done, answers.peek().is_none());
        }
    }

    /// Ends a lane: nobody will read its results.
    pub(super) fn end(&self, lane: &Lane) {
        let mut effects = Effects::default();
        lock(&self.state).end(lane.token, &mut effects);
        lane.end();
        effects.perform();
    }

    /// Runs tasks until there is none left in the queue.
    fn run(&self, thread: usize, next: Next, out: &mut Vec<u8>) {
        let mut following = Some(next);
        while let Some((job, cancellation)) = following.take() {
            let Job {
                lane,
                task,
                urgent,
                function,
                arguments,
            } = job;
            let context = self.context(&lane, cancellation);
            let (outcome, attachments) = match (function.runner, load(&lane, arguments)) {
                (Runner::Blocking(runner), Ok(parts)) => {
                    run::blocking(runner, &context, &parts.body, parts.attachments, out)
                }
                (_, Err(why)) => {
                    *out = run::fault(why);
                    (Outcome::Fault, Vec::new())
                }
                (Runner::Async(_), Ok(_)) => {
                    *out = run::fault("an asynchronous function was put into a slot");
                    (Outcome::Fault, Vec::new())
                }
            };
            // So that the cancellation can be used again.
            drop(context);
            let cancelled;
            (cancelled, following) = lock(&self.state).finish(thread);
            // Nothing more comes to share the write with.
            let now = urgent
                || following
                    .as_ref()
                    .is_none_or(|(next, _)| !Arc::ptr_eq(&next.lane, &lane));
            if cancelled {
                self.finish(
                    &lane,
                    task,
                    Outcome::Cancelled,
                    &mut Vec::new(),
                    Vec::new(),
                    now,
                );
            } else {
                self.finish(&lane, task, outcome, out, attachments, now);
            }
        }
    }

    /// Answers a task that has run; `body` is used up if that saves a copy.
    pub(super) fn finish(
        &self,
        lane: &Lane,
        task: u32,
        outcome: Outcome,
        body: &mut Vec<u8>,
        attachments: Vec<Bytes>,
        now: bool,
    ) {
        let buffered = if lane::fits_inline(body.len(), &attachments) {
            let attachments = attachments.iter().map(|a| &a[..]).collect();
            let value = Value::Inline(body, attachments);
            let done = Done {
                id: task,
                outcome,
                value,
            };
            lane.answer(&done, now)
        } else {
            let payload = Payload {
                body: std::mem::take(body),
                attachments,
            };
            let size = payload.size();
            if size > limits::VALUE {
                let why = format!("a result of {size} bytes is beyond what can travel");
                let done = Done {
                    id: task,
                    outcome: Outcome::Fault,
                    value: Value::Inline(&run::fault(why), Vec::new()),
                };
                lane.answer(&done, now)
            } else {
                let mut state = lock(&self.state);
                let Some(session) = state.sessions.get_mut(&lane.token) else {
                    drop(state);
                    return;
                };
                let unread = session.results.insert(task, payload);
                drop(state);
                drop(unread);
                let done = Done {
                    id: task,
                    outcome,
                    value: Value::Bulk(size),
                };
                lane.answer(&done, now)
            }
        };
        if buffered {
            self.set_timer();
        }
    }
}

/// The arguments in memory.
pub(super) fn load(lane: &Lane, arguments: Arguments) -> Result<Parts, String> {
    match arguments {
        Arguments::Here(parts) => Ok(parts),
        Arguments::Stored(hash, total) => {
            let mut last = lock(&lane.stored);
            if let Some((known, parts)) = &*last
                && *known == hash
            {
                return Ok(parts.clone());
            }
            let parts = bulk::stored(&lane.store, hash, total)?;
            *last = Some((hash, parts.clone()));
            Ok(parts)
        }
        Arguments::Stream(_) => Err("the arguments have not come".to_owned()),
    }
}

/// Without one of its threads a pool may stand still for ever; a death is seen and told. The
/// user's functions are caught: what comes here is, for instance, the drop of their results.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // The last reference may be a task's on that very runtime, which cannot wait for itself.
        if let Some(Some(runtime)) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
