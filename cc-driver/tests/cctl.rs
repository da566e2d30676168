//! The command line as scripts and people use it, on clusters of this machine.
//!
//! Every test has a state directory of its own and terminates what is in it. This executable is
//! also the program that runs on the clusters, if `CCTL_TEST_PROGRAM` names one.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cc_driver::prelude::*;
use libtest_mimic::{Arguments, Trial};
use rustix::process::Signal;
use rustix::termios::LocalModes;
use serde_json::Value;

/// No command here takes as long.
const DEADLINE: Duration = Duration::from_secs(60);
const CCTL: &str = env!("CARGO_BIN_EXE_cctl");

fn main() {
    cc_driver::init();
    if let Ok(handle) = std::env::var("CCTL_TEST_PROGRAM") {
        program(&handle);
        return;
    }
    let tests: [(&str, fn()); 10] = [
        ("help_and_wrong_input", help_and_wrong_input),
        ("a_configuration_file", a_configuration_file),
        ("clusters_that_are_not_there", clusters_that_are_not_there),
        ("unreadable_records_stay", unreadable_records_stay),
        ("the_life_of_a_cluster", the_life_of_a_cluster),
        ("commands_and_their_codes", commands_and_their_codes),
        ("files_and_folders", files_and_folders),
        ("beside_a_program", beside_a_program),
        ("a_terminal", a_terminal),
        ("interrupted_deployment", interrupted_deployment),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

#[remote]
fn shout(text: String) -> u32 {
    let line = format!("{text} from a worker\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    std::process::id()
}

/// Drives a cluster until its input ends.
fn program(handle: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let driver = Driver::builder().on_log(|_| {}).build().unwrap();
        let cluster = driver.reconnect(handle.parse().unwrap()).await.unwrap();
        cluster
            .everywhere(shout::task("hello".into()))
            .await
            .unwrap();
        std::io::stdout().write_all(b"ready\n").unwrap();
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        cluster.close().await;
        driver.close().await;
    });
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("cctl-").tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CCTL);
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env("CC_STATE_DIR", self.path("state"))
            // Not what happens to lie about beside it, nor the developer's own file.
            .env("CC_AGENT", CCTL)
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env_remove("CLOUD_CLUSTERS_CONFIG")
            .env_remove("AWS_REGION")
            .env_remove("AWS_DEFAULT_REGION")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        Answer::of(self.command(arguments).spawn().unwrap())
    }

    fn with_input(&self, arguments: &[&str], input: &[u8]) -> Answer {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        Answer::of(child)
    }

    fn deploy(&self, assumptions: &[&str]) -> String {
        let answer = self.run(&[&["deploy"], assumptions].concat()).ok();
        assert_eq!(answer.stderr, "", "quiet without a terminal");
        let handle = answer.stdout.trim_end_matches('\n').to_owned();
        assert_eq!(handle.len(), 15, "{handle}");
        handle
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["--json"]].concat()).ok().stdout).unwrap()
    }

    fn program(&self, handle: &str) -> Program {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .current_dir(self.0.path())
            .env("CC_STATE_DIR", self.path("state"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env_remove("CLOUD_CLUSTERS_CONFIG")
            .env("CCTL_TEST_PROGRAM", handle)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Program { child, input }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.run(&["terminate", "--all", "--yes"]);
    }
}

struct Program {
    child: Child,
    input: Option<ChildStdin>,
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.input.take());
        self.child.wait().unwrap();
    }
}

