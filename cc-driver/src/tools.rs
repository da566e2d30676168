//! Looking at a cluster and working on its nodes beside whoever owns it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cc_agent::client::{self, ExecSession};
use cc_core::ids::{Handle, NodeIndex};
use cc_core::limits;
use cc_core::record::ClusterRecord;
use cc_core::wire::control::{Answer, NodeStatus, Request, SessionKind};
use cc_core::wire::stream::Exec;
use futures::future::join_all;
use tokio::sync::mpsc;

use crate::driver::DriverCore;
use crate::error::DriverError;
use crate::logs::WorkerLine;
use crate::session::{Event, Session};
use crate::{files, lifecycle};

/// Tool sessions with the nodes of a cluster: status, logs, files, commands. They work beside a
/// running driver.
#[derive(Debug)]
pub struct Tools {
    driver: Arc<DriverCore>,
    record: ClusterRecord,
    sessions: Vec<Arc<Session>>,
    errors: Vec<(NodeIndex, DriverError)>,
    events: mpsc::Receiver<(NodeIndex, Event)>,
}

impl Tools {
    pub(crate) async fn connect(
        driver: Arc<DriverCore>,
        handle: Handle,
    ) -> Result<Self, DriverError> {
        let record = driver.state.load(handle)?;
        let (sender, events) = mpsc::channel(1_000);
        let results =
            lifecycle::sessions(&driver, &record, SessionKind::Tool, false, sender).await?;
        let (mut sessions, mut errors) = (Vec::new(), Vec::new());
        for (node, result) in record.nodes.iter().zip(results) {
            match result {
                Ok(session) => sessions.push(session),
                Err(error) => errors.push((node.node, error)),
            }
        }
        Ok(Self {
            driver,
            record,
            sessions,
            errors,
            events,
        })
    }

    /// What is written down about the cluster.
    pub fn record(&self) -> &ClusterRecord {
        &self.record
    }

    /// The nodes that answer.
    pub fn nodes(&self) -> Vec<NodeIndex> {
        self.sessions.iter().map(|s| s.node).collect()
    }

    /// The nodes that do not, and why.
    pub fn unreachable(&self) -> &[(NodeIndex, DriverError)] {
        &self.errors
    }

    /// Works on some nodes only.
    ///
    /// # Errors
    /// Fails when one of them does not answer or does not exist.
    pub fn only(&mut self, nodes: &[NodeIndex]) -> Result<(), DriverError> {
        for node in nodes {
            if let Some(at) = self.errors.iter().position(|(n, _)| n == node) {
                return Err(self.errors.swap_remove(at).1);
            }
            if !self.sessions.iter().any(|s| s.node == *node) {
                return Err(DriverError::node(
                    *node,
                    "find the node",
                    "the cluster has no such node",
                ));
            }
        }
        self.sessions.retain(|s| nodes.contains(&s.node));
        Ok(())
    }

    /// The state of every node that answers.
    pub async fn status(&self) -> Vec<(NodeIndex, Result<NodeStatus, DriverError>)> {
        self.ask(
            Request::Status,
            limits::REQUEST_WAIT,
            |answer| match answer {
                Answer::Status(status) => Some(*status),
                _ => None,
            },
        )
        .await
    }

    /// Starts workers in all empty slots with the command that was used last.
    ///
    /// # Errors
    /// Visits every node and gives all errors.
    pub async fn restart_workers(&self) -> Result<(), DriverError> {
        let wait = limits::WORKER_START + limits::KILL_WAIT + limits::REQUEST_WAIT;
        let results = self
            .ask(Request::RestartWorkers, wait, |answer| match answer {
                Answer::Workers(workers) => Some(workers),
                _ => None,
            })
            .await;
        let mut errors = Vec::new();
        for (node, result) in results {
            match result {
                Ok(workers) => errors.extend(workers.into_iter().filter_map(|(slot, result)| {
                    Some(DriverError::Worker {
                        node,
                        slot,
                        death: result.err()?,
                    })
                })),
                Err(error) => errors.push(error),
            }
        }
        DriverError::all(errors)
    }

    /// Lets every agent keep its work for at least this long from now.
    ///
    /// # Errors
    /// Visits every node and gives all errors.
    pub async fn extend(&self, time: Duration) -> Result<(), DriverError> {
        let request = Request::Extend {
            seconds: time.as_secs(),
        };
        let results = self.ask(request, limits::REQUEST_WAIT, |_| Some(())).await;
        DriverError::all(results.into_iter().filter_map(|(_, r)| r.err()).collect())
    }

