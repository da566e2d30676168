//! A place for one scenario: a state directory of its own, and drivers that use the test
//! worker as agent and worker. Whatever the scenario leaves behind is ended when it is dropped.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cc_driver::Resolve as _;
use cc_driver::config::Config;
use cc_driver::{Cluster, Contract, Driver, DriverBuilder, WorkerLine};
use tempfile::TempDir;

/// Lines that workers wrote, as a driver received them.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<WorkerLine>>>);

impl Lines {
    /// What has arrived so far.
    pub fn all(&self) -> Vec<WorkerLine> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A contract whose workers run one blocking task at a time, however many processors there are.
pub fn contract(nodes: u32, workers: u32) -> Contract {
    Contract::new()
        .node_count(nodes)
        .node_process_count(workers)
        .worker_slots(1)
}

/// A place for one scenario.
#[derive(Debug)]
pub struct Site {
    directory: TempDir,
    worker: PathBuf,
}

impl Site {
    /// A fresh place. `worker` is the test worker's path,
    /// `env!("CARGO_BIN_EXE_cc-test-worker")`.
    ///
    /// # Panics
    /// Panics when there is no temporary directory.
    #[expect(clippy::unwrap_used, reason = "a test cannot go on without it")]
    pub fn new(worker: &str) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("cc-test-")
            .tempdir()
            .unwrap();
        Self {
            directory,
            worker: PathBuf::from(worker),
        }
    }

    /// The directory of everything that the scenario makes.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Settings of a driver of this place. What workers write is not printed.
    pub fn builder(&self) -> DriverBuilder {
        Driver::builder()
            .state_directory(self.path().join("state"))
            .worker_binary(&self.worker)
            .agent(&self.worker)
            .on_log(drop)
            // A developer's own file has no say.
            .config(Config::none())
    }

    /// A driver of this place.
    ///
    /// # Panics
    /// Panics when it cannot be made.
    #[expect(clippy::unwrap_used, reason = "a test cannot go on without it")]
    pub fn driver(&self) -> Driver {
        self.builder().build().unwrap()
    }

    /// A cluster of a driver of its own, on the terms of [`contract`].
    ///
    /// # Errors
    /// Fails when it cannot be deployed.
    pub async fn deploy(&self, nodes: u32, workers: u32) -> anyhow::Result<Cluster> {
        Ok(self
            .driver()
            .deploy(&contract(nodes, workers).resolve()?)
            .await?)
    }

    /// A driver of this place and what its workers write.
    ///
    /// # Panics
    /// Panics when it cannot be made.
    #[expect(clippy::unwrap_used, reason = "a test cannot go on without it")]
    pub fn listening_driver(&self) -> (Driver, Lines) {
        let lines = Lines::default();
        let sink = lines.clone();
        let push = move |line| {
            sink.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line)
        };
        (self.builder().on_log(push).build().unwrap(), lines)
    }

    /// The processes that still run anything of this place: their working directory, arguments or
    /// environment lead into it.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mark = self.path().to_string_lossy().into_owned();
        let own = std::env::current_exe();
        let mut found = Vec::new();
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return found;
        };
        for entry in entries.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<i32>().ok())
            else {
                continue;
            };
            if pid == std::process::id() as i32 {
                continue;
            }
            let link = |name| std::fs::read_link(entry.path().join(name)).unwrap_or_default();
            // A child that another test of this process is just starting has copies of all our
            // descriptors until it executes its own program. Looked at before they are.
            let exe = link("exe");
            if own.as_ref().is_ok_and(|own| *own == exe) {
                continue;
            }
            let files = std::fs::read_dir(entry.path().join("fd"));
            let open = files.into_iter().flatten().flatten().any(|fd| {
                std::fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().contains(&mark))
            });
            if open
                || [link("cwd"), exe]
                    .iter()
                    .any(|p| p.starts_with(self.path()))
            {
                let name = std::fs::read_to_string(entry.path().join("cmdline"));
                found.push((pid, name.unwrap_or_default().replace('\0', " ")));
            }
        }
        found
    }
}

impl Site {
    fn terminate_all(&self) {
        let records = self.path().join("state/clusters");
        if std::fs::read_dir(&records).is_ok_and(|mut d| d.next().is_some())
            && let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            && let Ok(driver) = self.builder().build()
        {
            for (handle, _) in driver.clusters().unwrap_or_default() {
                // What resists is killed next.
                let _ = runtime.block_on(driver.terminate(handle));
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A failed scenario leaves its cluster: end it through its records, or by force. On a
        // thread of its own, since the scenario's may be inside a runtime.
        std::thread::scope(|scope| {
            scope.spawn(|| self.terminate_all());
        });
        for (pid, _) in self.processes() {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }
}
