//! Who a cluster belongs to: drivers that die, drivers that meet, tools beside a driver.

use std::time::Duration;

use cc_driver::prelude::*;
use cc_driver::{Cause, Exec, ExecFrame, Handle, NodeIndex, RefusalKind};
use cc_tests::functions::*;
use cc_tests::process::{DriverProcess, LONG, cluster_directories, nobody_left, until};
use cc_tests::site::Site;
use serde_json::{Value, json};

const DRIVER: &str = env!("CARGO_BIN_EXE_cc-test-driver");

/// A site whose drivers use the same program as the other process does.
fn site() -> Site {
    Site::new(DRIVER)
}

#[expect(clippy::unwrap_used, reason = "a test that gets none has failed")]
fn handle(deployed: &Value) -> Handle {
    deployed["handle"].as_str().unwrap().parse().unwrap()
}

fn ids(cluster: &Cluster) -> Vec<u32> {
    cluster.workers().iter().map(|w| w.id().0).collect()
}

#[tokio::test]
async fn a_killed_drivers_cluster_is_taken_up_as_it_was() -> anyhow::Result<()> {
    let site = site();
    let mut first = DriverProcess::start(DRIVER, &site).await?;
    let deployed = first.ask("deploy 2 1 600").await?;
    assert_eq!(first.ask("count").await?, json!([1, 1]));
    let pids = first.ask("pids").await?;
    // One runs on each worker, the others wait.
    let marks = site.path().join("marks");
    first
        .ask(&format!("start 20 1500 {}", marks.display()))
        .await?;
    let begun = || std::fs::read(&marks).map_or(0, |marks| marks.len());
    until("the first two calls", || begun() >= 2).await;
    first.kill().await?;
    let seen = begun();

    let driver = site.driver();
    let cluster = driver.reconnect(handle(&deployed)).await?;
    assert_eq!(json!(ids(&cluster)), deployed["ids"]);
    assert!(cluster.missing().is_empty());
    assert_eq!(json!(cluster.everywhere(pid::task()).await?), pids);
    assert_eq!(cluster.everywhere(count::task()).await?, [2, 2]);
    // The running calls went on to their ends, as these here came after them. One more may have
    // begun on each worker before it knew that its driver was gone.
    assert!(begun() <= seen + 2, "{seen} then {}", begun());
    let workers = cluster.workers();
    for id in [2, 3] {
        assert!(workers.iter().any(|w| w.id().0 == id));
    }
    cluster.terminate().await?;
    nobody_left(&site).await;
    assert_eq!(cluster_directories(&site), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_second_driver_is_told_who_owns_the_cluster_and_may_take_it_over() -> anyhow::Result<()> {
    let site = site();
    let mut first = DriverProcess::start(DRIVER, &site).await?;
    let deployed = first.ask("deploy 2 1 600").await?;
    let pids = first.ask("pids").await?;
    let handle = handle(&deployed);

    let driver = site.driver();
    let refused = driver.reconnect(handle).await.unwrap_err();
    let DriverError::Refused { refusal, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!(refusal.kind, RefusalKind::Owned);
    let holder = refusal.holder.as_ref().unwrap();
    let host = nix::unistd::gethostname()?.into_string().unwrap();
    assert_eq!((holder.pid, &holder.host), (first.pid(), &host));
    let text = refused.to_string();
    assert!(
        text.contains(&format!("pid {}", first.pid())) && text.contains(&host),
        "{text}"
    );
    // Nothing has changed for the first.
    assert_eq!(first.ask("count").await?, json!([1, 1]));
    // Nor may it be started a second time by accident.
    let resumed = driver.resume(handle).await.unwrap_err();
    assert!(matches!(resumed, DriverError::Refused { .. }), "{resumed}");

    let marks = site.path().join("marks");
    first
        .ask(&format!("start 4 1000 {}", marks.display()))
        .await?;
    until("the first two calls", || {
        std::fs::read(&marks).is_ok_and(|m| m.len() >= 2)
    })
    .await;
    let cluster = driver.take_over(handle).await?;
    let outcomes = first.ask("outcomes").await?;
    for outcome in outcomes.as_array().unwrap() {
        let text = outcome.as_str().unwrap();
        let ours = format!("pid {}", std::process::id());
        // A call that was under way was lost; one that waited finds no worker any more.
        assert!(text.starts_with("Err"), "{text}");
        if text.contains("lost with worker") {
            assert!(
                text.contains("taken over by") && text.contains(&ours),
                "{text}"
            );
        }
    }
    let lost = outcomes.as_array().unwrap().iter();
    let lost = lost
        .filter(|o| o.as_str().unwrap().contains("lost with worker"))
        .count();
    assert!(lost >= 2, "{outcomes}");
    let error = first.ask("start 1 1 /dev/null").await;
    assert!(error.is_ok(), "{error:?}");
    let late = first.ask("outcomes").await?;
    assert!(late[0].as_str().unwrap().starts_with("Err"), "{late}");

    assert_eq!(json!(cluster.everywhere(pid::task()).await?), pids);
    assert_eq!(cluster.everywhere(count::task()).await?, [2, 2]);
    cluster.terminate().await?;
    nobody_left(&site).await;
    Ok(())
}

#[tokio::test]
async fn tools_work_beside_a_driver() -> anyhow::Result<()> {
    let site = site();
    let mut first = DriverProcess::start(DRIVER, &site).await?;
    let deployed = first.ask("deploy 2 1 600").await?;
    let driver = site.driver();
    let mut tools = driver.tools(handle(&deployed)).await?;
    assert_eq!(tools.nodes(), [NodeIndex(0), NodeIndex(1)]);
    assert!(tools.unreachable().is_empty());

    let pids = first.ask("pids").await?;
    let mut seen = Vec::new();
    for (node, status) in tools.status().await {
        let status = status?;
        assert_eq!((status.node, status.tools), (node, 1));
        assert_eq!(status.owner.unwrap().pid, first.pid());
        assert!(status.lease_left > 500, "{}", status.lease_left);
        assert_eq!(status.workers.len(), 1);
        seen.extend(status.workers.iter().map(|w| w.pid));
    }
    assert_eq!(json!(seen), pids);

    let exec = Exec {
        argv: ["sh", "-c", "echo made > made; echo $WORD; exit 7"]
            .map(str::to_owned)
            .to_vec(),
        env: vec![("WORD".into(), "heard".into())],
        directory: None,
        terminal: None,
    };
    let mut command = tools.exec(NodeIndex(1), exec).await?;
    let (mut output, mut end) = (Vec::new(), None);
    while let Some(frame) = tokio::time::timeout(LONG, command.next()).await?? {
        match frame {
            ExecFrame::Output(bytes) => output.extend(bytes),
            ExecFrame::Ended(cause) => end = Some(cause),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((&*output, end), (&b"heard\n"[..], Some(Cause::Exited(7))));

    let local = site.path().join("downloaded");
    assert_eq!(tools.download(NodeIndex(1), "made", &local).await?, 5);
    assert_eq!(std::fs::read_to_string(&local)?, "made\n");
    tools.upload(&local, "folder/uploaded").await?;
    for node in [NodeIndex(0), NodeIndex(1)] {
        let back = site.path().join(format!("back {}", node.0));
        tools.download(node, "folder/uploaded", &back).await?;
        assert_eq!(std::fs::read_to_string(&back)?, "made\n");
    }
    let missing = tools
        .download(NodeIndex(0), "made", &local)
        .await
        .unwrap_err()
        .to_string();
    assert!(missing.contains("node 0"), "{missing}");

    tools.follow_logs(true).await?;
    first.ask("chatter 3").await?;
    let mut lines = Vec::new();
    while lines.len() < 12 {
        let more = tokio::time::timeout(LONG, tools.next_lines())
            .await?
            .unwrap();
        lines.extend(more.into_iter().map(|l| (l.worker.unwrap().0, l.text)));
    }
    lines.sort_unstable();
    let expected = [2, 3].iter().flat_map(|id| {
        let err = (0..3).map(|n| (*id, format!("err {n}")));
        err.chain((0..3).map(|n| (*id, format!("out {n}"))))
    });
    assert_eq!(lines, expected.collect::<Vec<_>>());

    // The driver has not noticed any of it.
    assert_eq!(first.ask("count").await?, json!([1, 1]));
    // Its end is the tools' end too.
    first.ask("terminate").await?;
    let over = async { while tools.next_lines().await.is_some() {} };
    tokio::time::timeout(LONG, over).await?;
    nobody_left(&site).await;
    Ok(())
}

#[tokio::test]
async fn a_role_that_nobody_took_makes_no_driver() -> anyhow::Result<()> {
    let site = site();
    let environment = [("CC_TEST_NO_INIT", "1"), ("CC_ROLE", "worker")];
    let error = DriverProcess::start_with(DRIVER, &site, &environment)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("role `worker`") && text.contains("cc_driver::init()"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn a_program_that_never_calls_init_is_told_to() -> anyhow::Result<()> {
    let site = site();
    // This test's own process is such a program.
    let driver = Driver::builder()
        .state_directory(site.path().join("state"))
        .build()?;
    let plan = Contract::new()
        .driver_timeout(Duration::from_secs(5))
        .resolve()?;
    let text = driver.deploy(&plan).await.unwrap_err().to_string();
    assert!(
        text.contains("cc_driver::init()") && text.contains("worker_binary"),
        "{text}"
    );
    assert!(driver.clusters()?.is_empty());
    // In another process, and with an agent at hand.
    let mut other = DriverProcess::start_with(DRIVER, &site, &[("CC_TEST_NO_INIT", "1")]).await?;
    let text = other.ask("deploy 1 1 5").await.unwrap_err().to_string();
    assert!(text.contains("cc_driver::init()"), "{text}");
    assert_eq!(site.processes(), []);
    Ok(())
}
