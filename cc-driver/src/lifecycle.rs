//! Deploy, reconnect, resume, interrupt, restart, terminate: in order, written down first,
//! and on every node. All of it runs on the driver's network thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cc_core::contract::Plan;
use cc_core::ids::{Handle, NodeIndex, WorkerId};
use cc_core::limits;
use cc_core::net::endpoint;
use cc_core::net::identity::{Authority, Credentials, Role, Subject};
use cc_core::provider::{AgentLaunch, NodeState, Provider};
use cc_core::record::{ClusterRecord, ClusterState, NodeRecord, RECORD_VERSION};
use cc_core::wire::bootstrap::Identity;
use cc_core::wire::control::{Answer, Program, Request, SessionKind, WorkerCommand};
use futures::StreamExt as _;

use crate::binary::Binary;
use crate::cluster::ClusterCore;
use crate::driver::DriverCore;
use crate::error::DriverError;
use crate::lane;
use crate::session::{Session, Target};
use crate::ship;

/// Nodes worked on at once.
const AT_ONCE: usize = 64;

/// Makes a cluster; with workers if asked.
pub(crate) async fn deploy(
    driver: Arc<DriverCore>,
    plan: Plan,
    workers: bool,
) -> Result<Arc<ClusterCore>, DriverError> {
    let provider = driver.provider(plan.contract().provider())?;
    // First: a program that cannot be a worker cannot be an agent either, and what helps there
    // helps here.
    if workers {
        worker_program(&driver, &plan)?;
    }
    let agent = driver.agent(plan.contract().settings().agent.as_deref())?;
    let handle = Handle::random();
    let nodes = (0..plan.contract().nodes())
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
    let lease = record.plan.contract().effective_driver_timeout();
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

/// Where the worker's executable comes from.
pub(crate) enum WorkerProgram<'a> {
    Ship(&'a Binary),
    OnNode(String),
}

pub(crate) fn worker_program<'a>(
    driver: &'a DriverCore,
    plan: &Plan,
) -> Result<WorkerProgram<'a>, DriverError> {
    if let Some(path) = &plan.contract().settings().exename {
        return Ok(WorkerProgram::OnNode(path.clone()));
    }
    driver.worker.as_ref().map(WorkerProgram::Ship).ok_or_else(|| {
        DriverError::local(
            "find the worker binary",
            "this executable cannot be a worker: start it through #[cc_driver::main], call cc_driver::init() first in main, or name another with Driver::builder().worker_binary(…)",
        )
    })
}

/// Ships the worker binary where it is missing and starts a worker in every slot of these nodes.
pub(crate) async fn start_all_workers(
    cluster: &Arc<ClusterCore>,
    sessions: Vec<Arc<Session>>,
) -> Result<(), DriverError> {
    let (command, left) = prepare_workers(cluster, &sessions).await?;
    // A node that has not got the binary says so itself when it is to start it.
    let started = start_workers_on(cluster, sessions, &command).await;
    DriverError::all(left.into_iter().chain(started).collect())
}

/// Ships the worker binary and writes down how workers are started. Gives the command, and what
/// went wrong with some of the nodes.
async fn prepare_workers(
    cluster: &Arc<ClusterCore>,
    sessions: &[Arc<Session>],
) -> Result<(WorkerCommand, Option<DriverError>), DriverError> {
    let driver = &cluster.driver;
    let settings = cluster.plan.contract().settings();
    let (program, name, shipped, left) = match worker_program(driver, &cluster.plan)? {
        WorkerProgram::OnNode(path) => (Program::Path(path.clone()), path, None, None),
        WorkerProgram::Ship(binary) => {
            let (hash, _) = binary.content().await?;
            let left = ship::binary(&cluster.receivers_of(sessions), binary)
                .await
                .err();
            (
                Program::Content(hash),
                binary.name().to_owned(),
                Some(hash),
                left,
            )
        }
    };
    let command = WorkerCommand {
        program,
        name,
        arguments: settings.exeflags.clone(),
        environment: settings.environment.clone().into_iter().collect(),
        directory: settings.directory.clone(),
        slots: settings.worker_slots,
        memory_limit: settings.worker_memory_limit,
    };
    driver.state.update(cluster.handle, |record| {
        record.worker = Some(command.clone());
        record.shipped = shipped.or(record.shipped);
    })?;
    Ok((command, left))
}

