//! A folder of CSV files, summarised by remote calls, one file each: every task reads its file,
//! writes a summary of the columns beside it, and gives the totals back.
//!
//! `cargo run --release --example csv` makes up ten years of weather of some cities first;
//! `cargo run --release --example csv -- some/folder` takes the files that are there.

mod weather;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cc_driver::prelude::*;
use clap::Parser;
use serde::{Deserialize, Serialize};

/// Summarises every CSV file of a folder on a cluster of this machine's processes.
#[derive(Parser)]
struct Arguments {
    /// The folder with the files; made up in the temporary directory if not given.
    folder: Option<PathBuf>,
    /// Where the summaries go; `summaries` in the folder if not given.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 4)]
    nodes: u32,
    /// Workers on each node.
    #[arg(long, default_value_t = 2)]
    workers: u32,
}

/// What is known of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    rows: u64,
    columns: Vec<Column>,
}

/// What is known of a column. Cells that are no finite number count as text.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Column {
    name: String,
    numbers: u64,
    texts: u64,
    empty: u64,
    min: Option<f64>,
    mean: Option<f64>,
    max: Option<f64>,
}

impl Column {
    fn add(&mut self, cell: &str) {
        match cell.trim().parse::<f64>() {
            Ok(value) if value.is_finite() => {
                self.numbers += 1;
                let mean = self.mean.unwrap_or_default();
                self.mean = Some(mean + (value - mean) / self.numbers as f64);
                self.min = Some(self.min.map_or(value, |min| min.min(value)));
                self.max = Some(self.max.map_or(value, |max| max.max(value)));
            }
            _ if cell.trim().is_empty() => self.empty += 1,
            _ => self.texts += 1,
        }
    }
}

/// Reads a file, writes its summary to `output`, and gives it back.
#[remote]
fn summarise(path: PathBuf, output: PathBuf) -> Result<Summary, Failure> {
    let mut reader = csv::Reader::from_path(&path)?;
    let name = |name: &str| Column {
        name: name.to_owned(),
        ..Column::default()
    };
    let mut summary = Summary {
        rows: 0,
        columns: reader.headers()?.iter().map(name).collect(),
    };
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record)? {
        summary.rows += 1;
        for (column, cell) in summary.columns.iter_mut().zip(&record) {
            column.add(cell);
        }
    }
    let mut writer = csv::Writer::from_path(&output)?;
    for column in &summary.columns {
        writer.serialize(column)?;
    }
    writer.flush()?;
    Ok(summary)
}

#[cc_driver::main]
async fn main(driver: Driver) -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let folder = match &arguments.folder {
        // Workers run in a directory of their own: they need the whole path.
        Some(folder) => folder
            .canonicalize()
            .with_context(|| format!("{}", folder.display()))?,
        None => weather::make_up()?,
    };
    let output = std::path::absolute(arguments.output.unwrap_or_else(|| folder.join("summaries")))?;
    fs::create_dir_all(&output).with_context(|| format!("{}", output.display()))?;
    let files = csv_files(&folder)?;
    ensure!(
        !files.is_empty(),
        "no file that ends in .csv in {}",
        folder.display()
    );

    let (nodes, workers) = (arguments.nodes, arguments.workers);
    let contract = Contract::new()
        .node_count(nodes)
        .node_process_count(workers);
    let cluster = driver.deploy(&contract.resolve()?).await?;
    println!(
        "cluster {}: {nodes} nodes with {workers} workers each",
        cluster.handle()
    );

    let jobs = files.clone().into_iter().map(|file| {
        let summary = output.join(file.file_name().unwrap_or_default());
        (file, summary)
    });
    let summaries = cluster
        .map(jobs.collect::<Vec<_>>(), |(file, summary)| {
            summarise::task(file, summary)
        })
        .progress("files")
        .collect()
        .await;
    cluster.terminate().await?;

    let failed = print_table(&files, &summaries?);
    println!("\nthe summaries are in {}", output.display());
    ensure!(
        failed == 0,
        "{failed} of {} files could not be summarised",
        files.len()
    );
    Ok(())
}

/// Prints a line per file, with its first column of numbers; gives how many files failed.
fn print_table(files: &[PathBuf], summaries: &[Result<Summary, Failure>]) -> usize {
    println!(
        "{:<28} {:>8} {:>8}  first column of numbers: min, mean, max",
        "file", "rows", "columns"
    );
    let mut failed = 0;
    for (file, summary) in files.iter().zip(summaries) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        match summary {
            Ok(Summary { rows, columns }) => {
                print!("{name:<28} {rows:>8} {:>8}", columns.len());
                let numeric = columns.iter().find(|c| c.numbers > c.texts);
                if let Some(Column {
                    name,
                    min: Some(min),
                    mean: Some(mean),
                    max: Some(max),
                    ..
                }) = numeric
                {
                    print!("  {name}: {min:.1}, {mean:.1}, {max:.1}");
                }
                println!();
            }
            Err(error) => {
                failed += 1;
                println!("{name:<28} {error}");
            }
        }
    }
    failed
}

/// The files of a folder that end in `.csv`, in the order of their names.
fn csv_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.is_file()
            && path
                .extension()
                .is_some_and(|e| e.eq_ignore_ascii_case("csv"))
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
