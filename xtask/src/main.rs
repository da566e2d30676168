//! The project's tooling, run as `cargo xtask <command>`.
//!
//! It exists so that a clone needs nothing but Rust and a C compiler to be worked on. It must
//! never depend on a crate of the project, which would keep it from building exactly when it
//! is needed to say what is broken.
#![expect(clippy::print_stdout, reason = "talking to a person is what it is for")]

mod agent;
mod checks;
mod setup;
mod step;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::step::Step;

/// The project's tooling.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the tests need, or say in one message what to install.
    Setup,
    /// Run setup, then every check and every test; stop at the first that fails.
    Test,
    /// Build the static agent into target/agent/cc-agent.
    Agent {
        /// The target to build for; this machine's architecture if not given.
        #[arg(long, value_name = "TRIPLE", default_value_t = agent::default_target())]
        target: String,
    },
    /// Make the snapshot of all instance types, cc-core/catalog.bin, from its sources.
    Catalog {
        /// Write nothing, and fail if the snapshot is not what its sources give.
        #[arg(long)]
        check: bool,
    },
    /// Run the benchmarks, in release mode.
    Bench {
        /// Passed on to the benchmark program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup => setup::run(),
        Command::Test => test::run(),
        Command::Agent { target } => agent::run(&target),
        Command::Catalog { check } => catalog(check).run(),
        Command::Bench { arguments } => Step::cargo("benchmarks", "run")
            .args(["--release", "--locked", "--package", "cc-bench", "--"])
            .args(arguments)
            .run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes or checks the snapshot of all instance types. A program of its own does, because it needs
/// cc-core.
fn catalog(check: bool) -> Step {
    Step::cargo("catalog", "run")
        .args(["--quiet", "--locked", "--package", "cc-catalog", "--"])
        .args(check.then_some("--check"))
}