/// Starts a worker in every slot of these nodes; gives what went wrong.
async fn start_workers_on(
    cluster: &Arc<ClusterCore>,
    sessions: Vec<Arc<Session>>,
    command: &WorkerCommand,
) -> Vec<DriverError> {
    let slots: Vec<u32> = (0..cluster.plan.contract().workers_per_node()).collect();
    let starts: Vec<_> = sessions
        .into_iter()
        .map(|session| {
            let (command, slots) = (command.clone(), slots.clone());
            async move { start_workers(cluster, &session, command, slots).await }
        })
        .collect();
    let results: Vec<_> = futures::stream::iter(starts)
        .buffered(AT_ONCE)
        .collect()
        .await;
    results.into_iter().filter_map(Result::err).collect()
}

/// Starts workers in some slots of a node and opens their lanes.
pub(crate) async fn start_workers(
    cluster: &Arc<ClusterCore>,
    session: &Arc<Session>,
    command: WorkerCommand,
    slots: Vec<u32>,
) -> Result<(), DriverError> {
    let expected = slots.len() as u32;
    cluster.pool.expect(expected);
    // Before the first wait: the numbers follow the order of nodes and slots.
    let ids: HashMap<u32, WorkerId> = slots
        .iter()
        .map(|slot| (*slot, cluster.driver.new_id()))
        .collect();
    let wait = limits::WORKER_START + Duration::from_secs(5);
    let request = Request::StartWorkers(command, slots);
    let answer = session.request("start workers", request, wait).await;
    let started = match answer {
        Ok(Answer::Workers(workers)) => workers,
        Ok(_) => Vec::new(),
        Err(error) => {
            cluster.pool.unexpect(expected);
            return Err(error);
        }
    };
    let missing = expected.saturating_sub(started.len() as u32);
    let mut errors = Vec::new();
    let mut failed = missing;
    for (slot, result) in started {
        let opened = match result {
            Ok(key) => {
                let id = ids.get(&slot).copied();
                let id = id.unwrap_or_else(|| cluster.driver.new_id());
                lane::open(session, &cluster.pool, key, id).await
            }
            Err(death) => Err(DriverError::Worker {
                node: session.node,
                slot,
                death,
            }),
        };
        if let Err(error) = opened {
            failed += 1;
            errors.push(error);
        }
    }
    cluster.pool.unexpect(failed);
    if missing > 0 {
        errors.push(DriverError::node(
            session.node,
            "start workers",
            "not every slot was answered for",
        ));
    }
    DriverError::all(errors)
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
    let provider = driver.provider(record.plan.contract().provider())?;
    let cluster = connect(&driver, &provider, &record, take_over).await?;
    let errors = take_up(&cluster).await?;
    cluster.note_missing(errors);
    Ok(cluster)
}

