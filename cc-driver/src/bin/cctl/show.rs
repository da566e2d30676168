//! Clusters, their nodes and their workers.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{SystemTime, UNIX_EPOCH};

use cc_core::provider::NodeState;
use cc_core::wire::control::{Holder, Program};
use cc_driver::records::RecordError;
use cc_driver::{
    ClusterRecord, ClusterState, Driver, DriverError, Handle, NodeIndex, NodeStatus, Tools,
};
use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::output::{self, bytes, duration, note, waiting, warn};

/// A cluster in JSON. Every field is documented in the help texts.
#[derive(Debug, Serialize)]
struct ClusterView {
    handle: Handle,
    state: String,
    recorded_state: Option<String>,
    provider: Option<String>,
    cluster_type: Option<String>,
    node_count: Option<u32>,
    nodes_running: Option<u32>,
    node_process_count: Option<u32>,
    created: Option<u64>,
    age_seconds: Option<u64>,
    driver_timeout_seconds: Option<u64>,
    error: Option<String>,
}

/// A node in JSON.
#[derive(Debug, Serialize)]
struct NodeView {
    node: u32,
    state: &'static str,
    address: Option<String>,
    hostname: Option<String>,
    architecture: Option<String>,
    cores: Option<u32>,
    memory_bytes: Option<u64>,
    agent_version: Option<String>,
    agent_pid: Option<u32>,
    uptime_seconds: Option<u64>,
    lease_left_seconds: Option<u64>,
    workers: Option<usize>,
    error: Option<String>,
}

/// A worker in JSON.
#[derive(Debug, Serialize)]
struct WorkerView {
    worker: Option<u32>,
    node: u32,
    slot: u32,
    pid: u32,
    resident_bytes: u64,
    uptime_seconds: u64,
}

type States = Vec<(NodeIndex, Result<NodeState, DriverError>)>;

pub(crate) async fn clusters(driver: &Driver, json: bool) -> Result<(), Failure> {
    let looking = async {
        let mut views = Vec::new();
        for (handle, record) in driver.clusters()? {
            views.push(match record {
                Ok(record) => {
                    let states = driver.node_states(handle).await;
                    if let Err(DriverError::Record(RecordError::NotFound(_))) = states {
                        // It has gone meanwhile.
                        continue;
                    }
                    let error = states.as_ref().err().map(ToString::to_string);
                    ClusterView {
                        error,
                        ..view(&record, states.ok().as_ref().map(running))
                    }
                }
                Err(error) => unreadable(handle, &error),
            });
        }
        Ok::<_, Failure>(views)
    };
    let views = waiting("looking at the clusters", looking).await?;
    if json {
        return output::json(&views);
    }
    if views.is_empty() {
        note("there are no clusters: `cctl deploy node_count=2` makes one");
        return Ok(());
    }
    let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let rows = views.iter().map(|view| {
        let nodes = match view.nodes_running {
            Some(running) => format!("{running}/{}", number(view.node_count)),
            None => number(view.node_count),
        };
        [
            view.handle.to_string(),
            view.state.clone(),
            nodes,
            number(view.node_process_count),
            view.provider.clone().unwrap_or_else(|| "-".to_owned()),
            view.age_seconds.map_or_else(|| "-".to_owned(), duration),
        ]
    });
    output::table(
        [
            "HANDLE",
            "STATE",
            ">NODES",
            ">WORKERS EACH",
            "PROVIDER",
            ">AGE",
        ],
        rows.collect(),
    )?;
    for view in &views {
        if let Some(error) = &view.error {
            warn(format!("{}: {error}", view.handle));
        }
    }
    if std::io::stdout().is_terminal() {
        explain(views.iter().map(|view| (view.handle, view.state.as_str())));
    }
    Ok(())
}

pub(crate) async fn nodes(driver: &Driver, cluster: &str, json: bool) -> Result<(), Failure> {
    let handle = driver.find(cluster)?;
    let look = Look::at(driver, handle).await?;
    let views = look.nodes();
    if json {
        return output::json(&views);
    }
    let unknown = || "-".to_owned();
    let rows = views.iter().map(|view| {
        [
            view.node.to_string(),
            view.state.to_owned(),
            view.address.clone().unwrap_or_else(unknown),
            view.cores.map_or_else(unknown, |n| n.to_string()),
            view.memory_bytes.map_or_else(unknown, bytes),
            view.workers.map_or_else(unknown, |n| n.to_string()),
            view.uptime_seconds.map_or_else(unknown, duration),
            view.lease_left_seconds.map_or_else(unknown, duration),
        ]
    });
    output::table(
        [
            ">NODE", "STATE", "ADDRESS", ">CORES", ">MEMORY", ">WORKERS", ">UP", ">LEASE",
        ],
        rows.collect(),
    )?;
    warn_of(&views);
    Ok(())
}

