//! Large values: put (an argument), get (a result), and there and back.

use std::time::{Duration, Instant};

use anyhow::ensure;
use cc_driver::{Array, Bytes, Cluster, Task};
use serde::de::DeserializeOwned;

use crate::bench::{Bench, contract};
use crate::functions::{self, types};
use crate::process;
use crate::raw;
use crate::report::{Aim, Row, Samples};

const MIB: f64 = 1_048_576.0;
/// Memory that a process may take beside the values it holds.
const ROOM: f64 = 64.0;

/// MiB a second.
fn rate(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / MIB / time.as_secs_f64()
}

/// What one way of moving values gave.
#[derive(Default)]
struct Way {
    rate: Samples,
    limit: Samples,
    kept: Samples,
    driver: Samples,
    worker: Samples,
}

pub(super) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    for size in bench.options.sizes() {
        bench.with_cluster(&contract(1, 1), |bench, _, cluster| {
            sized(bench, cluster, size)
        })?;
    }
    Ok(())
}

fn sized(bench: &mut Bench, cluster: &Cluster, size: usize) -> anyhow::Result<()> {
    let value = Bytes::from(vec![7; size]);
    let (mut put, mut get, mut both) = (Way::default(), Way::default(), Way::default());
    let quic = raw::Quic::start()?;
    // Each way apart, so that what is held meanwhile is known. The first of each finds the
    // path's largest datagram.
    for round in 0..=bench.rounds() {
        let rate = timed(bench, cluster, &mut put, size, size, size, || {
            functions::put::task(value.clone())
        })?;
        let limit = |keep| quic.put(&value.0, keep, 1).map(|t| self::rate(size, t[0]));
        let limits = (limit(false)?, limit(true)?);
        if round > 0 {
            put.rate.push(rate);
            put.limit.push(limits.0);
            put.kept.push(limits.1);
        }
    }
    for round in 0..=bench.rounds() {
        let rate = timed(bench, cluster, &mut both, size, 2 * size, size, || {
            functions::round_trip::task(value.clone())
        })?;
        if round > 0 {
            both.rate.push(rate);
        }
    }
    drop(value);
    let held = cluster.call(functions::hold::task(size));
    bench.runtime.block_on(held)?;
    for round in 0..=bench.rounds() {
        let rate = timed(bench, cluster, &mut get, size, size, size, || {
            functions::get::task()
        })?;
        let limit = |keep| quic.get(size, keep, 1).map(|t| self::rate(size, t[0]));
        let limits = (limit(false)?, limit(true)?);
        if round > 0 {
            get.rate.push(rate);
            get.limit.push(limits.0);
            get.kept.push(limits.1);
        }
    }
    // There and back is one after the other.
    let pairs = put.limit.0.iter().zip(&get.limit.0);
    both.limit = pairs.map(|(a, b)| 1.0 / (1.0 / a + 1.0 / b)).collect();
    let pairs = put.kept.0.iter().zip(&get.kept.0);
    both.kept = pairs.map(|(a, b)| 1.0 / (1.0 / a + 1.0 / b)).collect();
    for (name, way) in [("put", put), ("get", get), ("round trip", both)] {
        rows(bench, size >> 20, name, way);
    }
    Ok(())
}

/// Times one call, and notes the peaks of memory above what driver and worker hold.
fn timed<O: DeserializeOwned>(
    bench: &Bench,
    cluster: &Cluster,
    way: &mut Way,
    size: usize,
    driver_holds: usize,
    worker_holds: usize,
    task: impl FnOnce() -> Task<O>,
) -> anyhow::Result<f64> {
    bench.runtime.block_on(async {
        cluster.call(functions::peak_memory::task()).await??;
        process::forget_peak()?;
        let start = Instant::now();
        let output = cluster.call(task()).await?;
        let time = start.elapsed();
        let driver = process::memory("self")?.peak;
        drop(output);
        let worker = cluster.call(functions::peak_memory::task()).await??;
        way.driver.push((driver as f64 - driver_holds as f64) / MIB);
        way.worker.push((worker as f64 - worker_holds as f64) / MIB);
        Ok(rate(size, time))
    })
}

