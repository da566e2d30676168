//! Who has which task: the queue, the slots, what waits for a stream, what is asynchronous.
//!
//! One lock holds all of it, so that a task is in one place and whoever takes it out answers
//! it: that is why there is exactly one answer. Nothing is answered, woken or dropped that
//! could run the user's code while the lock is held; [`Effects`] gathers that for afterwards.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use cc_core::context::Cancellation;
use cc_core::function::Function;
use cc_core::ids::ContentHash;
use cc_core::limits;
use cc_core::payload::Payload;
use cc_core::wire::lane::Outcome;
use tokio::task::AbortHandle;

use super::bulk::Parts;
use super::lane::Lane;

/// A task that has yet to run.
pub(super) struct Job {
    pub(super) lane: Arc<Lane>,
    pub(super) task: u32,
    pub(super) urgent: bool,
    pub(super) function: &'static Function,
    pub(super) arguments: Arguments,
}

/// Where a task's arguments are.
pub(super) enum Arguments {
    /// In memory.
    Here(Parts),
    /// In the content store.
    Stored(ContentHash, u64),
    /// In a stream of this length.
    Stream(u64),
}

/// A task that is neither queued nor in a slot, or a part of one.
pub(super) enum Held {
    /// The frame has come, the stream has not.
    Framed(Job),
    /// The stream has come, the frame has not.
    Early(UnixStream),
    /// The stream is being read.
    Reading {
        ticket: u64,
        job: Job,
        abort: AbortHandle,
    },
    /// It is on the asynchronous runtime.
    Async {
        ticket: u64,
        cancellation: Arc<Cancellation>,
        abort: AbortHandle,
    },
}

/// What a session has here.
pub(super) struct Session {
    pub(super) lane: Arc<Lane>,
    pub(super) held: HashMap<u32, Held>,
    /// Results that are too large for a frame, until the driver opens their streams.
    pub(super) results: HashMap<u32, Payload>,
    /// Tasks that were withdrawn before their streams came: those are not of a later task.
    withdrawn: HashSet<u32>,
}

/// What a slot's thread runs, if it does.
#[derive(Default)]
struct Place {
    /// The lane's token and the task.
    task: Option<(u64, u32)>,
    /// Used for one task after the other as long as nobody keeps it.
    cancellation: Arc<Cancellation>,
}

/// A task that is to run now, and how it is told that nobody wants it any more.
pub(super) type Next = (Job, Arc<Cancellation>);

/// The state under the pool's lock.
pub(super) struct State {
    slots: usize,
    pub(super) queue: VecDeque<Job>,
    places: Vec<Place>,
    busy: usize,
    /// Threads that wait for events.
    waiting: usize,
    /// One of them was woken to take from the queue, and has not come yet.
    rung: bool,
    /// By the lanes' tokens.
    pub(super) sessions: HashMap<u64, Session>,
    pub(super) async_busy: usize,
    pub(super) async_queue: VecDeque<Job>,
    count: u64,
}

/// What is to be done once the lock is released.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) answers: Vec<(Arc<Lane>, u32, Outcome, String)>,
    pub(super) cancellations: Vec<Arc<Cancellation>>,
    pub(super) aborts: Vec<AbortHandle>,
    pub(super) dropped: Vec<Held>,
    pub(super) results: Vec<Payload>,
}

impl Effects {
    /// Does everything but answering.
    pub(super) fn perform(&mut self) {
        self.cancellations.drain(..).for_each(|c| c.cancel());
        self.aborts.drain(..).for_each(|abort| abort.abort());
        self.dropped.clear();
        self.results.clear();
    }
}

impl Session {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self {
            lane,
            held: HashMap::new(),
            results: HashMap::new(),
            withdrawn: HashSet::new(),
        }
    }

    /// Whether an argument's stream is of a task that was withdrawn, and is told only once.
    pub(super) fn comes_too_late(&mut self, task: u32) -> bool {
        self.withdrawn.remove(&task)
    }

    /// Lets go of what is held under an id, and answers it if it is a task. One that is on
    /// the asynchronous runtime is answered when the runtime has let go of it: a runtime that
    /// a function blocks does not, and then the driver is to know.
    fn withdraw(&mut self, id: u32, effects: &mut Effects) {
        let outcome = match self.held.remove(&id) {
            None => return,
            Some(Held::Early(stream)) => {
                effects.dropped.push(Held::Early(stream));
                return;
            }
            Some(Held::Async {
                ticket,
                cancellation,
                abort,
            }) => {
                effects.cancellations.push(Arc::clone(&cancellation));
                effects.aborts.push(abort.clone());
                let held = Held::Async {
                    ticket,
                    cancellation,
                    abort,
                };
                self.held.insert(id, held);
                return;
            }
            Some(Held::Reading { job, abort, .. }) => {
                effects.aborts.push(abort);
                effects.dropped.push(Held::Framed(job));
                Outcome::TakenBack
            }
            Some(framed @ Held::Framed(_)) => {
                effects.dropped.push(framed);
                // Only a driver that does not open its streams comes to this many.
                if self.withdrawn.len() >= limits::LANE_TASKS {
                    self.withdrawn.clear();
                }
                self.withdrawn.insert(id);
                Outcome::TakenBack
            }
        };
        let lane = Arc::clone(&self.lane);
        effects.answers.push((lane, id, outcome, String::new()));
    }
}

