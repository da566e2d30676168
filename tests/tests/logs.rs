//! What workers print, as the driver gets it: every line, in order, marked, and never at the
//! cost of the driver.

use std::time::{Duration, Instant};

use cc_driver::prelude::*;
use cc_driver::{LogSource, WorkerId, WorkerLine};
use cc_tests::functions::*;
use cc_tests::site::{Lines, Site, contract};

fn site() -> Site {
    Site::new(env!("CARGO_BIN_EXE_cc-test-worker"))
}

/// Waits until the lines are as wanted.
async fn until(lines: &Lines, wanted: impl Fn(&[WorkerLine]) -> bool) -> Vec<WorkerLine> {
    let start = Instant::now();
    loop {
        let all = lines.all();
        if wanted(&all) {
            return all;
        }
        let last = all.last();
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{} lines, the last {last:?}",
            all.len()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn of(lines: &[WorkerLine], worker: u32, source: LogSource) -> Vec<&str> {
    lines
        .iter()
        .filter(|l| l.worker == Some(WorkerId(worker)) && l.source == source)
        .map(|l| &*l.text)
        .collect()
}

#[tokio::test]
async fn lines_arrive_in_order_and_marked() -> anyhow::Result<()> {
    let site = site();
    let (driver, lines) = site.listening_driver();
    let cluster = driver.deploy(&contract(2, 2).resolve()?).await?;
    cluster.everywhere(chatter::task(200)).await?;
    let all = until(&lines, |all| all.len() >= 4 * 400).await;
    for worker in 2..=5 {
        for (source, name) in [(LogSource::Stdout, "out"), (LogSource::Stderr, "err")] {
            let expected: Vec<String> = (0..200).map(|n| format!("{name} {n}")).collect();
            assert_eq!(of(&all, worker, source), expected, "worker {worker}");
        }
    }
    assert!(
        all.iter()
            .all(|l| l.worker.is_some_and(|w| l.node.0 == (w.0 - 2) / 2))
    );

    // A very long line comes in pieces, and nothing of it is lost.
    let worker = cluster.worker(WorkerId(3)).unwrap();
    let length = 10 * cc_core::limits::LOG_LINE + 17;
    worker.call(long_line::task(length as u64)).await?;
    let pieces = |all: &[WorkerLine]| -> usize {
        let pieces = all.iter().filter(|l| l.text.starts_with('x'));
        pieces.map(|l| l.text.len()).sum()
    };
    let all = until(&lines, |all| pieces(all) >= length).await;
    assert_eq!(pieces(&all), length);
    assert!(
        all.iter()
            .all(|l| l.text.len() <= cc_core::limits::LOG_LINE)
    );
    // What a worker says last is heard too.
    let dead = worker.call(kill_itself::task(9)).await;
    assert!(dead.is_err());
    until(&lines, |all| all.iter().any(|l| l.text == "last words 59")).await;
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn a_flood_is_counted_and_harms_nobody() -> anyhow::Result<()> {
    let site = site();
    let (driver, lines) = site.listening_driver();
    let cluster = driver.deploy(&contract(1, 2).resolve()?).await?;
    let workers = cluster.workers();
    let flood = workers[0].call(flood::task(200_000));
    let beside = async {
        // Calls go on meanwhile.
        for n in 0..50 {
            assert_eq!(workers[1].call(double::task(n)).await?, 2 * n);
        }
        Ok::<_, CallError>(())
    };
    let (flooded, beside) = futures::future::join(flood, beside).await;
    flooded??;
    beside?;
    let all = until(&lines, |all| all.iter().any(|l| l.text == "199999")).await;
    let mut next = 0u64;
    let mut dropped = 0;
    for line in &all {
        match line.source {
            LogSource::Dropped(count) => {
                dropped += count;
                next += count;
            }
            _ => {
                // Nothing is missing that was not counted.
                assert_eq!(line.text, next.to_string());
                next += 1;
            }
        }
    }
    assert_eq!(next, 200_000, "{dropped} dropped");
    assert_eq!(cluster.call(double::task(4)).await?, 8);
    cluster.terminate().await?;
    Ok(())
}