#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Answer {
    fn of(child: Child) -> Self {
        let pid = rustix::process::Pid::from_child(&child);
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        let Output {
            status,
            stdout,
            stderr,
        } = ended.recv_timeout(DEADLINE).map_or_else(
            |_| {
                rustix::process::kill_process(pid, Signal::KILL).unwrap();
                ended.recv().unwrap().unwrap()
            },
            Result::unwrap,
        );
        Self {
            code: status.code(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    #[track_caller]
    fn fails(self, code: i32, with: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(with), "{self:?}");
        self
    }

    fn lines(&self) -> Vec<&str> {
        let mut lines: Vec<_> = self.stdout.lines().collect();
        lines.sort_unstable();
        lines
    }
}

fn help_and_wrong_input() {
    let place = Place::new();
    let help = place.run(&["--help"]).ok().stdout;
    assert!(help.contains("Exit codes:"), "{help}");
    for command in help
        .lines()
        .filter_map(|l| l.strip_prefix("  ")?.split_whitespace().next())
    {
        if command.chars().all(|c| c.is_ascii_lowercase()) {
            place.run(&["help", command]);
        }
    }
    place.run(&[]).fails(2, "Usage");
    place.run(&["dance"]).fails(2, "dance");
    place.run(&["deploy", "nodes=2"]).fails(2, "node_count");
    place
        .run(&["deploy", "node_count=0"])
        .fails(2, "node_count = 0 is out of range");
    place
        .run(&["deploy", "node_count=two"])
        .fails(2, "whole number");
    place
        .run(&["deploy", "node_provider=moon"])
        .fails(2, "node_provider = moon is not known");
    place.run(&["terminate"]).fails(2, "CLUSTER");
    place.run(&["extend", "abc", "long"]).fails(2, "long");
    place.run(&["cp", "a", "b"]).fails(2, "HANDLE:PATH");
    assert_eq!(place.json(&["clusters"]), serde_json::json!([]));
    let settings = place.json(&["config"]);
    assert_eq!(settings[0]["setting"], "config_file");
    assert_eq!(settings[0]["value"], Value::Null);
    let state = setting(&settings, "state_directory");
    assert_eq!(state["source"], "CC_STATE_DIR");
    assert_eq!(setting(&settings, "agent_executable")["value"], CCTL);
    assert!(
        place
            .run(&["completions", "bash"])
            .ok()
            .stdout
            .contains("complete")
    );
}

fn setting<'a>(settings: &'a Value, name: &str) -> &'a Value {
    let mut all = settings.as_array().unwrap().iter();
    all.find(|setting| setting["setting"] == name).unwrap()
}

fn a_configuration_file() {
    let place = Place::new();
    let file = place.path("CCconfig.toml");
    fs::write(
        &file,
        "[defaults]\nuser = \"all\"\ndirectory = \"/all\"\n[local]\ndirectory = \"/here\"\n\
         agent = \"/bin/sh\"\n[ec2]\nexeflags = [\"-v\"]\n",
    )
    .unwrap();
    let settings = place.json(&["config"]);
    assert_eq!(settings[0]["value"], file.to_str().unwrap());
    for (name, value, source) in [
        ("user", Value::from("all"), "CCconfig.toml:2"),
        ("directory", "/here".into(), "CCconfig.toml:5"),
        ("driver_timeout", "10m".into(), "built-in"),
        ("exeflags", Value::Null, "not set"),
    ] {
        let setting = setting(&settings, name);
        assert_eq!(setting["value"], value, "{name}");
        assert_eq!(setting["source"], source, "{name}");
    }
    let agent = setting(&settings, "agent_executable");
    assert_eq!(
        (&agent["value"], &agent["source"]),
        (&"/bin/sh".into(), &"agent".into())
    );
    let ec2 = place.json(&["config", "--provider", "ec2"]);
    assert_eq!(setting(&ec2, "directory")["value"], "/all");
    assert_eq!(setting(&ec2, "exeflags")["value"], "[\"-v\"]");
    let table = place.run(&["config"]).ok().stdout;
    let lines: Vec<_> = table
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let user: Vec<&str> = vec!["user", "all", "CCconfig.toml:2"];
    assert!(lines.contains(&user), "{table}");

    // The user's own is used where there is none.
    let own = place.path("config/cloudclusters/CCconfig.toml");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::rename(&file, &own).unwrap();
    let settings = place.json(&["config"]);
    assert_eq!(settings[0]["value"], own.to_str().unwrap());

    fs::write(&file, "[local]\n\ndirectry = \"/here\"\n").unwrap();
    let wrong = place.run(&["config"]).fails(2, "CCconfig.toml:3");
    assert!(wrong.stderr.contains("directory?"), "{wrong:?}");
    let named = |path: &str| {
        let mut command = place.command(&["config"]);
        Answer::of(command.env("CLOUD_CLUSTERS_CONFIG", path).spawn().unwrap())
    };
    named("elsewhere.toml").fails(2, "no file elsewhere.toml");
    named(own.to_str().unwrap()).ok();
    // What there is can be seen and given back whatever the file says.
    assert_eq!(place.json(&["clusters"]), serde_json::json!([]));
    place.run(&["terminate", "--all", "--yes"]).ok();
}

