use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use cc_core::death::Cause;
use cc_core::net::framed;
use cc_core::wire::stream::{Exec, ExecFrame, StreamHeader};

use crate::client::{self, ExecSession};
use crate::transfer::testing::{Agent, Cluster, Manner};

struct Bench {
    agent: Agent,
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl Bench {
    async fn new() -> Self {
        let cluster = Cluster::new();
        let agent = cluster.agent(0, Manner::Good);
        let (endpoint, connection) = cluster.connect(&agent).await;
        Self {
            agent,
            connection,
            _endpoint: endpoint,
        }
    }

    async fn start(&self, script: &str, terminal: Option<(u16, u16)>) -> ExecSession {
        let exec = Exec {
            terminal,
            ..shell(script)
        };
        client::exec(&self.connection, exec).await.unwrap()
    }
}

fn shell(script: &str) -> Exec {
    Exec {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("GREETING".to_owned(), "hello".to_owned())],
        directory: None,
        terminal: None,
    }
}

/// Everything until the end: output, error, the last frame.
async fn collect(session: &mut ExecSession) -> (String, String, ExecFrame) {
    let (mut output, mut error) = (Vec::new(), Vec::new());
    while let Some(frame) = session.next().await.unwrap() {
        match frame {
            ExecFrame::Output(bytes) => {
                assert!(bytes.len() <= 64 * 1024);
                output.extend(bytes);
            }
            ExecFrame::Error(bytes) => error.extend(bytes),
            last => {
                assert!(session.next().await.unwrap().is_none());
                let text = |bytes| String::from_utf8(bytes).unwrap();
                return (text(output), text(error), last);
            }
        }
    }
    panic!("no last frame");
}

fn ended(status: i32) -> ExecFrame {
    ExecFrame::Ended(Cause::Exited(status))
}

/// Waits for what a command writes first.
async fn first_line(session: &mut ExecSession) -> String {
    let mut line = String::new();
    while !line.ends_with('\n') {
        match session.next().await.unwrap().unwrap() {
            ExecFrame::Output(bytes) => line.push_str(&String::from_utf8(bytes).unwrap()),
            other => panic!("{other:?} after {line:?}"),
        }
    }
    line.trim().to_owned()
}

fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z")
}