impl State {
    pub(super) fn new(slots: usize, threads: usize) -> Self {
        Self {
            slots,
            queue: VecDeque::new(),
            places: (0..threads).map(|_| Place::default()).collect(),
            busy: 0,
            waiting: 0,
            rung: false,
            sessions: HashMap::new(),
            async_busy: 0,
            async_queue: VecDeque::new(),
            count: 0,
        }
    }

    /// A number that was never given before.
    pub(super) fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Gives an idle thread the next task, or counts it as waiting.
    pub(super) fn take(&mut self, thread: usize) -> Option<Next> {
        let next = (self.busy < self.slots)
            .then(|| self.enter(thread))
            .flatten();
        match next {
            Some(_) => self.busy += 1,
            None => self.waiting += 1,
        }
        next
    }

    /// A thread does not wait any more.
    pub(super) fn woken(&mut self) {
        self.waiting -= 1;
        self.rung = false;
    }

    /// Whether another thread should be woken for the queue; the caller does it then.
    pub(super) fn wants_help(&mut self) -> bool {
        let wanted =
            !self.rung && self.waiting > 0 && self.busy < self.slots && !self.queue.is_empty();
        self.rung |= wanted;
        wanted
    }

    /// Ends a thread's task: whether it was cancelled, and the next one if there is.
    pub(super) fn finish(&mut self, thread: usize) -> (bool, Option<Next>) {
        let place = &mut self.places[thread];
        place.task = None;
        let cancelled = place.cancellation.is_cancelled();
        match Arc::get_mut(&mut place.cancellation) {
            Some(unshared) => *unshared = Cancellation::default(),
            None => place.cancellation = Arc::default(),
        }
        let next = self.enter(thread);
        if next.is_none() {
            self.busy -= 1;
        }
        (cancelled, next)
    }

    fn enter(&mut self, thread: usize) -> Option<Next> {
        let job = self.queue.pop_front()?;
        let place = &mut self.places[thread];
        place.task = Some((job.lane.token, job.task));
        Some((job, Arc::clone(&place.cancellation)))
    }

    /// Takes the tasks of a lane that are in `ids`, sorted, out of the queues.
    fn unqueue(&mut self, token: u64, ids: &[u32], effects: &mut Effects) {
        for queue in [&mut self.queue, &mut self.async_queue] {
            queue.retain(|job| {
                let hit = job.lane.token == token && ids.binary_search(&job.task).is_ok();
                if hit {
                    let lane = Arc::clone(&job.lane);
                    let answer = (lane, job.task, Outcome::TakenBack, String::new());
                    effects.answers.push(answer);
                }
                !hit
            });
        }
    }

    /// Gives a lane's tasks in `ids` back that have not started.
    pub(super) fn take_back(&mut self, token: u64, ids: &mut Vec<u32>, effects: &mut Effects) {
        ids.sort_unstable();
        self.unqueue(token, ids, effects);
        let Some(session) = self.sessions.get_mut(&token) else {
            return;
        };
        for id in ids.drain(..) {
            if let Some(Held::Framed(_) | Held::Reading { .. }) = session.held.get(&id) {
                session.withdraw(id, effects);
            }
        }
    }

    /// Cancels a lane's tasks in `ids`, wherever they are. Those that are not anywhere have
    /// been answered already.
    pub(super) fn cancel(&mut self, token: u64, ids: &mut Vec<u32>, effects: &mut Effects) {
        ids.sort_unstable();
        self.unqueue(token, ids, effects);
        for place in &self.places {
            if let Some((lane, task)) = place.task
                && lane == token
                && ids.binary_search(&task).is_ok()
            {
                effects.cancellations.push(Arc::clone(&place.cancellation));
            }
        }
        let Some(session) = self.sessions.get_mut(&token) else {
            return;
        };
        for id in ids.drain(..) {
            effects.results.extend(session.results.remove(&id));
            session.withdraw(id, effects);
        }
    }

    /// Forgets a lane and everything that was to be done for it.
    pub(super) fn end(&mut self, token: u64, effects: &mut Effects) {
        let Some(session) = self.sessions.remove(&token) else {
            return;
        };
        self.queue.retain(|job| job.lane.token != token);
        self.async_queue.retain(|job| job.lane.token != token);
        for place in &self.places {
            if place.task.is_some_and(|(lane, _)| lane == token) {
                effects.cancellations.push(Arc::clone(&place.cancellation));
            }
        }
        for held in session.held.into_values() {
            match held {
                Held::Async {
                    cancellation,
                    abort,
                    ..
                } => {
                    effects.cancellations.push(cancellation);
                    effects.aborts.push(abort);
                }
                Held::Reading { job, abort, .. } => {
                    effects.aborts.push(abort);
                    effects.dropped.push(Held::Framed(job));
                }
                other => effects.dropped.push(other),
            }
        }
        effects.results.extend(session.results.into_values());
    }
}