fn clusters_that_are_not_there() {
    let place = Place::new();
    for command in [
        &["status", "abc"][..],
        &["nodes", "abc"],
        &["logs", "abc"],
        &["exec", "abc", "ls"],
        &["cp", "abc:x", "."],
        &["interrupt", "abc"],
        &["resume", "abc"],
        &["restart", "abc"],
        &["terminate", "abc"],
        &["extend", "abc", "2h"],
    ] {
        let answer = place.run(command).fails(5, "`abc`");
        assert!(answer.stderr.contains("cctl clusters"), "{answer:?}");
        assert_eq!(answer.stdout, "");
    }
}

fn unreadable_records_stay() {
    let place = Place::new();
    for handle in ["aabbbbbbbbbbbbb", "aaccccccccccccc"] {
        let directory = place.path("state/clusters").join(handle);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("record.json"), "{\"version\":").unwrap();
    }
    let listed = place.run(&["clusters"]).ok();
    assert!(
        listed.stdout.contains("aabbbbbbbbbbbbb  unreadable"),
        "{listed:?}"
    );
    assert!(listed.stderr.contains("cut off"), "{listed:?}");
    assert_eq!(place.json(&["clusters"])[1]["state"], "unreadable");
    place.run(&["status", "aa"]).fails(4, "aaccccccccccccc");
    place.run(&["status", "aab"]).fails(1, "cut off");
    place.run(&["terminate", "--all"]).fails(2, "--yes");
    place
        .run(&["terminate", "--all", "--yes"])
        .fails(1, "cut off");
    assert_eq!(place.json(&["clusters"]).as_array().unwrap().len(), 2);
}

fn the_life_of_a_cluster() {
    let place = Place::new();
    let handle = place.deploy(&["node_count=2", "node_process_count=3", "driver_timeout=5m"]);
    let beginning = &handle[..5];

    let clusters = place.json(&["clusters"]);
    assert_eq!(clusters[0]["handle"], handle.as_str());
    for (field, value) in [
        ("node_count", 2),
        ("nodes_running", 2),
        ("node_process_count", 3),
        ("driver_timeout_seconds", 300),
    ] {
        assert_eq!(clusters[0][field], value, "{field}");
    }
    let status = place.json(&["status", beginning]);
    assert_eq!(status["state"], "running");
    assert_eq!(
        status["workers"],
        serde_json::json!([]),
        "workers are the program's"
    );
    assert_eq!(status["driver"], Value::Null);
    assert!(status["lease_left_seconds"].as_u64().unwrap() <= 300);
    assert!(
        place
            .run(&["status", beginning])
            .ok()
            .stdout
            .contains("running")
    );
    assert_eq!(
        place.run(&["nodes", beginning]).ok().stdout.lines().count(),
        3
    );
    for line in place.run(&["clusters"]).ok().stdout.lines() {
        assert!(line.len() <= 80, "{line}");
    }

    place
        .run(&["restart", beginning])
        .fails(1, "no program has run on it");
    place.run(&["extend", beginning, "2h"]).ok();
    let nodes = place.json(&["nodes", beginning]);
    for node in nodes.as_array().unwrap() {
        assert!(
            node["lease_left_seconds"].as_u64().unwrap() > 7_000,
            "{node}"
        );
    }

    place.run(&["exec", beginning, "echo kept > file"]).ok();
    place.run(&["interrupt", beginning]).ok();
    assert_eq!(place.json(&["status", beginning])["state"], "interrupted");
    assert_eq!(place.json(&["nodes", beginning])[1]["state"], "stopped");
    place
        .run(&["exec", beginning, "ls"])
        .fails(1, "cctl resume");
    place.run(&["resume", beginning]).ok();
    assert_eq!(
        place
            .run(&["exec", beginning, "-n1", "cat file"])
            .ok()
            .stdout,
        "kept\n"
    );

    let pid = place.json(&["nodes", beginning])[0]["agent_pid"]
        .as_i64()
        .unwrap();
    let agent = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(agent, Signal::KILL).unwrap();
    assert_eq!(place.json(&["clusters"])[0]["state"], "degraded");
    place.run(&["exec", beginning, "true"]).fails(1, "node 0");

    place.run(&["terminate", beginning]).ok();
    assert_eq!(place.json(&["clusters"]), serde_json::json!([]));
}

