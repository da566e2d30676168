//! Supervision of real processes: shells in the place of workers, under real guards.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use cc_core::ids::{ContentHash, WorkerId};
use cc_core::wire::control::FromAgent;
use cc_core::wire::local::{ROLE, ROLE_GUARD};
use tempfile::TempDir;

use super::*;

/// Lets this test executable be a guard, as every executable with the agent in it can be:
/// the test harness owns `main`, so the role is taken before it.
#[used]
#[unsafe(link_section = ".init_array")]
static TAKE_ROLE: extern "C" fn() = take_role;

extern "C" fn take_role() {
    if std::env::var_os(ROLE).is_some_and(|role| role == ROLE_GUARD) {
        // SAFETY: nothing else runs yet.
        unsafe { std::env::remove_var(ROLE) };
        std::process::exit(guard_main());
    }
}

/// What a worker sends when it is ready: the message's number and its pid, 1.
const READY: &str = r"printf '\000\001' >&4;";

struct Site {
    directory: TempDir,
    supervisor: Arc<Supervisor>,
}

fn supervisor(directory: &Path) -> Arc<Supervisor> {
    /// Tests run side by side and must not share an incarnation, as agents do not.
    static TESTS: AtomicU64 = AtomicU64::new(0);
    let supervisor = Supervisor::new(SupervisorSettings {
        node: NodeIndex(3),
        directory: directory.to_owned(),
        store: Store::open(&directory.join("store")).unwrap(),
        cores: 4,
        workers_per_node: 2,
    });
    let apart =
        TESTS.fetch_add(16, Ordering::Relaxed) + u64::from(std::process::id() % 1000 * 1000);
    supervisor
        .next_incarnation
        .fetch_add(apart, Ordering::Relaxed);
    supervisor
}

fn site() -> Site {
    let directory = tempfile::tempdir().unwrap();
    let supervisor = supervisor(directory.path());
    Site {
        directory,
        supervisor,
    }
}

fn shell(script: &str) -> WorkerCommand {
    WorkerCommand {
        program: Program::Path("/bin/sh".to_owned()),
        name: "a-worker".to_owned(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        environment: Vec::new(),
        directory: None,
        slots: None,
        memory_limit: None,
    }
}

impl Site {
    async fn start(&self, command: WorkerCommand) -> Started {
        let mut started = self.supervisor.start(command, vec![0]).await;
        assert_eq!(started.len(), 1);
        started.remove(0).1
    }

    async fn fails(&self, command: WorkerCommand) -> String {
        let death = self.start(command).await.unwrap_err();
        assert!(lock(&self.supervisor.workers).is_empty());
        let Cause::NotStarted(why) = death.cause else {
            panic!("{death}")
        };
        why + "|" + &death.stderr_tail.join("|")
    }
}

async fn down(subscription: &mut Subscription) -> (WorkerKey, Death) {
    match subscription.next().await {
        FromAgent::WorkerDown { worker, death } => (worker, death),
        other => panic!("{other:?}"),
    }
}

/// The processes that descend from a worker.
fn remains(worker: WorkerKey) -> Vec<i32> {
    let mark = process::mark(worker);
    let pids = fs::read_dir("/proc").unwrap();
    let pids = pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| family::has_environment(*pid, spawn::MARK, &mark))
        .collect()
}

/// Detached in every way a shell knows.
const DETACHED: &str =
    "(setsid sleep 1000 & setsid sh -c 'sleep 1000 & sleep 1000' &); sleep 1000 &";

#[tokio::test]
async fn a_worker_that_ends_leaves_nothing() {
    let site = site();
    let mut events = site.supervisor.subscribe();
    let script = format!("{DETACHED} {READY} echo over >&2; exit 3");
    let worker = site.start(shell(&script)).await.unwrap();
    let (ended, death) = down(&mut events).await;
    assert_eq!(
        (ended, &death.cause),
        (worker, &Cause::Exited(3)),
        "{death}"
    );
    assert_eq!(death.stderr_tail, ["over"]);
    assert!(death.peak_memory.unwrap() > 100_000);
    assert_eq!(remains(worker), Vec::<i32>::new());
    assert_eq!(site.supervisor.statuses(), []);
}

