//! Deploy, reconnect, resume, interrupt, terminate: in order, written down first,
//! and on every node. All of it runs on the driver's network thread.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cc_core::contract::Topology;
use cc_core::ids::{Handle, NodeIndex};
use cc_core::net::endpoint;
use cc_core::net::identity::{Authority, Credentials, Role, Subject};
use cc_core::provider::{AgentLaunch, NodeState, Provider};
use cc_core::record::{ClusterRecord, ClusterState, NodeRecord, RECORD_VERSION};
use cc_core::resolve::Plan;
use cc_core::wire::bootstrap::Identity;
use cc_core::wire::control::SessionKind;
use futures::StreamExt as _;

use crate::cluster::ClusterCore;
use crate::driver::DriverCore;
use crate::error::DriverError;
use crate::session::{Session, Target};
use crate::workers::{start_all_workers, take_up, worker_program};

/// Nodes worked on at once.
pub(crate) const AT_ONCE: usize = 64;

/// Makes a cluster; with workers if asked.
pub(crate) async fn deploy(
    driver: Arc<DriverCore>,
    plan: Plan,
    workers: bool,
) -> Result<Arc<ClusterCore>, DriverError> {
    let provider = driver.provider(plan.provider())?;
    if plan.topology() != Topology::PeerWorkers {
        return Err(DriverError::local(
            "deploy",
            format!(
                "{} clusters can be planned and not yet be deployed: write cluster_type = \
                 PeerWorkers",
                plan.topology()
            ),
        ));
    }
    // First: a program that cannot be a worker cannot be an agent either, and what helps there
    // helps here.
    if workers {
        worker_program(&driver, &plan)?;
    }
    let agent = driver.agent(plan.settings().agent.as_deref())?;
    let handle = Handle::random();
    let nodes = (0..plan.nodes())
        .map(|index| provider.intend(handle, NodeIndex(index), &plan))
        .collect();
    let record = ClusterRecord {
        version: RECORD_VERSION,
        handle,
        state: ClusterState::Deploying,
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs()),
        plan,
        nodes,
        worker: None,
        shipped: None,
    };
    let authority = make_authority(&driver, &record)?;
    let made = async {
        let record = start_nodes(&driver, &*provider, agent, &authority, record.clone()).await?;
        let cluster = connect(&driver, &provider, &record, false).await?;
        if workers {
            start_all_workers(&cluster, cluster.sessions()).await?;
        }
        set_state(&driver, handle, ClusterState::Running)?;
        Ok(cluster)
    };
    match made.await {
        Ok(cluster) => Ok(cluster),
        Err(error) => {
            // Unwind; whatever cannot be removed is named, and its record stays.
            let left = unwind(driver, &*provider, record).await;
            Err(DriverError::several(
                std::iter::once(error).chain(left.err()).collect(),
            ))
        }
    }
}

/// Removes what a failed deployment has made.
async fn unwind(
    driver: Arc<DriverCore>,
    provider: &dyn Provider,
    record: ClusterRecord,
) -> Result<(), DriverError> {
    let handle = record.handle;
    match terminate(Arc::clone(&driver), handle).await {
        Err(DriverError::Record(_)) if !driver.state.has_record(handle) => {
            // Another process has terminated the cluster while it was being made, and may have
            // come too early for some of its nodes.
            remove_nodes(provider, &record.nodes).await?;
            Ok(driver.state.remove(handle)?)
        }
        terminated => terminated,
    }
}

fn make_authority(driver: &DriverCore, record: &ClusterRecord) -> Result<Authority, DriverError> {
    let fail = |e| DriverError::local("make the cluster's certificates", e);
    let handle = record.handle;
    let (authority, key) = Authority::create(handle).map_err(fail)?;
    let credentials = authority
        .issue(Subject {
            handle,
            role: Role::Driver,
        })
        .map_err(fail)?;
    driver.state.create(record)?;
    let stored = driver
        .state
        .store_authority(handle, authority.certificate(), &key)
        .and_then(|()| driver.state.store_credentials(handle, &credentials));
    if let Err(error) = stored {
        // Nothing was made yet that the record speaks of. If it cannot be removed either, it is
        // listed, and says that it is not whole.
        let removed = driver.state.remove(handle).err();
        let errors = std::iter::once(error).chain(removed);
        DriverError::all(errors.map(DriverError::from).collect())?;
    }
    Ok(authority)
}

