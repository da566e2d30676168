//! One step of a command: a program that is run in the workspace's root, shown with its name
//! and time, and on failure with what to type to repeat it. It must never go on silently
//! after a failure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A program to run.
pub(crate) struct Step {
    name: &'static str,
    /// The command as a person would type it.
    shown: String,
    command: Command,
}

impl Step {
    /// A step that runs a program.
    pub(crate) fn new(name: &'static str, program: &str) -> Self {
        let mut command = Command::new(program);
        command.current_dir(root());
        for (variable, _) in std::env::vars_os() {
            if of_this_package(&variable) {
                command.env_remove(variable);
            }
        }
        Self {
            name,
            shown: program.to_owned(),
            command,
        }
    }

    /// A step that runs a cargo subcommand.
    pub(crate) fn cargo(name: &'static str, subcommand: &str) -> Self {
        Self::new(name, "cargo").args([subcommand])
    }

    /// Adds arguments.
    pub(crate) fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        for argument in arguments {
            let argument = argument.into();
            self.shown.push(' ');
            self.shown.push_str(&quoted(&argument));
            self.command.arg(argument);
        }
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.shown = format!("{name}={} {}", quoted(value), self.shown);
        self.command.env(name, value);
        self
    }

    /// Runs it with this process's standard input and outputs.
    ///
    /// # Errors
    /// Names the step and how to repeat it when it cannot be started or does not succeed.
    pub(crate) fn run(mut self) -> Result<()> {
        println!("\n==> {}: {}", self.name, self.shown);
        let start = Instant::now();
        let status = self
            .command
            .status()
            .with_context(|| format!("{}: cannot start `{}`", self.name, self.shown))?;
        let time = seconds(start.elapsed());
        if !status.success() {
            bail!(
                "{} failed after {time} ({status}); to repeat it:\n    {}",
                self.name,
                self.shown
            );
        }
        println!("    {}: passed in {time}", self.name);
        Ok(())
    }

    /// Runs it and gives its standard output; its standard error is shown.
    ///
    /// # Errors
    /// As [`Step::run`].
    pub(crate) fn output(mut self) -> Result<String> {
        let output = self
            .command
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("{}: cannot start `{}`", self.name, self.shown))?;
        if !output.status.success() {
            bail!(
                "{} failed ({}); to repeat it:\n    {}",
                self.name,
                output.status,
                self.shown
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The first line that it prints, or nothing if it is not there or does not succeed.
    pub(crate) fn probe(mut self) -> Option<String> {
        let output = self
            .command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().next().unwrap_or_default().to_owned();
        output.status.success().then_some(line)
    }
}

/// Runs a check that is not a program.
///
/// # Errors
/// Those of the check, with its name.
pub(crate) fn check(name: &'static str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n==> {name}");
    let start = Instant::now();
    check().with_context(|| format!("{name} failed; to repeat it: cargo xtask test"))?;
    println!("    {name}: passed in {}", seconds(start.elapsed()));
    Ok(())
}

/// A duration for people.
pub(crate) fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        long => format!("{} min {} s", long / 60, long % 60),
    }
}

/// Whether `cargo run` set this variable to describe xtask. Build scripts of some
/// dependencies (ring) watch these, and would be run again, with all that depends on them,
/// whenever cargo is called once from here and once from a shell.
fn of_this_package(variable: &OsString) -> bool {
    let name = variable.to_string_lossy();
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || matches!(&*name, "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE")
}

/// The text as a shell takes it back.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed() {
        let step = Step::cargo("x", "doc")
            .args(["--no-deps", "a b", ""])
            .env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(
            step.shown,
            "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps 'a b' ''"
        );
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn a_failure_says_how_to_repeat_it() {
        let error = Step::new("nothing", "false")
            .args(["-x"])
            .run()
            .unwrap_err();
        assert!(error.to_string().contains("false -x"), "{error}");
        assert_eq!(Step::new("none", "/nonexistent/program").probe(), None);
    }

    #[test]
    fn durations_are_readable() {
        assert_eq!(seconds(Duration::from_millis(1_250)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 5 s");
    }
}
