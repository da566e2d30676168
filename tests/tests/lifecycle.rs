//! A cluster's life, as the program that owns it sees it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use cc_driver::prelude::*;
use cc_driver::{Cause, ClusterState, NodeIndex};
use cc_tests::functions::*;
use cc_tests::lifecycle_functions::*;
use cc_tests::process::{LONG, cluster_directories, nobody_left, until};
use cc_tests::site::Site;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn site() -> Site {
    Site::new(env!("CARGO_BIN_EXE_cc-test-worker"))
}

fn ids(cluster: &Cluster) -> Vec<u32> {
    cluster.workers().iter().map(|w| w.id().0).collect()
}

async fn nothing_left(site: &Site) {
    nobody_left(site).await;
    assert_eq!(cluster_directories(site), [""; 0]);
}

#[tokio::test]
async fn interrupt_keeps_files_resume_and_restart_start_afresh_terminate_leaves_nothing()
-> anyhow::Result<()> {
    let site = site();
    let driver = site.driver();
    let plan = Contract::new()
        .node_count(2)
        .node_process_count(2)
        .resolve()?;
    let cluster = driver.deploy(&plan).await?;
    let handle = cluster.handle();
    let first = ids(&cluster);
    assert_eq!(cluster.everywhere(count::task()).await?, [1, 1, 1, 1]);
    assert_eq!(cluster.everywhere(count::task()).await?, [2, 2, 2, 2]);
    for (worker, name) in cluster.workers().iter().zip(["a", "b", "c", "d"]) {
        worker
            .call(write_text::task(name.into(), format!("kept {name}")))
            .await??;
    }

    let interrupted = cluster.interrupt().await?;
    nobody_left(&site).await;
    let [(listed, record)] = &driver.clusters()?[..] else {
        panic!()
    };
    let record = record.as_ref().unwrap();
    assert_eq!((*listed, record.state), (handle, ClusterState::Interrupted));
    for (index, node) in record.nodes.iter().enumerate() {
        let address: IpAddr = format!("127.0.0.{}", index + 2).parse()?;
        assert_eq!(node.address.unwrap().ip(), address);
    }
    let error = driver.reconnect(handle).await.unwrap_err().to_string();
    assert!(
        error.contains("interrupted") && error.contains("resume"),
        "{error}"
    );
    // Repeating it is safe.
    driver.interrupt(handle).await?;

    let cluster = interrupted.resume().await?;
    assert_eq!(cluster.handle(), handle);
    let second = ids(&cluster);
    assert_eq!(second.len(), 4);
    assert!(
        second.iter().all(|id| !first.contains(id)),
        "{first:?} {second:?}"
    );
    assert_eq!(cluster.everywhere(count::task()).await?, [1, 1, 1, 1]);
    for (worker, name) in cluster.workers().iter().zip(["a", "b", "c", "d"]) {
        let text = worker.call(read_text::task(name.into())).await??;
        assert_eq!(text, format!("kept {name}"));
    }

    let pids: HashSet<_> = cluster.everywhere(pid::task()).await?.into_iter().collect();
    cluster.restart().await?;
    let third = ids(&cluster);
    assert_eq!(third.len(), 4);
    assert!(
        third
            .iter()
            .all(|id| !first.contains(id) && !second.contains(id))
    );
    assert_eq!(cluster.everywhere(count::task()).await?, [1, 1, 1, 1]);
    let after = cluster.everywhere(pid::task()).await?;
    assert!(after.iter().all(|pid| !pids.contains(pid)));

    cluster.terminate().await?;
    assert!(driver.clusters()?.is_empty());
    nothing_left(&site).await;
    // What is gone is not there.
    let error = driver.terminate(handle).await.unwrap_err().to_string();
    assert!(error.contains("there is no cluster"), "{error}");
    Ok(())
}

