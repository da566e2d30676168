//! A no-op call while a large value is on its way over the same connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cc_driver::{Bytes, Worker};
use futures::future::try_join;

use crate::bench::{Bench, contract};
use crate::functions;
use crate::raw;
use crate::report::{Row, Samples, micros};

/// Calls in a round when nothing else goes on.
const IDLE_CALLS: usize = 1_000;
/// Values moved in a round.
const VALUES: usize = 4;

pub(super) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let quic = raw::Quic::start()?;
    // One connection, two workers: one is sent values, both are called.
    bench.with_cluster(&contract(1, 2), |bench, _, cluster| {
        let [first, second] = &cluster.workers()[..] else {
            anyhow::bail!("not two workers");
        };
        let value = Bytes::from(vec![7; bench.options.size()]);
        let hold = functions::hold::task(bench.options.size());
        bench.runtime.block_on(first.call(hold))?;
        let mut idle = Figures::default();
        for _ in 0..bench.rounds() {
            idle.add(&bench.runtime.block_on(calls(second, IDLE_CALLS))?);
        }
        idle.rows(bench, "no-op call, nothing beside it", None);
        let mut raw = Figures::default();
        for _ in 0..bench.rounds() {
            raw.add(&micros(&quic.ping_beside_put(&value.0, VALUES)?));
        }
        raw.rows(bench, "raw ping, spliced, beside a raw put", None);
        for (direction, put) in [("put", true), ("get", false)] {
            for (which, called) in [("the other worker", second), ("the same worker", first)] {
                let transfer = Transfer {
                    worker: first,
                    value: put.then(|| value.clone()),
                };
                let mut busy = Figures::default();
                let mut moved = Samples::default();
                for _ in 0..bench.rounds() {
                    let (times, rate) = calls_beside(bench, called, &transfer)?;
                    busy.add(&times);
                    moved.push(rate);
                }
                let what = format!("no-op call on {which} beside a {direction}");
                busy.rows(bench, &what, Some(&idle));
                let what = format!("the {direction} beside calls on {which}");
                bench.row(Row::new(what, "MiB/s", moved));
            }
        }
        Ok(())
    })
}

/// What is noted of each round's calls: names, and shares of the calls that took less.
const PARTS: [(&str, f64); 3] = [("median", 0.5), ("p99", 0.99), ("longest", 1.0)];

/// [`PARTS`] of each round.
#[derive(Default)]
struct Figures([Samples; PARTS.len()]);

impl Figures {
    fn add(&mut self, times: &Samples) {
        for (samples, (_, share)) in self.0.iter_mut().zip(PARTS) {
            samples.push(times.quantile(share));
        }
    }

    fn rows(&self, bench: &mut Bench, what: &str, idle: Option<&Self>) {
        for (at, (name, _)) in PARTS.iter().enumerate() {
            let mut row = Row::new(format!("{what}, {name}"), "µs", self.0[at].clone());
            if let Some(idle) = idle {
                row = row.limit("idle", idle.0[at].clone());
            }
            bench.row(row);
        }
    }
}

/// A value that goes one way again and again.
struct Transfer<'a> {
    worker: &'a Worker,
    /// To be put; none is a get.
    value: Option<Bytes>,
}

/// Times calls one after the other.
async fn calls(worker: &Worker, count: usize) -> anyhow::Result<Samples> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        times.push(call(worker).await?);
    }
    Ok(micros(&times))
}

async fn call(worker: &Worker) -> anyhow::Result<Duration> {
    let start = Instant::now();
    worker.call(functions::noop::task()).await?;
    Ok(start.elapsed())
}

/// Times calls for as long as values move, and the MiB of these a second.
fn calls_beside(
    bench: &Bench,
    called: &Worker,
    transfer: &Transfer<'_>,
) -> anyhow::Result<(Samples, f64)> {
    let over = AtomicBool::new(false);
    let moving = async {
        let start = Instant::now();
        for _ in 0..VALUES {
            match &transfer.value {
                Some(value) => {
                    let put = functions::put::task(value.clone());
                    transfer.worker.call(put).await?;
                }
                None => {
                    transfer.worker.call(functions::get::task()).await?;
                }
            }
        }
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(start.elapsed())
    };
    let calling = async {
        let mut times = Vec::new();
        while !over.load(Ordering::Relaxed) {
            times.push(call(called).await?);
        }
        anyhow::Ok(times)
    };
    let (time, times) = bench.runtime.block_on(try_join(moving, calling))?;
    let mib = (VALUES * bench.options.size()) as f64 / 1_048_576.0;
    Ok((micros(&times), mib / time.as_secs_f64()))
}
