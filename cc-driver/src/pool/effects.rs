//! What is to be done after the pool's lock is released.

use std::sync::Arc;

use cc_core::ids::{NodeIndex, WorkerId, WorkerKey};
use tokio::sync::Notify;

use super::{Job, Pool};
use crate::completion::{Completion, Raw};
use crate::error::CallError;
use crate::task::Arguments;

/// How the network side of a worker is reached.
#[derive(Clone)]
pub(crate) struct Link {
    /// Told when there is something to write to the lane.
    pub(crate) writer: Arc<Notify>,
    /// The connection to its node.
    pub(crate) connection: quinn::Connection,
    /// Limits the bulk streams at once on that connection.
    pub(crate) bulk: Arc<tokio::sync::Semaphore>,
}

/// What is to be done after the lock is released.
#[derive(Default)]
pub(crate) struct Effects {
    pub(super) writers: Vec<Arc<Notify>>,
    pub(super) done: Vec<(Completion, Result<Raw, CallError>)>,
    /// Arguments to send out of band.
    pub(super) push: Vec<Push>,
    /// Results to fetch out of band.
    pub(super) fetch: Vec<Fetch>,
    /// Jobs that nobody waits for: what they hold is the user's, and may do anything when it
    /// is dropped.
    pub(super) dropped: Vec<Job>,
    /// Whether the timer is to look at the pool.
    pub(super) watch: bool,
}

/// Arguments that are to be sent in a bulk stream.
pub(crate) struct Push {
    pub(crate) link: Link,
    pub(crate) worker: WorkerKey,
    pub(crate) id: WorkerId,
    pub(crate) task: u32,
    pub(crate) arguments: Arguments,
}

/// A result that is to be fetched in a bulk stream.
pub(crate) struct Fetch {
    pub(crate) link: Link,
    pub(crate) worker: WorkerKey,
    pub(crate) id: WorkerId,
    pub(crate) node: NodeIndex,
    pub(crate) task: u32,
    pub(crate) length: u64,
    pub(crate) job: Job,
}

impl Effects {
    pub(super) fn carry_out(self, pool: &Pool) {
        for writer in self.writers {
            writer.notify_one();
        }
        if self.watch {
            pool.timer.notify_one();
        }
        crate::completion::complete(self.done);
        for push in self.push {
            pool.network.spawn(crate::bulk::push(pool.me.clone(), push));
        }
        for fetch in self.fetch {
            pool.network
                .spawn(crate::bulk::fetch(pool.me.clone(), fetch));
        }
    }
}
