//! How long a call takes that does nothing.

use std::time::{Duration, Instant};

use cc_driver::{Cluster, Contract};
use tokio::runtime::Runtime;

use crate::bench::Bench;
use crate::functions;
use crate::raw;
use crate::report::{Aim, Row, Samples, micros};

/// Times no-op calls one after the other.
pub(super) fn sequential(
    runtime: &Runtime,
    cluster: &Cluster,
    count: usize,
) -> anyhow::Result<Vec<Duration>> {
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

pub(super) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let quic = raw::Quic::start()?;
    let mut socket = raw::Socket::start()?;
    let count = bench.options.amount(3_000) / TURNS;
    bench.with_cluster(&Contract::new(), |bench, _, cluster| {
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
                second.extend(socket.ping(count)?);
                both.extend(quic.ping(raw::Far::Socket, count)?);
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
        bench.row(
            Row::new("no-op `call`, sequential, median", "µs", median.clone())
                .limit("raw QUIC ping + raw unix-socket ping", legs)
                .aim(Aim::AtMostTimes(1.3)),
        );
        bench.row(
            Row::new("no-op `call`, sequential, p99", "µs", tail)
                .limit("its median", median)
                .aim(Aim::AtMostTimes(4.0)),
        );
        bench.row(Row::new("raw QUIC ping", "µs", over_quic));
        bench.row(Row::new("raw unix-socket ping", "µs", over_unix));
        let what = "raw QUIC ping spliced to a unix socket";
        bench.row(Row::new(what, "µs", spliced));
        Ok(())
    })
}
