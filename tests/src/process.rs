//! Drivers in processes of their own, and what is left of clusters.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::site::Site;

/// How long anything may take here: far longer than it does on a busy machine.
pub const LONG: Duration = Duration::from_secs(120);

/// A `cc-test-driver`. Dropping it kills it.
#[derive(Debug)]
pub struct DriverProcess {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl DriverProcess {
    /// Starts one on a site's state directory, and waits until it has its driver.
    ///
    /// # Errors
    /// Gives the error that it has instead.
    pub async fn start(program: impl AsRef<Path>, site: &Site) -> anyhow::Result<Self> {
        Self::start_with(program, site, &[]).await
    }

    /// Starts one with environment variables.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(
        program: impl AsRef<Path>,
        site: &Site,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(program.as_ref())
            .arg(site.path().join("state"))
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().context("no pipe")?;
        let stdout = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        let mut started = Self {
            child,
            stdin,
            stdout,
        };
        started.hear().await?;
        Ok(started)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Gives it a command and waits for the answer.
    ///
    /// # Errors
    /// Gives the error with which it answers.
    pub async fn ask(&mut self, command: &str) -> anyhow::Result<Value> {
        self.tell(command).await?;
        self.hear().await
    }

    /// Gives it a command.
    ///
    /// # Errors
    /// Fails when it is gone.
    pub async fn tell(&mut self, command: &str) -> anyhow::Result<()> {
        self.stdin
            .write_all(format!("{command}\n").as_bytes())
            .await?;
        Ok(())
    }

    /// Waits for the answer to the first command that has none yet.
    ///
    /// # Errors
    /// Gives the error with which it answers.
    pub async fn hear(&mut self) -> anyhow::Result<Value> {
        let line = tokio::time::timeout(LONG, self.stdout.next_line()).await;
        let Some(line) = line.context("no answer in time")?? else {
            let status = tokio::time::timeout(LONG, self.child.wait()).await;
            bail!("the driver's process has ended: {}", status??);
        };
        let mut answer: Value = serde_json::from_str(&line)?;
        if let Some(error) = answer.get("error") {
            bail!("{}", error.as_str().unwrap_or_default());
        }
        Ok(answer["ok"].take())
    }

    /// Kills it (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// Fails when it cannot be killed.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Waits for something to become true.
///
/// # Panics
/// Panics when that takes too long, saying what was waited for.
pub async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let started = Instant::now();
    while !check() {
        assert!(started.elapsed() < LONG, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until no process of a site is left: the kernel takes a moment to clear up after the
/// last one.
///
/// # Panics
/// Panics when some stay, naming them.
pub async fn nobody_left(site: &Site) {
    let started = Instant::now();
    loop {
        let left = site.processes();
        if left.is_empty() {
            return;
        }
        assert!(started.elapsed() < LONG, "still there: {left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The entries of a site's directory of clusters.
pub fn cluster_directories(site: &Site) -> Vec<String> {
    let entries = std::fs::read_dir(site.path().join("state/clusters"));
    let entries = entries.into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
