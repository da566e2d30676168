//! The tasks that one worker has been sent and not answered, by their id on the wire.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use cc_core::limits;
use slab::Slab;

use super::Job;
use crate::balance::Kind;
use crate::completion::{CallState, Completion};

/// Bits of an id that are the place in the table; the others tell uses of a place apart, so
/// that a stream named by a task that has ended is not taken for its successor's.
const PLACE_BITS: u32 = limits::LANE_TASKS.ilog2();

/// A job that a worker has been sent and not answered.
pub(super) struct Outstanding {
    /// `None` when nobody waits for it any more.
    pub(super) job: Option<Job>,
    pub(super) bytes: u64,
    /// Counts all tasks sent by the pool.
    pub(super) sequence: u64,
    pub(super) sent: Instant,
    pub(super) started: Option<Instant>,
    pub(super) taking_back: bool,
    /// When the worker is given up if it has not answered (set after a deadline).
    pub(super) give_up: Option<Instant>,
    /// Counted in the pool's `watched`.
    pub(super) watched: bool,
    pub(super) kind: Kind,
    pub(super) pinned: bool,
}

impl Outstanding {
    pub(super) fn is_of(&self, call: &Arc<CallState>) -> bool {
        self.job
            .as_ref()
            .is_some_and(|j| matches!(&j.completion, Completion::Call(c) if Arc::ptr_eq(c, call)))
    }
}

/// The tasks of one worker.
#[derive(Default)]
pub(super) struct Tasks {
    table: Slab<(u32, Outstanding)>,
    uses: u32,
    /// Blocking tasks in the order sent; some have ended already.
    order: VecDeque<u32>,
}

impl Tasks {
    fn place(id: u32) -> usize {
        (id & ((1 << PLACE_BITS) - 1)) as usize
    }

    /// The id that the next task gets.
    pub(super) fn next_id(&self) -> u32 {
        self.table.vacant_key() as u32 | self.uses << PLACE_BITS
    }

    /// Adds a task under [`next_id`](Self::next_id).
    pub(super) fn insert(&mut self, outstanding: Outstanding) {
        let id = self.next_id();
        self.uses = self.uses.wrapping_add(1);
        if outstanding.kind == Kind::Blocking {
            self.order.push_back(id);
        }
        self.table.insert((id, outstanding));
    }

    pub(super) fn get(&self, id: u32) -> Option<&Outstanding> {
        self.table
            .get(Self::place(id))
            .filter(|(i, _)| *i == id)
            .map(|(_, o)| o)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Outstanding> {
        self.table
            .get_mut(Self::place(id))
            .filter(|(i, _)| *i == id)
            .map(|(_, o)| o)
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Outstanding> {
        self.get(id)?;
        self.table.try_remove(Self::place(id)).map(|(_, o)| o)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Outstanding)> {
        self.table.iter().map(|(_, (id, o))| (*id, o))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Outstanding)> {
        self.table.iter_mut().map(|(_, (id, o))| (*id, o))
    }

    pub(super) fn into_values(self) -> impl Iterator<Item = (u32, Outstanding)> {
        self.table.into_iter().map(|(_, entry)| entry)
    }

    /// Drops what has ended from the order.
    pub(super) fn forget_ended(&mut self) {
        while self.order.front().is_some_and(|id| self.get(*id).is_none()) {
            self.order.pop_front();
        }
        // One long task must not keep all that ended after it.
        if self.order.len() > 2 * self.table.len() + 64 {
            let mut order = std::mem::take(&mut self.order);
            order.retain(|id| self.get(*id).is_some());
            self.order = order;
        }
    }

    /// The blocking tasks, oldest first.
    pub(super) fn oldest(&self) -> impl DoubleEndedIterator<Item = u32> {
        self.order
            .iter()
            .copied()
            .filter(|id| self.get(*id).is_some())
    }

    /// Marks what the slots must be busy with as started: the first ones that have not ended.
    pub(super) fn mark_started(&mut self, slots: usize, now: Instant) {
        let busy: Vec<u32> = self.oldest().take(slots).collect();
        for id in busy {
            if let Some(outstanding) = self.get_mut(id) {
                outstanding.started.get_or_insert(now);
            }
        }
    }
}