/// Opens lanes to the workers that run, and starts some where a node has none. Gives the errors
/// of workers that could not be taken up.
async fn take_up(cluster: &Arc<ClusterCore>) -> Result<Vec<DriverError>, DriverError> {
    let driver = &cluster.driver;
    let (with, without): (Vec<_>, Vec<_>) = cluster
        .sessions()
        .into_iter()
        .partition(|session| !session.welcome.status.workers.is_empty());
    let mut found: Vec<_> = with
        .iter()
        .flat_map(|s| {
            s.welcome
                .status
                .workers
                .iter()
                .map(move |w| (s, w.key, w.id))
        })
        .collect();
    // Numbers only rise, so those that are to be kept come in their order, before new ones.
    found.sort_by_key(|(_, _, id)| id.unwrap_or(WorkerId(u32::MAX)));
    let opening: Vec<_> = found
        .into_iter()
        .map(|(session, key, id)| {
            let id = id.filter(|id| driver.claim_id(*id));
            let id = id.unwrap_or_else(|| driver.new_id());
            cluster.pool.expect(1);
            async move {
                let opened = lane::open(session, &cluster.pool, key, id).await;
                if opened.is_err() {
                    cluster.pool.unexpect(1);
                }
                opened
            }
        })
        .collect();
    let opened: Vec<_> = futures::stream::iter(opening)
        .buffered(AT_ONCE)
        .collect()
        .await;
    let any = opened.iter().any(Result::is_ok);
    let mut errors: Vec<_> = opened.into_iter().filter_map(Result::err).collect();
    if !without.is_empty()
        && let Err(error) = start_all_workers(cluster, without).await
    {
        // What works is of use without the rest.
        errors.push(error);
        if !any {
            return Err(DriverError::several(errors));
        }
    }
    Ok(errors)
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
    let provider = driver.provider(record.plan.contract().provider())?;
    let agent = driver.agent(record.plan.contract().settings().agent.as_deref())?;
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

/// Ends every worker and starts fresh ones with the present program.
pub(crate) async fn restart(cluster: Arc<ClusterCore>) -> Result<(), DriverError> {
    let sessions = cluster.sessions();
    // Lost nodes are no reason not to restart the others; with none left there is nothing to do.
    let mut errors = if sessions.is_empty() {
        cluster.absent()
    } else {
        Vec::new()
    };
    // Shipped and written down before anything is ended: what fails here changes nothing.
    let (command, left) = prepare_workers(&cluster, &sessions).await?;
    errors.extend(left);
    let workers = cluster.pool.workers();
    cluster.pool.expect(1);
    // All at once: a worker in the middle of a task takes the whole grace.
    let stops = sessions.iter().map(|session| stop_workers(session));
    let stopped = futures::future::join_all(stops).await;
    errors.extend(stopped.into_iter().filter_map(Result::err));
    for worker in workers {
        let death = cc_core::death::Cause::Stopped("restart".into());
        cluster
            .pool
            .lost(worker.id, cc_core::death::Death::of(death));
    }
    errors.extend(start_workers_on(&cluster, cluster.sessions(), &command).await);
    cluster.pool.unexpect(1);
    DriverError::all(errors)
}

/// Ends every worker of a node, also those that this driver has no lane to.
async fn stop_workers(session: &Session) -> Result<(), DriverError> {
    let answer = session
        .request("stop workers", Request::Status, limits::REQUEST_WAIT)
        .await?;
    let Answer::Status(status) = answer else {
        let reason = "the agent answered something else";
        return Err(DriverError::node(session.node, "stop workers", reason));
    };
    let request = Request::StopWorkers {
        workers: status.workers.iter().map(|w| w.key).collect(),
        grace_ms: limits::STOP_GRACE.as_millis() as u64,
        reason: "restart".into(),
    };
    let wait = limits::STOP_GRACE + limits::KILL_WAIT + limits::REQUEST_WAIT;
    session.request("stop workers", request, wait).await?;
    Ok(())
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
    let provider = driver.provider(record.plan.contract().provider())?;
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
    let provider = driver.provider(record.plan.contract().provider())?;
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

/// Replaces a worker that did not come back after a deadline.
pub(crate) async fn replace(cluster: &Arc<ClusterCore>, id: WorkerId) -> Result<(), DriverError> {
    let Some(worker) = cluster.pool.workers().into_iter().find(|w| w.id == id) else {
        return Ok(());
    };
    let Some(session) = cluster.session(worker.node) else {
        return Ok(());
    };
    let reason = "a task did not return after its deadline";
    let command = cluster.driver.state.load(cluster.handle)?.worker;
    cluster.pool.expect(1);
    let request = Request::StopWorkers {
        workers: vec![worker.key],
        grace_ms: 0,
        reason: reason.into(),
    };
    let wait = limits::KILL_WAIT + limits::REQUEST_WAIT;
    let stopped = session.request("replace a worker", request, wait).await;
    let death = cc_core::death::Death::of(cc_core::death::Cause::Stopped(reason.into()));
    cluster.pool.lost(id, death);
    let started = match (stopped, command) {
        (Ok(_), Some(command)) => {
            start_workers(cluster, &session, command, vec![worker.key.slot]).await
        }
        (Ok(_), None) => Ok(()),
        (Err(error), _) => Err(error),
    };
    cluster.pool.unexpect(1);
    started
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
