//! What a session hears of the workers: deaths always, log lines if it asks for them.

use std::sync::Arc;

use cc_core::wire::control::FromAgent;
use tokio::sync::mpsc;

use super::logs::Places;
use super::{Ended, Supervisor, lock};

/// One listener. Nothing waits for it: what it does not take in time it misses, and is told
/// of lines that it missed.
#[derive(Debug)]
pub(crate) struct Subscription {
    supervisor: Arc<Supervisor>,
    deaths: mpsc::Receiver<Ended>,
    /// A death whose worker's last lines are told first.
    next_death: Option<Ended>,
    logs: Option<Places>,
}

impl Subscription {
    pub(super) fn new(supervisor: Arc<Supervisor>, deaths: mpsc::Receiver<Ended>) -> Self {
        Self {
            supervisor,
            deaths,
            next_death: None,
            logs: None,
        }
    }

    /// Asks for log lines from now on, and with `history` for those remembered, too.
    pub(crate) fn logs(&mut self, history: bool) {
        if history {
            self.logs = Some(Places::default());
        } else if self.logs.is_none() {
            self.logs = Some(lock(&self.supervisor.logs).now());
        }
    }

    /// The next event: a death, or a batch of lines. Waits for ever if nothing happens.
    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> FromAgent {
        loop {
            let supervisor = self.supervisor.clone();
            // Made before looking, so that what happens in between is not missed.
            let news = supervisor.news.notified();
            if let Some(event) = self.look() {
                return event;
            }
            news.await;
        }
    }

    fn look(&mut self) -> Option<FromAgent> {
        if self.next_death.is_none() {
            self.next_death = self.deaths.try_recv().ok();
        }
        if let Some(death) = &self.next_death {
            let worker = death.0;
            if let Some(places) = &mut self.logs {
                let lines = lock(&self.supervisor.logs).take_of(worker, places);
                if !lines.is_empty() {
                    return Some(FromAgent::Log(lines));
                }
            }
            let death = death.1.clone();
            self.next_death = None;
            return Some(FromAgent::WorkerDown { worker, death });
        }
        let lines = lock(&self.supervisor.logs).take(self.logs.as_mut()?);
        (!lines.is_empty()).then_some(FromAgent::Log(lines))
    }
}
