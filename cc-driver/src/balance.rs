//! How many tasks a worker is sent ahead of what it has finished, and when unstarted ones
//! are taken back: pure arithmetic with the time passed in.
//!
//! A worker is to have a few milliseconds of work queued, whatever a task costs: enough
//! that it never waits for the driver, little enough that the end of a map is even.

use std::time::{Duration, Instant};

use cc_core::limits;

/// The work that a worker is to have queued. Several round trips on a local network; on a long
/// link the round-trip time is added.
const HORIZON: Duration = Duration::from_millis(10);
/// The least time over which a rate is measured.
const SAMPLE: Duration = Duration::from_micros(500);
/// Queued work worth less than this is not taken back: the trip costs as much.
const TAKE_BACK_MIN: Duration = Duration::from_millis(2);
/// A window of this many tasks is filled up in strides.
const WIDE: u32 = 32;
/// Tasks per slot that a worker is sent before anything is known of it. It doubles with each
/// round trip while that is too little; too much is taken back.
const FIRST: u32 = 8;
/// Most bytes of arguments outstanding on a worker that has more than one task.
const OUTSTANDING_BYTES: u64 = 32 << 20;

/// Most blocking tasks that a worker may have been sent; the rest of its lane is for others.
const WINDOW_MAX: u32 = limits::LANE_TASKS as u32 - limits::ASYNC_TASKS as u32;

/// What a task occupies on a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A slot, for as long as it runs: how many are sent ahead follows their pace.
    Blocking,
    /// Nothing but memory: as many as a worker runs at once are sent.
    Asynchronous,
}

/// What a worker has been sent and how fast it works.
#[derive(Debug)]
pub(crate) struct Load {
    slots: u32,
    /// Blocking tasks sent and not back.
    outstanding: u32,
    /// Asynchronous tasks sent and not back.
    asynchronous: u32,
    bytes: u64,
    window: u32,
    /// Whether more is to be sent until the window is full.
    filling: bool,
    /// Tasks per second, once measured.
    rate: f64,
    since: Option<Instant>,
    finished: u32,
}