#[tokio::test]
async fn two_drivers_and_three_clusters_in_one_process() -> anyhow::Result<()> {
    let site = site();
    let (one, other) = (site.driver(), site.driver());
    let plan = Contract::new().node_process_count(2).resolve()?;
    let (a, b, c) = futures::try_join!(one.deploy(&plan), one.deploy(&plan), other.deploy(&plan))?;
    let in_one: HashSet<u32> = ids(&a).into_iter().chain(ids(&b)).collect();
    assert_eq!(in_one, HashSet::from([2, 3, 4, 5]));
    assert_eq!(ids(&c), [2, 3]);
    assert_eq!(one.clusters()?.len(), 3);
    let doubled = |cluster: &Cluster| cluster.map(0..1_000u64, double::task).collect();
    let (x, y, z) = futures::try_join!(doubled(&a), doubled(&b), doubled(&c))?;
    assert!(x == y && y == z && x[999] == 1_998);
    // One that another driver terminates.
    let (handle, call) = (a.handle(), a.call(sleep::task(300_000)));
    let call = tokio::spawn(call);
    other.terminate(handle).await?;
    let error = call.await?.unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }), "{error}");
    a.close().await;
    assert_eq!(c.call(double::task(1)).await?, 2);
    futures::try_join!(b.terminate(), c.terminate())?;
    nothing_left(&site).await;
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_lost_fails_its_calls_and_nothing_else_and_can_be_resumed()
-> anyhow::Result<()> {
    let site = site();
    let driver = site.driver();
    let plan = Contract::new().node_count(3).worker_slots(1).resolve()?;
    let cluster = driver.deploy(&plan).await?;
    let handle = cluster.handle();
    cluster.everywhere(count::task()).await?;
    let workers = cluster.workers();
    let lost = &workers[1];
    let calls = [1, 2].map(|_| tokio::spawn(lost.call(sleep::task(600_000))));
    let other = tokio::spawn(workers[0].call(sleep::task(3_000)));
    let tools = driver.tools(handle).await?;
    let status = tools.status().await;
    let agent = status[1].1.as_ref().unwrap().pid;
    drop(tools);
    kill(Pid::from_raw(agent as i32), Signal::SIGKILL)?;
    let killed = Instant::now();
    for call in calls {
        let error = call.await?.unwrap_err();
        let CallError::Lost {
            worker,
            node,
            death,
            ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!((*worker, *node), (lost.id(), NodeIndex(1)));
        assert!(matches!(death.cause, Cause::NodeLost(_)), "{error}");
        assert!(
            error.to_string().contains("not running any more"),
            "{error}"
        );
    }
    assert!(killed.elapsed() < LONG / 2, "{:?}", killed.elapsed());
    // Nothing of the node is left, though nobody was there to tell its worker.
    let directory = site.path().join(format!("state/clusters/{handle}/nodes/1"));
    let there = |(pid, _): &(i32, String)| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&directory))
    };
    until("the lost node's processes", || {
        !site.processes().iter().any(there)
    })
    .await;
    assert_eq!(cluster.nodes(), [NodeIndex(0), NodeIndex(2)]);
    assert_eq!(ids(&cluster), [2, 4]);
    assert_eq!(other.await??, 3_000);
    assert_eq!(
        cluster.map(0..100u64, double::task).collect().await?.len(),
        100
    );
    // Its restart concerns the rest.
    cluster.restart().await?;
    assert_eq!(cluster.everywhere(count::task()).await?, [1, 1]);
    let rest = cluster.everywhere(pid::task()).await?;
    cluster.close().await;

    // Its provider knows that it is not there: nobody waits for an answer.
    let cluster = driver.reconnect(handle).await?;
    let missing = cluster.missing();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(
        missing[0].contains("node 1") && missing[0].contains("resume"),
        "{missing:?}"
    );
    assert_eq!(cluster.everywhere(pid::task()).await?, rest);
    cluster.close().await;

    // Dropped, it is free to be taken up again by anybody, this process included.
    drop(driver.reconnect(handle).await?);
    // Resumed, it has the node back, and the others' workers are as they were.
    let cluster = driver.resume(handle).await?;
    assert!(cluster.missing().is_empty());
    let mut counts = cluster.everywhere(count::task()).await?;
    counts.sort_unstable();
    assert_eq!(counts, [1, 2, 2]);
    let pids = cluster.everywhere(pid::task()).await?;
    assert!(
        rest.iter().all(|pid| pids.contains(pid)),
        "{rest:?} {pids:?}"
    );
    cluster.terminate().await?;
    nothing_left(&site).await;
    Ok(())
}

#[tokio::test]
async fn a_cluster_without_workers_gets_them_from_whoever_reconnects() -> anyhow::Result<()> {
    let site = site();
    let driver = site.driver();
    let plan = Contract::new()
        .node_count(2)
        .env("CC_TEST_SEEN", "yes")
        .resolve()?;
    let handle = driver.deploy_agents(&plan).await?;
    let cluster = driver.reconnect(handle).await?;
    assert_eq!(ids(&cluster).len(), 2);
    let seen = cluster
        .everywhere(variable::task("CC_TEST_SEEN".into()))
        .await?;
    assert_eq!(seen, [Some("yes".to_owned()), Some("yes".to_owned())]);
    // No worker knows that it is one by what its children would take for their own role.
    let role = cluster.everywhere(variable::task("CC_ROLE".into())).await?;
    assert_eq!(role, [None, None]);
    // One node's worker gone: the next driver starts it again there.
    let pids = cluster.everywhere(pid::task()).await?;
    let call = cluster.workers()[0].call(exit::task(3)).await;
    assert!(matches!(call, Err(CallError::Lost { .. })), "{call:?}");
    cluster.close().await;
    let cluster = driver.reconnect(handle).await?;
    let now = cluster.everywhere(pid::task()).await?;
    assert_eq!(now.len(), 2);
    assert!(
        now.contains(&pids[1]) && !now.contains(&pids[0]),
        "{pids:?} {now:?}"
    );
    cluster.terminate().await?;
    nothing_left(&site).await;
    Ok(())
}

