//! Looking at a cluster and working on its nodes beside whoever owns it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cc_agent::client::{self, ExecSession};
use cc_core::ids::{Handle, NodeIndex, WorkerId, WorkerKey};
use cc_core::limits;
use cc_core::provider::NodeState;
use cc_core::record::{ClusterRecord, ClusterState};
use cc_core::settings::Settings;
use cc_core::wire::control::{Answer, LogLine, NodeStatus, Request, SessionKind, WorkerCommand};
use cc_core::wire::stream::Exec;
use futures::StreamExt as _;
use futures::future::join_all;
use tokio::sync::mpsc;

use crate::driver::{Driver, DriverCore};
use crate::error::DriverError;
use crate::logs::WorkerLine;
use crate::session::{Event, Session};
use crate::ship::Receivers;
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
    known: HashMap<(NodeIndex, WorkerKey), WorkerId>,
    asked: HashMap<NodeIndex, Instant>,
    /// Lines of a node that have not been given out yet.
    taken: Option<(NodeIndex, Vec<LogLine>)>,
}

/// How often a node is asked at most for the numbers of workers that write.
const NAMES_EVERY: Duration = Duration::from_secs(1);

/// Nodes looked at at once.
const AT_ONCE: usize = 64;

/// Tool work on whole clusters.
impl Driver {
    /// What is true of every node of a cluster, as far as its provider can tell. Agents are not
    /// talked to.
    ///
    /// # Errors
    /// Fails when there is no readable record.
    pub async fn node_states(
        &self,
        handle: Handle,
    ) -> Result<Vec<(NodeIndex, Result<NodeState, DriverError>)>, DriverError> {
        let core = Arc::clone(&self.core);
        let looking = async move { states(&core, &core.state.load(handle)?).await };
        self.core.network.run("look at the nodes", looking).await
    }

    /// The agent's executable that nodes of the `local` provider get, as it is configured or found as
    /// described in the search order; `/proc/self/exe` if this program stands in for it.
    ///
    /// # Errors
    /// Names the places that were looked at, or the line of the configuration that is wrong.
    pub fn agent_executable(&self) -> Result<PathBuf, DriverError> {
        let none = Settings::default();
        let configured = self.config()?.effective("local", &none, &none)?.settings;
        self.core.agent(configured.agent.as_deref())
    }

    /// Ends all workers of a cluster and starts fresh ones with the program that was used last,
    /// without being that program. Gives their number.
    ///
    /// # Errors
    /// Fails when no program has run on the cluster, and when another driver owns it, unless
    /// `take_over`. Otherwise visits every node and gives all errors.
    pub async fn restart_workers(
        &self,
        handle: Handle,
        take_over: bool,
    ) -> Result<u32, DriverError> {
        let core = Arc::clone(&self.core);
        let restarting = restart_workers(core, handle, take_over);
        self.core.network.run("restart workers", restarting).await
    }
}

async fn states(
    driver: &DriverCore,
    record: &ClusterRecord,
) -> Result<Vec<(NodeIndex, Result<NodeState, DriverError>)>, DriverError> {
    let provider = driver.provider(record.plan.provider())?;
    let looks: Vec<_> = record.nodes.iter().map(|n| provider.state(n)).collect();
    let states: Vec<_> = futures::stream::iter(looks)
        .buffered(AT_ONCE)
        .collect()
        .await;
    let states = states.into_iter().map(|s| s.map_err(DriverError::from));
    Ok(record.nodes.iter().map(|n| n.node).zip(states).collect())
}

