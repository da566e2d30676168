//! What is written down about clusters, when it cannot be read any more.

use std::path::PathBuf;

use cc_driver::Handle;
use cc_driver::prelude::*;
use cc_driver::records::RecordError;
use cc_tests::functions::*;
use cc_tests::process::{cluster_directories, nobody_left};
use cc_tests::site::Site;

fn record(site: &Site, handle: Handle) -> PathBuf {
    site.path()
        .join(format!("state/clusters/{handle}/record.json"))
}

#[tokio::test]
async fn records_that_cannot_be_read_are_listed_kept_and_in_nobodys_way() -> anyhow::Result<()> {
    let site = Site::new(env!("CARGO_BIN_EXE_cc-test-worker"));
    let driver = site.driver();
    let plan = Contract::new().resolve()?;
    let cluster = driver.deploy(&plan).await?;
    let good = std::fs::read_to_string(record(&site, cluster.handle()))?;

    let [truncated, newer, malformed, unreadable] = [(); 4].map(|()| Handle::random());
    for handle in [truncated, newer, malformed, unreadable] {
        std::fs::create_dir(record(&site, handle).parent().unwrap())?;
    }
    let of = |handle: Handle| good.replace(cluster.handle().as_str(), handle.as_str());
    let version = "\"version\": 2";
    assert!(good.contains(version));
    std::fs::write(record(&site, truncated), &of(truncated)[..good.len() / 2])?;
    std::fs::write(
        record(&site, newer),
        of(newer).replace(version, "\"version\": 99"),
    )?;
    // Another cluster's: nobody's nodes are ended by mistake.
    std::fs::write(record(&site, malformed), &good)?;
    // Root reads every file; nobody reads a directory as one.
    std::fs::create_dir(record(&site, unreadable))?;

    let listed = driver.clusters()?;
    assert_eq!(listed.len(), 5);
    for (handle, read) in &listed {
        let reason = read.as_ref().map(|r| r.handle).map_err(ToString::to_string);
        match handle {
            h if *h == cluster.handle() => assert_eq!(reason, Ok(*h)),
            h if *h == truncated => {
                assert!(
                    matches!(read, Err(RecordError::Truncated { .. })),
                    "{reason:?}"
                );
            }
            h if *h == newer => {
                assert!(
                    matches!(read, Err(RecordError::Newer { version: 99, .. })),
                    "{reason:?}"
                );
            }
            h if *h == malformed => {
                assert!(
                    matches!(read, Err(RecordError::Malformed { .. })),
                    "{reason:?}"
                );
            }
            _ => assert!(matches!(read, Err(RecordError::Io { .. })), "{reason:?}"),
        }
    }

    let content = |handle| std::fs::read(record(&site, handle)).ok();
    for handle in [truncated, newer, malformed, unreadable] {
        let before = content(handle);
        assert!(driver.terminate(handle).await.is_err());
        assert!(driver.interrupt(handle).await.is_err());
        assert!(driver.reconnect(handle).await.is_err());
        assert!(driver.resume(handle).await.is_err());
        assert!(driver.tools(handle).await.is_err());
        assert_eq!(content(handle), before);
        assert!(record(&site, handle).exists());
    }
    // The good one neither cares nor suffers.
    assert_eq!(cluster.call(double::task(4)).await?, 8);
    let another = driver.deploy(&plan).await?;
    assert_eq!(another.call(double::task(5)).await?, 10);
    another.terminate().await?;
    cluster.terminate().await?;
    nobody_left(&site).await;
    let mut left = cluster_directories(&site);
    let mut expected = [truncated, newer, malformed, unreadable].map(|h| h.to_string());
    left.sort();
    expected.sort();
    assert_eq!(left, expected);
    Ok(())
}
