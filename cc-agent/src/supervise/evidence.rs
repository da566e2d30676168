//! What shows that a worker died for lack of memory. Reads counters of the kernel and draws
//! conclusions; the parts that conclude do no I/O.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cc_core::death::Cause;
use nix::libc;

/// The counters as they stood when a worker began.
#[derive(Debug, Clone, Default)]
pub(super) struct Baseline {
    /// What to look at, and what it said.
    counters: Vec<(Counter, u64)>,
}

/// A counter of processes killed for lack of memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Counter {
    file: PathBuf,
    /// What it counts the kills of, for people.
    of: String,
}

/// Compares counters before and after. One for all workers of a node: a kill that explains
/// one death must not explain another.
#[derive(Debug, Default)]
pub(super) struct Kills {
    /// What each counter has said by the deaths explained so far.
    explained: Mutex<HashMap<PathBuf, u64>>,
}

impl Baseline {
    /// Reads the counters for a process.
    pub(super) fn of(pid: u32) -> Self {
        let read = |path: String| fs::read_to_string(path).unwrap_or_default();
        let own = cgroup_counter(
            &read(format!("/proc/{pid}/cgroup")),
            &read("/proc/self/mountinfo".to_owned()),
        );
        let node = Counter {
            file: PathBuf::from("/proc/vmstat"),
            of: "this node".to_owned(),
        };
        // The nearest first: its evidence is the strongest.
        let counters = own.into_iter().chain([node]);
        let read = counters.filter_map(|counter| counter.read().map(|count| (counter, count)));
        Self {
            counters: read.collect(),
        }
    }
}

impl Counter {
    fn read(&self) -> Option<u64> {
        oom_kills(&fs::read_to_string(&self.file).ok()?)
    }
}

impl Kills {
    /// What shows that the kernel killed a worker for lack of memory, or that it ended itself
    /// because it could get no more; `None` if nothing does.
    pub(super) fn evidence(
        &self,
        baseline: &Baseline,
        cause: &Cause,
        tail: &[String],
        limit: Option<u64>,
    ) -> Option<String> {
        match cause {
            Cause::Signalled(libc::SIGKILL) => self.explain(baseline),
            _ => failed_allocation(tail, limit),
        }
    }

    fn explain(&self, baseline: &Baseline) -> Option<String> {
        let mut explained = self
            .explained
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for (counter, before) in &baseline.counters {
            let Some(now) = counter.read() else { continue };
            let known = explained.entry(counter.file.clone()).or_default();
            let before = (*known).max(*before);
            if now > before {
                // A kill is in every counter, and told of once.
                *known = before + 1;
                found.get_or_insert_with(|| {
                    format!(
                        "the kernel's out-of-memory killer struck in {} ({before} kills before, {now} now)",
                        counter.of
                    )
                });
            }
        }
        found
    }
}

/// Whether a line of standard error tells of a failed allocation, as Rust, C++ and the dynamic
/// loader do.
pub(super) fn tells_of_failed_allocation(line: &str) -> bool {
    const SIGNS: [&str; 4] = [
        "memory allocation of ",
        "std::bad_alloc",
        "Cannot allocate memory",
        "cannot allocate memory",
    ];
    SIGNS.iter().any(|sign| line.contains(sign))
}

/// The line by which a failed allocation is known.
fn failed_allocation(tail: &[String], limit: Option<u64>) -> Option<String> {
    let line = tail
        .iter()
        .rev()
        .find(|line| tells_of_failed_allocation(line))?;
    let line: String = line.chars().take(200).collect();
    Some(match limit {
        Some(bytes) => format!(
            "`{line}` under a limit of {} MiB of address space",
            bytes >> 20
        ),
        None => format!("`{line}`"),
    })
}

/// The number after `oom_kill`, which is spelled alike in `memory.events` (cgroup v2),
/// `memory.oom_control` (v1) and `/proc/vmstat`.
fn oom_kills(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?
        .trim()
        .parse()
        .ok()
}