/// Starts every node of a record and writes their addresses down.
async fn start_nodes(
    driver: &DriverCore,
    provider: &dyn Provider,
    agent: std::path::PathBuf,
    authority: &Authority,
    record: ClusterRecord,
) -> Result<ClusterRecord, DriverError> {
    let handle = record.handle;
    let launch = AgentLaunch {
        executable: agent,
        handle,
        plan: record.plan.clone(),
    };
    let sign = |node: NodeIndex, request: &str| {
        let subject = Subject {
            handle,
            role: Role::Agent(node),
        };
        let certificate = authority
            .sign(request, subject)
            .map_err(|e| e.to_string())?;
        Ok(Identity {
            certificate,
            ca: authority.certificate().to_owned(),
        })
    };
    let (launch, sign) = (&launch, &sign);
    let starts: Vec<_> = record
        .nodes
        .iter()
        .map(|node| provider.start(launch, node, sign))
        .collect();
    let started: Vec<_> = futures::stream::iter(starts)
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut errors = Vec::new();
    let mut nodes = record.nodes.clone();
    for (node, result) in nodes.iter_mut().zip(started) {
        match result {
            Ok(started) => *node = started,
            Err(error) => errors.push(error.into()),
        }
    }
    // Also what started before another failed is known from now on.
    match driver.state.update(handle, |record| record.nodes = nodes) {
        Ok(record) => DriverError::all(errors).map(|()| record),
        Err(error) => {
            errors.push(error.into());
            Err(DriverError::several(errors))
        }
    }
}

/// Opens an owner's session with every node.
async fn connect(
    driver: &Arc<DriverCore>,
    provider: &Arc<dyn Provider>,
    record: &ClusterRecord,
    take_over: bool,
) -> Result<Arc<ClusterCore>, DriverError> {
    let (events, received) = tokio::sync::mpsc::channel(1_000);
    let mut errors = Vec::new();
    let mut reachable = record.clone();
    if record.state == ClusterState::Running {
        // Nobody answers on a node that does not run, which takes long to find out by asking.
        errors = leave_out_stopped(&**provider, &mut reachable).await;
    }
    let sessions = sessions(driver, &reachable, SessionKind::Owner, take_over, events).await?;
    let mut open = Vec::new();
    for session in sessions {
        match session {
            Ok(session) => open.push(session),
            Err(error) => errors.push(error),
        }
    }
    let refused = errors
        .iter()
        .position(|e| matches!(e, DriverError::Refused { .. }));
    if let Some(refused) = refused {
        // Somebody else's: let go of what we got, for the whole cluster has one owner.
        for session in &open {
            session.close("another driver owns the cluster");
        }
        return Err(errors.swap_remove(refused));
    }
    let all_or_nothing = open.is_empty() || record.state == ClusterState::Deploying;
    if all_or_nothing && !errors.is_empty() {
        // What is not used must not renew anything.
        for session in &open {
            session.close("the cluster is not whole");
        }
        return Err(DriverError::several(errors));
    }
    Ok(ClusterCore::new(
        Arc::clone(driver),
        Arc::clone(provider),
        record.clone(),
        open,
        errors,
        received,
    ))
}

/// Takes the nodes out of a record that its provider knows not to run, and says which.
async fn leave_out_stopped(
    provider: &dyn Provider,
    record: &mut ClusterRecord,
) -> Vec<DriverError> {
    let looks: Vec<_> = record.nodes.iter().map(|n| provider.state(n)).collect();
    let states: Vec<_> = futures::stream::iter(looks)
        .buffered(AT_ONCE)
        .collect()
        .await;
    let mut errors = Vec::new();
    let nodes = std::mem::take(&mut record.nodes);
    for (node, state) in nodes.into_iter().zip(states) {
        let reason = match state {
            Ok(NodeState::Stopped) => "its agent does not run: resume the cluster to start it",
            Ok(NodeState::Gone) => "the node does not exist any more",
            // Not knowing is no reason not to try.
            Ok(NodeState::Running) | Err(_) => {
                record.nodes.push(node);
                continue;
            }
        };
        errors.push(DriverError::node(node.node, "connect to the agent", reason));
    }
    errors
}

/// Opens a session of a kind with every node of a record, in their order.
pub(crate) async fn sessions(
    driver: &Arc<DriverCore>,
    record: &ClusterRecord,
    kind: SessionKind,
    take_over: bool,
    events: tokio::sync::mpsc::Sender<(NodeIndex, crate::session::Event)>,
) -> Result<Vec<Result<Arc<Session>, DriverError>>, DriverError> {
    let credentials = driver.state.load_credentials(record.handle)?;
    let lease = record.plan.effective_driver_timeout();
    let open = |node: &NodeRecord| {
        let (index, address, events) = (node.node, node.address, events.clone());
        let credentials: &Credentials = &credentials;
        let endpoint = driver.network.endpoint();
        async move {
            let address = address.ok_or_else(|| {
                DriverError::node(index, "connect to the agent", "it was never started")
            })?;
            let tls = endpoint::client_config(credentials, address.ip().is_loopback())
                .map_err(|e| DriverError::node(index, "prepare the connection", e))?;
            let target = Target {
                handle: record.handle,
                node: index,
                address,
                tls,
                kind,
                take_over,
                lease,
            };
            Session::open(endpoint, target, events).await
        }
    };
    let opening: Vec<_> = record.nodes.iter().map(open).collect();
    Ok(futures::stream::iter(opening)
        .buffered(AT_ONCE)
        .collect()
        .await)
}