fn commands_and_their_codes() {
    let place = Place::new();
    let handle = place.deploy(&["node_count=2"]);
    let exec = |arguments: &[&str]| place.run(&[&["exec", &handle], arguments].concat());

    assert_eq!(
        exec(&["echo $0"]).ok().lines(),
        ["[node 0] /bin/sh", "[node 1] /bin/sh"]
    );
    assert_eq!(exec(&["-n0", "--", "echo", "$0 *"]).ok().stdout, "$0 *\n");
    assert_eq!(
        exec(&["-n", "0-1", "-e", "A=b c", "-C/", "echo $A $PWD"])
            .ok()
            .lines()
            .len(),
        2
    );
    exec(&["-n1", "echo lost >&2; exit 7"]).fails(7, "lost\n");
    exec(&["case $PWD in */1/*) exit 3; esac"]).fails(3, "[node 1] exited with status 3");
    exec(&["-n0", "kill -TERM $$"]).fails(143, "");
    exec(&["-n0", "--", "/no/such/program", "x"]).fails(127, "/no/such/program");
    exec(&["-n2", "ls"]).fails(2, "0 to 1");
    exec(&["-t", "ls"]).fails(2, "--node");
    assert_eq!(
        exec(&["-tn1", "test -t 0 && test -t 1 && echo yes"])
            .ok()
            .stdout,
        "yes\r\n"
    );
    exec(&["-n0", "--no-input", "cat"]).ok();

    let cat = ["exec", &handle, "-n0", "cat"];
    let long = "0123456789abcdef\n".repeat(40_000);
    assert_eq!(place.with_input(&cat, long.as_bytes()).ok().stdout, long);
    let both = place.with_input(&["exec", &handle, "cat"], b"x\ny").ok();
    assert_eq!(
        both.lines(),
        ["[node 0] x", "[node 0] y", "[node 1] x", "[node 1] y"]
    );

    // Ctrl-C is the command's.
    let trap = "trap 'echo got it; exit 9' INT; echo up; while :; do sleep 0.05; done";
    let mut child = place
        .command(&["exec", &handle, "-n0", trap])
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "got it\n");
    Answer::of(child).fails(9, "");
}

