//! Making a cluster.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Instant;

use cc_driver::{ClusterRecord, ClusterState, Driver, Handle};
use serde_json::json;

use crate::assumptions::Assumptions;
use crate::failure::Failure;
use crate::output::{self, count, note, waiting, warn};
use crate::stop::Stop;

pub(crate) async fn run(
    driver: &Driver,
    assumptions: &Assumptions,
    json: bool,
    stop: &mut Stop,
) -> Result<(), Failure> {
    let contract = assumptions.contract()?;
    let plan = driver.planner()?.resolve(&contract)?;
    for note in plan.notes() {
        warn(format!("note: {note}"));
    }
    let nodes = u64::from(plan.nodes());
    let before = handles(driver);
    let begun = Instant::now();

    let what = format!("deploying {} on {}", count(nodes, "node"), plan.provider());
    let mut deploying = pin!(waiting(what, driver.deploy_agents(&plan)));
    let handle = tokio::select! {
        deployed = &mut deploying => deployed?,
        () = stop.any() => {
            warn("interrupted: taking back what was begun (again: leave it)");
            let taking_back = async {
                // What is being started can only be taken back once it is there. A deployment
                // that fails takes itself back.
                match deploying.await {
                    Ok(handle) => driver.terminate(handle).await,
                    Err(error) => Err(error),
                }
            };
            let result = tokio::select! {
                result = taking_back => result,
                () = stop.any() => return Err(left(&unfinished(driver, &before))),
            };
            let unfinished = unfinished(driver, &before);
            if !unfinished.is_empty() {
                if let Err(error) = result {
                    Failure::from(error).report();
                }
                return Err(left(&unfinished));
            }
            // Why a deployment failed that nobody wants any more is no news.
            warn("nothing is left of it");
            return Err(Failure::interrupted(None));
        }
    };
    if json {
        output::json(&json!({ "handle": handle }))?;
    } else {
        output::text(&format!("{handle}\n"))?;
    }
    let lease = output::duration(plan.effective_driver_timeout().as_secs());
    note(format!(
        "{} × {} on {} in {:.2} s; without a program they end in {lease}\n  \
         keep them:      cctl extend {handle} 2h\n  \
         look at them:   cctl status {handle}\n  \
         give them back: cctl terminate {handle}",
        count(nodes, "node"),
        count(plan.workers_per_node().into(), "worker"),
        plan.provider(),
        begun.elapsed().as_secs_f64(),
    ));
    Ok(())
}

fn handles(driver: &Driver) -> BTreeSet<Handle> {
    let listed = driver.clusters().unwrap_or_default();
    listed.into_iter().map(|(handle, _)| handle).collect()
}

/// Clusters that were not there before and are not whole.
fn unfinished(driver: &Driver, before: &BTreeSet<Handle>) -> Vec<String> {
    let whole = |record: &ClusterRecord| {
        matches!(
            record.state,
            ClusterState::Running | ClusterState::Interrupted
        )
    };
    let listed = driver.clusters().unwrap_or_default().into_iter();
    listed
        .filter(|(handle, record)| !before.contains(handle) && !record.as_ref().is_ok_and(whole))
        .map(|(handle, _)| handle.to_string())
        .collect()
}

/// An interruption that leaves something, or may.
fn left(unfinished: &[String]) -> Failure {
    let failure = Failure::interrupted(None);
    if unfinished.is_empty() {
        return failure.hint("`cctl clusters` lists what is left, if anything is");
    }
    failure.hint(format!(
        "something is left: `cctl terminate {}` takes it back",
        unfinished.join(" ")
    ))
}
