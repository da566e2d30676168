//! A cluster on this machine, and functions of ours running on it.
use cc_driver::prelude::*;

#[remote]
fn primes_below(limit: u64) -> usize {
    let is_prime = |n: &u64| !(2..=n.isqrt()).any(|d| n.is_multiple_of(d));
    (2..limit).filter(is_prime).count()
}

#[remote]
fn who(context: &Context) -> String {
    let process = std::process::id();
    format!("worker {} is process {process}", context.worker())
}

#[cc_driver::main]
async fn main(driver: Driver) -> anyhow::Result<()> {
    let contract = Contract::new().node_count(4).node_process_count(2);
    let cluster = driver.deploy(&contract.resolve()?).await?;

    // Once on every worker.
    for line in cluster.everywhere(who::task()).await? {
        println!("{line}");
    }

    // One call, on whichever worker is free.
    let primes = cluster.call(primes_below::task(100_000)).await?;
    println!("{primes} primes below 100,000");

    // Many calls, balanced over all workers.
    let counts = cluster.map((1..=200).map(|i| i * 1_000), primes_below::task);
    let counts = counts.progress("counting").collect().await?;
    println!("{:?} primes below 1,000, 2,000, 3,000", &counts[..3]);

    cluster.terminate().await?;
    Ok(())
}
