//! Calls: where they run, what they give, what becomes of those that nobody waits for.

use std::path::Path;
use std::time::{Duration, Instant};

use cc_driver::prelude::*;
use cc_driver::{Cause, WorkerId};
use cc_tests::functions::*;
use cc_tests::site::Site;
use futures::future::{Either, join_all, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};

fn site() -> Site {
    Site::new(env!("CARGO_BIN_EXE_cc-test-worker"))
}

/// The lines of a file that functions note things in.
fn notes(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until a file has these lines, in any order.
async fn noted(path: &Path, wanted: &[&str]) {
    let start = Instant::now();
    loop {
        let mut found = notes(path);
        found.sort();
        if found == wanted {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{found:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_call_and_a_map_on_two_nodes() -> anyhow::Result<()> {
    let site = site();
    let driver = site.driver();
    let plan = Contract::new()
        .node_count(2)
        .node_process_count(2)
        .resolve()?;
    let cluster = driver.deploy(&plan).await?;
    let ids: Vec<u32> = cluster.workers().iter().map(|w| w.id().0).collect();
    assert_eq!(ids, [2, 3, 4, 5]);
    assert_eq!(cluster.call(double::task(21)).await?, 42);
    assert_eq!(cluster.call(parse::task("7".into())).await??, 7);
    let failure = cluster.call(parse::task("x".into())).await?.unwrap_err();
    assert_eq!(failure.message(), "invalid digit found in string");
    let doubled = cluster.map(0..10_000u64, double::task).collect().await?;
    assert!(doubled.iter().enumerate().all(|(i, d)| *d == 2 * i as u64));
    let mut stream = cluster.map(0..1000u64, double::task).stream();
    let mut next = 0;
    while let Some(item) = stream.next().await {
        assert_eq!(item?, next);
        next += 2;
    }
    assert_eq!(next, 2000);
    let who = cluster.everywhere(whoami::task()).await?;
    assert_eq!(who, ids);
    cluster.terminate().await?;
    assert_eq!(driver.clusters()?.len(), 0);
    assert_eq!(site.processes(), []);
    Ok(())
}

#[tokio::test]
async fn calls_of_all_kinds() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.deploy(2, 1).await?;
    let workers = cluster.workers();

    // A worker by name, and the state that stays with it.
    for worker in &workers {
        assert_eq!(worker.call(whoami::task()).await?, worker.id().0);
        for expected in 1..=3 {
            assert_eq!(worker.call(count::task()).await?, expected);
        }
    }
    assert!(cluster.worker(WorkerId(77)).is_none());
    // A free worker is chosen.
    let busy = workers[0].call(sleep::task(2_000));
    let mut busy = Box::pin(busy);
    assert!((&mut busy).now_or_never().is_none());
    for _ in 0..5 {
        assert_eq!(cluster.call(whoami::task()).await?, workers[1].id().0);
    }
    drop(busy);

    // Everywhere: one after the other, with a limit where a worker does not come back in time.
    let each = cluster.everywhere(whoami::task()).each().await?;
    let ids: Vec<_> = each
        .into_iter()
        .map(|(id, who)| (id, who.unwrap()))
        .collect();
    assert_eq!(ids, [(WorkerId(2), 2), (WorkerId(3), 3)]);
    let only = stuck_after_dozing::task(workers[1].id().0);
    let each = cluster
        .everywhere(only)
        .deadline(Duration::from_millis(700))
        .each()
        .await?;
    assert!(each[0].1.is_ok(), "{each:?}");
    assert!(
        matches!(&each[1].1, Err(CallError::DeadlineExceeded { worker: Some(id), .. }) if *id == workers[1].id()),
        "{each:?}"
    );

    // Several at once, with the futures crates' own tools.
    let doubled = join_all((0..200).map(|n| cluster.call(double::task(n)))).await;
    for (n, result) in doubled.into_iter().enumerate() {
        assert_eq!(result?, 2 * n as u64);
    }
    let mut unordered: FuturesUnordered<_> =
        (0..100).map(|n| cluster.call(double::task(n))).collect();
    let mut total = 0;
    while let Some(result) = unordered.next().await {
        total += result?;
    }
    assert_eq!(total, 99 * 100);
    let slow = cluster.call(doze::task(20_000));
    let fast = cluster.call(doze::task(1));
    match select(slow, fast).await {
        Either::Right((result, _slow)) => assert_eq!(result?, 1),
        Either::Left(_) => panic!("20 s before 1 ms"),
    }
    cluster.terminate().await?;
    assert_eq!(site.processes(), []);
    Ok(())
}

#[tokio::test]
async fn errors_and_panics_are_told_apart() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.deploy(1, 1).await?;
    let pid_before = cluster.call(pid::task()).await?;

    assert_eq!(cluster.call(small::task(9)).await?, Ok(9));
    assert_eq!(
        cluster.call(small::task(-4)).await?,
        Err(Mistake::Negative(-4))
    );
    assert_eq!(
        cluster.call(small::task(200)).await?,
        Err(Mistake::TooLarge {
            limit: 100,
            got: 200
        })
    );
    let failure = cluster
        .call(read_settings::task("/nowhere".into()))
        .await?
        .unwrap_err();
    assert_eq!(failure.message(), "start");
    assert_eq!(failure.causes()[0], "settings of /nowhere");
    assert!(failure.causes()[1].contains("No such file"), "{failure}");

    // A panic is an error of that call; the worker goes on.
    match cluster.call(explode::task("boom ä".into())).await {
        Err(CallError::Panicked {
            function,
            worker,
            message,
            location,
        }) => {
            assert_eq!(function, "cc_tests::functions::explode");
            assert_eq!((worker, &*message), (WorkerId(2), "boom ä"));
            let location = location.unwrap();
            assert!(location.contains("functions.rs:"), "{location}");
        }
        other => panic!("{other:?}"),
    }
    match cluster.call(explode_later::task("later".into())).await {
        Err(CallError::Panicked {
            message, location, ..
        }) => {
            assert_eq!(message, "later");
            assert!(location.unwrap().contains("functions.rs:"));
        }
        other => panic!("{other:?}"),
    }
    for task in [explode_with_a_number::task(), explode_twice::task()] {
        match cluster.call(task).await {
            Err(CallError::Panicked {
                message, location, ..
            }) => {
                assert!(message.contains("not text"), "{message}");
                assert!(location.unwrap().contains("functions.rs:"));
            }
            other => panic!("{other:?}"),
        }
    }
    // A message as long as a book is cut.
    match cluster.call(explode::task("é".repeat(100_000))).await {
        Err(CallError::Panicked { message, .. }) => assert!(message.len() < 20_000),
        other => panic!("{other:?}"),
    }
    assert_eq!(cluster.call(pid::task()).await?, pid_before);
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn what_nobody_waits_for_is_taken_back_or_told() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.deploy(1, 1).await?;
    let file = |name: &str| site.path().join(name);
    let text = |name: &str| file(name).to_string_lossy().into_owned();

    // Queued: 30 behind one that runs are dropped and never run.
    let mut first = Box::pin(cluster.call(until_cancelled::task(text("first"))));
    assert!((&mut first).now_or_never().is_none());
    noted(&file("first"), &["begun"]).await;
    let mut queued: Vec<_> = (0..30)
        .map(|n| Box::pin(cluster.call(note_and_sleep::task(text("ran"), n.to_string(), 0))))
        .collect();
    for call in &mut queued {
        assert!(call.as_mut().now_or_never().is_none());
    }
    let kept = queued.split_off(28);
    drop(queued);
    // The running one sees it.
    drop(first);
    noted(&file("first"), &["begun", "cancelled"]).await;
    for call in kept {
        call.await??;
    }
    assert_eq!(notes(&file("ran")), ["28", "29"]);

    // An asynchronous one is dropped at its await, and what it spawned is told.
    let mut dozing = Box::pin(cluster.call(doze_until_cancelled::task(text("doze"))));
    assert!((&mut dozing).now_or_never().is_none());
    noted(&file("doze"), &["begun"]).await;
    drop(dozing);
    noted(&file("doze"), &["begun", "dropped", "told"]).await;

    // A call that is dropped before it is awaited is nothing at all.
    drop(cluster.call(note_and_sleep::task(text("never"), String::new(), 0)));
    assert_eq!(cluster.call(double::task(4)).await?, 8);
    assert!(!file("never").exists());

    // Dropping the map takes back what is queued.
    let mut map = cluster
        .map(0..1_000_000u64, |n| {
            note_and_sleep::task(text("map"), n.to_string(), 20)
        })
        .as_completed();
    map.next().await.unwrap().1??;
    drop(map);
    assert_eq!(cluster.call(double::task(4)).await?, 8);
    let ran = notes(&file("map")).len();
    assert!(ran < 50, "{ran} ran");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(notes(&file("map")).len(), ran);
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn ten_thousand_sleepers() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.deploy(1, 2).await?;
    let start = Instant::now();
    let calls = join_all((0..10_000).map(|_| cluster.call(doze::task(100)))).await;
    assert!(calls.into_iter().all(|result| result.is_ok()));
    // A thousand at once on each worker: half a second. One after the other: 500 s.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    let start = Instant::now();
    let dozed = cluster
        .map(0..10_000, |_| doze::task(100))
        .collect()
        .await?;
    assert_eq!(dozed.len(), 10_000);
    // Nor does it matter when each of them wakes up.
    let uneven = cluster.map(0..2_000u64, |n| doze::task(50 + n * 37 % 100));
    assert_eq!(uneven.collect().await?.len(), 2_000);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn a_cluster_that_is_gone_cannot_be_called() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.deploy(1, 1).await?;
    let worker = cluster.workers().remove(0);
    let mut waiting = Box::pin(worker.call(sleep::task(30_000)));
    assert!((&mut waiting).now_or_never().is_none());
    cluster.terminate().await?;
    match waiting.await {
        Err(CallError::Lost { death, .. }) => {
            assert!(matches!(&death.cause, Cause::Stopped(why) if why.contains("terminated")));
        }
        other => panic!("{other:?}"),
    }
    let error = worker.call(double::task(1)).await.unwrap_err();
    assert!(error.to_string().contains("terminated"), "{error}");
    Ok(())
}