pub(crate) async fn status(driver: &Driver, cluster: &str, json: bool) -> Result<(), Failure> {
    let handle = driver.find(cluster)?;
    let look = Look::at(driver, handle).await?;
    let record = look.tools.record();
    let (nodes, workers) = (look.nodes(), look.workers());
    let cluster = view(record, Some(look.running()));
    let lease = nodes.iter().filter_map(|n| n.lease_left_seconds).min();
    let driving = look.driving();
    let program = record.worker.as_ref().map(|command| {
        let program = match &command.program {
            Program::Content(hash) => hash.to_hex(),
            Program::Path(path) => path.clone(),
        };
        (command.name.as_str(), program)
    });
    if json {
        let mut object = serde_json::to_value(&cluster).map_err(Failure::failed)?;
        object["lease_left_seconds"] = json!(lease);
        object["driver"] = json!(driving);
        object["program"] = match &program {
            Some((name, hash)) => json!({ "name": name, "hash": hash }),
            None => json!(null),
        };
        object["nodes"] = json!(nodes);
        object["workers"] = json!(workers);
        return output::json(&object);
    }
    let plan = &record.plan;
    let running = cluster.nodes_running.unwrap_or_default();
    let mut text = format!(
        "cluster  {handle}\nstate    {}\nnodes    {running} of {} running, {} on {}\n\
         workers  {} running, of {} on each node\n",
        cluster.state,
        plan.nodes(),
        plan.topology(),
        plan.provider(),
        workers.len(),
        plan.workers_per_node(),
    );
    text.push_str(&format!(
        "age      {}\nlease    {}\n",
        duration(cluster.age_seconds.unwrap_or_default()),
        lease.map_or_else(|| "-".to_owned(), |left| format!("{} left", duration(left))),
    ));
    text.push_str(&match driving {
        Some(holder) => format!(
            "driver   {} (pid {} on {}, for {})\n",
            holder.program,
            holder.pid,
            holder.host,
            duration(now().saturating_sub(holder.started))
        ),
        None => "driver   none\n".to_owned(),
    });
    if let Some((name, program)) = program {
        let short: String = program.chars().take(12).collect();
        text.push_str(&format!("program  {name} ({short})\n"));
    }
    output::text(&text)?;
    if !workers.is_empty() {
        let rows = workers.iter().map(|worker| {
            [
                worker
                    .worker
                    .map_or_else(|| "-".to_owned(), |id| id.to_string()),
                worker.node.to_string(),
                worker.slot.to_string(),
                worker.pid.to_string(),
                bytes(worker.resident_bytes),
                duration(worker.uptime_seconds),
            ]
        });
        output::text("\n")?;
        output::table(
            [">WORKER", ">NODE", ">SLOT", ">PID", ">MEMORY", ">UP"],
            rows.collect(),
        )?;
    }
    warn_of(&nodes);
    if std::io::stdout().is_terminal() {
        explain([(handle, cluster.state.as_str())]);
    }
    Ok(())
}

/// What is to be seen of a cluster's nodes.
struct Look {
    tools: Tools,
    states: States,
    status: BTreeMap<NodeIndex, Result<NodeStatus, String>>,
}

impl Look {
    async fn at(driver: &Driver, handle: Handle) -> Result<Self, Failure> {
        let looking = async {
            let states = driver.node_states(handle).await?;
            let tools = driver.tools(handle).await?;
            let unreachable = tools.unreachable().iter();
            let unreachable = unreachable.map(|(node, error)| (*node, Err(error.to_string())));
            let answers = tools.status().await.into_iter();
            let answers = answers.map(|(node, s)| (node, s.map_err(|e| e.to_string())));
            let status = answers.chain(unreachable).collect();
            Ok(Self {
                states,
                status,
                tools,
            })
        };
        waiting(format!("looking at {handle}"), looking).await
    }

    fn running(&self) -> u32 {
        running(&self.states)
    }

    /// Who drives the cluster.
    fn driving(&self) -> Option<&Holder> {
        self.status
            .values()
            .flatten()
            .find_map(|s| s.owner.as_ref())
    }

