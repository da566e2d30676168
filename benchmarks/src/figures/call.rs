//! How long a call takes that does nothing.

use std::time::{Duration, Instant};

use cc_driver::Cluster;
use tokio::runtime::Runtime;

use crate::bench::{Bench, contract};
use crate::cores::Cores;
use crate::functions;
use crate::raw;
use crate::report::{Aim, Row, Samples, micros};

/// Times no-op calls one after the other.
fn sequential(runtime: &Runtime, cluster: &Cluster, count: usize) -> anyhow::Result<Vec<Duration>> {
    runtime.block_on(async {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            cluster.call(functions::noop::task()).await?;
            times.push(start.elapsed());
        }
        Ok(times)
    })
}

/// Turns in a round: where the kernel puts the processes changes latencies several times over,
/// and it should do so to all alike.
const TURNS: usize = 10;

/// Where the processes run: the driver's, the agent's and worker's, and the two ends of the raw
/// unix socket.
struct Places {
    what: &'static str,
    driver: Cores,
    node: Cores,
    socket: [Cores; 2],
}

pub(super) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let all = Cores::own()?;
    let cores = all.each();
    let mut places = vec![Places {
        what: "where the kernel puts them",
        driver: all,
        node: all,
        socket: [all, all],
    }];
    if let [first, second, ..] = cores[..] {
        places.push(Places {
            what: "driver and node on a core each",
            driver: first,
            node: second,
            socket: [second, second],
        });
        places.push(Places {
            what: "everything on one core",
            driver: first,
            node: first,
            socket: [first, first],
        });
    }
    for at in &places {
        placed(bench, at)?;
        all.take()?;
    }
    let [_, second, ..] = cores[..] else {
        return Ok(());
    };
    // What a wake-up of another core costs here.
    second.take()?;
    let mut socket = raw::Socket::start()?;
    cores[0].take()?;
    let count = bench.options.amount(3_000);
    let apart = (0..bench.rounds())
        .map(|_| Ok(micros(&socket.ping(count)?).median()))
        .collect::<anyhow::Result<Samples>>()?;
    let what = "raw unix-socket ping, its ends on a core each";
    bench.row(Row::new(what, "µs", apart));
    Ok(())
}

fn placed(bench: &mut Bench, at: &Places) -> anyhow::Result<()> {
    let count = bench.options.amount(3_000) / TURNS;
    at.socket[1].take()?;
    let mut socket = raw::Socket::start()?;
    at.node.take()?;
    let quic = raw::Quic::start()?;
    bench.with_cluster(&contract(1, 1), |bench, _, cluster| {
        at.driver.take()?;
        sequential(&bench.runtime, cluster, count)?;
        let [
            mut median,
            mut tail,
            mut legs,
            mut spliced,
            mut over_quic,
            mut over_unix,
        ] = <[Samples; 6]>::default();
        for _ in 0..bench.rounds() {
            let [mut calls, mut first, mut second, mut both] = <[Vec<Duration>; 4]>::default();
            for _ in 0..TURNS {
                calls.extend(sequential(&bench.runtime, cluster, count)?);
                first.extend(quic.ping(raw::Far::Endpoint, count)?);
                both.extend(quic.ping(raw::Far::Socket, count)?);
                at.socket[0].take()?;
                second.extend(socket.ping(count)?);
                at.driver.take()?;
            }
            let calls = micros(&calls);
            median.push(calls.median());
            tail.push(calls.quantile(0.99));
            let (first, second) = (micros(&first).median(), micros(&second).median());
            over_quic.push(first);
            over_unix.push(second);
            legs.push(first + second);
            spliced.push(micros(&both).median());
        }
        let what = at.what;
        bench.row(
            Row::new(
                format!("no-op `call`, {what}, median"),
                "µs",
                median.clone(),
            )
            .limit("raw QUIC ping + raw unix-socket ping", legs)
            .aim(Aim::AtMostTimes(1.3)),
        );
        bench.row(
            Row::new(format!("no-op `call`, {what}, p99"), "µs", tail)
                .limit("its median", median)
                .aim(Aim::AtMostTimes(4.0)),
        );
        let raw = [
            ("raw QUIC ping", over_quic),
            ("raw unix-socket ping", over_unix),
            ("raw QUIC ping spliced to a unix socket", spliced),
        ];
        for (name, times) in raw {
            bench.row(Row::new(format!("{name}, {what}"), "µs", times));
        }
        Ok(())
    })
}
