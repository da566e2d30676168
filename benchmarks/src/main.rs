//! Measures what the framework is meant to be fast at, each figure beside its physical limit
//! from the same run: medians and spread, as a table and as a file for programs.
//!
//! Every group of figures runs in a process of its own, so that the memory, threads and failures
//! of one are not another's; this program starts them one after the other and takes down what a
//! failed one has left. It never asserts a speed: a missed aim is in the table and is no error.
//!
//! `cargo xtask bench -- --help`

mod bench;
mod cores;
mod figures;
mod functions;
mod machine;
mod options;
mod process;
mod raw;
mod report;
mod wire;

use std::io::Read as _;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cc_driver::Driver;
use clap::Parser as _;

use crate::bench::Bench;
use crate::figures::{FIGURES, Figure};
use crate::options::Options;
use crate::report::{Report, Row};

/// Longest time for one group of figures.
const FIGURE_WAIT: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    // Agents and workers are this executable too.
    cc_driver::init();
    let options = Options::parse();
    let result = match (&options.raw, &options.figure) {
        (Some(role), _) => raw::run(role).map(|()| true),
        (_, Some(name)) => one(name, &options).map(|()| true),
        _ => all(&options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs every figure that is asked for; gives whether each could be measured.
fn all(options: &Options) -> anyhow::Result<bool> {
    let output = options.output_path();
    let mut report = Report::new(machine::describe(), options);
    report::say(&report.heading());
    for figure in figures::choose(options) {
        let state = tempfile::tempdir().context("directory for the clusters' state")?;
        report::say(&format!("\n{}: {}", figure.name, figure.what));
        let start = Instant::now();
        let result = in_a_process(figure, options, state.path());
        // Also after a failure, a crash or a time-out: nothing stays behind.
        let cleared = clear(state.path());
        match result.and_then(|rows| cleared.map(|()| rows)) {
            Ok(rows) => {
                for row in &rows {
                    report::say(&row.line());
                }
                report.rows.extend(rows);
            }
            Err(error) => {
                report::say(&format!("  failed: {error:#}"));
                report.failed.push(format!("{}: {error:#}", figure.name));
            }
        }
        report::say(&format!("  ({:.1} s)", start.elapsed().as_secs_f64()));
        report.write(&output)?;
    }
    report::say(&format!("\n{}", report.table()));
    report::say(&format!("written to {}", output.display()));
    Ok(report.failed.is_empty())
}

/// Measures one group of figures in this process and writes the rows to standard output.
fn one(name: &str, options: &Options) -> anyhow::Result<()> {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .try_init();
    // What is deployed then ends by its lease.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    let figure = FIGURES
        .iter()
        .find(|f| f.name == name)
        .context("no such figure")?;
    let state = options.state.clone().context("--state is missing")?;
    let mut bench = Bench::new(options.clone(), state)?;
    (figure.run)(&mut bench)?;
    report::say(&serde_json::to_string(&bench.into_rows())?);
    Ok(())
}

/// Starts this program for one group of figures and takes its rows.
fn in_a_process(figure: &Figure, options: &Options, state: &Path) -> anyhow::Result<Vec<Row>> {
    let mut child = std::process::Command::new("/proc/self/exe")
        .args(["--figure", figure.name, "--state"])
        .arg(state)
        .args(options.arguments())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start a process")?;
    // Held until the end: the process goes when this one does.
    let _input = child.stdin.take();
    let output = child.stdout.take().context("no standard output")?;
    let reader = std::thread::spawn(move || std::io::read_to_string(output));
    let deadline = Instant::now() + FIGURE_WAIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("it took more than {} s", FIGURE_WAIT.as_secs());
        }
        // There is nothing to wait for with a time limit, and this process must not disturb.
        std::thread::sleep(Duration::from_millis(100));
    };
    let text = reader
        .join()
        .map_err(|_| anyhow::anyhow!("reading its output"))??;
    let last = text.lines().last().unwrap_or_default();
    ensure!(status.success(), "{status}: {last}");
    serde_json::from_str(last).with_context(|| format!("its output: {last}"))
}

/// Terminates whatever clusters are recorded below a directory.
fn clear(root: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let driver = Driver::builder().state_directory(path).build()?;
        for (handle, _) in driver.clusters()? {
            runtime
                .block_on(driver.terminate(handle))
                .with_context(|| format!("terminate {handle}, which was left behind"))?;
        }
    }
    Ok(())
}
