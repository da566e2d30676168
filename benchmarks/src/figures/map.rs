//! Many tasks over two workers.

use std::time::{Duration, Instant};

use anyhow::ensure;
use cc_driver::Cluster;
use futures::StreamExt as _;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::bench::{Bench, contract};
use crate::functions;
use crate::raw;
use crate::report::{Aim, Row, Samples};

/// Where the random durations start.
const SEED: u64 = 2_024;

/// Frames in a write from which on a stream is not held up by its system calls: the limit.
const FRAMES: usize = 16;
/// Frames in a write where little is left but copying; printed beside.
const MANY_FRAMES: usize = 512;

pub(super) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let quic = raw::Quic::start()?;
    let count = bench.options.amount(1_000_000);
    bench.with_cluster(&contract(1, 2), |bench, _, cluster| {
        let once = |bench: &Bench| {
            bench.runtime.block_on(async {
                let start = Instant::now();
                let items = 0..count as u32;
                let done = cluster
                    .map(items, functions::ignore::task)
                    .collect()
                    .await?;
                ensure!(done.len() == count, "{} of {count} results", done.len());
                Ok(count as f64 / start.elapsed().as_secs_f64())
            })
        };
        once(bench)?;
        let mut rate = Samples::default();
        let (mut frames, mut many, mut direct) =
            (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..bench.rounds() {
            rate.push(once(bench)?);
            frames.push(quic.frames(raw::Far::Socket, count, FRAMES)?);
            many.push(quic.frames(raw::Far::Socket, count, MANY_FRAMES)?);
            direct.push(quic.frames(raw::Far::Endpoint, count, FRAMES)?);
        }
        let what = format!("`map` of {count} no-op tasks, 2 workers");
        let limit = format!("raw framed stream, spliced, {FRAMES} frames a write");
        bench.row(
            Row::new(what, "/s", rate)
                .limit(limit, frames)
                .aim(Aim::AtLeastTimes(1.0 / 3.0))
                .aim(Aim::AtLeast(1e6)),
        );
        let what = format!("raw framed stream, spliced, {MANY_FRAMES} frames a write");
        bench.row(Row::new(what, "/s", many));
        let what = format!("raw framed stream, echoed by the endpoint, {FRAMES} frames a write");
        bench.row(Row::new(what, "/s", direct));
        Ok(())
    })
}

/// The slots of all workers.
fn slots(cluster: &Cluster) -> u32 {
    cluster.workers().iter().map(|worker| worker.slots()).sum()
}

/// Durations whose logarithm is uniform between 1 µs and 10 ms.
fn log_uniform(count: usize) -> Vec<u64> {
    let mut random = SmallRng::seed_from_u64(SEED);
    (0..count)
        .map(|_| 10f64.powf(random.random_range(3.0..7.0)) as u64)
        .collect()
}

pub(super) fn balance(bench: &mut Bench) -> anyhow::Result<()> {
    bench.with_cluster(&contract(1, 2), |bench, _, cluster| {
        let count = bench.options.amount(10_000);
        let even = vec![10_000; count];
        let slots = slots(cluster);
        measure(
            bench,
            cluster,
            &even,
            &format!("`map` of {count} tasks of 10 µs, 2 workers with {slots} slots"),
            1.2,
        )?;
        let count = bench.options.amount(2_000);
        measure(
            bench,
            cluster,
            &log_uniform(count),
            &format!("`map` of {count} tasks of 1 µs – 10 ms, log-uniform, as completed"),
            1.1,
        )
    })
}

fn measure(
    bench: &mut Bench,
    cluster: &Cluster,
    tasks: &[u64],
    what: &str,
    aim: f64,
) -> anyhow::Result<()> {
    let once = |bench: &Bench| {
        bench.runtime.block_on(async {
            let start = Instant::now();
            let map = cluster.map(tasks.iter().copied(), functions::spin::task);
            let mut stream = map.as_completed();
            let mut done = 0;
            while let Some((_, result)) = stream.next().await {
                result?;
                done += 1;
            }
            ensure!(done == tasks.len(), "{done} of {} results", tasks.len());
            anyhow::Ok(start.elapsed().as_secs_f64() * 1e3)
        })
    };
    once(bench)?;
    let times = (0..bench.rounds())
        .map(|_| once(bench))
        .collect::<anyhow::Result<Samples>>()?;
    let work = Duration::from_nanos(tasks.iter().sum());
    let ideal = work.as_secs_f64() * 1e3 / f64::from(slots(cluster).max(1));
    bench.row(
        Row::new(what, "ms", times)
            .limit("all work ÷ slots", Samples(vec![ideal]))
            .aim(Aim::AtMostTimes(aim)),
    );
    Ok(())
}
