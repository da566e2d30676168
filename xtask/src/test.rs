//! `cargo xtask test`: every check and every test, the quick ones first. It must stay the one
//! thing that CI runs, so that what passes here passes there.

use std::time::Instant;

use anyhow::Result;

use crate::step::{Step, check, seconds};
use crate::{checks, setup};

/// Runs everything, and stops at the first failure.
///
/// # Errors
/// Names the step that failed and how to repeat it.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    setup::run()?;
    Step::cargo("format", "fmt")
        .args(["--all", "--check"])
        .run()?;
    check("what is named in one place", checks::names)?;
    check("the README's program", checks::readme)?;
    check("dependency trees", checks::trees)?;
    Step::cargo("dependencies", "deny")
        .args([
            "--workspace",
            "--locked",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ])
        .run()?;
    Step::cargo("lints", "clippy")
        .args([
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ])
        .run()?;
    // After the lints, which have compiled most of it; it fetches its sources once.
    crate::catalog(true).run()?;
    Step::cargo("documentation", "doc")
        .args(["--workspace", "--no-deps", "--locked"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?;
    Step::cargo("documentation tests", "test")
        .args(["--workspace", "--doc", "--locked"])
        .run()?;
    // Last, so that the runner's own closing line is the last thing but one on the screen.
    tests().run()?;
    println!(
        "\nall checks and tests passed in {}",
        seconds(start.elapsed())
    );
    Ok(())
}

/// Unit and integration tests, by nextest where it is installed.
fn tests() -> Step {
    if setup::has_nextest() {
        Step::cargo("tests", "nextest").args(["run", "--workspace", "--locked"])
    } else {
        Step::cargo("tests", "test").args([
            "--workspace",
            "--locked",
            "--lib",
            "--bins",
            "--examples",
            "--tests",
        ])
    }
}
