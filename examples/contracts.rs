//! What a contract would get, and what it would cost: nothing is deployed.
//!
//! `cargo run --example contracts`

use cc_driver::prelude::*;
use cc_driver::{DriverError, ResolveError, Role};

fn main() -> anyhow::Result<()> {
    cc_driver::init();
    let gpus = Contract::new()
        .node_count(8)
        .accelerator_count(8)
        .accelerator_architecture("Ada")
        .node_memory_size(at_least(512.gib()));

    println!("Machines that satisfy it, the cheapest first:");
    let planner = Planner::discover()?;
    for found in planner.select(&gpus, Role::Peer)? {
        let facts = &found.entry.facts;
        match found.price() {
            Some(price) => println!("  {:16} {price:8.4} dollars an hour", facts.name),
            None => println!("  {:16} at an unknown price", facts.name),
        }
    }

    let plan = gpus.clone().cluster_locale("us-east-1").resolve()?;
    let choice = &plan.roles()[0].choice.instance_type;
    let cost = plan.hourly_cost().unwrap_or(f64::NAN);
    println!(
        "In us-east-1 it would be {} × {choice}, for {cost:.2} dollars an hour in all.",
        plan.nodes()
    );

    // More than anybody makes: the error says what would do.
    let dream = gpus.cluster_locale("us-east-1").accelerator_count(16);
    match dream.resolve() {
        Err(DriverError::Resolve(ResolveError::Nothing(why))) => println!("With 16, {why}."),
        other => println!("With 16, unexpectedly: {other:?}"),
    }
    Ok(())
}