fn rows(bench: &mut Bench, mib: usize, name: &str, way: Way) {
    bench.row(
        Row::new(format!("{mib} MiB `Bytes`, {name}"), "MiB/s", way.rate)
            .limit("raw quinn-to-unix pump", way.limit)
            .aim(Aim::AtLeastTimes(0.8)),
    );
    bench.row(Row::new(
        format!("raw pump of {mib} MiB into fresh memory, {name}"),
        "MiB/s",
        way.kept,
    ));
    for (who, peak) in [("driver", way.driver), ("worker", way.worker)] {
        bench.row(
            Row::new(
                format!("{mib} MiB `Bytes`, {name}: {who}'s peak beside the values"),
                "MiB",
                peak,
            )
            .aim(Aim::AtMost(ROOM)),
        );
    }
}

/// Values of other types, for comparison.
pub(super) fn types(bench: &mut Bench) -> anyhow::Result<()> {
    let size = bench.options.size();
    let floats = size / 8;
    bench.with_cluster(&contract(1, 1), |bench, _, cluster| {
        let mut with = With {
            quic: raw::Quic::start()?,
            bench,
            cluster,
            size,
        };
        let vec = vec![7u8; size];
        with.value("Vec<u8>", vec, types::put_vec::task, || {
            types::get_vec::task(size)
        })?;
        let vec = vec![7f64; floats];
        with.value("Vec<f64>", vec, types::put_floats::task, || {
            types::get_floats::task(floats)
        })?;
        let array: Array<f64> = vec![7f64; floats].into();
        with.value("Array<f64>", array, types::put_array::task, || {
            types::get_array::task(floats)
        })?;
        let text = "7".repeat(size);
        with.value("String", text, types::put_string::task, || {
            types::get_string::task(size)
        })
    })
}

struct With<'a> {
    quic: raw::Quic,
    bench: &'a mut Bench,
    cluster: &'a Cluster,
    size: usize,
}

impl With<'_> {
    /// Measures a value from its owner to the function's start, and from the function's making
    /// it to its owner.
    fn value<V: Clone, O: DeserializeOwned>(
        &mut self,
        name: &str,
        value: V,
        put: impl Fn(V) -> Task<usize>,
        get: impl Fn() -> Task<O>,
    ) -> anyhow::Result<()> {
        let Self {
            quic,
            bench,
            cluster,
            size,
        } = self;
        let zeros = bytes::Bytes::from(vec![0; *size]);
        let (mut puts, mut gets) = (Way::default(), Way::default());
        for round in 0..=bench.rounds() {
            let copy = value.clone();
            let (there, back) = bench.runtime.block_on(async {
                let start = Instant::now();
                let length = cluster.call(put(copy)).await?;
                let there = start.elapsed();
                ensure!(length > 0, "nothing arrived");
                let start = Instant::now();
                let output = cluster.call(get()).await?;
                let back = start.elapsed();
                drop(output);
                Ok((there, back))
            })?;
            let limits = (quic.put(&zeros, false, 1)?, quic.get(*size, false, 1)?);
            if round > 0 {
                puts.rate.push(rate(*size, there));
                puts.limit.push(rate(*size, limits.0[0]));
                gets.rate.push(rate(*size, back));
                gets.limit.push(rate(*size, limits.1[0]));
            }
        }
        for (direction, way) in [("put", puts), ("get", gets)] {
            let what = format!("{} MiB `{name}`, {direction}", *size >> 20);
            let row = Row::new(what, "MiB/s", way.rate);
            bench.row(row.limit("raw quinn-to-unix pump", way.limit));
        }
        Ok(())
    }
}