/// Where the memory cgroup of a process counts, from the texts of its `/proc/<pid>/cgroup` and
/// of `/proc/self/mountinfo`.
fn cgroup_counter(cgroup: &str, mountinfo: &str) -> Option<Counter> {
    let line = |wanted: fn(&str, &str) -> bool| {
        cgroup.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            wanted(id, controllers).then_some(path)
        })
    };
    let v1 = line(|_, controllers| controllers.split(',').any(|name| name == "memory"));
    let (path, file, mount) = match v1 {
        Some(path) => {
            let mount = mount(mountinfo, |kind, options| {
                kind == "cgroup" && options.split(',').any(|name| name == "memory")
            });
            (path, "memory.oom_control", mount?)
        }
        None => {
            let path = line(|id, controllers| id == "0" && controllers.is_empty())?;
            let mount = mount(mountinfo, |kind, _| kind == "cgroup2")?;
            (path, "memory.events", mount)
        }
    };
    let (root, point) = mount;
    // In a container the mount shows only a part of the hierarchy.
    let inside = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    Some(Counter {
        file: Path::new(point).join(inside).join(file),
        of: format!("memory cgroup {path}"),
    })
}

/// The root and the mount point of the first mount of a kind.
fn mount(mountinfo: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<(&str, &str)> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let mut file_system = file_system.split(' ');
        let kind = file_system.next()?;
        let options = file_system.nth(1)?;
        wanted(kind, options).then_some((root, point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const V2: &str =
        "30 23 0:26 /kube/pod /sys/fs/cgroup ro shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn counters_of_both_generations_are_found() {
        let v1 = cgroup_counter("4:memory:/a/b\n3:cpuset:/\n0::/x\n", V1).unwrap();
        let file = "/sys/fs/cgroup/memory/a/b/memory.oom_control";
        assert_eq!(v1.file, Path::new(file));
        let v2 = cgroup_counter("0::/kube/pod/worker\n", V2).unwrap();
        assert_eq!(v2.file, Path::new("/sys/fs/cgroup/worker/memory.events"));
        assert_eq!(cgroup_counter("", V1), None);
        assert_eq!(cgroup_counter("4:memory:/a\n", V2), None);
    }

    #[test]
    fn kills_are_counted_wherever_the_line_is() {
        assert_eq!(oom_kills("low 0\noom 3\noom_kill 2\n"), Some(2));
        assert_eq!(oom_kills("under_oom 0\n"), None);
    }

    #[test]
    fn a_kill_explains_one_death() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("memory.events");
        let set = |count: u32| fs::write(&file, format!("oom_kill {count}\n")).unwrap();
        let counter = Counter {
            file: file.clone(),
            of: "a test".to_owned(),
        };
        set(5);
        let baseline = Baseline {
            counters: vec![(counter, 5)],
        };
        let kills = Kills::default();
        let killed = Cause::Signalled(libc::SIGKILL);
        assert_eq!(kills.evidence(&baseline, &killed, &[], None), None);
        set(6);
        assert_eq!(
            kills.evidence(&baseline, &Cause::Signalled(11), &[], None),
            None
        );
        assert!(
            kills
                .evidence(&baseline, &killed, &[], None)
                .unwrap()
                .contains("5 kills before, 6 now")
        );
        assert_eq!(kills.evidence(&baseline, &killed, &[], None), None);
    }

    #[test]
    fn a_failed_allocation_is_recognised() {
        let tail = [
            "x".to_owned(),
            "memory allocation of 99 bytes failed".to_owned(),
        ];
        let text = failed_allocation(&tail, Some(64 << 20)).unwrap();
        assert!(
            text.contains("99 bytes") && text.contains("64 MiB"),
            "{text}"
        );
        assert_eq!(failed_allocation(&tail[..1], None), None);
    }
}
