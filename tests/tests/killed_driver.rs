//! Drivers that are killed, at any moment, or whose program is replaced under them.

use std::time::{Duration, Instant};

use cc_driver::{ClusterState, Handle};
use cc_tests::process::{DriverProcess, LONG, cluster_directories, nobody_left};
use cc_tests::site::Site;
use serde_json::json;

const DRIVER: &str = env!("CARGO_BIN_EXE_cc-test-driver");

/// Moments of a deployment at which the driver is killed.
const MOMENTS: u32 = 12;

#[expect(clippy::unwrap_used, reason = "a test that gets none has failed")]
fn handle(deployed: &serde_json::Value) -> Handle {
    deployed["handle"].as_str().unwrap().parse().unwrap()
}

/// The processes that have one of these handles in their arguments: an agent has it there before
/// it has anything else of its cluster.
fn agents_of(handles: &[Handle]) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_them = entries.filter(|entry| {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        handles
            .iter()
            .any(|handle| arguments.contains(handle.as_str()))
    });
    of_them
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// What a fresh process does about clusters that it finds: gives their handles.
async fn clear_up(site: &Site) -> anyhow::Result<Vec<Handle>> {
    let driver = site.driver();
    let mut handles = Vec::new();
    for (handle, record) in driver.clusters()? {
        // Written whole or not at all.
        record?;
        driver.terminate(handle).await?;
        handles.push(handle);
    }
    let started = Instant::now();
    while !agents_of(&handles).is_empty() {
        assert!(
            started.elapsed() < LONG,
            "still there: {:?}",
            agents_of(&handles)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nobody_left(site).await;
    assert!(driver.clusters()?.is_empty());
    // A directory that was being made has no cluster in it yet, and goes by itself.
    let mut left = cluster_directories(site);
    left.retain(|name| !name.starts_with(".new."));
    assert_eq!(left, [""; 0]);
    Ok(handles)
}

#[tokio::test]
async fn killed_while_it_deploys() -> anyhow::Result<()> {
    let site = Site::new(DRIVER);
    // The first takes longer, as it ships the program.
    let mut times = Vec::new();
    for _ in 0..2 {
        let mut driver = DriverProcess::start(DRIVER, &site).await?;
        let started = Instant::now();
        driver.ask("deploy 2 2 600").await?;
        times.push(started.elapsed());
        driver.ask("terminate").await?;
    }
    let mut met = 0;
    for moment in 0..MOMENTS {
        let mut driver = DriverProcess::start(DRIVER, &site).await?;
        driver.tell("deploy 2 2 600").await?;
        tokio::time::sleep(times[1] * moment / (MOMENTS - 1)).await;
        driver.kill().await?;
        met += clear_up(&site).await?.len();
    }
    // Unless nothing was ever there, in which case this would show nothing.
    assert!(met > 0);
    Ok(())
}

#[tokio::test]
async fn killed_while_it_terminates() -> anyhow::Result<()> {
    let site = Site::new(DRIVER);
    let mut driver = DriverProcess::start(DRIVER, &site).await?;
    driver.ask("deploy 2 2 600").await?;
    let started = Instant::now();
    driver.ask("terminate").await?;
    let time = started.elapsed();
    for moment in 0..MOMENTS / 2 {
        driver.ask("deploy 2 2 600").await?;
        driver.tell("terminate").await?;
        tokio::time::sleep(time * moment / (MOMENTS / 2 - 1)).await;
        driver.kill().await?;
        clear_up(&site).await?;
        driver = DriverProcess::start(DRIVER, &site).await?;
    }
    Ok(())
}

#[tokio::test]
async fn ended_by_another_process_while_it_deploys() -> anyhow::Result<()> {
    let site = Site::new(DRIVER);
    let mut deploying = DriverProcess::start(DRIVER, &site).await?;
    let other = site.driver();
    for pause in [0, 50, 150, 300] {
        deploying.tell("deploy 2 1 600").await?;
        let started = Instant::now();
        let handle = loop {
            if let Some((handle, _)) = other.clusters()?.first() {
                break *handle;
            }
            assert!(started.elapsed() < LONG, "there is no cluster");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
        // Either may be in the other's way; what counts is that nothing is left by both.
        let terminated = other.terminate(handle).await;
        let deployed = deploying.hear().await;
        let left = clear_up(&site).await?;
        assert!(
            left.is_empty() || terminated.is_err(),
            "{terminated:?}, {deployed:?}"
        );
        while !agents_of(&[handle]).is_empty() {
            assert!(started.elapsed() < LONG, "{terminated:?}, {deployed:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

#[tokio::test]
async fn agents_end_by_themselves_when_their_lease_runs_out() -> anyhow::Result<()> {
    let site = Site::new(DRIVER);
    let mut driver = DriverProcess::start(DRIVER, &site).await?;
    let deployed = driver.ask("deploy 2 1 2").await?;
    // As long as the driver is there, so are they.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(driver.ask("count").await?, json!([1, 1]));
    let marks = site.path().join("marks");
    driver
        .ask(&format!("start 2 600000 {}", marks.display()))
        .await?;
    driver.kill().await?;
    nobody_left(&site).await;

    let driver = site.driver();
    let [(listed, record)] = &driver.clusters()?[..] else {
        panic!()
    };
    assert_eq!(*listed, handle(&deployed));
    assert_eq!(record.as_ref().unwrap().state, ClusterState::Running);
    let asked = Instant::now();
    let error = driver.reconnect(*listed).await.unwrap_err().to_string();
    assert!(
        error.contains("node 0") && error.contains("node 1"),
        "{error}"
    );
    assert!(error.contains("does not run"), "{error}");
    assert!(asked.elapsed() < LONG / 2);
    driver.terminate(*listed).await?;
    assert_eq!(cluster_directories(&site), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_program_that_is_replaced_while_it_runs_goes_on_as_it_was() -> anyhow::Result<()> {
    let site = Site::new(DRIVER);
    let program = site.path().join("program");
    std::fs::copy(DRIVER, &program)?;
    let mut driver = DriverProcess::start(&program, &site).await?;
    // As a linker does it: the name goes to another file.
    let other = site.path().join("other");
    std::fs::write(&other, "#!/bin/sh\nexit 1\n")?;
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    std::fs::rename(&other, &program)?;
    let deployed = driver.ask("deploy 2 1 600").await?;
    assert_eq!(driver.ask("count").await?, json!([1, 1]));
    // And then there is none.
    std::fs::remove_file(&program)?;
    driver.ask("restart").await?;
    assert_eq!(driver.ask("count").await?, json!([1, 1]));
    let second = driver.ask("deploy 1 1 600").await?;
    assert_eq!(driver.ask("count").await?, json!([1]));
    driver.ask("terminate").await?;
    assert_ne!(handle(&deployed), handle(&second));
    driver.kill().await?;
    assert_eq!(clear_up(&site).await?, [handle(&deployed)]);
    Ok(())
}
