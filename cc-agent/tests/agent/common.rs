//! An agent process started as a provider does it, and a client that speaks the wire format by
//! hand, so that it can also speak it wrongly.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use cc_core::ids::{Handle, NodeIndex};
use cc_core::limits;
use cc_core::net::identity::{Authority, Credentials, Role, Subject};
use cc_core::net::{endpoint, framed};
use cc_core::wire::PROTOCOL;
use cc_core::wire::bootstrap::{Identity, Ready, Report, Settings};
use cc_core::wire::control::{
    Answer, Frame, FromAgent, Hello, Holder, NodeStatus, Request, SessionKind, ToAgent,
};
use cc_core::wire::stream::StreamHeader;
use quinn::{Connection, RecvStream, SendStream};
use tokio::time::timeout;

/// Longer than anything here takes, shorter than a hang.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A cluster of agents on this machine, in a directory that goes away with it.
pub(crate) struct Cluster {
    pub(crate) handle: Handle,
    pub(crate) authority: Authority,
    pub(crate) directory: tempfile::TempDir,
}

/// An agent's process; killed when dropped.
pub(crate) struct Agent {
    child: Option<Child>,
    pub(crate) ready: Ready,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let handle = Handle::random();
        Self {
            handle,
            authority: Authority::create(handle).unwrap().0,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            protocol: PROTOCOL,
            handle: self.handle,
            node: NodeIndex(0),
            directory: self.directory.path().join("node"),
            store: self.directory.path().join("store"),
            listen: "127.0.0.1:0".parse().unwrap(),
            workers: 1,
            driver_timeout: 600,
        }
    }

    pub(crate) fn start(&self) -> Agent {
        self.start_with(&self.settings()).unwrap()
    }

    /// Starts an agent; the error is what it reports.
    pub(crate) fn start_with(&self, settings: &Settings) -> Result<Agent, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cc-agent"))
            .env("CC_ROLE", "agent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut hear = || serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        writeln!(stdin, "{}", serde_json::to_string(settings).unwrap()).unwrap();
        let mut report = hear();
        if let Report::Request(request) = &report {
            let subject = Subject {
                handle: settings.handle,
                role: Role::Agent(settings.node),
            };
            let identity = Identity {
                certificate: self.authority.sign(request, subject).unwrap(),
                ca: self.authority.certificate().to_owned(),
            };
            writeln!(stdin, "{}", serde_json::to_string(&identity).unwrap()).unwrap();
            report = hear();
        }
        match report {
            Report::Ready(ready) => Ok(Agent {
                child: Some(child),
                ready,
            }),
            Report::Failed(reason) => {
                assert!(!child.wait().unwrap().success());
                Err(reason)
            }
            Report::Request(_) => panic!("a second request"),
        }
    }

    pub(crate) fn credentials(&self, role: Role) -> Credentials {
        let handle = self.handle;
        self.authority.issue(Subject { handle, role }).unwrap()
    }

    pub(crate) fn hello(&self, session: SessionKind) -> Hello {
        Hello {
            protocol: PROTOCOL,
            handle: self.handle,
            node: NodeIndex(0),
            session,
            take_over: false,
            holder: Holder {
                host: "elsewhere".to_owned(),
                pid: 77,
                program: "a-driver".to_owned(),
                started: 1_000,
            },
        }
    }

    /// Connects with a driver's certificate.
    pub(crate) async fn connect(&self, agent: &Agent) -> Connection {
        self.connect_as(agent, &self.credentials(Role::Driver))
            .await
            .unwrap()
    }

    pub(crate) async fn connect_as(
        &self,
        agent: &Agent,
        credentials: &Credentials,
    ) -> Result<Connection, endpoint::EndpointError> {
        let address = agent.ready.address;
        let client = endpoint::client(address.ip())?;
        let config = endpoint::client_config(credentials, true)?;
        endpoint::connect(&client, config, address, self.handle, NodeIndex(0)).await
    }

    /// Connects and says hello; gives the answer as well.
    pub(crate) async fn greet(&self, agent: &Agent, hello: Hello) -> (Client, Frame<FromAgent>) {
        let mut client = Client::new(self.connect(agent).await).await;
        client.say(Frame::Hello(hello)).await;
        let answer = client.hear().await.unwrap();
        (client, answer)
    }

    /// A session that is welcome.
    pub(crate) async fn session(&self, agent: &Agent, kind: SessionKind) -> Client {
        let (client, answer) = self.greet(agent, self.hello(kind)).await;
        assert!(
            matches!(answer, Frame::Message(FromAgent::Welcome(_))),
            "{answer:?}"
        );
        client
    }
}

impl Agent {
    /// Waits for the process's end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let wait = tokio::task::spawn_blocking(move || child.wait().unwrap());
        timeout(LONG, wait).await.unwrap().unwrap()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.ready.pid as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The client's end of a control stream.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
}

impl Client {
    /// Opens the control stream and says nothing on it but its header.
    pub(crate) async fn new(connection: Connection) -> Self {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        framed::write_header(&mut send, &StreamHeader::Control)
            .await
            .unwrap();
        Self {
            connection,
            send,
            recv,
        }
    }

    pub(crate) async fn say(&mut self, frame: Frame<ToAgent>) {
        framed::write_control(&mut self.send, &frame).await.unwrap();
    }

    /// The next frame; `None` at the stream's orderly end.
    pub(crate) async fn hear_end(&mut self) -> Option<Frame<FromAgent>> {
        let frame = timeout(LONG, framed::read_control(&mut self.recv)).await;
        frame.expect("an answer in time").expect("a whole frame")
    }

    pub(crate) async fn hear(&mut self) -> Result<Frame<FromAgent>, &'static str> {
        self.hear_end().await.ok_or("the stream has ended")
    }

    pub(crate) async fn ask(&mut self, id: u64, request: Request) -> Result<Answer, String> {
        self.say(Frame::Message(ToAgent::Request { id, request }))
            .await;
        match self.hear().await.unwrap() {
            Frame::Message(FromAgent::Answer { id: same, result }) if same == id => result,
            other => panic!("not the answer to {id}: {other:?}"),
        }
    }

    pub(crate) async fn status(&mut self) -> NodeStatus {
        match self.ask(4711, Request::Status).await {
            Ok(Answer::Status(status)) => *status,
            other => panic!("not a status: {other:?}"),
        }
    }

    pub(crate) async fn ping(&mut self) {
        self.say(Frame::Message(ToAgent::Ping(5))).await;
        let pong = self.hear().await.unwrap();
        assert_eq!(pong, Frame::Message(FromAgent::Pong(5)));
    }

    /// The code and reason with which the agent closes the connection.
    pub(crate) async fn closed(&self) -> (u64, String) {
        closed(&self.connection).await
    }
}

/// The code and reason with which the agent closes a connection.
pub(crate) async fn closed(connection: &Connection) -> (u64, String) {
    let wait = limits::HELLO_WAIT + LONG;
    match timeout(wait, connection.closed()).await.unwrap() {
        quinn::ConnectionError::ApplicationClosed(close) => (
            close.error_code.into_inner(),
            String::from_utf8_lossy(&close.reason).into_owned(),
        ),
        other => panic!("not closed by the agent: {other:?}"),
    }
}

/// Waits for the end of a process that is not a child of this one.
pub(crate) async fn gone(pid: u32) {
    let stat = format!("/proc/{pid}/stat");
    let ends = async {
        while std::fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, ends).await.expect("the process ends");
}
