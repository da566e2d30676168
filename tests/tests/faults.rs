//! What goes wrong with workers: they exit, are killed, run out of memory, never return, and
//! leave processes behind. The cluster stays usable, and every error says what happened.

use std::time::{Duration, Instant};

use cc_core::function::{Function, Runner, TaskFault};
use cc_driver::prelude::*;
use cc_driver::{Cause, Death, WorkerId};
use cc_tests::functions::*;
use cc_tests::site::{Site, contract};
use futures::{FutureExt as _, StreamExt as _};

fn site() -> Site {
    Site::new(env!("CARGO_BIN_EXE_cc-test-worker"))
}

/// The death that a call was lost by.
fn death<O: std::fmt::Debug>(result: Result<O, CallError>) -> Death {
    match result {
        Err(CallError::Lost { death, .. }) => (*death).clone(),
        other => panic!("{other:?}"),
    }
}

/// Waits until the cluster's workers are these.
async fn workers_are(cluster: &Cluster, wanted: &[u32]) {
    let start = Instant::now();
    loop {
        let found: Vec<u32> = cluster.workers().iter().map(|w| w.id().0).collect();
        if found == wanted {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{found:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn exists(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie is no process any more: somebody only has to look.
    !stat.is_empty() && !stat.contains(") Z ")
}

async fn gone(pid: i32) {
    let start = Instant::now();
    while exists(pid) {
        assert!(start.elapsed() < Duration::from_secs(10), "{pid} is there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn deaths_come_with_evidence() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.driver().deploy(&contract(2, 3).resolve()?).await?;
    let workers = cluster.workers();

    let exited = death(workers[0].call(exit::task(3)).await);
    assert_eq!(exited.cause, Cause::Exited(3));

    let killed = death(
        workers[1]
            .call(kill_itself::task(9))
            .map(|r| r.map(|_| ()))
            .await,
    );
    assert_eq!(killed.cause, Cause::Signalled(9));
    assert_eq!(killed.stderr_tail.len(), 50);
    assert_eq!(killed.stderr_tail[49], "last words 59");
    assert!(killed.peak_memory.is_some_and(|bytes| bytes > 1 << 20));

    let fault = workers[2].call(segfault::task()).await;
    let text = fault.as_ref().unwrap_err().to_string();
    for part in ["functions::segfault", "worker 4", "SIGSEGV"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(death(fault).cause, Cause::Signalled(11));

    // A dead worker's calls fail with its death, at once.
    let again = death(workers[0].call(double::task(1)).await);
    assert_eq!(again.cause, Cause::Exited(3));

    // What a worker had finished before it died has been delivered.
    let fourth = &workers[3];
    let before = futures::future::join_all((0..50).map(|n| fourth.call(double::task(n))));
    let end = fourth.call(exit::task(4));
    let (before, end) = futures::future::join(before, end).await;
    assert_eq!(death(end).cause, Cause::Exited(4));
    for (n, result) in before.into_iter().enumerate() {
        assert_eq!(result?, 2 * n as u64);
    }

    // The rest is usable; a call with retries goes elsewhere.
    workers_are(&cluster, &[6, 7]).await;
    let marker = site.path().join("died").to_string_lossy().into_owned();
    assert_eq!(
        cluster.call(die_first::task(marker, 8)).retries(1).await?,
        8
    );
    assert_eq!(cluster.workers().len(), 1);
    assert_eq!(
        cluster.map(0..100, double::task).collect().await?.len(),
        100
    );
    cluster.restart().await?;
    workers_are(&cluster, &[8, 9, 10, 11, 12, 13]).await;
    assert_eq!(
        cluster.map(0..100, double::task).collect().await?.len(),
        100
    );
    cluster.terminate().await?;
    assert_eq!(site.processes(), []);
    Ok(())
}

#[tokio::test]
async fn out_of_memory_is_named() -> anyhow::Result<()> {
    let site = site();
    // The backtrace is longer than what is kept of the last words.
    let contract = contract(1, 2)
        .worker_memory_limit(2 << 30)
        .env("RUST_BACKTRACE", "1");
    let cluster = site.driver().deploy(&contract.resolve()?).await?;
    let death = death(cluster.call(hog::task(4 << 30)).await);
    assert_eq!(death.cause, Cause::Signalled(6), "{death}");
    let evidence = death.out_of_memory.as_deref().unwrap_or_default();
    assert!(!evidence.is_empty(), "{death}");
    assert_eq!(cluster.call(hog::task(1 << 20)).await?, 1 << 20);
    // An argument that is too large for the worker is an error of that call.
    let large = Bytes::from(vec![0u8; 32 << 20]);
    assert_eq!(cluster.call(length::task(large)).await?, 32 << 20);
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn a_task_that_never_returns() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.driver().deploy(&contract(1, 2).resolve()?).await?;
    let start = Instant::now();
    let worker = cluster.worker(WorkerId(2)).unwrap();
    let pid = worker.call(pid::task()).await?;
    let limit = Duration::from_millis(300);
    let call = worker.call(stuck_at::task(1, 1)).deadline(limit);
    match call.await {
        Err(CallError::DeadlineExceeded {
            worker, deadline, ..
        }) => {
            assert_eq!((worker, deadline), (Some(WorkerId(2)), limit));
        }
        other => panic!("{other:?}"),
    }
    let took = start.elapsed();
    assert!(took >= limit && took < Duration::from_secs(5), "{took:?}");
    // It is replaced, by one with a new id in the same place.
    workers_are(&cluster, &[3, 4]).await;
    gone(pid as i32).await;
    assert_eq!(
        cluster
            .worker(WorkerId(4))
            .unwrap()
            .call(double::task(4))
            .await?,
        8
    );

    // A deadline that is kept changes nothing, and one that passes in the queue costs no worker.
    let three = cluster.worker(WorkerId(3)).unwrap();
    assert_eq!(
        three
            .call(double::task(4))
            .deadline(Duration::from_secs(20))
            .await?,
        8
    );
    let busy = three.call(sleep::task(600));
    let late = three
        .call(double::task(1))
        .deadline(Duration::from_millis(100));
    let (busy, late) = futures::future::join(busy, late).await;
    assert_eq!(busy?, 600);
    assert!(
        matches!(late, Err(CallError::DeadlineExceeded { .. })),
        "{late:?}"
    );

    // In a map: the item is an error, the others are not.
    let results: Vec<_> = cluster
        .map(0..20u64, |n| stuck_at::task(n, 5))
        .deadline(limit)
        .stream()
        .collect()
        .await;
    assert_eq!(results.len(), 20);
    for (n, result) in results.into_iter().enumerate() {
        match result {
            Ok(output) => assert_eq!(output, n as u64),
            // What was queued behind it is lost with its worker: no retries were asked for.
            Err(CallError::Lost { death, .. }) => {
                assert!(matches!(death.cause, Cause::Stopped(_)), "{n}: {death}");
            }
            Err(CallError::DeadlineExceeded { .. }) => assert_eq!(n, 5),
            Err(other) => panic!("{n}: {other}"),
        }
    }
    let start = Instant::now();
    while cluster.workers().len() < 2 || cluster.workers()[1].id().0 < 5 {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            cluster.workers()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        cluster.map(0..100, double::task).collect().await?.len(),
        100
    );
    cluster.terminate().await?;
    assert_eq!(site.processes(), []);
    Ok(())
}

#[tokio::test]
async fn a_blocked_runtime_is_no_ones_trouble() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.driver().deploy(&contract(1, 1).resolve()?).await?;
    let blocking = cluster
        .call(block_the_runtime::task(30_000))
        .deadline(Duration::from_millis(800));
    let mut blocking = Box::pin(blocking);
    assert!((&mut blocking).now_or_never().is_none());
    // Others are answered, and cancelled, meanwhile.
    assert_eq!(cluster.call(double::task(4)).await?, 8);
    let mut behind = Box::pin(cluster.call(doze::task(1)));
    assert!((&mut behind).now_or_never().is_none());
    drop(behind);
    assert_eq!(
        cluster.map(0..100, double::task).collect().await?.len(),
        100
    );
    let error = blocking.await.unwrap_err();
    assert!(
        matches!(error, CallError::DeadlineExceeded { .. }),
        "{error}"
    );
    // The worker's runtime is of no use any more: there is a new one.
    workers_are(&cluster, &[3]).await;
    assert_eq!(cluster.call(doze::task(1)).await?, 1);
    cluster.terminate().await?;
    assert_eq!(site.processes(), []);
    Ok(())
}

fn unreachable_runner(
    _: &Context,
    _: &[u8],
    _: Vec<bytes::Bytes>,
    _: &mut Vec<u8>,
) -> Result<Vec<bytes::Bytes>, TaskFault> {
    unreachable!("the driver runs nothing")
}

#[expect(clippy::unwrap_used, reason = "a scenario cannot go on without it")]
fn hash_of_double() -> u64 {
    let functions = cc_core::function::all();
    let double = functions
        .iter()
        .find(|f| f.name == "cc_tests::functions::double");
    (double.unwrap().hash)()
}

/// A function under the name and hash of another, as if a type had changed unseen.
static DISGUISED: Function = Function {
    name: "cc_tests::functions::double",
    hash: hash_of_double,
    runner: Runner::Blocking(unreachable_runner),
    location: (file!(), line!()),
};

static MISSING: Function = Function {
    name: "cc_tests::functions::from_another_build",
    hash: || 1,
    runner: Runner::Blocking(unreachable_runner),
    location: (file!(), line!()),
};

static CHANGED: Function = Function {
    name: "cc_tests::functions::double",
    hash: || 1,
    runner: Runner::Blocking(unreachable_runner),
    location: (file!(), line!()),
};

#[tokio::test]
async fn programs_that_do_not_match() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.driver().deploy(&contract(1, 1).resolve()?).await?;
    assert_ne!(hash_of_double(), 1);
    // Arguments of another type: too few bytes, and too many.
    for task in [
        Task::<u64>::new(&DISGUISED, &()),
        Task::<u64>::new(&DISGUISED, &(1u64, "and more")),
    ] {
        match cluster.call(task).await {
            Err(CallError::Framework {
                function,
                phase,
                worker,
                reason,
            }) => {
                assert_eq!((function, phase), (DISGUISED.name, "run the function"));
                assert_eq!(worker, Some(WorkerId(2)));
                assert!(reason.contains("arguments do not decode"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    // An output of another type.
    match cluster
        .call(Task::<String>::new(&DISGUISED, &(u64::MAX / 2,)))
        .await
    {
        Err(CallError::Framework { phase, .. }) => assert_eq!(phase, "decode the result"),
        other => panic!("{other:?}"),
    }
    // A function that the worker's program does not have, or has in another form.
    for function in [&MISSING, &CHANGED] {
        let error = cluster
            .call(Task::<u64>::new(function, &(1u64,)))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(function.name) && text.contains("another build"),
            "{text}"
        );
        let mapped = cluster.map(0..3u64, |n| Task::<u64>::new(function, &(n,)));
        assert!(mapped.collect().await.is_err());
    }
    assert_eq!(cluster.call(double::task(4)).await?, 8);
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn no_grandchild_stays() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.driver().deploy(&contract(1, 2).resolve()?).await?;
    let workers = cluster.workers();
    let first = workers[0].call(grandchild::task()).await??;
    let second = workers[1].call(grandchild::task()).await??;
    assert!(exists(first) && exists(second));
    // With the worker's end, however it comes.
    death(workers[0].call(exit::task(0)).await);
    gone(first).await;
    assert!(exists(second));
    // With the cluster's.
    cluster.terminate().await?;
    gone(second).await;
    assert_eq!(site.processes(), []);
    Ok(())
}
