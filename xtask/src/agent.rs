//! `cargo xtask agent`: the static agent, which starts on any Linux of its architecture. It must
//! never share a target directory with the normal build, whose every crate its different flags
//! would evict.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::step::{Step, root};

/// The target for this machine's architecture.
pub(crate) fn default_target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Builds the agent and checks that nothing has to be on a node for it to start.
///
/// # Errors
/// Fails when it does not build or is not static.
pub(crate) fn run(target: &str) -> Result<()> {
    Step::cargo("static agent", "build")
        .args(["--locked", "--package", "cc-agent", "--bin", "cc-agent"])
        .args(["--profile", "agent", "--target", target])
        .args(["--target-dir", "target/agent"])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .run()?;
    let folder = root().join("target/agent");
    let built = folder.join(target).join("agent/cc-agent");
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    if needs_loader(&bytes).context("the built agent is not a 64-bit little-endian ELF file")? {
        bail!("the built agent is not static: it asks for a dynamic loader");
    }
    let agent = folder.join("cc-agent");
    fs::copy(&built, &agent).with_context(|| format!("cannot write {}", agent.display()))?;
    println!(
        "    {}: static, {:.1} MB",
        agent.display(),
        bytes.len() as f64 / 1e6
    );
    Ok(())
}

/// Whether a 64-bit little-endian ELF file names a dynamic loader (a program header of type
/// `PT_INTERP`); nothing for other files.
fn needs_loader(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?));
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = usize::try_from(long(32)?).ok()?;
    let (size, count) = (usize::from(half(54)?), usize::from(half(56)?));
    for header in 0..count {
        if word(table.checked_add(header * size)?)? == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loader_is_recognised() {
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64 + 2 * 56, 0);
        elf[32] = 64;
        (elf[54], elf[56]) = (56, 2);
        (elf[64], elf[64 + 56]) = (6, 1);
        assert_eq!(needs_loader(&elf), Some(false));
        elf[64 + 56] = 3;
        assert_eq!(needs_loader(&elf), Some(true));
        assert_eq!(needs_loader(&elf[..100]), None, "cut short");
        assert_eq!(needs_loader(b"#!/bin/sh\n"), None);
    }
}
