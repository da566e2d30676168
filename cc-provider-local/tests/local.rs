//! The local provider against agents that this very program plays, well and badly: the driver
//! time-out in their settings says which part.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "all of it is a test, and its output an agent's or a test's"
)]

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cc_core::contract::Contract;
use cc_core::ids::{Handle, NodeIndex};
use cc_core::provider::{AgentLaunch, NodeState, Provider as _, ProviderError};
use cc_core::record::NodeRecord;
use cc_core::resolve::Plan;
use cc_core::wire::bootstrap::{Identity, Ready, Report, Settings};
use cc_core::wire::local::{ROLE, ROLE_AGENT};
use cc_provider_local::{LocalProvider, agent_directory};
use libtest_mimic::{Arguments, Failed, Trial};

/// The parts that an agent can play.
mod part {
    pub(super) const GOOD: u64 = 600;
    pub(super) const EXITS: u64 = 1;
    pub(super) const GARBAGE: u64 = 2;
    pub(super) const SILENT: u64 = 3;
    pub(super) const STUBBORN: u64 = 4;
    pub(super) const FAILS: u64 = 5;
    pub(super) const ENDLESS_LINE: u64 = 6;
}

/// An agent that a failed test leaves ends by itself after this.
const LONGEST: Duration = Duration::from_secs(60);
/// What is awaited must happen within this.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    if std::env::var_os(ROLE).is_some_and(|role| role == ROLE_AGENT) {
        return play();
    }
    let mut arguments = Arguments::from_args();
    // Each starts processes and measures time.
    arguments.test_threads.get_or_insert(2);
    let trials = vec![
        trial("starts_and_stops_and_removes", starts_and_stops_and_removes),
        trial("finds_a_running_agent", finds_a_running_agent),
        trial("many_at_once", many_at_once),
        trial("exit_is_reported_with_stderr", exit_is_reported_with_stderr),
        trial("failure_is_reported", failure_is_reported),
        trial("garbage_is_reported", garbage_is_reported),
        trial("an_endless_line_is_bounded", an_endless_line_is_bounded),
        trial("silence_ends_at_the_deadline", silence_ends_at_the_deadline),
        trial(
            "a_refused_certificate_ends_the_agent",
            a_refused_certificate_ends_the_agent,
        ),
        trial(
            "a_start_given_up_ends_the_agent",
            a_start_given_up_ends_the_agent,
        ),
        trial(
            "wrong_executables_are_explained",
            wrong_executables_are_explained,
        ),
        trial("a_stubborn_agent_is_killed", a_stubborn_agent_is_killed),
        trial("a_stale_pid_is_left_alone", a_stale_pid_is_left_alone),
        trial("a_silent_holder_is_an_error", a_silent_holder_is_an_error),
        trial("removal_outlasts_a_writer", removal_outlasts_a_writer),
        trial(
            "a_foreign_directory_is_refused",
            a_foreign_directory_is_refused,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial<F: Future<Output = ()> + 'static>(name: &str, test: fn() -> F) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| Failed::from(e.to_string()))?;
        runtime.block_on(test());
        Ok(())
    })
}

// The agent's side.

fn play() {
    let mut lines = std::io::stdin().lock().lines();
    let mut line = || lines.next().unwrap().unwrap();
    let settings: Settings = serde_json::from_str(&line()).unwrap();
    std::fs::write(
        settings.directory.join("pid"),
        std::process::id().to_string(),
    )
    .unwrap();
    let say = |report: &Report| println!("{}", serde_json::to_string(report).unwrap());
    match settings.driver_timeout {
        part::EXITS => {
            eprintln!("there is no room\nfor this agent");
            std::process::exit(3);
        }
        part::GARBAGE => println!("Welcome to my program!"),
        part::FAILS => return say(&Report::Failed("bind: the port is taken".to_owned())),
        part::SILENT => return std::thread::sleep(LONGEST),
        part::ENDLESS_LINE => loop {
            if std::io::stdout().write_all(&[b'x'; 4096]).is_err() {
                return;
            }
        },
        _ => {}
    }
    if settings.driver_timeout == part::STUBBORN {
        use nix::sys::signal::{SigHandler, Signal, signal};
        // SAFETY: ignoring a signal runs no code.
        unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.unwrap();
    }
    let lock = directory_lock(&settings.directory);
    lock.try_lock().unwrap();
    say(&Report::Request(format!("request of {}", settings.node)));
    let identity: Identity = serde_json::from_str(&line()).unwrap();
    assert_eq!(
        identity.certificate,
        format!("signed request of {}", settings.node)
    );
    let socket = UdpSocket::bind(settings.listen).unwrap();
    let ready = Ready {
        address: socket.local_addr().unwrap(),
        pid: std::process::id(),
        start_ticks: own_ticks(),
    };
    write_ready(&settings.directory, &ready);
    let mut environment: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
    environment.sort();
    std::fs::write(
        settings.directory.join("environment"),
        environment.join("\n"),
    )
    .unwrap();
    std::fs::write(
        settings.directory.join("settings"),
        serde_json::to_vec(&settings).unwrap(),
    )
    .unwrap();
    say(&Report::Ready(ready));
    std::thread::sleep(LONGEST);
    drop(lock);
}