fn files_and_folders() {
    let place = Place::new();
    let handle = place.deploy(&["node_count=2"]);
    let cp = |from: &str, to: &str| {
        let (from, to) = (from.replace('@', &handle), to.replace('@', &handle));
        place.run(&["cp", &from, &to])
    };
    fs::create_dir_all(place.path("folder/sub")).unwrap();
    fs::write(place.path("folder/script"), "#!/bin/sh\necho run\n").unwrap();
    fs::set_permissions(
        place.path("folder/script"),
        PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    fs::write(place.path("folder/sub/large"), vec![7; 3_000_000]).unwrap();

    cp("folder", "@:").ok();
    let ran = place
        .run(&["exec", &handle, "folder/script; wc -c < folder/sub/large"])
        .ok();
    let expected = [
        "[node 0] 3000000",
        "[node 0] run",
        "[node 1] 3000000",
        "[node 1] run",
    ];
    assert_eq!(ran.lines(), expected);
    cp("folder/script", "@/1:one/two/").ok();
    place
        .run(&["exec", &handle, "-n1", "test -x one/two/script"])
        .ok();
    place.run(&["exec", &handle, "-n0", "test ! -e one"]).ok();

    cp("@/0:folder", "back").ok();
    assert_eq!(
        fs::read(place.path("back/sub/large")).unwrap().len(),
        3_000_000
    );
    cp("@/0:folder/script", ".").ok();
    cp("@/1:one/two/script", "new/").ok();
    for copy in ["script", "new/script", "back/script"] {
        let metadata = fs::metadata(place.path(copy)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o755, "{copy}");
    }
    cp("@:folder", ".").fails(2, "2 nodes");
    cp("@/0:nothing", ".").fails(1, "nothing");
    cp("nothing", "@:").fails(2, "nothing");
    cp("folder", "@/7:").fails(2, "0 to 1");
    cp("@/0:folder", "@/1:folder").fails(2, "both sides");
}

fn beside_a_program() {
    let place = Place::new();
    let handle = place.deploy(&["node_count=2", "node_process_count=2"]);
    let following = place.command(&["logs", "-f", &handle]).spawn().unwrap();
    let program = place.program(&handle);

    let status = place.json(&["status", &handle]);
    assert_eq!(status["driver"]["pid"], program.child.id());
    let workers = status["workers"].as_array().unwrap();
    let mut ids: Vec<_> = workers
        .iter()
        .map(|w| w["worker"].as_u64().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, [2, 3, 4, 5]);
    let lines: Vec<_> = (2..6)
        .map(|id| format!("[worker {id}] hello from a worker"))
        .collect();
    assert_eq!(place.run(&["logs", &handle]).ok().lines(), lines);
    let json = place.run(&["logs", &handle, "--json"]).ok();
    let first: Value = serde_json::from_str(json.lines()[0]).unwrap();
    assert_eq!(first["source"], "stdout");
    place.run(&["restart", &handle]).fails(1, "--take-over");

    drop(program);
    place.run(&["restart", &handle]).ok();
    let restarted = place.json(&["status", &handle]);
    let pids = |status: &Value| -> Vec<u64> {
        let workers = status["workers"].as_array().unwrap();
        workers.iter().map(|w| w["pid"].as_u64().unwrap()).collect()
    };
    assert_eq!(pids(&restarted).len(), 4);
    assert!(
        pids(&restarted)
            .iter()
            .all(|pid| !pids(&status).contains(pid))
    );

    let pid = rustix::process::Pid::from_child(&following);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let followed = Answer::of(following).fails(130, "interrupted");
    assert_eq!(followed.lines(), lines);
}

fn a_terminal() {
    let place = Place::new();
    let handle = place.deploy(&[]);
    let master =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY)
            .unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let open = || -> OwnedFd {
        let name = name.to_str().unwrap();
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(name)
            .unwrap()
            .into()
    };
    let ours = open();
    let modes = || rustix::termios::tcgetattr(&ours).unwrap().local_modes;
    assert!(modes().contains(LocalModes::ICANON));

    let script = "test -t 0 && echo up; read word; echo got-$word; exit 5";
    let mut command = place.command(&["exec", &handle, script]);
    let child = command.stdin(open()).stdout(open()).spawn().unwrap();
    let mut terminal = fs::File::from(master);
    let mut seen = Vec::new();
    let mut until = |text: &str, terminal: &mut fs::File| {
        let mut piece = [0; 1024];
        while !String::from_utf8_lossy(&seen).contains(text) {
            let read = terminal.read(&mut piece).unwrap();
            seen.extend_from_slice(&piece[..read]);
        }
    };
    until("up", &mut terminal);
    assert!(
        !modes().contains(LocalModes::ICANON),
        "keys are passed on one by one"
    );
    terminal.write_all(b"word\r").unwrap();
    until("got-word", &mut terminal);
    Answer::of(child).fails(5, "");
    assert!(
        modes().contains(LocalModes::ICANON),
        "the terminal is as it was"
    );
}

fn interrupted_deployment() {
    let place = Place::new();
    let agent = place.path("agent");
    fs::write(&agent, format!("#!/bin/sh\nsleep 1\nexec {CCTL}\n")).unwrap();
    fs::set_permissions(&agent, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = place.command(&["deploy", "node_count=2"]);
    let child = command.env("CC_AGENT", &agent).spawn().unwrap();
    let begun = Instant::now();
    let nodes = || fs::read_dir(place.path("state/clusters")).map_or(0, Iterator::count);
    while nodes() == 0 {
        assert!(begun.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(5));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    let answer = Answer::of(child).fails(130, "nothing is left of it");
    assert_eq!(answer.stdout, "");
    assert_eq!(place.json(&["clusters"]), serde_json::json!([]));
}