/// Takes up a cluster that runs.
pub(crate) async fn reconnect(
    driver: Arc<DriverCore>,
    handle: Handle,
    take_over: bool,
) -> Result<Arc<ClusterCore>, DriverError> {
    let record = driver.state.load(handle)?;
    match record.state {
        ClusterState::Running => {}
        ClusterState::Interrupted => return Err(state(&record, "resume it first")),
        ClusterState::Deploying | ClusterState::Terminating => {
            return Err(state(&record, "it is not whole; terminate it"));
        }
    }
    let provider = driver.provider(record.plan.provider())?;
    let cluster = connect(&driver, &provider, &record, take_over).await?;
    let errors = take_up(&cluster).await?;
    cluster.note_missing(errors);
    Ok(cluster)
}

/// Starts an interrupted cluster again, or stops it again if a node does not start. Of a cluster
/// that runs, the nodes that do not; what runs is taken up as it is.
pub(crate) async fn resume(
    driver: Arc<DriverCore>,
    handle: Handle,
    workers: bool,
) -> Result<Arc<ClusterCore>, DriverError> {
    let record = driver.state.load(handle)?;
    match record.state {
        ClusterState::Interrupted | ClusterState::Running => {}
        ClusterState::Deploying | ClusterState::Terminating => {
            return Err(state(&record, "it is not whole; terminate it"));
        }
    }
    let provider = driver.provider(record.plan.provider())?;
    let agent = driver.agent(record.plan.settings().agent.as_deref())?;
    let (certificate, key) = driver.state.load_authority(handle)?;
    let authority = Authority::load(&certificate, &key)
        .map_err(|e| DriverError::local("read the cluster's certificates", e))?;
    let (was, nodes) = (record.state, record.nodes.clone());
    let resumed = async {
        let record = start_nodes(&driver, &*provider, agent, &authority, record).await?;
        let cluster = connect(&driver, &provider, &record, false).await?;
        cluster.all_nodes()?;
        if workers {
            let errors = take_up(&cluster).await?;
            DriverError::all(errors)?;
        }
        set_state(&driver, handle, ClusterState::Running)?;
        Ok::<_, DriverError>(cluster)
    };
    match resumed.await {
        Ok(cluster) => Ok(cluster),
        // Somebody else's running cluster is not ours to stop.
        Err(error) if was == ClusterState::Running || error.is_refusal() => Err(error),
        Err(error) if !driver.state.has_record(handle) => {
            // Another process has terminated it meanwhile, and may have come too early for some
            // of its nodes.
            let left = remove_nodes(&*provider, &nodes).await;
            Err(DriverError::several(
                std::iter::once(error).chain(left.err()).collect(),
            ))
        }
        Err(error) => {
            let left = interrupt(driver, handle).await;
            Err(DriverError::several(
                std::iter::once(error).chain(left.err()).collect(),
            ))
        }
    }
}

/// Stops every node.
pub(crate) async fn interrupt(driver: Arc<DriverCore>, handle: Handle) -> Result<(), DriverError> {
    let record = driver.state.load(handle)?;
    if matches!(
        record.state,
        ClusterState::Deploying | ClusterState::Terminating
    ) {
        return Err(state(&record, "it is not whole; terminate it"));
    }
    let provider = driver.provider(record.plan.provider())?;
    let provider = &*provider;
    let stops: Vec<_> = record
        .nodes
        .iter()
        .map(|node| provider.stop(node))
        .collect();
    let errors: Vec<_> = futures::stream::iter(stops)
        .buffer_unordered(AT_ONCE)
        .filter_map(|result| async { result.err().map(DriverError::from) })
        .collect()
        .await;
    DriverError::all(errors)?;
    set_state(&driver, handle, ClusterState::Interrupted)
}

/// Removes every node, and then the record.
pub(crate) async fn terminate(driver: Arc<DriverCore>, handle: Handle) -> Result<(), DriverError> {
    let noted = driver
        .state
        .update(handle, |r| r.state = ClusterState::Terminating);
    // A full disk is no reason to keep anything running.
    let record = noted.or_else(|error| driver.state.load(handle).map_err(|_| error))?;
    let provider = driver.provider(record.plan.provider())?;
    remove_nodes(&*provider, &record.nodes).await?;
    Ok(driver.state.remove(handle)?)
}

async fn remove_nodes(provider: &dyn Provider, nodes: &[NodeRecord]) -> Result<(), DriverError> {
    let removals: Vec<_> = nodes.iter().map(|node| provider.remove(node)).collect();
    let errors: Vec<_> = futures::stream::iter(removals)
        .buffer_unordered(AT_ONCE)
        .filter_map(|result| async { result.err().map(DriverError::from) })
        .collect()
        .await;
    DriverError::all(errors)
}

fn set_state(driver: &DriverCore, handle: Handle, state: ClusterState) -> Result<(), DriverError> {
    let record = driver.state.update(handle, |record| {
        // An end that another process has begun is not undone.
        if record.state != ClusterState::Terminating {
            record.state = state;
        }
    })?;
    if record.state == state {
        Ok(())
    } else {
        Err(self::state(
            &record,
            "another process ends it; terminate it",
        ))
    }
}

fn state(record: &ClusterRecord, hint: &'static str) -> DriverError {
    DriverError::State {
        handle: record.handle,
        state: record.state.to_string(),
        hint,
    }
}