async fn many(nodes: u32) -> anyhow::Result<()> {
    let site = site();
    let driver = site.driver();
    let cluster = driver
        .deploy(&Contract::new().node_count(nodes).resolve()?)
        .await?;
    let pids: HashSet<_> = cluster.everywhere(pid::task()).await?.into_iter().collect();
    assert_eq!(pids.len(), nodes as usize);
    let doubled = cluster.map(0..10_000u64, double::task).collect().await?;
    assert_eq!(doubled[9_999], 19_998);
    cluster.terminate().await?;
    nothing_left(&site).await;
    Ok(())
}

#[tokio::test]
async fn sixty_four_nodes() -> anyhow::Result<()> {
    many(64).await
}

#[tokio::test]
#[ignore = "takes a minute and 2 GiB"]
async fn two_hundred_nodes() -> anyhow::Result<()> {
    many(200).await
}

/// Deploys what cannot be, and gives the error; nothing may be left of it.
async fn refused(site: &Site, driver: Driver, contract: &Contract) -> anyhow::Result<String> {
    let error = match driver.deploy(&contract.resolve()?).await {
        Ok(cluster) => panic!("deployed: {cluster:?}"),
        Err(error) => error.to_string(),
    };
    assert!(driver.clusters()?.is_empty(), "{error}");
    nothing_left(site).await;
    Ok(error)
}

#[tokio::test]
async fn a_port_that_is_taken_undoes_the_deployment() -> anyhow::Result<()> {
    let site = site();
    // The second node's; the first one's agent starts and must go again.
    let taken = std::net::UdpSocket::bind("127.0.0.3:0")?;
    let mut contract = Contract::new().node_count(2);
    contract.settings_mut().agent_port = Some(taken.local_addr()?.port());
    let error = refused(&site, site.driver(), &contract).await?;
    assert!(
        error.contains("node 1") && error.contains("the port is taken"),
        "{error}"
    );
    Ok(())
}

/// An ELF file for another machine than this one.
fn foreign(path: &Path) -> anyhow::Result<&'static str> {
    use std::os::unix::fs::PermissionsExt as _;
    let (machine, name) = if cfg!(target_arch = "aarch64") {
        (62u16, "x86_64")
    } else {
        (183, "aarch64")
    };
    let mut content = std::fs::read(env!("CARGO_BIN_EXE_cc-test-worker"))?;
    content.truncate(64 * 1024);
    content[18..20].copy_from_slice(&machine.to_le_bytes());
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(name)
}

#[tokio::test]
async fn an_agent_that_cannot_be_one_undoes_the_deployment() -> anyhow::Result<()> {
    let site = site();
    let path = site.path().join("agent");
    let architecture = foreign(&path)?;
    let contract = Contract::new().node_count(2);
    let error = refused(&site, site.builder().agent(&path).build()?, &contract).await?;
    assert!(error.contains(architecture), "{error}");
    assert!(error.contains(&*path.to_string_lossy()), "{error}");
    let error = refused(&site, site.builder().agent("/bin/true").build()?, &contract).await?;
    assert!(
        error.contains("node 0") && error.contains("ended"),
        "{error}"
    );
    let error = refused(&site, site.builder().agent("/bin/echo").build()?, &contract).await?;
    assert!(error.contains("no agent's report"), "{error}");
    let error = refused(&site, site.builder().agent("/no/agent").build()?, &contract).await?;
    assert!(error.contains("/no/agent"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_worker_that_cannot_start_undoes_the_deployment_and_says_why() -> anyhow::Result<()> {
    let site = site();
    let contract = Contract::new().node_count(2).node_process_count(2);
    let path = site.path().join("foreign-worker");
    let architecture = foreign(&path)?;
    let driver = site.builder().worker_binary(&path).build()?;
    let error = refused(&site, driver, &contract).await?;
    assert!(error.contains("node 1: worker in slot 1"), "{error}");
    assert!(error.contains(architecture), "{error}");

    for (program, why) in [
        ("/bin/false", "exited with status 1"),
        ("/no/such/worker", "there is no such file"),
        ("/etc/passwd", "not executable"),
    ] {
        let mut contract = contract.clone();
        contract.settings_mut().exename = Some(program.to_owned());
        let error = refused(&site, site.driver(), &contract).await?;
        assert!(error.contains("node 0: worker in slot 0"), "{error}");
        assert!(error.contains(why), "{error}");
    }
    Ok(())
}

#[cfg(target_env = "gnu")]
#[tokio::test]
async fn a_worker_that_lacks_a_shared_library_names_it() -> anyhow::Result<()> {
    let site = site();
    let mut content = std::fs::read(env!("CARGO_BIN_EXE_cc-test-worker"))?;
    let needed = b"libgcc_s.so.1\0";
    let Some(at) = content
        .windows(needed.len())
        .position(|part| part == needed)
    else {
        // Linked statically: there is nothing that could be missing.
        return Ok(());
    };
    content[at..at + 6].copy_from_slice(b"libzzz");
    let path = site.path().join("lacking-worker");
    std::fs::write(&path, content)?;
    let driver = site.builder().worker_binary(&path).build()?;
    let error = refused(&site, driver, &Contract::new()).await?;
    assert!(error.contains("node 0: worker in slot 0"), "{error}");
    assert!(error.contains("libzzz_s.so.1"), "{error}");
    Ok(())
}