async fn gone(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while alive(pid) {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn output_error_and_status_come_back() {
    let bench = Bench::new().await;
    let mut session = bench.start("pwd; echo $GREETING >&2; exit 3", None).await;
    let (output, error, last) = collect(&mut session).await;
    assert_eq!(output.trim(), bench.agent.node.base.to_str().unwrap());
    assert_eq!((error.trim(), last), ("hello", ended(3)));

    let mut session = bench.start("kill -9 $$", None).await;
    let (.., last) = collect(&mut session).await;
    assert_eq!(last, ExecFrame::Ended(Cause::Signalled(9)));

    // Nothing of its guard's: descriptors (ls reads a folder), variables.
    let directory = Some("/".to_owned());
    let exec = Exec {
        directory,
        ..shell("env | grep -E 'CC_(GUARD|ROLE)'; ls /proc/self/fd | wc -l; pwd")
    };
    let mut session = client::exec(&bench.connection, exec).await.unwrap();
    assert_eq!(collect(&mut session).await.0, "4\n/\n");
}

#[tokio::test]
async fn input_arrives_and_ends() {
    let bench = Bench::new().await;
    let (mut input, mut output) = bench.start("cat | wc -c; cat", None).await.split();
    let fed = async {
        // More than any buffer on the way.
        for _ in 0..256 {
            input
                .send(ExecFrame::Input(vec![b'x'; 65_536]))
                .await
                .unwrap();
        }
        input.close().await.unwrap();
    };
    let read = async {
        let mut text = Vec::new();
        while let Some(frame) = output.next().await.unwrap() {
            match frame {
                ExecFrame::Output(bytes) => text.extend(bytes),
                last => assert_eq!(last, ended(0)),
            }
        }
        text
    };
    let ((), text) = tokio::join!(fed, read);
    assert_eq!(text.trim_ascii(), b"16777216");
}

#[tokio::test]
async fn a_slow_reader_loses_nothing() {
    let bench = Bench::new().await;
    let script = "head -c 20000000 /dev/zero | tr '\\0' x";
    let mut session = bench.start(script, None).await;
    // Everything on the way is full by now, or will be: either must work.
    let mut idle = bench.start("exit 0", None).await;
    collect(&mut idle).await;
    let (output, _, last) = collect(&mut session).await;
    assert_eq!((output.len(), last), (20_000_000, ended(0)));
}

#[tokio::test]
async fn signals_reach_the_whole_group() {
    let bench = Bench::new().await;
    let script = "trap 'echo got; exit 5' INT; echo ready; while :; do sleep 0.1; done";
    let mut session = bench.start(script, None).await;
    assert_eq!(first_line(&mut session).await, "ready");
    for number in [0, -1, 4000, 2] {
        session.send(ExecFrame::Signal(number)).await.unwrap();
    }
    let (output, _, last) = collect(&mut session).await;
    assert_eq!((output.as_str(), last), ("got\n", ended(5)));
}

#[tokio::test]
async fn signals_overtake_input_that_nobody_reads() {
    let bench = Bench::new().await;
    let script = "trap 'echo got; exit 5' INT; echo ready; while :; do sleep 0.1; done";
    let mut session = bench.start(script, None).await;
    assert_eq!(first_line(&mut session).await, "ready");
    // More than a pipe holds.
    for _ in 0..8 {
        let input = ExecFrame::Input(vec![b'x'; 65_536]);
        session.send(input).await.unwrap();
    }
    session.send(ExecFrame::Signal(2)).await.unwrap();
    let (output, _, last) = collect(&mut session).await;
    assert_eq!((output.as_str(), last), ("got\n", ended(5)));
}

#[tokio::test]
async fn nothing_outlives_the_command() {
    let bench = Bench::new().await;
    // In the background, deaf, and with the pipes open.
    let script = "(trap '' HUP TERM; exec sleep 600) & echo $!";
    let mut session = bench.start(script, None).await;
    let pid = first_line(&mut session).await;
    let (.., last) = collect(&mut session).await;
    assert_eq!(last, ended(0));
    assert!(!alive(&pid));
}

/// Detaches a process in every way a shell knows, and tells its pid.
const DETACHED: &str =
    "(trap '' HUP TERM; setsid sh -c 'echo $$; exec sleep 600' < /dev/null 2>&0 &);";

#[tokio::test]
async fn not_even_what_left_the_session_outlives_the_command() {
    let bench = Bench::new().await;
    for terminal in [None, Some((80, 24))] {
        let script = format!("{DETACHED} read line; exit 6");
        let mut session = bench.start(&script, terminal).await;
        let pid = first_line(&mut session).await;
        assert!(alive(&pid));
        let line = ExecFrame::Input(b"go on\n".to_vec());
        session.send(line).await.unwrap();
        let (.., last) = collect(&mut session).await;
        assert_eq!(last, ended(6));
        assert!(!alive(&pid));
    }
}

#[tokio::test]
async fn nor_its_client() {
    let bench = Bench::new().await;
    for terminal in [None, Some((80, 24))] {
        let script = format!("{DETACHED} trap '' HUP TERM; sleep 600");
        let mut session = bench.start(&script, terminal).await;
        let pid = first_line(&mut session).await;
        assert!(alive(&pid));
        drop(session);
        gone(&pid).await;
    }
}

#[tokio::test]
async fn nor_its_guard() {
    let bench = Bench::new().await;
    // Lets the agent's process be the parent of orphans, as an agent is.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let script = format!("{DETACHED} read line; kill -9 $PPID; sleep 600");
    let mut session = bench.start(&script, None).await;
    let pid = first_line(&mut session).await;
    let line = ExecFrame::Input(b"\n".to_vec());
    session.send(line).await.unwrap();
    let (.., last) = collect(&mut session).await;
    assert_eq!(last, ExecFrame::Ended(Cause::Signalled(9)));
    assert!(!alive(&pid));
}

/// Kernels differ in whether they refuse a file that is open for writing; none of them may fail.
#[tokio::test]
async fn a_program_that_is_still_written_is_waited_for() {
    let bench = Bench::new().await;
    let program = bench.agent.node.base.join("program");
    for terminal in [None, Some((80, 24))] {
        let mut file = fs::File::create(&program).unwrap();
        file.write_all(b"#!/bin/sh\ntest ! -t 0 || : > /dev/tty; echo ran\n")
            .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let exec = Exec {
            argv: vec!["./program".to_owned()],
            terminal,
            ..shell("")
        };
        let mut session = client::exec(&bench.connection, exec).await.unwrap();
        let writer = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(file);
        };
        let ((), (output, _, last)) = tokio::join!(writer, collect(&mut session));
        assert_eq!((output.trim(), last), ("ran", ended(0)));
    }
}

#[tokio::test]
async fn the_command_ends_with_its_client() {
    let bench = Bench::new().await;
    let polite =
        "trap 'echo bye > farewell; exit' HUP; echo $$; while :; do sleep 600 & wait; done";
    let deaf = "trap '' HUP TERM; echo $$; while :; do sleep 600; done";
    let mut pids = Vec::new();
    let mut sessions = Vec::new();
    for (script, terminal) in [(polite, None), (deaf, None), (deaf, Some((80, 24)))] {
        let mut session = bench.start(script, terminal).await;
        pids.push(first_line(&mut session).await);
        sessions.push(session);
    }
    let lost = sessions.pop();
    drop(sessions);
    gone(&pids[0]).await;
    gone(&pids[1]).await;
    let farewell = fs::read(bench.agent.node.base.join("farewell")).unwrap();
    assert_eq!(farewell, b"bye\n");
    assert!(alive(&pids[2]));
    bench.connection.close(0u32.into(), b"");
    gone(&pids[2]).await;
    drop(lost);
}

#[tokio::test]
async fn a_terminal_has_a_size_and_an_end() {
    let bench = Bench::new().await;
    let mut session = bench
        .start(
            "stty size; test -t 0 && test -t 2; echo $?; read l; stty size; cat; tty",
            Some((123, 45)),
        )
        .await;
    assert!(first_line(&mut session).await.starts_with("45 123"));
    session.send(ExecFrame::Resize(80, 24)).await.unwrap();
    session
        .send(ExecFrame::Input(b"line\n".to_vec()))
        .await
        .unwrap();
    session.send(ExecFrame::Input(Vec::new())).await.unwrap();
    let (output, error, last) = collect(&mut session).await;
    assert!(
        output.contains("24 80") && output.contains("/dev/pts/"),
        "{output}"
    );
    assert_eq!((error.as_str(), last), ("", ended(0)));
}

#[tokio::test]
async fn keys_reach_the_command_as_signals() {
    let bench = Bench::new().await;
    let script = "trap 'echo got > /dev/tty; exit 4' INT; echo ready; while :; do sleep 0.1; done";
    let mut session = bench.start(script, Some((80, 24))).await;
    assert_eq!(first_line(&mut session).await, "ready");
    let control_c = ExecFrame::Input(vec![3]);
    session.send(control_c).await.unwrap();
    let (output, _, last) = collect(&mut session).await;
    assert!(output.contains("got"), "{output}");
    assert_eq!(last, ended(4));
}

#[tokio::test]
async fn what_cannot_start_is_said() {
    let bench = Bench::new().await;
    let file = |name: &str, mode: u32, content: &[u8]| {
        let path = bench.agent.node.base.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    file("plain", 0o644, b"#!/bin/sh\n");
    file("script", 0o755, b"#!/no/such/shell\n");
    file("text", 0o755, b"exit 0\n");
    let none = |argv: &[&str], directory: Option<&str>, name: &str| Exec {
        argv: argv.iter().map(|&a| a.to_owned()).collect(),
        env: vec![(name.to_owned(), "value".to_owned())],
        directory: directory.map(str::to_owned),
        terminal: None,
    };
    for (exec, why) in [
        (none(&[], None, "X"), "no command"),
        (
            none(&["/no/such"], None, "X"),
            "starting /no/such: No such file",
        ),
        (
            none(&["no-such"], None, "X"),
            "starting no-such: No such file",
        ),
        // Only looked up in the search path.
        (none(&["text"], None, "X"), "starting text: No such file"),
        (
            none(&["./plain"], None, "X"),
            "starting ./plain: Permission denied",
        ),
        (none(&["/"], None, "X"), "starting /: Permission denied"),
        (none(&["./script"], None, "X"), "/no/such/shell is missing"),
        (none(&["./text"], None, "X"), "neither an ELF"),
        (none(&["sh"], Some("missing"), "X"), "missing: No such file"),
        (
            none(&["sh"], Some("/dev/null"), "X"),
            "/dev/null: not a directory",
        ),
        (none(&["a\0b"], None, "X"), "starting a"),
        (none(&["sh"], None, "A=B"), "environment"),
        (none(&["sh"], None, ""), "environment"),
    ] {
        let mut session = client::exec(&bench.connection, exec).await.unwrap();
        let (.., last) = collect(&mut session).await;
        let ExecFrame::Failed(text) = last else {
            panic!("{why}: {last:?}");
        };
        assert!(text.contains(why), "{text}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_the_command() {
    let bench = Bench::new().await;
    for raw in [&[0xff; 100][..], &[1, 0, 0, 0, 99], &[5, 0, 0, 0, 3]] {
        let (mut send, recv) = bench.connection.open_bi().await.unwrap();
        let header = StreamHeader::Exec(shell("echo $$; exec sleep 600"));
        framed::write_header(&mut send, &header).await.unwrap();
        let mut session = ExecSession::new(send, recv);
        let pid = first_line(&mut session).await;
        session.send_raw(raw).await;
        gone(&pid).await;
        assert!(session.next().await.is_err());
    }
}
