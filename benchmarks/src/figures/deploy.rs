//! From nothing to first results from every node.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use cc_driver::Resolve as _;

use crate::bench::{Bench, contract};
use crate::functions;
use crate::raw;
use crate::report::{Aim, Row, Samples};

const NODES: u32 = 8;
const MANY: u32 = 200;
/// Processes of a node with one worker: the agent, the guard, the worker.
const PROCESSES: usize = 3;

/// Deploys a cluster, calls every worker, and takes it down. Gives the time until the last
/// result, the part of that until `deploy` came back, and the time for taking down.
fn once(bench: &Bench, state: &Path, nodes: u32) -> anyhow::Result<[Duration; 3]> {
    // As in a program that has just started: the binary is not hashed yet.
    let driver = bench.driver(state)?;
    let plan = contract(nodes, 1).resolve()?;
    bench.runtime.block_on(async {
        let start = Instant::now();
        let cluster = driver.deploy(&plan).await.context("deploy")?;
        let deployed = start.elapsed();
        let answers = cluster.everywhere(functions::noop::task()).await;
        let answered = start.elapsed();
        let start = Instant::now();
        cluster.terminate().await.context("terminate")?;
        let ended = start.elapsed();
        driver.close().await;
        let count = answers?.len();
        ensure!(count == nodes as usize, "{count} answers of {nodes}");
        Ok([answered, deployed, ended])
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(super) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let warm = bench.fresh_state();
    once(bench, &warm, NODES)?;
    let [
        mut there,
        mut deployed,
        mut ended,
        mut shipping,
        mut one_each,
        mut all,
    ] = <[Samples; 6]>::default();
    for _ in 0..bench.rounds() {
        let times = once(bench, &warm, NODES)?.map(millis);
        there.push(times[0]);
        deployed.push(times[1]);
        ended.push(times[2]);
        one_each.push(millis(raw::processes(NODES as usize)?));
        all.push(millis(raw::processes(NODES as usize * PROCESSES)?));
        let fresh = bench.fresh_state();
        shipping.push(millis(once(bench, &fresh, NODES)?[0]));
    }
    let limit = format!("start {} processes", NODES as usize * PROCESSES);
    bench.row(
        Row::new(
            "8 nodes to first results, binary already there",
            "ms",
            there,
        )
        .limit(&limit, all.clone())
        .aim(Aim::AtMost(300.0)),
    );
    bench.row(Row::new("of that, until `deploy` returns", "ms", deployed));
    bench.row(
        Row::new("8 nodes to first results, first shipping", "ms", shipping).limit(&limit, all),
    );
    bench.row(Row::new("8 nodes terminated", "ms", ended));
    bench.row(Row::new("raw: start 8 processes", "ms", one_each));
    Ok(())
}

pub(super) fn many(bench: &mut Bench) -> anyhow::Result<()> {
    let [mut there, mut shipping, mut ended, mut limit] = <[Samples; 4]>::default();
    // Seconds each: the spread is small against that.
    for _ in 0..bench.rounds().min(2) {
        let state = bench.fresh_state();
        shipping.push(once(bench, &state, MANY)?[0].as_secs_f64());
        let [answered, _, end] = once(bench, &state, MANY)?;
        there.push(answered.as_secs_f64());
        ended.push(end.as_secs_f64());
        limit.push(raw::processes(MANY as usize * PROCESSES)?.as_secs_f64());
    }
    let what = format!("start {} processes", MANY as usize * PROCESSES);
    let names = [
        "200 nodes to answers from all, binary already there",
        "200 nodes to answers from all, first shipping",
    ];
    for (name, times) in names.into_iter().zip([there, shipping]) {
        bench.row(Row::new(name, "s", times).limit(&what, limit.clone()));
    }
    bench.row(Row::new("200 nodes terminated", "s", ended));
    Ok(())
}
