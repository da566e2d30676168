//! The memory of processes that have nothing to do.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::bench::{Bench, contract};
use crate::functions;
use crate::process;
use crate::report::{Aim, Row, Samples};

const MIB: f64 = 1_048_576.0;
const ROUNDS: usize = 3;
/// From the last call to looking: what is left of it has settled.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Sizes {
    resident: Samples,
    anonymous: Samples,
}

impl Sizes {
    fn add(&mut self, process: u32) -> anyhow::Result<()> {
        let memory = process::memory(&process.to_string())?;
        self.resident.push(memory.resident as f64 / MIB);
        self.anonymous.push(memory.anonymous as f64 / MIB);
        Ok(())
    }

    fn rows(self, bench: &mut Bench, who: &str, aim: Option<f64>) {
        let mut row = Row::new(format!("idle {who}, resident"), "MiB", self.resident);
        if let Some(aim) = aim {
            row = row.aim(Aim::AtMost(aim));
        }
        bench.row(row);
        let what =
            format!("idle {who}, of that its own (the rest is the executable and libraries)");
        bench.row(Row::new(what, "MiB", self.anonymous));
    }
}

/// The process that another was started by.
fn parent(process: u32) -> anyhow::Result<u32> {
    let path = format!("/proc/{process}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("PPid:"));
    let id = line.and_then(|line| line.trim().parse().ok());
    id.with_context(|| format!("no PPid in {path}"))
}

pub(super) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let (mut agent, mut guard, mut worker) = (Sizes::default(), Sizes::default(), Sizes::default());
    let mut executable = String::new();
    for _ in 0..ROUNDS {
        bench.with_cluster(&contract(1, 1), |bench, driver, cluster| {
            bench.runtime.block_on(async {
                cluster.call(functions::noop::task()).await?;
                tokio::time::sleep(SETTLE).await;
                let tools = driver.tools(cluster.handle()).await?;
                for (_, status) in tools.status().await {
                    let status = status?;
                    ensure!(status.workers.len() == 1, "not one worker");
                    let process = status.workers[0].pid;
                    agent.add(status.pid)?;
                    worker.add(process)?;
                    guard.add(parent(process)?)?;
                    let link = std::fs::read_link(format!("/proc/{}/exe", status.pid))?;
                    let name = link.file_name().unwrap_or_default();
                    executable = name.to_string_lossy().into_owned();
                }
                Ok(())
            })
        })?;
    }
    agent.rows(bench, &format!("agent (`{executable}`)"), Some(10.0));
    worker.rows(bench, "worker", Some(10.0));
    guard.rows(bench, "guard", None);
    Ok(())
}