#[tokio::test]
async fn a_worker_that_does_not_stop_is_killed_after_the_grace() {
    let site = site();
    let mut events = site.supervisor.subscribe();
    let script = format!("trap '' TERM INT HUP; {DETACHED} {READY} sleep 1000");
    let worker = site.start(shell(&script)).await.unwrap();
    let status = site.supervisor.statuses().remove(0);
    assert_eq!((status.key, status.pid, status.id), (worker, 1, None));
    assert!(!remains(worker).is_empty());
    let grace = Duration::from_millis(50);
    site.supervisor
        .stop(&[worker], grace, "the end of a test")
        .await;
    assert_eq!(remains(worker), Vec::<i32>::new());
    let (_, death) = down(&mut events).await;
    assert_eq!(death.cause, Cause::Stopped("the end of a test".to_owned()));
    assert_eq!(death.out_of_memory, None);
    // What is gone is skipped.
    site.supervisor.stop(&[worker], grace, "again").await;
}

#[tokio::test]
async fn stopping_all_stops_what_has_not_started_yet() {
    let site = site();
    let start = site.supervisor.start(shell("sleep 1000"), vec![0, 1]);
    let stop = async {
        // The start is polled first.
        tokio::task::yield_now().await;
        site.supervisor.stop_all(Duration::ZERO, "shutdown").await;
    };
    let (started, ()) = tokio::join!(biased; start, stop);
    for (_, result) in started {
        assert_eq!(
            result.unwrap_err().cause,
            Cause::Stopped("shutdown".to_owned())
        );
    }
}

#[tokio::test]
async fn a_signal_is_told_by_its_number() {
    let site = site();
    let mut events = site.supervisor.subscribe();
    site.start(shell(&format!("{READY} kill -SEGV $$")))
        .await
        .unwrap();
    assert_eq!(down(&mut events).await.1.cause, Cause::Signalled(11));
}

#[tokio::test]
async fn a_killed_guard_leaves_nothing_either() {
    let site = site();
    let mut events = site.supervisor.subscribe();
    let script = format!("{DETACHED} {READY} kill -9 $PPID; sleep 1000");
    let worker = site.start(shell(&script)).await.unwrap();
    let (_, death) = down(&mut events).await;
    assert_eq!(death.cause, Cause::Signalled(9), "{death}");
    assert_eq!(remains(worker), Vec::<i32>::new());
}

#[tokio::test]
async fn when_the_agent_is_gone_so_is_the_worker() {
    let directory = tempfile::tempdir().unwrap();
    let key = WorkerKey {
        slot: 0,
        incarnation: u64::from(std::process::id()) << 32,
    };
    let script = format!("{DETACHED} {READY} sleep 1000");
    let sh = Path::new("/bin/sh");
    let (process, control) = process::spawn(key, &shell(&script), sh, directory.path()).unwrap();
    control.recv().await.unwrap().unwrap();
    assert!(!remains(key).is_empty());
    let process::Process {
        mut guard, reports, ..
    } = process;
    drop(reports);
    guard.wait().await.unwrap();
    assert_eq!(remains(key), Vec::<i32>::new());
}

