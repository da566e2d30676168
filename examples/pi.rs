//! π by the Monte-Carlo method: many tasks throw points at a square, the driver adds up how many
//! fell into the circle.
//!
//! `cargo run --release --example pi -- --tasks 1000 --points 1000000`

use std::time::Instant;

use anyhow::ensure;
use cc_driver::prelude::*;
use clap::Parser;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// Estimates π on a cluster of this machine's processes.
#[derive(Parser)]
struct Arguments {
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 4)]
    nodes: u32,
    /// Workers on each node.
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// Tasks.
    #[arg(long, default_value_t = 1_000)]
    tasks: u64,
    /// Points in each task.
    #[arg(long, default_value_t = 1_000_000)]
    points: u64,
    /// Where the random numbers start: the same seed gives the same estimate.
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// How many of `points` random points of the unit square are in the quarter circle.
#[remote]
fn hits(seed: u64, points: u64) -> u64 {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut inside = 0;
    for _ in 0..points {
        let (x, y): (f64, f64) = (random.random(), random.random());
        inside += u64::from(x * x + y * y <= 1.0);
    }
    inside
}

#[cc_driver::main]
async fn main(driver: Driver) -> anyhow::Result<()> {
    let Arguments {
        nodes,
        workers,
        tasks,
        points,
        seed,
    } = Arguments::parse();
    ensure!(
        tasks > 0 && points > 0,
        "--tasks and --points must be at least 1"
    );
    let contract = Contract::new()
        .node_count(nodes)
        .node_process_count(workers);
    let cluster = driver.deploy(&contract.resolve()?).await?;
    println!(
        "cluster {} has {} workers",
        cluster.handle(),
        nodes * workers
    );

    let start = Instant::now();
    // Neighbouring seeds give unrelated sequences: SmallRng spreads them first.
    let seeds = (0..tasks).map(move |task| seed.wrapping_add(task));
    let counts = cluster
        .map(seeds, move |seed| hits::task(seed, points))
        .progress("sampling")
        .collect()
        .await;
    let seconds = start.elapsed().as_secs_f64();
    cluster.terminate().await?;

    let samples = tasks as f64 * points as f64;
    let share = counts?.into_iter().sum::<u64>() as f64 / samples;
    let error = 4.0 * (share * (1.0 - share) / samples).sqrt();
    println!("π ≈ {:.6} ± {error:.6} (standard error)", 4.0 * share);
    println!(
        "{samples:.1e} samples in {seconds:.2} s: {:.0} million/s",
        samples / seconds / 1e6
    );
    Ok(())
}
