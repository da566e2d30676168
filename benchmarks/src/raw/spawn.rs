//! What starting processes costs by itself.

use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::{HELLO, command};

/// The process: says a byte and ends.
pub(super) fn hello() -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(&[1])?;
    stdout.flush()?;
    Ok(())
}

/// Times starting processes side by side until the last of them has said something.
pub(crate) fn processes(count: usize) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let children: Vec<Child> = (0..count)
        .map(|_| {
            command(HELLO)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .context("start a process")
        })
        .collect::<anyhow::Result<_>>()?;
    let mut children = children;
    for child in &mut children {
        let mut said = [0];
        let output = child.stdout.as_mut().context("no standard output")?;
        output.read_exact(&mut said)?;
        ensure!(said == [1], "a process said something else");
    }
    let time = start.elapsed();
    for mut child in children {
        child.wait()?;
    }
    Ok(time)
}
