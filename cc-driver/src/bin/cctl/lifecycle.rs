//! Stopping, starting, keeping and giving back.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use cc_driver::{Driver, DriverError, Handle};

use crate::failure::Failure;
use crate::output::{count, duration, note, waiting};

pub(crate) async fn interrupt(driver: &Driver, clusters: &[String]) -> Result<(), Failure> {
    let handles = find_all(driver, clusters)?;
    each("interrupting", "interrupted", &handles, |handle| {
        driver.interrupt(handle)
    })
    .await
}

pub(crate) async fn resume(driver: &Driver, clusters: &[String]) -> Result<(), Failure> {
    let handles = find_all(driver, clusters)?;
    each("resuming", "resumed", &handles, |handle| {
        driver.resume_agents(handle)
    })
    .await
}

pub(crate) async fn restart(
    driver: &Driver,
    cluster: &str,
    take_over: bool,
) -> Result<(), Failure> {
    let handle = driver.find(cluster)?;
    let restarting = driver.restart_workers(handle, take_over);
    let started = waiting(format!("restarting the workers of {handle}"), restarting)
        .await
        .map_err(|error| {
            let owned = matches!(error, DriverError::Refused { .. });
            let failure = Failure::from(error);
            match owned {
                true => failure.hint("wait until that program has ended, or add --take-over"),
                false => failure,
            }
        })?;
    note(format!(
        "started {} of {handle}",
        count(started.into(), "worker")
    ));
    Ok(())
}

pub(crate) async fn terminate(
    driver: &Driver,
    clusters: &[String],
    all: bool,
    yes: bool,
) -> Result<(), Failure> {
    let handles = if all {
        let handles: Vec<_> = driver
            .clusters()?
            .into_iter()
            .map(|(handle, _)| handle)
            .collect();
        if handles.is_empty() {
            note("there are no clusters");
            return Ok(());
        }
        if !yes {
            confirm(&handles).await?;
        }
        handles
    } else {
        find_all(driver, clusters)?
    };
    each("terminating", "terminated", &handles, |handle| {
        driver.terminate(handle)
    })
    .await
}

pub(crate) async fn extend(driver: &Driver, cluster: &str, time: Duration) -> Result<(), Failure> {
    if time.as_secs() == 0 {
        return Err(Failure::wrong(
            "less than a second is no time to keep a cluster for",
        ));
    }
    let handle = driver.find(cluster)?;
    let tools = waiting(format!("connecting to {handle}"), driver.tools(handle)).await?;
    waiting(format!("extending {handle}"), tools.extend(time)).await?;
    if let Some((_, error)) = tools.unreachable().first() {
        return Err(Failure::failed(error).hint(format!(
            "{} of {} were extended",
            tools.nodes().len(),
            count(tools.record().nodes.len() as u64, "node")
        )));
    }
    note(format!(
        "{handle} stays for at least {} without a program",
        duration(time.as_secs())
    ));
    Ok(())
}

/// The clusters that are meant, each once.
fn find_all(driver: &Driver, clusters: &[String]) -> Result<Vec<Handle>, Failure> {
    let mut handles = Vec::new();
    for cluster in clusters {
        let handle = driver.find(cluster)?;
        if !handles.contains(&handle) {
            handles.push(handle);
        }
    }
    Ok(handles)
}

/// Does something to every cluster, whatever becomes of the others.
async fn each<F: Future<Output = Result<(), DriverError>>>(
    doing: &str,
    done: &str,
    handles: &[Handle],
    action: impl Fn(Handle) -> F,
) -> Result<(), Failure> {
    let mut worst = None;
    for &handle in handles {
        match waiting(format!("{doing} {handle}"), action(handle)).await {
            Ok(()) => note(format!("{done} {handle}")),
            Err(error) => {
                let code = Failure::from(error).report();
                worst = Some(worst.unwrap_or(code).max(code));
            }
        }
    }
    worst.map_or(Ok(()), |code| Err(Failure::silent(code)))
}

async fn confirm(handles: &[Handle]) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::wrong("nobody is there to confirm it: add --yes"));
    }
    let question = format!(
        "Terminate {} ({})? [y/N] ",
        count(handles.len() as u64, "cluster"),
        handles
            .iter()
            .map(Handle::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    );
    let ask = move || {
        let mut stderr = std::io::stderr().lock();
        stderr.write_all(question.as_bytes())?;
        stderr.flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::task::spawn_blocking(ask)
        .await
        .map_err(Failure::failed)?
        .map_err(|e| Failure::failed(format!("read the answer: {e}")))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::failed("nothing was terminated")),
    }
}
