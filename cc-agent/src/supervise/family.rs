//! Who is whose child, from `/proc`. Looks, and signals nobody.
//!
//! Only direct children are ever listed: until its parent has waited for it, a child's pid
//! cannot come to mean another process, so killing it cannot hit a stranger.

use std::fs;
use std::io;

/// A child process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) pid: i32,
    /// It has ended and waits to be waited for.
    pub(super) zombie: bool,
    /// Its session.
    pub(super) session: i32,
}

/// The children of a process.
pub(super) fn children(parent: u32) -> io::Result<Vec<Child>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // A process may end at any time.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some((child, its_parent)) = parse(pid, &stat)
            && its_parent == i64::from(parent)
        {
            children.push(child);
        }
    }
    Ok(children)
}

/// Reads a `/proc/<pid>/stat`: pid, name in parentheses (which may contain anything), state,
/// parent, process group, session.
fn parse(pid: i32, stat: &str) -> Option<(Child, i64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some((
        Child {
            pid,
            zombie,
            session,
        },
        parent,
    ))
}

/// Whether a process was started with a certain environment variable, as far as can be seen.
pub(super) fn has_environment(pid: i32, name: &str, value: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    environment
        .split(|byte| *byte == 0)
        .filter_map(|variable| std::str::from_utf8(variable).ok())
        .filter_map(|variable| variable.split_once('='))
        .any(|variable| variable == (name, value))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let (child, parent) = parse(7, "7 (a) S 1 (b) Z 3 4 5 6 7 8").unwrap();
        assert_eq!((child.zombie, parent, child.session), (true, 3, 5));
        assert!(parse(7, "").is_none());
        assert!(parse(7, "7 (x) S").is_none());
    }

    #[test]
    fn a_child_is_found_and_its_environment_seen() {
        // A program that has just been started has no environment for a moment, so it says when it
        // runs. It ends with its input.
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo up; read -r end"])
            .env("SOME_MARK", "1.2.3")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0; 3];
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut up).unwrap();
        let pid = child.id() as i32;
        let found = children(std::process::id()).unwrap();
        assert!(found.iter().any(|c| c.pid == pid && !c.zombie));
        assert!(has_environment(pid, "SOME_MARK", "1.2.3"));
        assert!(!has_environment(pid, "SOME_MARK", "1.2"));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
