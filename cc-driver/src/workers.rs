//! The workers of a cluster: shipped, started, taken up again, restarted and replaced, on the
//! driver's network thread. Nodes and records are the business of [`crate::lifecycle`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cc_core::death::{Cause, Death};
use cc_core::ids::WorkerId;
use cc_core::limits;
use cc_core::resolve::Plan;
use cc_core::wire::control::{Answer, Program, Request, WorkerCommand};
use futures::StreamExt as _;

use crate::binary::Binary;
use crate::cluster::ClusterCore;
use crate::driver::DriverCore;
use crate::error::DriverError;
use crate::lifecycle::AT_ONCE;
use crate::session::Session;
use crate::{lane, ship};

/// Where the worker's executable comes from.
pub(crate) enum WorkerProgram<'a> {
    Ship(&'a Binary),
    OnNode(String),
}

pub(crate) fn worker_program<'a>(
    driver: &'a DriverCore,
    plan: &Plan,
) -> Result<WorkerProgram<'a>, DriverError> {
    if let Some(path) = &plan.settings().exename {
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
    let settings = cluster.plan.settings();
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
    let slots: Vec<u32> = (0..cluster.plan.workers_per_node()).collect();
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

/// Opens lanes to the workers that run, and starts some where a node has none. Gives the errors
/// of workers that could not be taken up.
pub(crate) async fn take_up(cluster: &Arc<ClusterCore>) -> Result<Vec<DriverError>, DriverError> {
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
    let ours = driver.worker.as_ref().map(Binary::build);
    if opened.iter().flatten().any(|theirs| Some(*theirs) != ours) {
        tracing::warn!(
            cluster = %cluster.handle,
            "some workers run another build than this program ships: functions of equal names and signatures are taken for the same; `restart` brings this build"
        );
    }
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
        let death = Cause::Stopped("restart".into());
        cluster.pool.lost(worker.id, Death::of(death));
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
    let death = Death::of(Cause::Stopped(reason.into()));
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
