//! Calls and maps on a local cluster.

use cc_driver::prelude::*;
use cc_tests::functions::*;
use cc_tests::site::Site;
use futures::StreamExt as _;

fn site() -> Site {
    Site::new(env!("CARGO_BIN_EXE_cc-test-worker"))
}

#[tokio::test]
async fn a_call_and_a_map_on_two_nodes() -> anyhow::Result<()> {
    let site = site();
    let driver = site.driver();
    let plan = Contract::new().node_count(2).node_process_count(2).resolve()?;
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
