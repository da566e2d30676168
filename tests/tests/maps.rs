//! Maps: order, balance, back-pressure, errors, retries.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cc_driver::prelude::*;
use cc_tests::functions::*;
use cc_tests::site::Site;
use futures::StreamExt as _;

fn site() -> Site {
    Site::new(env!("CARGO_BIN_EXE_cc-test-worker"))
}

/// An endless iterator, and how many items it has given.
fn endless() -> (Arc<AtomicU64>, impl Iterator<Item = u64>) {
    let made = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&made);
    let items = std::iter::from_fn(move || Some(counter.fetch_add(1, Ordering::Relaxed)));
    (made, items)
}

#[tokio::test]
async fn maps_of_every_size_and_form() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.deploy(1, 4).await?;
    for size in [0u64, 1, 2, 3, 5, 17, 3_000] {
        let expected: Vec<u64> = (0..size).map(|n| 2 * n).collect();
        assert_eq!(
            cluster.map(0..size, double::task).collect().await?,
            expected
        );
        let streamed: Vec<_> = cluster.map(0..size, double::task).stream().collect().await;
        let streamed: Result<Vec<u64>, _> = streamed.into_iter().collect();
        assert_eq!(streamed?, expected);
        let completed: Vec<_> = cluster
            .map(0..size, double::task)
            .as_completed()
            .collect()
            .await;
        let completed: BTreeMap<u64, u64> = completed
            .into_iter()
            .map(|(n, result)| (n, result.unwrap()))
            .collect();
        assert_eq!(completed.into_values().collect::<Vec<_>>(), expected);
    }
    // Asynchronous functions too.
    let dozed = cluster.map(0..300, |_| doze::task(5)).collect().await?;
    assert_eq!(dozed, vec![5; 300]);
    // Items that are not numbers, a task that borrows, and a result of their own.
    let words = ["7", "x", "9"];
    let parsed = cluster
        .map(words, |w| parse::task(w.to_owned()))
        .collect()
        .await?;
    assert_eq!(parsed.iter().filter(|p| p.is_ok()).count(), 2);

    // An endless iterator: as many as wanted, and no more work afterwards.
    let (made, items) = endless();
    let taken: Vec<u64> = cluster
        .map(items, double::task)
        .stream()
        .take(100)
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(taken.len(), 100);
    assert_eq!(taken[99], 198);
    let made_then = made.load(Ordering::Relaxed);
    assert_eq!(cluster.call(double::task(2)).await?, 4);
    assert_eq!(made.load(Ordering::Relaxed), made_then);
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn a_slow_consumer_holds_the_map_back() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.deploy(1, 2).await?;
    let most = 2 * cc_core::limits::LANE_TASKS as u64;

    let (made, items) = endless();
    let mut completed = cluster.map(items, double::task).as_completed();
    for _ in 0..20 {
        completed.next().await.unwrap().1?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(made.load(Ordering::Relaxed) <= 20 + most);
    drop(completed);

    let (made, items) = endless();
    let mut ordered = cluster.map(items, double::task).stream();
    for n in 0..20 {
        assert_eq!(ordered.next().await.unwrap()?, 2 * n);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(made.load(Ordering::Relaxed) <= 20 + most);
    drop(ordered);

    // The first is slow: what is behind it may run ahead as far as the window, and no further.
    let (made, items) = endless();
    let mut ordered = cluster
        .map(items, |n| stamp::task(n, if n == 0 { 1_500 } else { 0 }))
        .stream();
    let (first, slow) = ordered.next().await.unwrap()?;
    assert_eq!(first, 0);
    let made = made.load(Ordering::Relaxed);
    assert!(made <= cc_core::limits::ORDERED_WINDOW as u64, "{made}");
    assert!(made > 1_000, "{made}");
    let (second, fast) = ordered.next().await.unwrap()?;
    assert_eq!(second, 1);
    assert_ne!(slow, fast);
    drop(ordered);
    assert_eq!(cluster.call(double::task(2)).await?, 4);
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn uneven_work_is_balanced() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.deploy(2, 2).await?;
    // What was queued behind the long one is taken back and run by others.
    let stamps = cluster
        .map(0..41u64, |n| {
            stamp::task(n, if n == 0 { 2_000 } else { 20 })
        })
        .collect()
        .await?;
    let slow = stamps[0].1;
    let with_it: Vec<u64> = stamps.iter().filter(|s| s.1 == slow).map(|s| s.0).collect();
    assert_eq!(with_it, [0]);
    let others: HashSet<u32> = stamps.iter().skip(1).map(|s| s.1).collect();
    assert_eq!(others.len(), 3);

    // The same with windows that were wide before: short tasks, then long ones at the end.
    let stamps = cluster
        .map(0..2_012u64, |n| {
            stamp::task(n, if n < 2_000 { 0 } else { 100 })
        })
        .collect()
        .await?;
    let mut long: BTreeMap<u32, u32> = BTreeMap::new();
    for (_, worker) in stamps.into_iter().skip(2_000) {
        *long.entry(worker).or_default() += 1;
    }
    // Three each would be even.
    assert_eq!(long.len(), 4, "{long:?}");
    assert!(long.values().all(|n| *n <= 6), "{long:?}");
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn several_maps_and_calls_share_the_workers() -> anyhow::Result<()> {
    let site = site();
    let cluster = Arc::new(site.deploy(1, 2).await?);
    // One that would take all the room for ever; others beside it in tasks of their own.
    let (_, items) = endless();
    let endless = {
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move {
            let mut map = cluster.map(items, |n| stamp::task(n, 2)).as_completed();
            while let Some((_, result)) = map.next().await {
                result?;
            }
            Ok::<_, CallError>(())
        })
    };
    let beside = (0..3).map(|_| {
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move { cluster.map(0..30, double::task).collect().await })
    });
    let call = cluster.call(double::task(5));
    let all = futures::future::join_all(beside);
    let both = futures::future::join(all, call);
    let (maps, call) = tokio::time::timeout(Duration::from_secs(20), both).await?;
    assert_eq!(call?, 10);
    for map in maps {
        assert_eq!(map??.len(), 30);
    }
    endless.abort();
    let _ = endless.await;
    Arc::into_inner(cluster).unwrap().terminate().await?;
    Ok(())
}