#[tokio::test]
async fn a_program_that_cannot_run_is_explained() {
    let site = site();
    let program = |path: &str| WorkerCommand {
        program: Program::Path(path.to_owned()),
        ..shell("")
    };
    let file = |name: &str, mode: u32, content: &[u8]| {
        let path = site.directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        program(path.to_str().unwrap())
    };
    let why = site.fails(program("/no/such/program")).await;
    assert!(
        why.contains("/no/such/program: there is no such file"),
        "{why}"
    );
    let why = site.fails(file("plain", 0o644, b"#!/bin/sh\n")).await;
    assert!(why.contains("mode is 644"), "{why}");
    let why = site.fails(file("text", 0o755, b"exit 0\n")).await;
    assert!(why.contains("neither an ELF"), "{why}");
    let why = site
        .fails(file("script", 0o755, b"#!/no/such/shell\n"))
        .await;
    assert!(why.contains("/no/such/shell is missing"), "{why}");
    let mut foreign = fs::read("/bin/sh").unwrap();
    foreign[18] ^= 0x55;
    let why = site.fails(file("foreign", 0o755, &foreign)).await;
    assert!(why.contains("this node is"), "{why}");

    let missing = WorkerCommand {
        program: Program::Content(ContentHash::of(b"x")),
        ..shell("")
    };
    let why = site.fails(missing).await;
    assert!(why.contains("not in the content store of node 3"), "{why}");
    let nowhere = WorkerCommand {
        directory: Some("/proc/nowhere".to_owned()),
        ..shell("")
    };
    let why = site.fails(nowhere).await;
    assert!(why.contains("working directory /proc/nowhere"), "{why}");
}

#[tokio::test]
async fn a_death_before_readiness_says_what_was_seen() {
    let site = site();
    let why = site
        .fails(shell("echo no such library >&2; exit 127"))
        .await;
    assert_eq!(
        why,
        "it exited with status 127 before it was ready|no such library"
    );
    // Unable, with a text of 3 bytes.
    let why = site
        .fails(shell(r"printf '\001\003why' >&4; sleep 1000"))
        .await;
    assert_eq!(why, "why|");
}

#[tokio::test]
async fn a_worker_has_its_environment_directory_name_and_limit() {
    let site = site();
    let command = WorkerCommand {
        environment: vec![
            ("LD_PRELOAD".to_owned(), "/no/such.so".to_owned()),
            (ROLE.to_owned(), "agent".to_owned()),
        ],
        directory: Some("deep/er".to_owned()),
        memory_limit: Some(512 << 20),
        ..shell(
            "pwd; echo $CC_ROLE $LD_PRELOAD $0; ulimit -v; env | grep -c CC_GUARD; ls /proc/self/fd | wc -l; exit 1",
        )
    };
    let mut events = site.supervisor.subscribe();
    events.logs(false);
    site.start(command).await.unwrap_err();
    let FromAgent::Log(lines) = events.next().await else {
        panic!()
    };
    let lines: Vec<_> = lines
        .into_iter()
        .filter(|line| line.source == LogSource::Stdout)
        .map(|line| line.text)
        .collect();
    let directory = site.directory.path().join("work/deep/er");
    assert_eq!(lines[0], directory.to_str().unwrap());
    // 0, 1, 2, the control socket, and the folder that ls reads.
    assert_eq!(
        lines[1..],
        ["worker /no/such.so a-worker", "524288", "0", "5"]
    );
}

#[tokio::test]
async fn lines_are_told_in_order_and_before_the_death() {
    let site = site();
    let script =
        format!("{READY} for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; done; printf end");
    let mut events = site.supervisor.subscribe();
    events.logs(true);
    let worker = site.start(shell(&script)).await.unwrap();
    let collect = async |events: &mut Subscription| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match events.next().await {
                FromAgent::Log(lines) => {
                    for line in lines {
                        assert_eq!(line.worker, worker);
                        let list = if line.source == LogSource::Stdout {
                            &mut out
                        } else {
                            &mut err
                        };
                        list.push(line.text);
                    }
                }
                FromAgent::WorkerDown { .. } => break (out, err),
                other => panic!("{other:?}"),
            }
        }
    };
    let (out, err) = collect(&mut events).await;
    let numbered = |letter| (1..10).map(move |i| format!("{letter}{i}"));
    assert!(numbered('o').chain(["end".to_owned()]).eq(out));
    assert!(numbered('e').eq(err));

    let mut late = site.supervisor.subscribe();
    late.logs(true);
    let FromAgent::Log(lines) = late.next().await else {
        panic!()
    };
    assert_eq!(lines.len(), 19);
}

