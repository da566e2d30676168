//! Contracts: reading the embedded catalog, selecting from all of it, and resolving.
//!
//! The limits are what the work is made of: decompressing the catalog's bytes, and comparing one
//! number of every instance type.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cc_core::catalog::{Catalog, Snapshot};
use cc_core::contract::{Contract, Role, Units as _, at_least};
use cc_core::resolve::{ProviderState, Surroundings};

use crate::bench::Bench;
use crate::report::{Aim, Row, Samples, micros};

/// Selections in a sample, so that the clock does not matter.
const TIMES: u32 = 200;

pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let bytes = Catalog::embedded_bytes();
    let contract = Contract::new()
        .accelerator_count(at_least(4))
        .accelerator_architecture("Ada")
        .node_memory_size(at_least(256.gib()));
    let catalog = Catalog::new(Snapshot::decode(bytes)?);
    let surroundings = Surroundings {
        catalog: &catalog,
        providers: vec![ProviderState {
            name: "ec2".to_owned(),
            region: Some("us-east-1".to_owned()),
            ..ProviderState::local()
        }],
        isa: None,
    };
    let (mut loads, mut unpacked) = (Vec::new(), Vec::new());
    let (mut selects, mut scans, mut resolves) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        loads.push(once(|| {
            Catalog::new(Snapshot::decode(bytes).unwrap_or_default())
        }));
        unpacked.push(once(|| zstd_only(bytes)));
        selects.push(each(|| catalog.select(&contract, Role::Peer)));
        scans.push(each(|| {
            let entries = catalog.entries().iter();
            entries
                .filter(|e| e.facts.memory.is_some_and(|m| m >= 1 << 38))
                .count()
        }));
        resolves.push(each(|| contract.resolve_in(&surroundings)));
    }
    let found = catalog.select(&contract, Role::Peer)?.len();
    contract.resolve_in(&surroundings).context("resolve")?;
    let types = catalog.entries().len();
    let kib = bytes.len() as f64 / 1024.0;
    bench.row(
        Row::new(
            format!("embedded catalog read, {types} types"),
            "µs",
            micros(&loads),
        )
        .limit("its bytes decompressed", micros(&unpacked))
        .aim(Aim::AtMost(5_000.0)),
    );
    bench.row(
        Row::new(
            format!("select over all regions, {found} found"),
            "µs",
            micros(&selects),
        )
        .limit("one number of each type compared", micros(&scans))
        .aim(Aim::AtMost(500.0)),
    );
    bench.row(Row::new("resolve in one region", "µs", micros(&resolves)));
    bench.row(Row::new("embedded catalog", "KiB", Samples(vec![kib])));
    Ok(())
}

fn zstd_only(bytes: &[u8]) -> usize {
    // The header is eight bytes.
    zstd::bulk::decompress(&bytes[8..], cc_core::limits::CATALOG).map_or(0, |b| b.len())
}

fn once<T>(work: impl FnOnce() -> T) -> Duration {
    let begun = Instant::now();
    black_box(work());
    begun.elapsed()
}

fn each<T>(mut work: impl FnMut() -> T) -> Duration {
    let begun = Instant::now();
    for _ in 0..TIMES {
        black_box(work());
    }
    begun.elapsed() / TIMES
}
