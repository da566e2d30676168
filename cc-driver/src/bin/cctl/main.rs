//! `cctl`: clusters from the command line, for people and for scripts.
//!
//! Everything it can do is in the library; here is only what turns arguments into calls and
//! answers into text. It must never be needed by a program, never own a cluster for longer than
//! a command takes, and never print to standard output what is not the answer.

mod args;
mod assumptions;
mod catalog;
mod config;
mod copy;
mod deploy;
mod exec;
mod failure;
mod lifecycle;
mod logs;
mod output;
mod plan;
mod show;
mod stdin;
mod stop;
mod terminal;
mod types;

use cc_driver::Driver;
use clap::{CommandFactory as _, Parser as _};

use crate::args::{Arguments, Command};
use crate::failure::Failure;
use crate::stop::Stop;

fn main() {
    // This executable may have been started to be an agent.
    cc_driver::init();
    start_logging();
    // Wrong input ends here, with status 2.
    let arguments = Arguments::parse();
    let code = run(arguments.command).unwrap_or_else(|failure| failure.report());
    // Threads that still wait for standard input are left behind.
    std::process::exit(code.into());
}

fn run(command: Command) -> Result<u8, Failure> {
    if let Command::Completions { shell } = command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "cctl", &mut script);
        output::text(&String::from_utf8_lossy(&script))?;
        return Ok(0);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One may be held up by whoever reads our output.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("start the runtime: {e}")))?;
    let result = runtime.block_on(async {
        let driver = Driver::new()?;
        let result = perform(&driver, command).await;
        driver.close().await;
        result
    });
    runtime.shutdown_background();
    result
}

/// Runs a command until its end, or until it is interrupted.
async fn perform(driver: &Driver, command: Command) -> Result<u8, Failure> {
    let mut stop = Stop::listen()?;
    match &command {
        // These two do something else when they are interrupted.
        Command::Deploy { assumptions, json } => {
            let deployed = deploy::run(driver, assumptions, *json, &mut stop).await;
            deployed.map(|()| 0)
        }
        Command::Exec(exec) => exec::run(driver, exec, &mut stop).await,
        command => {
            tokio::select! {
                result = other(driver, command) => result.map(|()| 0),
                () = stop.any() => Err(Failure::interrupted(command.when_interrupted())),
            }
        }
    }
}

async fn other(driver: &Driver, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Clusters { json } => show::clusters(driver, *json).await,
        Command::Nodes { cluster, json } => show::nodes(driver, cluster, *json).await,
        Command::Status { cluster, json } => show::status(driver, cluster, *json).await,
        Command::Logs {
            cluster,
            follow,
            json,
        } => logs::run(driver, cluster, *follow, *json).await,
        Command::Cp { source, target } => copy::run(driver, source, target).await,
        Command::Interrupt { clusters } => lifecycle::interrupt(driver, clusters).await,
        Command::Resume { clusters } => lifecycle::resume(driver, clusters).await,
        Command::Restart { cluster, take_over } => {
            lifecycle::restart(driver, cluster, *take_over).await
        }
        Command::Terminate { clusters, all, yes } => {
            lifecycle::terminate(driver, clusters, *all, *yes).await
        }
        Command::Extend { cluster, time } => lifecycle::extend(driver, cluster, *time).await,
        Command::Select {
            assumptions,
            limit,
            json,
        } => plan::select(driver, assumptions, *limit, *json),
        Command::Resolve {
            assumptions,
            strict,
            json,
        } => plan::resolve(driver, assumptions, *strict, *json),
        Command::Explain { assumptions, json } => plan::explain(driver, assumptions, *json),
        Command::Types { name, deep, json } => types::run(driver, name.as_deref(), *deep, *json),
        Command::Catalog { json } => catalog::run(driver, *json),
        Command::Config { provider, json } => config::run(driver, *provider, *json),
        // Done before.
        Command::Deploy { .. } | Command::Exec(_) | Command::Completions { .. } => Ok(()),
    }
}

/// Only what is asked for with `RUST_LOG`: what matters is in the answers.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "error,quinn=off,quinn_proto=off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}