fn directory_lock(directory: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join("agent.lock"))
        .unwrap()
}

fn write_ready(directory: &Path, ready: &Ready) {
    std::fs::write(
        directory.join("agent.lock"),
        serde_json::to_vec(ready).unwrap(),
    )
    .unwrap();
}

fn own_ticks() -> u64 {
    ticks(std::process::id()).unwrap()
}

fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

// The driver's side.

struct Fixture {
    state: tempfile::TempDir,
    provider: LocalProvider,
    launch: AgentLaunch,
    node: NodeRecord,
}

fn fixture(part: u64) -> Fixture {
    let mut contract = Contract::new();
    contract.settings_mut().driver_timeout = Some(Duration::from_secs(part));
    fixture_of(contract)
}

fn fixture_of(contract: Contract) -> Fixture {
    let state = tempfile::tempdir().unwrap();
    let provider = LocalProvider::new(state.path().to_owned()).start_wait(PATIENCE);
    let plan: Plan = contract.resolve_locally().unwrap();
    let handle = Handle::random();
    let node = provider.intend(handle, NodeIndex(0), &plan);
    let launch = AgentLaunch {
        executable: std::env::current_exe().unwrap(),
        handle,
        plan,
    };
    Fixture {
        state,
        provider,
        launch,
        node,
    }
}

fn sign(_: NodeIndex, request: &str) -> Result<Identity, String> {
    Ok(Identity {
        certificate: format!("signed {request}"),
        ca: "ca".to_owned(),
    })
}

impl Fixture {
    async fn start(&self) -> Result<NodeRecord, ProviderError> {
        self.provider.start(&self.launch, &self.node, &sign).await
    }

    async fn state(&self) -> NodeState {
        self.provider.state(&self.node).await.unwrap()
    }

    fn directory(&self) -> PathBuf {
        agent_directory(&self.node).unwrap()
    }

    /// The pid that the agent has written down.
    fn pid(&self) -> u32 {
        std::fs::read_to_string(self.directory().join("pid"))
            .unwrap()
            .parse()
            .unwrap()
    }