    fn nodes(&self) -> Vec<NodeView> {
        let view = |(node, state): &(NodeIndex, Result<NodeState, DriverError>)| {
            let record = self.tools.record().nodes.iter().find(|n| n.node == *node);
            let answer = self.status.get(node);
            let status = answer.and_then(|s| s.as_ref().ok());
            let (state, error) = match (state, answer) {
                (_, Some(Ok(_))) => ("running", None),
                (Ok(NodeState::Stopped), _) => ("stopped", None),
                (Ok(NodeState::Gone), _) => ("gone", None),
                (Ok(NodeState::Running), Some(Err(error))) => ("unreachable", Some(error.clone())),
                (Ok(NodeState::Running), None) => ("running", None),
                (Err(error), _) => ("unreachable", Some(error.to_string())),
            };
            NodeView {
                node: node.0,
                state,
                address: record.and_then(|r| Some(r.address?.to_string())),
                hostname: status.map(|s| s.hostname.clone()),
                architecture: status.map(|s| s.architecture.clone()),
                cores: status.map(|s| s.cores),
                memory_bytes: status.map(|s| s.memory),
                agent_version: status.map(|s| s.version.clone()),
                agent_pid: status.map(|s| s.pid),
                uptime_seconds: status.map(|s| s.uptime),
                lease_left_seconds: status.map(|s| s.lease_left),
                workers: status.map(|s| s.workers.len()),
                error,
            }
        };
        self.states.iter().map(view).collect()
    }

    fn workers(&self) -> Vec<WorkerView> {
        let on_node = |(node, status): (&NodeIndex, &Result<NodeStatus, String>)| {
            let node = node.0;
            let workers = status
                .as_ref()
                .map(|s| s.workers.clone())
                .unwrap_or_default();
            workers.into_iter().map(move |worker| WorkerView {
                worker: worker.id.map(|id| id.0),
                node,
                slot: worker.key.slot,
                pid: worker.pid,
                resident_bytes: worker.resident,
                uptime_seconds: worker.uptime,
            })
        };
        let mut workers: Vec<_> = self.status.iter().flat_map(on_node).collect();
        workers.sort_by_key(|w| (w.node, w.slot));
        workers
    }
}

fn running(states: &States) -> u32 {
    let runs = |state: &Result<NodeState, DriverError>| matches!(state, Ok(NodeState::Running));
    states.iter().filter(|(_, state)| runs(state)).count() as u32
}

fn view(record: &ClusterRecord, running: Option<u32>) -> ClusterView {
    let plan = &record.plan;
    let state = match (record.state, running) {
        (ClusterState::Running, Some(0)) => "ended".to_owned(),
        (ClusterState::Running, Some(n)) if n < plan.nodes() => "degraded".to_owned(),
        (state, _) => state.to_string(),
    };
    ClusterView {
        handle: record.handle,
        state,
        recorded_state: Some(record.state.to_string()),
        provider: Some(plan.provider().to_owned()),
        cluster_type: Some(plan.topology().to_string()),
        node_count: Some(plan.nodes()),
        nodes_running: running,
        node_process_count: Some(plan.workers_per_node()),
        created: Some(record.created),
        age_seconds: Some(now().saturating_sub(record.created)),
        driver_timeout_seconds: Some(plan.effective_driver_timeout().as_secs()),
        error: None,
    }
}

fn unreadable(handle: Handle, error: &RecordError) -> ClusterView {
    ClusterView {
        handle,
        state: "unreadable".to_owned(),
        recorded_state: None,
        provider: None,
        cluster_type: None,
        node_count: None,
        nodes_running: None,
        node_process_count: None,
        created: None,
        age_seconds: None,
        driver_timeout_seconds: None,
        error: Some(error.to_string()),
    }
}

fn warn_of(nodes: &[NodeView]) {
    for node in nodes {
        if let Some(error) = &node.error {
            warn(error);
        }
    }
}

/// What can be done about states that nobody asked for.
fn explain<'a>(clusters: impl IntoIterator<Item = (Handle, &'a str)>) {
    for (handle, state) in clusters {
        match state {
            "ended" => note(format!(
                "{handle} ended by itself: `cctl resume {handle}` starts it again with its files, \
                 `cctl terminate {handle}` removes it"
            )),
            "degraded" => note(format!(
                "some nodes of {handle} do not run: `cctl resume {handle}` starts them again"
            )),
            "deploying" => note(format!(
                "{handle} is being deployed; if nobody does, `cctl terminate {handle}` removes it"
            )),
            "terminating" => note(format!(
                "{handle} is not gone yet: `cctl terminate {handle}` goes on with it"
            )),
            _ => {}
        }
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