#[tokio::test]
async fn sockets_are_passed_while_there_is_a_worker_that_takes_them() {
    let site = site();
    let mut events = site.supervisor.subscribe();
    let worker = site
        .start(shell(&format!("{READY} read never; sleep 1000")))
        .await
        .unwrap();
    let lane = || ToWorker::Lane {
        session: 1,
        id: WorkerId(7),
        store: String::new(),
    };
    let attach = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        site.supervisor
            .attach(worker, lane(), theirs.into())
            .map(|()| ours)
    };
    let mut passed = vec![attach().unwrap()];
    assert_eq!(site.supervisor.statuses()[0].id, Some(WorkerId(7)));
    // It does not read; the socket's buffer and the queue are bounded.
    let refused = loop {
        match attach() {
            Ok(ours) => passed.push(ours),
            Err(why) => break why,
        }
        assert!(passed.len() < 5_000);
    };
    assert!(
        refused.contains("does not read") || refused.contains("cannot be reached"),
        "{refused}"
    );
    site.supervisor
        .stop(&[worker], Duration::ZERO, "over")
        .await;
    down(&mut events).await;
    // All of them are closed, those in the queue, too.
    for mut ours in passed {
        assert_eq!(std::io::Read::read(&mut ours, &mut [0]).unwrap(), 0);
    }
    let gone = attach().unwrap_err();
    assert!(gone.contains("no such worker"), "{gone}");
}

#[tokio::test]
async fn the_last_command_outlives_the_agent_and_incarnations_grow() {
    let site = site();
    let again = site.supervisor.restart_with_last_command().await;
    assert!(again.unwrap_err().contains("no worker was ever started"));
    let command = shell(&format!("{READY} sleep 1000"));
    let first = site.start(command.clone()).await.unwrap();
    let occupied = site.start(command.clone()).await.unwrap_err();
    assert!(
        occupied.to_string().contains("has a worker already"),
        "{occupied}"
    );
    let rest = site.supervisor.restart_with_last_command().await.unwrap();
    assert_eq!(rest.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [1]);
    site.supervisor.stop_all(Duration::ZERO, "over").await;

    let file = site.directory.path().join(COMMAND_FILE);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // No sooner than a second later is there another agent.
    tokio::time::sleep(Duration::from_millis(1001)).await;
    let next = supervisor(site.directory.path());
    assert_eq!(next.last_command(), Some(command));
    let started = next.restart_with_last_command().await.unwrap();
    assert_eq!(started.len(), 2);
    assert!(
        started
            .iter()
            .all(|(_, key)| key.as_ref().unwrap().incarnation > first.incarnation + 1)
    );
    next.stop_all(Duration::ZERO, "over").await;
}

/// Needs root and a memory cgroup of the first generation; says so when it has none.
#[tokio::test]
async fn the_kernels_out_of_memory_killer_is_evidence() {
    let group = Path::new("/sys/fs/cgroup/memory").join(format!("cc-test-{}", std::process::id()));
    let limited = fs::create_dir(&group)
        .and_then(|()| fs::write(group.join("memory.limit_in_bytes"), "33554432"));
    if let Err(error) = limited {
        eprintln!("not tested, no memory cgroup can be made here: {error}");
        return;
    }
    let site = site();
    let mut events = site.supervisor.subscribe();
    // It moves to the group, and tells its true pid: 4 bytes after the mark of an u32.
    let octal = |shift: u32| format!(r"\\$(printf %03o $(($$ >> {shift} & 255)))");
    let pid: String = [0, 8, 16, 24].map(octal).concat();
    let script = format!(
        "echo $$ > {}/cgroup.procs; printf \"\\000\\374{pid}\" >&4; exec tail /dev/zero",
        group.display()
    );
    site.start(shell(&script)).await.unwrap();
    let (_, death) = down(&mut events).await;
    fs::remove_dir(&group).unwrap();
    assert_eq!(death.cause, Cause::Signalled(9), "{death}");
    assert!(
        death
            .out_of_memory
            .unwrap()
            .contains("out-of-memory killer")
    );
}