    async fn failing_start(&self) -> ProviderError {
        let error = self.start().await.unwrap_err();
        // Ended, and reaped as well.
        if self.directory().join("pid").exists() {
            assert_eq!(ticks(self.pid()), None, "{error}");
        }
        error
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn starts_and_stops_and_removes() {
    let f = fixture(part::GOOD);
    assert_eq!(f.state().await, NodeState::Gone);
    assert!(
        !f.state.path().join("clusters").exists(),
        "an intent creates nothing"
    );
    let started = f.start().await.unwrap();
    assert_eq!(f.state().await, NodeState::Running);
    let address = started.address.unwrap();
    assert_eq!(address.ip().to_string(), "127.0.0.2");
    assert_ne!(address.port(), 0);
    let mode = std::fs::metadata(f.directory())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let settings: Settings =
        serde_json::from_slice(&std::fs::read(f.directory().join("settings")).unwrap()).unwrap();
    assert_eq!(settings.store, f.state.path().join("store"));
    assert_eq!(settings.directory, f.directory());
    let pid = f.pid();
    f.provider.stop(&started).await.unwrap();
    assert_eq!(f.state().await, NodeState::Stopped);
    until("the agent is reaped", || ticks(pid).is_none()).await;
    f.provider.stop(&started).await.unwrap();
    let again = f.provider.start(&f.launch, &started, &sign).await.unwrap();
    assert_ne!(again.provider_data, started.provider_data);
    // An older record does as well: the lock tells.
    f.provider.remove(&f.node).await.unwrap();
    assert_eq!(f.state().await, NodeState::Gone);
    f.provider.remove(&f.node).await.unwrap();
}

async fn finds_a_running_agent() {
    let f = fixture(part::GOOD);
    let first = f.start().await.unwrap();
    let never = |_: NodeIndex, _: &str| -> Result<Identity, String> { Err("asked".to_owned()) };
    let second = f.provider.start(&f.launch, &f.node, &never).await.unwrap();
    assert_eq!(first, second);
    f.provider.remove(&first).await.unwrap();
}

async fn many_at_once() {
    let mut contract = Contract::new();
    contract.settings_mut().shared_store = Some(false);
    let f = Arc::new(fixture_of(contract));
    let started = Instant::now();
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let f = f.clone();
            tokio::spawn(async move {
                let node = f
                    .provider
                    .intend(f.launch.handle, NodeIndex(i), &f.launch.plan);
                f.provider.start(&f.launch, &node, &sign).await.unwrap()
            })
        })
        .collect();
    let mut nodes = Vec::new();
    for task in tasks {
        nodes.push(task.await.unwrap());
    }
    println!("8 nodes in {:?}", started.elapsed());
    let addresses: std::collections::HashSet<SocketAddr> =
        nodes.iter().map(|node| node.address.unwrap()).collect();
    assert_eq!(addresses.len(), 8);
    for node in &nodes {
        let directory = agent_directory(node).unwrap();
        let settings: Settings =
            serde_json::from_slice(&std::fs::read(directory.join("settings")).unwrap()).unwrap();
        assert_eq!(settings.store, directory.join("store"));
        f.provider.remove(node).await.unwrap();
    }
}

async fn exit_is_reported_with_stderr() {
    let f = fixture(part::EXITS);
    let text = f.failing_start().await.to_string();
    assert!(text.contains("exit status: 3"), "{text}");
    assert!(text.contains("there is no room\nfor this agent"), "{text}");
    assert!(
        text.starts_with("node 0: wait for the agent's certificate request: "),
        "{text}"
    );
}

async fn failure_is_reported() {
    let error = fixture(part::FAILS).failing_start().await;
    assert!(error.reason.contains("the port is taken"), "{error}");
}

async fn garbage_is_reported() {
    let error = fixture(part::GARBAGE).failing_start().await;
    assert!(error.reason.contains("Welcome to my program!"), "{error}");
    assert!(error.reason.contains("cc_driver::init"), "{error}");
}

async fn an_endless_line_is_bounded() {
    let error = fixture(part::ENDLESS_LINE).failing_start().await;
    assert!(error.reason.len() < 1000, "{error}");
}

async fn silence_ends_at_the_deadline() {
    let mut f = fixture(part::SILENT);
    f.provider = LocalProvider::new(f.state.path().to_owned()).start_wait(Duration::from_secs(1));
    let error = f.failing_start().await;
    assert!(
        error.transient && error.reason.contains("no answer within 1 s"),
        "{error}"
    );
}

async fn a_refused_certificate_ends_the_agent() {
    let f = fixture(part::GOOD);
    let refuse = |_: NodeIndex, _: &str| Err("not this one".to_owned());
    let error = f
        .provider
        .start(&f.launch, &f.node, &refuse)
        .await
        .unwrap_err();
    assert_eq!(error.phase, "sign the agent's certificate");
    assert_eq!(error.reason, "not this one");
    assert_eq!(ticks(f.pid()), None);
    assert_eq!(f.state().await, NodeState::Stopped);
}

async fn a_start_given_up_ends_the_agent() {
    let f = fixture(part::SILENT);
    let written = f.directory().join("pid");
    tokio::select! {
        result = f.start() => panic!("{result:?}"),
        () = until("the agent starts", || std::fs::read(&written).is_ok_and(|p| !p.is_empty())) => {}
    }
    let pid = f.pid();
    until("the agent is reaped", || ticks(pid).is_none()).await;
}

