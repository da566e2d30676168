//! Making a cluster.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Instant;

use cc_driver::{ClusterRecord, ClusterState, Contract, Driver, Handle};
use serde_json::json;

use crate::failure::Failure;
use crate::output::{self, count, note, waiting, warn};
use crate::stop::Stop;

pub(crate) async fn run(
    driver: &Driver,
    assumptions: &[String],
    json: bool,
    stop: &mut Stop,
) -> Result<(), Failure> {
    let contract = contract(assumptions)?;
    let plan = contract.resolve().map_err(Failure::wrong)?;
    let nodes = u64::from(contract.nodes());
    let before = handles(driver);
    let begun = Instant::now();

    let what = format!(
        "deploying {} on {}",
        count(nodes, "node"),
        contract.provider()
    );
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
    let lease = output::duration(contract.effective_driver_timeout().as_secs());
    note(format!(
        "{} × {} on {} in {:.2} s; without a program they end in {lease}\n  \
         keep them:      cctl extend {handle} 2h\n  \
         look at them:   cctl status {handle}\n  \
         give them back: cctl terminate {handle}",
        count(nodes, "node"),
        count(contract.workers_per_node().into(), "worker"),
        contract.provider(),
        begun.elapsed().as_secs_f64(),
    ));
    Ok(())
}

/// What `key=value` pairs say.
fn contract(assumptions: &[String]) -> Result<Contract, Failure> {
    let mut contract = Contract::new();
    let mut seen = BTreeSet::new();
    for assumption in assumptions {
        let (key, value) = assumption.split_once('=').ok_or_else(|| {
            Failure::wrong(format!("`{assumption}` is no assumption: write key=value"))
                .hint("`cctl deploy --help` lists the keys")
        })?;
        if !seen.insert(key) {
            return Err(Failure::wrong(format!("{key} is given twice")));
        }
        let number = || {
            value.parse::<u32>().map_err(|_| {
                Failure::wrong(format!("{key} = {value} is no whole number, such as 4"))
            })
        };
        contract =
            match key {
                "node_count" => contract.node_count(number()?),
                "node_process_count" => contract.node_process_count(number()?),
                "cluster_type" => contract.cluster_type(value.parse().map_err(Failure::wrong)?),
                "node_provider" => contract.node_provider(value),
                "driver_timeout" => {
                    let time = humantime::parse_duration(value).map_err(|e| {
                        Failure::wrong(format!(
                            "driver_timeout = {value} is no time, such as 10m or 2h ({e})"
                        ))
                    })?;
                    if time.as_secs() == 0 {
                        return Err(Failure::wrong("driver_timeout is less than a second"));
                    }
                    contract.driver_timeout(time)
                }
                _ => {
                    return Err(Failure::wrong(format!("{key} is no key of a contract")).hint(
                    "the keys are node_count, node_process_count, cluster_type, node_provider \
                     and driver_timeout",
                ));
                }
            };
    }
    Ok(contract)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assumptions_are_checked_one_by_one() {
        let parse = |text: &str| contract(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let good = "node_count=3 node_process_count=2 node_provider=local cluster_type=PeerWorkers";
        assert_eq!(parse(good).unwrap().workers(), 6);
        let timeout = parse("driver_timeout=10m")
            .unwrap()
            .effective_driver_timeout();
        assert_eq!(timeout.as_secs(), 600);
        for wrong in [
            "node_count",
            "node_count=",
            "node_count=-1",
            "node_count=1 node_count=2",
            "nodes=1",
            "driver_timeout=10",
            "driver_timeout=0s",
            "cluster_type=Ring",
        ] {
            assert_eq!(parse(wrong).unwrap_err().report(), 2, "{wrong}");
        }
    }
}