#[tokio::test]
async fn the_first_error_cancels_the_rest() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.deploy(1, 2).await?;
    let file = site.path().join("ran").to_string_lossy().into_owned();
    let (made, items) = endless();
    let result = cluster
        .map(items, |n| {
            if n == 3 {
                fail_for_once::task(file.clone(), true)
            } else {
                fail_for_once::task(file.clone(), false)
            }
        })
        .collect()
        .await;
    match result {
        Err(CallError::Panicked { message, .. }) => assert_eq!(message, "once"),
        other => panic!("{other:?}"),
    }
    let made = made.load(Ordering::Relaxed);
    assert_eq!(cluster.call(double::task(2)).await?, 4);
    let ran = std::fs::read_to_string(&file)?.lines().count();
    assert!(ran < 100 && made < 1_000, "{ran} ran of {made}");
    // As a stream each item has its own result, and the others are not concerned.
    let results: Vec<_> = cluster
        .map(0..10u64, |n| explode_at::task(n, 4))
        .stream()
        .collect()
        .await;
    assert_eq!(results.len(), 10);
    assert!(matches!(&results[4], Err(CallError::Panicked { message, .. }) if message == "at 4"));
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 9);
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn a_map_outlives_its_workers() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.deploy(2, 3).await?;
    // Three workers die, each at the first try of an item.
    let marker = |n: u64| {
        site.path()
            .join(format!("died-{n}"))
            .to_string_lossy()
            .into_owned()
    };
    let results = cluster
        .map(0..300u64, |n| match n {
            20 | 100 | 200 => die_first::task(marker(n), n),
            _ => poisoned::task(n, u64::MAX),
        })
        .retries(3)
        .collect()
        .await?;
    assert_eq!(results, (0..300).collect::<Vec<u64>>());
    assert_eq!(cluster.workers().len(), 3);

    // Poison: it ends as lost, with the death that it caused, and costs nobody else anything.
    let results: Vec<_> = cluster
        .map(0..200u64, |n| poisoned::task(n, 50))
        .retries(1)
        .as_completed()
        .collect()
        .await;
    assert_eq!(results.len(), 200);
    for (n, result) in results {
        match result {
            Ok(output) => assert_eq!(output, n),
            Err(CallError::Lost { death, .. }) if n == 50 => {
                assert!(death.to_string().contains("status 9"), "{death}");
            }
            Err(other) => panic!("{n}: {other}"),
        }
    }
    assert_eq!(cluster.workers().len(), 1);

    // Without a worker left everything fails at once and says what to do; then it goes on.
    let start = Instant::now();
    let error = cluster
        .map(0..1_000u64, |n| poisoned::task(n, n))
        .collect()
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }), "{error}");
    let error = cluster
        .map(0..1_000u64, double::task)
        .collect()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("restart"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(15));
    cluster.restart().await?;
    assert_eq!(cluster.workers().len(), 6);
    assert_eq!(
        cluster.map(0..100u64, double::task).collect().await?.len(),
        100
    );
    cluster.terminate().await?;
    assert_eq!(site.processes(), []);
    Ok(())
}