async fn wrong_executables_are_explained() {
    let mut f = fixture(part::GOOD);
    f.launch.executable = f.state.path().join("agent");
    let error = f.failing_start().await;
    assert!(error.reason.contains("there is no "), "{error}");

    // The head of a 64-bit little-endian executable for a machine that is not this one.
    let machine: u8 = if cfg!(target_arch = "aarch64") {
        62
    } else {
        183
    };
    let mut head = vec![0; 64];
    head[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    head[16] = 2;
    head[18] = machine;
    head[20] = 1;
    std::fs::write(&f.launch.executable, &head).unwrap();
    let error = f.failing_start().await;
    assert!(error.reason.contains("may not be executed"), "{error}");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&f.launch.executable, executable).unwrap();
    let error = f.failing_start().await;
    let other = if machine == 62 {
        "is for x86_64"
    } else {
        "is for aarch64"
    };
    assert!(error.reason.contains(other), "{error}");
    assert!(error.reason.contains(std::env::consts::ARCH), "{error}");
}

async fn a_stubborn_agent_is_killed() {
    let mut f = fixture(part::STUBBORN);
    f.provider =
        LocalProvider::new(f.state.path().to_owned()).stop_grace(Duration::from_millis(100));
    let started = f.start().await.unwrap();
    let pid = f.pid();
    let (stopped, ()) = tokio::join!(f.provider.remove(&f.node), async {
        // As an agent does that is ending: it names itself no more. The signal is out by now.
        let lock = directory_lock(&agent_directory(&started).unwrap());
        lock.set_len(0).unwrap();
    });
    stopped.unwrap();
    until("the agent is reaped", || ticks(pid).is_none()).await;
    assert_eq!(f.state().await, NodeState::Gone);
}

/// This process stands for the one that has an agent's old pid: a signal would end the test.
async fn a_stale_pid_is_left_alone() {
    let f = fixture(part::GOOD);
    std::fs::create_dir_all(f.directory()).unwrap();
    let stale = Ready {
        address: "127.0.0.2:9".parse().unwrap(),
        pid: std::process::id(),
        start_ticks: own_ticks() - 1,
    };
    write_ready(&f.directory(), &stale);
    let mut node = f.node.clone();
    node.provider_data["pid"] = stale.pid.into();
    node.provider_data["start_ticks"] = stale.start_ticks.into();
    assert_eq!(f.state().await, NodeState::Stopped);
    f.provider.stop(&node).await.unwrap();
    // Nor is what it left behind taken for a running agent.
    let started = f.provider.start(&f.launch, &node, &sign).await.unwrap();
    assert_ne!(started.address, Some(stale.address));
    f.provider.remove(&started).await.unwrap();
}

async fn a_silent_holder_is_an_error() {
    let mut f = fixture(part::GOOD);
    f.provider =
        LocalProvider::new(f.state.path().to_owned()).start_wait(Duration::from_millis(50));
    std::fs::create_dir_all(f.directory()).unwrap();
    let lock = directory_lock(&f.directory());
    lock.lock().unwrap();
    let error = f.start().await.unwrap_err();
    assert!(error.reason.contains("agent.lock"), "{error}");
    assert_eq!(f.state().await, NodeState::Running);
}

async fn removal_outlasts_a_writer() {
    let f = fixture(part::GOOD);
    let started = f.start().await.unwrap();
    let work = f.directory().join("work");
    std::fs::create_dir_all(work.join("deep/er")).unwrap();
    std::os::unix::fs::symlink(f.state.path(), work.join("link")).unwrap();
    let writer = std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_millis(100);
        let mut i = 0;
        while Instant::now() < until {
            // Fails when the directory is away.
            let _ = std::fs::write(work.join(format!("{i}")), "x");
            i += 1;
        }
    });
    f.provider.remove(&started).await.unwrap();
    writer.join().unwrap();
    assert_eq!(f.state().await, NodeState::Gone);
    assert!(f.state.path().exists(), "links are not followed");
}

async fn a_foreign_directory_is_refused() {
    let f = fixture(part::GOOD);
    let precious = f.state.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    let mut node = f.node.clone();
    node.provider_data["directory"] = precious.to_str().unwrap().into();
    let error = f.provider.remove(&node).await.unwrap_err();
    assert!(error.reason.contains("precious"), "{error}");
    assert!(precious.exists());
    node.provider_data = serde_json::json!({"instance": "i-1"});
    assert!(f.provider.state(&node).await.is_err());
}