async fn restart_workers(
    driver: Arc<DriverCore>,
    handle: Handle,
    take_over: bool,
) -> Result<u32, DriverError> {
    let record = driver.state.load(handle)?;
    let cannot = |hint| DriverError::State {
        handle,
        state: record.state.to_string(),
        hint,
    };
    match record.state {
        ClusterState::Running => {}
        ClusterState::Interrupted => return Err(cannot("resume it first")),
        _ => return Err(cannot("it is not whole; terminate it")),
    }
    let Some(command) = record.worker.clone() else {
        return Err(cannot(
            "no program has run on it yet, so there is nothing to start",
        ));
    };
    let (sender, mut events) = mpsc::channel(1_000);
    // Nobody looks at them, but they must not stand in the way of the answers.
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    // An owner's sessions, so that nobody's workers are ended under their hands.
    let results =
        lifecycle::sessions(&driver, &record, SessionKind::Owner, take_over, sender).await?;
    let (mut sessions, mut errors) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(session) => sessions.push(session),
            Err(error) => errors.push(error),
        }
    }
    let refused = |e: &DriverError| matches!(e, DriverError::Refused { .. });
    let mut started = 0;
    if let Some(refused) = errors.iter().position(refused) {
        errors = vec![errors.swap_remove(refused)];
    } else {
        let workers = record.plan.workers_per_node();
        let restarts = sessions
            .iter()
            .map(|session| restart_node(session, &command, workers));
        for (count, failed) in join_all(restarts).await {
            started += count;
            errors.extend(failed);
        }
    }
    for session in &sessions {
        session.close("the workers were restarted");
    }
    DriverError::all(errors).map(|()| started)
}

/// Restarts one node's workers; gives how many started, and why others did not.
async fn restart_node(
    session: &Session,
    command: &WorkerCommand,
    workers: u32,
) -> (u32, Vec<DriverError>) {
    let running = &session.welcome.status.workers;
    let stop = Request::StopWorkers {
        workers: running.iter().map(|w| w.key).collect(),
        grace_ms: limits::STOP_GRACE.as_millis() as u64,
        reason: "restart".into(),
    };
    let wait = limits::STOP_GRACE + limits::KILL_WAIT + limits::REQUEST_WAIT;
    if let Err(error) = session.request("stop workers", stop, wait).await {
        return (0, vec![error]);
    }
    let start = Request::StartWorkers(command.clone(), (0..workers).collect());
    let wait = limits::WORKER_START + limits::REQUEST_WAIT;
    match session.request("start workers", start, wait).await {
        Ok(Answer::Workers(results)) => {
            let mut started = 0;
            let errors = results
                .into_iter()
                .filter_map(|(slot, result)| match result {
                    Ok(_) => {
                        started += 1;
                        None
                    }
                    Err(death) => Some(DriverError::Worker {
                        node: session.node,
                        slot,
                        death,
                    }),
                });
            let errors = errors.collect();
            (started, errors)
        }
        Ok(_) => {
            let reason = "the agent answered something else";
            let error = DriverError::node(session.node, "start workers", reason);
            (0, vec![error])
        }
        Err(error) => (0, vec![error]),
    }
}