    /// Starts a command on a node.
    ///
    /// # Errors
    /// Fails when the node does not answer or the command cannot be started.
    pub async fn exec(&self, node: NodeIndex, exec: Exec) -> Result<ExecSession, DriverError> {
        let session = self.session(node)?;
        let connection = session.connection.clone();
        let starting = async move {
            client::exec(&connection, exec)
                .await
                .map_err(|e| DriverError::node(node, "start the command", e))
        };
        self.driver.network.run("exec", starting).await
    }

    /// Copies a local file or folder to every chosen node, with a progress bar on a terminal.
    ///
    /// # Errors
    /// Names the node, the phase and the reason; every node is visited.
    pub async fn upload(&self, local: &Path, remote: &str) -> Result<(), DriverError> {
        let label = local
            .file_name()
            .unwrap_or(local.as_os_str())
            .to_string_lossy()
            .into_owned();
        let uploading = files::upload(
            self.sessions.clone(),
            local.to_path_buf(),
            remote.to_owned(),
            Some(label),
        );
        self.driver.network.run("upload", uploading).await
    }

    /// Copies a file or folder from a node, with a progress bar on a terminal; gives its bytes.
    ///
    /// # Errors
    /// Names the node, the phase and the reason.
    pub async fn download(
        &self,
        node: NodeIndex,
        remote: &str,
        local: &Path,
    ) -> Result<u64, DriverError> {
        let session = self.session(node)?;
        let downloading = files::download(
            session,
            remote.to_owned(),
            local.to_path_buf(),
            Some(remote.to_owned()),
        );
        self.driver.network.run("download", downloading).await
    }

    /// Asks for the workers' output: what the agents remember if `history`, and from then on what
    /// is written. Take it with [`next_lines`](Self::next_lines).
    ///
    /// # Errors
    /// Visits every node and gives all errors.
    pub async fn follow_logs(&self, history: bool) -> Result<(), DriverError> {
        let request = Request::Logs { history };
        let results = self.ask(request, limits::REQUEST_WAIT, |_| Some(())).await;
        DriverError::all(results.into_iter().filter_map(|(_, r)| r.err()).collect())
    }

    /// The next lines of any node; `None` when no node is left.
    pub async fn next_lines(&mut self) -> Option<Vec<WorkerLine>> {
        let known: std::collections::HashMap<_, _> = self
            .sessions
            .iter()
            .flat_map(|s| {
                s.welcome
                    .status
                    .workers
                    .iter()
                    .map(move |w| ((s.node, w.key), w.id))
            })
            .collect();
        loop {
            match self.events.recv().await? {
                (node, Event::Log(lines)) => {
                    return Some(
                        lines
                            .into_iter()
                            .map(|line| WorkerLine {
                                worker: known.get(&(node, line.worker)).copied().flatten(),
                                node,
                                source: line.source,
                                text: line.text,
                            })
                            .collect(),
                    );
                }
                (node, Event::Over(_)) => {
                    self.sessions.retain(|s| s.node != node);
                    if self.sessions.is_empty() {
                        return None;
                    }
                }
                _ => {}
            }
        }
    }

    fn session(&self, node: NodeIndex) -> Result<Arc<Session>, DriverError> {
        self.sessions
            .iter()
            .find(|s| s.node == node)
            .cloned()
            .ok_or_else(|| {
                DriverError::node(
                    node,
                    "find the node",
                    "it does not answer or does not exist",
                )
            })
    }

    async fn ask<T>(
        &self,
        request: Request,
        wait: Duration,
        take: impl Fn(Answer) -> Option<T>,
    ) -> Vec<(NodeIndex, Result<T, DriverError>)> {
        let take = &take;
        join_all(self.sessions.iter().map(|session| {
            let request = request.clone();
            async move {
                let answer = session.request("ask the agent", request, wait).await;
                let result = answer.and_then(|answer| {
                    take(answer).ok_or_else(|| {
                        DriverError::node(
                            session.node,
                            "ask the agent",
                            "it answered something else",
                        )
                    })
                });
                (session.node, result)
            }
        }))
        .await
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        for session in &self.sessions {
            session.close("the tool ends");
        }
    }
}
