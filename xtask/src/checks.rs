//! Checks of the architecture that no lint makes: which crates may be in whose dependency
//! tree, which names stay in one file, and that the README shows a program that runs.
//! ARCHITECTURE.md says why each exists.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::step::{Step, root};

/// What must not be in a package's dependency tree.
struct Tree {
    package: &'static str,
    /// Which dependencies count, as `cargo tree --edges` takes them.
    edges: &'static str,
    /// Names of crates; one that ends in `-` stands for all that begin so.
    without: &'static [&'static str],
    why: &'static str,
}

const TREES: &[Tree] = &[
    Tree {
        package: "cc-core",
        edges: "normal,build",
        without: &["tokio", "quinn", "quinn-", "rustls"],
        why: "without its `net` feature, cc-core does no I/O",
    },
    Tree {
        package: "cc-examples",
        edges: "normal,build,dev",
        without: &["aws-", "mpi", "mpi-"],
        why: "a first run compiles neither the AWS SDK nor MPI",
    },
];

/// A word that appears in the code of some files only.
struct Name {
    word: &'static str,
    /// Files, or folders that end in `/`.
    only_in: &'static [&'static str],
}

const NAMES: &[Name] = &[Name {
    word: "bincode",
    only_in: &["cc-core/src/codec.rs", "xtask/src/checks.rs"],
}];

/// Checks [`TREES`].
///
/// # Errors
/// Names the crates that do not belong there.
pub(crate) fn trees() -> Result<()> {
    for tree in TREES {
        let text = Step::cargo("dependency tree", "tree")
            .args(["--locked", "--package", tree.package, "--edges", tree.edges])
            .args(["--prefix", "none", "--format", "{p}"])
            .output()?;
        let found = found_in(&text, tree.without);
        if !found.is_empty() {
            bail!(
                "{} depends on {}, but {}; see who brings it:\n    cargo tree --package {} --invert {}",
                tree.package,
                found.join(", "),
                tree.why,
                tree.package,
                found[0]
            );
        }
    }
    Ok(())
}

/// The crates in a tree's lines that are not wanted there.
fn found_in(tree: &str, unwanted: &[&str]) -> Vec<String> {
    let is_unwanted = |name: &&str| {
        unwanted
            .iter()
            .any(|u| name == u || (u.ends_with('-') && name.starts_with(u)))
    };
    let mut found: Vec<String> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(is_unwanted)
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Checks [`NAMES`] in every Rust file of the workspace.
///
/// # Errors
/// Names the files and lines that use a word outside of its place.
pub(crate) fn names() -> Result<()> {
    let root = root();
    let mut wrong = Vec::new();
    for path in rust_files(&root)? {
        let relative = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {relative}"))?;
        for name in NAMES {
            let allowed = name.only_in.iter().any(|place| {
                relative == *place || (place.ends_with('/') && relative.starts_with(place))
            });
            if !allowed {
                wrong.extend(
                    lines_that_use(&text, name.word)
                        .map(|line| format!("{relative}:{line}: {}", name.word)),
                );
            }
        }
    }
    if !wrong.is_empty() {
        bail!(
            "used outside of its one place:\n    {}",
            wrong.join("\n    ")
        );
    }
    Ok(())
}

/// Checks that the README's program is the quickstart example, which is compiled and run.
///
/// # Errors
/// Says where the two are when they differ.
pub(crate) fn readme() -> Result<()> {
    let read =
        |name| fs::read_to_string(root().join(name)).with_context(|| format!("cannot read {name}"));
    let (program, readme) = (read("examples/quickstart.rs")?, read("README.md")?);
    if !readme.contains(&format!("```rust\n{program}```")) {
        bail!("README.md does not show examples/quickstart.rs as it is: copy it there");
    }
    Ok(())
}

/// Numbers of the lines whose code, comments left out, contains a word.
fn lines_that_use<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let code = |line: &'a str| line.split("//").next().unwrap_or_default();
    (1..)
        .zip(text.lines())
        .filter(move |(_, line)| code(line).contains(word))
        .map(|(number, _)| number)
}

/// The Rust files below a folder, in order, without those that were built or are hidden.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type()?.is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unwanted_crates_are_found_by_name_and_by_prefix() {
        let tree = "cc v0.1.0 (/x)\naws-sdk-ec2 v1.0.0\nmpi v0.8.0\nmpich v1.0.0\naws-sdk-ec2 v1.0.0 (*)\n";
        assert_eq!(found_in(tree, &["aws-", "mpi"]), ["aws-sdk-ec2", "mpi"]);
        assert!(found_in(tree, &["tokio"]).is_empty());
    }

    #[test]
    fn comments_may_use_any_word() {
        let text = "// serde\n/// serde too\nuse serde::Serialize; // why\nlet x = 1; // serde\n";
        assert_eq!(lines_that_use(text, "serde").collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn the_names_and_the_readme_are_in_order() {
        readme().unwrap();
        names().unwrap();
    }

    #[test]
    fn this_file_is_among_the_files() {
        let files = rust_files(&root()).unwrap();
        assert!(files.iter().any(|f| f.ends_with("xtask/src/checks.rs")));
        assert!(!files.iter().any(|f| f.starts_with(root().join("target"))));
    }
}
