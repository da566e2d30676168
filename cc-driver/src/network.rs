//! The thread on which all of a driver's network I/O happens, so that a user's blocking code
//! never delays it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use cc_core::net::endpoint;
use tokio::sync::oneshot;

use crate::error::DriverError;

/// What the good-byes to all agents may take.
const GOODBYE: Duration = Duration::from_millis(20);

/// A driver's network thread. Dropping it ends the thread without waiting.
#[derive(Debug)]
pub(crate) struct Network {
    handle: tokio::runtime::Handle,
    endpoint: quinn::Endpoint,
    _end: oneshot::Sender<()>,
}

impl Network {
    pub(crate) fn start() -> Result<Self, DriverError> {
        let failed = |e: &dyn std::fmt::Display| DriverError::local("start the network thread", e);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| failed(&e))?;
        let handle = runtime.handle().clone();
        let endpoint = {
            let _entered = handle.enter();
            endpoint::client(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).map_err(|e| failed(&e))?
        };
        let (end, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("cc-net".into())
            .spawn(move || {
                // Either the sender says so or it is dropped.
                let _ = runtime.block_on(ended);
                runtime.shutdown_background();
            })
            .map_err(|e| failed(&e))?;
        Ok(Self {
            handle,
            endpoint,
            _end: end,
        })
    }

    pub(crate) fn handle(&self) -> &tokio::runtime::Handle {
        &self.handle
    }

    pub(crate) fn endpoint(&self) -> &quinn::Endpoint {
        &self.endpoint
    }

    /// Runs a future on the network thread and waits for its result on any executor. It goes
    /// on to its end even if the caller stops waiting.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        phase: &'static str,
        future: impl Future<Output = Result<T, DriverError>> + Send + 'static,
    ) -> Result<T, DriverError> {
        match self.handle.spawn(future).await {
            Ok(result) => result,
            Err(error) => Err(DriverError::local(phase, error)),
        }
    }

    /// Says good-bye to every agent, so that the next driver need not wait for a time-out.
    pub(crate) async fn close(&self) {
        let endpoint = self.endpoint.clone();
        let closing = self.handle.spawn(async move {
            endpoint.close(0u32.into(), b"driver ends");
            // Idle means that all drain periods are over; the good-byes are on their way long
            // before that.
            let _ = tokio::time::timeout(GOODBYE, endpoint.wait_idle()).await;
        });
        // It has no result, and a panic in it is printed already.
        let _ = closing.await;
    }
}