impl Load {
    pub(crate) fn new(slots: u32) -> Self {
        let slots = slots.max(1);
        Self {
            slots,
            outstanding: 0,
            asynchronous: 0,
            bytes: 0,
            window: slots.saturating_mul(FIRST),
            filling: true,
            rate: 0.0,
            since: None,
            finished: 0,
        }
    }

    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    /// Tasks sent and not back, of both kinds.
    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding + self.asynchronous
    }

    /// How many more tasks may be sent now.
    pub(crate) fn room(&self, kind: Kind) -> u32 {
        let all = self.outstanding();
        if self.bytes >= OUTSTANDING_BYTES && all > 0 {
            return 0;
        }
        let room = match kind {
            Kind::Blocking if self.filling => self.window.saturating_sub(self.outstanding),
            Kind::Blocking => 0,
            Kind::Asynchronous => (limits::ASYNC_TASKS as u32).saturating_sub(self.asynchronous),
        };
        // Calls to this worker alone may have taken more than their share.
        room.min((limits::LANE_TASKS as u32).saturating_sub(all))
    }

    /// Wide windows are filled up in strides: one wake-up of everybody for many tasks.
    fn decide_filling(&mut self) {
        let stride = if self.window < WIDE {
            1
        } else {
            self.window / 4
        };
        if self.outstanding >= self.window {
            self.filling = false;
        } else if self.outstanding + stride <= self.window {
            self.filling = true;
        }
    }

    /// Whether there is work behind what the slots are busy with.
    pub(crate) fn is_crowded(&self) -> bool {
        self.outstanding > self.slots
    }

    /// Whether a slot has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding < self.slots
    }

    /// Outstanding tasks per slot, in thousandths: smaller is freer.
    pub(crate) fn pressure(&self, kind: Kind) -> u64 {
        let outstanding = match kind {
            Kind::Blocking => self.outstanding,
            Kind::Asynchronous => self.asynchronous,
        };
        u64::from(outstanding) * 1000 / u64::from(self.slots)
    }

    pub(crate) fn sent(&mut self, kind: Kind, bytes: u64, now: Instant) {
        if kind == Kind::Asynchronous {
            self.asynchronous += 1;
            self.bytes += bytes;
            return;
        }
        if self.outstanding == 0 {
            // An idle worker's rate says nothing: measure from here.
            self.since = Some(now);
            self.finished = 0;
        }
        self.outstanding += 1;
        self.bytes += bytes;
        self.decide_filling();
    }

    /// A task came back; `worked` if it ran.
    pub(crate) fn returned(&mut self, kind: Kind, bytes: u64, worked: bool) {
        self.bytes = self.bytes.saturating_sub(bytes);
        if kind == Kind::Asynchronous {
            self.asynchronous = self.asynchronous.saturating_sub(1);
            return;
        }
        self.outstanding = self.outstanding.saturating_sub(1);
        self.finished += u32::from(worked);
        self.decide_filling();
    }

    /// Adapts the window after some tasks came back. `more` says whether there was work that
    /// the window held back.
    pub(crate) fn adapt(&mut self, now: Instant, round_trip: Duration, more: bool) {
        let Some(since) = self.since else { return };
        let elapsed = now.saturating_duration_since(since);
        let drained = self.outstanding < self.slots;
        if elapsed >= SAMPLE && self.finished > 0 {
            let sample = f64::from(self.finished) / elapsed.as_secs_f64();
            // A drained worker was slower than it could be: its sample only ever raises.
            self.rate = match (self.rate > 0.0, drained) {
                (false, _) => sample,
                (true, true) => self.rate.max(sample),
                (true, false) => 0.6 * self.rate + 0.4 * sample,
            };
            self.since = Some(now);
            self.finished = 0;
        }
        let horizon = (HORIZON + 2 * round_trip).as_secs_f64();
        let target = (self.rate * horizon) as u32;
        let floor = self.slots.saturating_mul(2);
        let grown = if drained && more {
            self.window.saturating_mul(2)
        } else {
            self.window
        };
        self.window = if drained && more {
            grown.max(target)
        } else {
            // Shrink slowly: one long task among short ones is not a trend.
            target.max(self.window - (self.window / 8).max(1))
        }
        .clamp(floor, WINDOW_MAX.max(floor));
        self.decide_filling();
    }

    /// How many unstarted tasks to take back for workers that have nothing to do, when the
    /// oldest outstanding one was sent `age` ago.
    pub(crate) fn spare(&self, age: Duration) -> u32 {
        let unstarted = self.outstanding.saturating_sub(self.slots);
        if unstarted == 0 {
            return 0;
        }
        // Time until the last of them would start. A task that takes far longer than others
        // did says that they may wait as long again.
        let usual = if self.rate > 0.0 {
            Duration::from_secs_f64((f64::from(self.outstanding) / self.rate).min(3600.0))
        } else {
            Duration::ZERO
        };
        let wait = if age > usual * 2 {
            age.max(usual)
        } else {
            usual
        };
        if wait < TAKE_BACK_MIN {
            0
        } else {
            unstarted.div_ceil(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a worker that takes `cost` a task against a driver with endless work and gives the
    /// window it settles at.
    fn settle(cost: Duration, slots: u32) -> u32 {
        let start = Instant::now();
        let (mut now, mut load) = (start, Load::new(slots));
        for _ in 0..2_000 {
            while load.room(Kind::Blocking) > 0 {
                load.sent(Kind::Blocking, 8, now);
            }
            // What the worker does until the driver hears of it, 200 µs later or after one task.
            let pause = Duration::from_micros(200).max(cost);
            now += pause;
            let done = (pause.as_nanos() / cost.as_nanos().max(1)) as u32 * slots;
            let done = done.clamp(1, load.outstanding());
            for _ in 0..done {
                load.returned(Kind::Blocking, 8, true);
            }
            load.adapt(now, Duration::from_micros(200), true);
        }
        load.window
    }

    #[test]
    fn short_tasks_get_a_wide_window_and_long_ones_a_narrow_one() {
        assert!(settle(Duration::from_micros(1), 1) >= 2_000);
        let ten = settle(Duration::from_micros(10), 1);
        assert!((200..3_000).contains(&ten), "{ten}");
        assert!(settle(Duration::from_millis(50), 1) <= 4);
        assert!(settle(Duration::from_millis(50), 4) <= 16);
    }

    #[test]
    fn large_arguments_are_sent_one_after_the_other() {
        let mut load = Load::new(1);
        for kind in [Kind::Blocking, Kind::Asynchronous] {
            load.sent(kind, 1 << 30, Instant::now());
            assert_eq!(load.room(kind), 0);
            load.returned(kind, 1 << 30, true);
            assert!(load.room(kind) > 0);
        }
    }

    #[test]
    fn only_unstarted_work_worth_the_trip_is_taken_back() {
        let now = Instant::now();
        let mut load = Load::new(1);
        load.sent(Kind::Blocking, 1, now);
        assert_eq!(load.spare(Duration::from_secs(5)), 0, "started");
        load.sent(Kind::Blocking, 1, now);
        load.sent(Kind::Blocking, 1, now);
        assert_eq!(load.spare(Duration::from_secs(5)), 1);
        load.rate = 1_000_000.0;
        assert_eq!(
            load.spare(Duration::from_micros(50)),
            0,
            "done before the trip is"
        );
    }

    #[test]
    fn asynchronous_tasks_take_no_slot_and_follow_no_pace() {
        let now = Instant::now();
        let mut load = Load::new(1);
        for _ in 0..limits::ASYNC_TASKS {
            assert!(load.room(Kind::Asynchronous) > 0);
            load.sent(Kind::Asynchronous, 8, now);
        }
        assert_eq!(load.room(Kind::Asynchronous), 0);
        assert!(load.is_idle() && load.room(Kind::Blocking) > 0);
        load.returned(Kind::Asynchronous, 8, true);
        load.adapt(now + Duration::from_secs(1), Duration::ZERO, true);
        assert_eq!(load.room(Kind::Asynchronous), 1);
    }
}
