//! The signals that ask a command to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Ctrl-C, and what other programs and closing terminals send.
#[derive(Debug)]
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Stop {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = || {
            Ok::<_, io::Error>(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hang_up: signal(SignalKind::hangup())?,
            })
        };
        listen().map_err(|e| Failure::failed(format!("listen for signals: {e}")))
    }

    /// The next of any kind. Cancel-safe.
    pub(crate) async fn any(&mut self) {
        self.is_interrupt().await;
    }

    /// Ctrl-C (`true`), or one of the others. Cancel-safe.
    pub(crate) async fn is_interrupt(&mut self) -> bool {
        tokio::select! {
            _ = self.interrupt.recv() => true,
            _ = self.terminate.recv() => false,
            _ = self.hang_up.recv() => false,
        }
    }
}