impl Tools {
    pub(crate) async fn connect(
        driver: Arc<DriverCore>,
        handle: Handle,
    ) -> Result<Self, DriverError> {
        let mut record = driver.state.load(handle)?;
        let mut errors = Vec::new();
        // Nobody answers on a node that does not run, which takes long to find out by asking.
        for (node, state) in states(&driver, &record).await? {
            let reason = match state {
                Ok(NodeState::Stopped) => "it does not run: `cctl resume` starts it",
                Ok(NodeState::Gone) => "it does not exist any more",
                // Not knowing is no reason not to try.
                Ok(NodeState::Running) | Err(_) => continue,
            };
            errors.push((
                node,
                DriverError::node(node, "connect to the agent", reason),
            ));
        }
        let all = record.nodes.clone();
        record
            .nodes
            .retain(|n| errors.iter().all(|(node, _)| *node != n.node));
        let (sender, events) = mpsc::channel(1_000);
        let results =
            lifecycle::sessions(&driver, &record, SessionKind::Tool, false, sender).await?;
        let mut sessions = Vec::new();
        for (node, result) in record.nodes.iter().zip(results) {
            match result {
                Ok(session) => sessions.push(session),
                Err(error) => errors.push((node.node, error)),
            }
        }
        errors.sort_by_key(|(node, _)| *node);
        record.nodes = all;
        let known = sessions
            .iter()
            .flat_map(|s| numbers(s.node, &s.welcome.status))
            .collect();
        Ok(Self {
            driver,
            record,
            sessions,
            errors,
            events,
            known,
            asked: HashMap::new(),
            taken: None,
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
            Receivers {
                sessions: self.sessions.clone(),
                one_store: self.record.plan.has_one_store(),
            },
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

    /// The next lines of any node; `None` when no node is left. Cancel-safe.
    pub async fn next_lines(&mut self) -> Option<Vec<WorkerLine>> {
        loop {
            if let Some((node, lines)) = &self.taken {
                let node = *node;
                let unknown = |line: &LogLine| !self.known.contains_key(&(node, line.worker));
                if lines.iter().any(unknown) {
                    self.learn(node).await;
                }
            }
            if let Some((node, lines)) = self.taken.take() {
                let lines = lines.into_iter().map(|line| WorkerLine {
                    worker: self.known.get(&(node, line.worker)).copied(),
                    node,
                    source: line.source,
                    text: line.text,
                });
                return Some(lines.collect());
            }
            match self.events.recv().await? {
                (node, Event::Log(lines)) => self.taken = Some((node, lines)),
                (node, event) => {
                    self.handle(node, event).await;
                    if self.sessions.is_empty() {
                        return None;
                    }
                }
            }
        }
    }

    /// Waits for the loss of a node and gives the reason; `None` when no node is left. What a node
    /// was doing for these tools has then failed. Takes log lines away. Cancel-safe.
    pub async fn next_loss(&mut self) -> Option<(NodeIndex, String)> {
        loop {
            let (node, event) = self.events.recv().await?;
            if let Some(reason) = self.handle(node, event).await {
                return Some((node, reason));
            }
        }
    }

    /// Gives the reason if the node is lost.
    async fn handle(&mut self, node: NodeIndex, event: Event) -> Option<String> {
        match event {
            Event::Over(reason) => {
                let before = self.sessions.len();
                self.sessions.retain(|s| s.node != node);
                (self.sessions.len() < before).then_some(reason)
            }
            Event::Silent(_) => {
                self.end_if_gone(node).await;
                None
            }
            Event::Log(_) | Event::WorkerDown(..) => None,
        }
    }

    /// Ends the session of a silent node that its provider knows to be gone, long before silence
    /// alone would.
    async fn end_if_gone(&self, node: NodeIndex) {
        let (driver, record) = (Arc::clone(&self.driver), self.record.clone());
        let looking = async move { states(&driver, &record).await };
        let states = self.driver.network.run("look at the nodes", looking).await;
        let gone = states.into_iter().flatten().any(|(n, state)| {
            n == node && matches!(state, Ok(NodeState::Stopped | NodeState::Gone))
        });
        if gone && let Ok(session) = self.session(node) {
            session.close("its agent does not run any more");
        }
    }

    /// Asks a node for its workers' numbers: they get them after they have started.
    async fn learn(&mut self, node: NodeIndex) {
        let now = Instant::now();
        let recently = |asked: &Instant| now.duration_since(*asked) < NAMES_EVERY;
        if self.asked.get(&node).is_some_and(recently) {
            return;
        }
        self.asked.insert(node, now);
        let Ok(session) = self.session(node) else {
            return;
        };
        let wait = NAMES_EVERY;
        if let Ok(Answer::Status(status)) = session
            .request("ask the agent", Request::Status, wait)
            .await
        {
            self.known.extend(numbers(node, &status));
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

/// The numbers of a node's workers, where they have one.
fn numbers(
    node: NodeIndex,
    status: &NodeStatus,
) -> impl Iterator<Item = ((NodeIndex, WorkerKey), WorkerId)> {
    let workers = status.workers.iter();
    workers.filter_map(move |w| Some(((node, w.key), w.id?)))
}
