//! Makes the snapshot of all instance types that cc-core embeds, `cc-core/catalog.bin`, from published
//! files and the tables in `data/`. The same sources give the same bytes.
//!
//! It is run by `cargo xtask catalog`. Nothing else depends on it, and no other crate reads its
//! sources.
#![expect(clippy::print_stdout, reason = "talking to a person is what it is for")]

mod ec2;
mod families;
mod gcp;
mod prices;
mod regions;
mod snapshot;
mod sources;
mod tables;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

use crate::prices::Verdict;
use crate::snapshot::Made;

/// Makes the snapshot of all instance types.
#[derive(Parser)]
#[command(name = "cargo xtask catalog", bin_name = "cargo xtask catalog")]
struct Arguments {
    /// Write nothing, and fail if the snapshot is not what its sources give.
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().unwrap_or(here);
    let sources = sources::read(&root.join("target/catalog"))?;
    let made = snapshot::make(&sources)?;
    let bytes = made.snapshot.encode()?;
    let path = root.join("cc-core/catalog.bin");
    report(&made, bytes.len());
    if arguments.check {
        let present = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        if present != bytes {
            bail!(
                "cc-core/catalog.bin is not what its sources and the tables in catalog/data give: \
                 run `cargo xtask catalog`, look at what differs, and commit it"
            );
        }
        println!("cc-core/catalog.bin is what its sources give");
        return Ok(());
    }
    // Beside it first, so that no build sees half a file.
    let beside = path.with_extension("bin.new");
    std::fs::write(&beside, &bytes).with_context(|| format!("write {}", beside.display()))?;
    std::fs::rename(&beside, &path).with_context(|| format!("replace {}", path.display()))?;
    println!("wrote cc-core/catalog.bin");
    Ok(())
}

fn report(made: &Made, bytes: usize) {
    let mut providers: BTreeMap<&str, usize> = BTreeMap::new();
    for of_type in &made.snapshot.types {
        *providers.entry(&of_type.provider).or_default() += 1;
    }
    for (provider, types) in providers {
        println!("{provider}: {types} types");
    }
    let count = |verdict| made.verdicts.get(&verdict).copied().unwrap_or(0);
    println!(
        "prices: {} known; of the others {} contradicted, {} unconfirmed, {} zero, {} not listed",
        count(Verdict::Kept),
        count(Verdict::Contradicted),
        count(Verdict::Unconfirmed),
        count(Verdict::Missing),
        made.unlisted,
    );
    println!(
        "{} families, {} regions, {bytes} bytes, as of {}",
        made.snapshot.families.len(),
        made.snapshot.regions.len(),
        made.snapshot.made
    );
}
