//! A large value, file and binary to eight nodes, each with a content store of its own as
//! distant machines have.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use cc_driver::Resolve as _;
use cc_driver::{Bytes, Cluster, Contract, Driver};
use futures::future::try_join_all;
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};

use crate::bench::{Bench, contract};
use crate::functions;
use crate::report::{Aim, Row, Samples};
use crate::wire::Count;

const NODES: u32 = 8;
/// Rounds at most: each leaves a good gigabyte in the nodes' stores until it ends.
const ROUNDS: usize = 3;

fn apart() -> Contract {
    let mut contract = contract(NODES, 1);
    contract.settings_mut().shared_store = Some(false);
    contract
}

/// Bytes that no compression makes fewer.
fn random(size: usize, seed: u64) -> Vec<u8> {
    let mut value = vec![0; size];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut value);
    value
}

/// This executable with bytes behind it that it does not look at.
fn make_binary(path: &Path, size: usize) -> anyhow::Result<()> {
    let mut file = std::fs::File::create(path)?;
    std::io::copy(&mut std::fs::File::open("/proc/self/exe")?, &mut file)?;
    let own = file.metadata()?.len() as usize;
    file.write_all(&random(size.saturating_sub(own), 3))?;
    file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// What goes to all nodes.
struct Content<'a> {
    value: &'a Bytes,
    file: &'a Path,
    binary: &'a Path,
}

/// Milliseconds of each way, from each round.
#[derive(Default)]
struct Times {
    value: Samples,
    file: Samples,
    binary: Samples,
    direct: Samples,
}

/// The driver's bytes in each way ÷ the content's.
#[derive(Default)]
struct Shares {
    value: Samples,
    file: Samples,
    binary: Samples,
}

pub(super) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let size = bench.options.size();
    let files = tempfile::tempdir().context("a directory for files to ship")?;
    let (file, binary) = (files.path().join("file"), files.path().join("binary"));
    std::fs::write(&file, random(size, 1))?;
    make_binary(&binary, size)?;
    let content = Content {
        value: &random(size, 2).into(),
        file: &file,
        binary: &binary,
    };
    let mut times = Times::default();
    for _ in 0..bench.rounds().min(ROUNDS) {
        timed(bench, &content, &mut times)?;
    }
    // Apart, for counting takes time too.
    let shares = match Count::start() {
        Ok(count) => Some(shares(bench, &content, &count)?),
        Err(error) => {
            let why = format!("driver's bytes not counted ({error:#}): run as root");
            bench.row(Row::new(why, "", Samples::default()));
            None
        }
    };
    let binary = std::fs::metadata(&binary)?.len() >> 20;
    rows(bench, size >> 20, binary, times, shares);
    Ok(())
}

fn timed(bench: &mut Bench, content: &Content<'_>, times: &mut Times) -> anyhow::Result<()> {
    let millis = |start: Instant| start.elapsed().as_secs_f64() * 1e3;
    bench.with_cluster(&apart(), |bench, _, cluster| {
        let start = Instant::now();
        bench.runtime.block_on(value(cluster, content.value))?;
        times.value.push(millis(start));
        let start = Instant::now();
        bench
            .runtime
            .block_on(cluster.upload(content.file, "file"))?;
        times.file.push(millis(start));
        let start = Instant::now();
        bench.runtime.block_on(direct(cluster, content.value))?;
        times.direct.push(millis(start));
        Ok(())
    })?;
    let driver = driver_with(bench, content.binary)?;
    times.binary.push(bench.runtime.block_on(deploy(&driver))?);
    Ok(())
}

fn shares(bench: &mut Bench, content: &Content<'_>, count: &Count) -> anyhow::Result<Shares> {
    let mut shares = Shares::default();
    let length = content.value.len() as f64;
    bench.with_cluster(&apart(), |bench, _, cluster| {
        let before = count.sent()?;
        bench.runtime.block_on(value(cluster, content.value))?;
        let between = count.sent()?;
        bench
            .runtime
            .block_on(cluster.upload(content.file, "file"))?;
        shares.value.push((between - before) as f64 / length);
        shares.file.push((count.sent()? - between) as f64 / length);
        Ok(())
    })?;
    let driver = driver_with(bench, content.binary)?;
    let length = std::fs::metadata(content.binary)?.len() as f64;
    let before = count.sent()?;
    bench.runtime.block_on(deploy(&driver))?;
    shares.binary.push((count.sent()? - before) as f64 / length);
    Ok(shares)
}

async fn value(cluster: &Cluster, value: &Bytes) -> anyhow::Result<()> {
    let lengths = cluster
        .everywhere(functions::put::task(value.clone()))
        .await?;
    ensure!(lengths == [value.len(); NODES as usize], "not all arrived");
    Ok(())
}

async fn direct(cluster: &Cluster, value: &Bytes) -> anyhow::Result<()> {
    let workers = cluster.workers();
    let call = |worker: &cc_driver::Worker| worker.call(functions::put::task(value.clone()));
    let lengths = try_join_all(workers.iter().map(call)).await?;
    ensure!(lengths == [value.len(); NODES as usize], "not all arrived");
    Ok(())
}

fn driver_with(bench: &mut Bench, binary: &Path) -> anyhow::Result<Driver> {
    let builder = Driver::builder().state_directory(bench.fresh_state());
    Ok(builder.worker_binary(binary).build()?)
}

/// Milliseconds until every worker of a fresh cluster has answered.
async fn deploy(driver: &Driver) -> anyhow::Result<f64> {
    let start = Instant::now();
    let cluster = driver.deploy(&apart().resolve()?).await?;
    let answers = cluster.everywhere(functions::noop::task()).await;
    let time = start.elapsed();
    cluster.terminate().await?;
    driver.close().await;
    ensure!(answers?.len() == NODES as usize, "not all answered");
    Ok(time.as_secs_f64() * 1e3)
}

fn rows(bench: &mut Bench, mib: usize, binary: u64, times: Times, shares: Option<Shares>) {
    let shares = shares.map(|s| [s.value, s.file, s.binary]);
    let ways = [
        (
            format!("{mib} MiB value to 8 nodes, `everywhere`"),
            times.value,
        ),
        (format!("{mib} MiB file to 8 nodes, `upload`"), times.file),
        (
            format!("8 nodes deployed with a binary of {binary} MiB"),
            times.binary,
        ),
    ];
    let direct = times.direct;
    for (at, (what, time)) in ways.into_iter().enumerate() {
        let row = Row::new(&what, "ms", time);
        bench.row(row.limit("8 direct sends of a value", direct.clone()));
        if let Some(shares) = &shares {
            let row = Row::new(format!("{what}: driver's bytes"), "×", shares[at].clone());
            bench.row(row.aim(Aim::AtMost(1.1)));
        }
    }
}
