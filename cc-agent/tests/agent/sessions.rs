//! The agent as a process, seen through its port: sessions, refusals, bad input, and its end.

use std::os::unix::fs::PermissionsExt as _;

use crate::common::{Client, Cluster, LONG, closed};
use cc_core::ids::{ContentHash, NodeIndex, WorkerId, WorkerKey};
use cc_core::limits;
use cc_core::net::framed;
use cc_core::net::identity::{Authority, Role, Subject};
use cc_core::wire::control::{
    Answer, Frame, FromAgent, Program, Refusal, RefusalKind, Request, SessionKind, Shutdown,
    ToAgent, WorkerCommand,
};
use cc_core::wire::stream::{Place, Put, StreamHeader, Transfer};
use nix::sys::signal::Signal;
use quinn::{Connection, SendStream};
use tokio::time::timeout;

const ORDERLY: u64 = 0;
const MALFORMED: u64 = 1;
const IDENTITY: u64 = 2;
const LATE: u64 = 3;
const REFUSED: u64 = 4;

fn refusal(frame: Frame<FromAgent>) -> Refusal {
    match frame {
        Frame::Refusal(refusal) => refusal,
        other => panic!("not a refusal: {other:?}"),
    }
}

fn shutdown() -> Frame<ToAgent> {
    Frame::Shutdown(Shutdown {
        reason: "the test is over".to_owned(),
    })
}

#[tokio::test]
async fn an_owner_is_welcome_and_finds_the_node_as_it_is() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let hello = cluster.hello(SessionKind::Owner);
    let (mut owner, welcome) = cluster.greet(&agent, hello.clone()).await;
    let Frame::Message(FromAgent::Welcome(welcome)) = welcome else {
        panic!("not welcome: {welcome:?}");
    };
    assert_eq!(welcome.session, 1);
    let status = welcome.status;
    assert_eq!((status.node, status.pid), (NodeIndex(0), agent.ready.pid));
    assert!(status.cores >= 1 && status.memory > 0 && !status.hostname.is_empty());
    assert!((590..=600).contains(&status.lease_left), "{status:?}");
    assert_eq!(status.owner, Some(hello.holder));
    owner.ping().await;
    let _tool = cluster.session(&agent, SessionKind::Tool).await;
    assert_eq!(owner.status().await.tools, 1);
    // A renewal lengthens the lease.
    owner
        .say(Frame::Message(ToAgent::Renew { seconds: 1_000 }))
        .await;
    assert!(owner.status().await.lease_left > 900);
    // The end of the control stream is the end of the session.
    owner.send.finish().unwrap();
    assert_eq!(owner.closed().await.0, ORDERLY);
    cluster.session(&agent, SessionKind::Owner).await;
}

#[tokio::test]
async fn a_second_owner_is_told_who_the_first_is_and_may_take_over() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut first = cluster.session(&agent, SessionKind::Owner).await;
    let mut hello = cluster.hello(SessionKind::Owner);
    let (second, answer) = cluster.greet(&agent, hello.clone()).await;
    let refused = refusal(answer);
    assert_eq!(refused.kind, RefusalKind::Owned);
    assert_eq!(refused.holder, Some(hello.holder.clone()));
    assert!(refused.message.contains("a-driver (pid 77 on elsewhere"));
    assert_eq!(second.closed().await.0, REFUSED);
    first.ping().await;

    hello.take_over = true;
    hello.holder.pid = 78;
    let (mut third, answer) = cluster.greet(&agent, hello).await;
    assert!(matches!(answer, Frame::Message(FromAgent::Welcome(_))));
    let evicted = refusal(first.hear().await.unwrap());
    assert_eq!(evicted.kind, RefusalKind::TakenOver);
    assert_eq!(evicted.holder.unwrap().pid, 78);
    assert_eq!(first.closed().await.0, REFUSED);
    // The first session's end does not take the cluster from its new owner.
    assert_eq!(third.status().await.owner.unwrap().pid, 78);
}

#[tokio::test]
async fn an_owner_whose_process_is_gone_holds_nothing() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut hello = cluster.hello(SessionKind::Owner);
    hello.holder.host = cluster
        .session(&agent, SessionKind::Tool)
        .await
        .status()
        .await
        .hostname;
    // Beyond the kernel's largest pid.
    hello.holder.pid = u32::MAX;
    let (_dead, answer) = cluster.greet(&agent, hello).await;
    assert!(matches!(answer, Frame::Message(FromAgent::Welcome(_))));
    cluster.session(&agent, SessionKind::Owner).await;
}

/// Begins a put; gives its stream and the first answer.
async fn put(
    connection: &Connection,
    content: &[u8],
    place: Option<Place>,
) -> (SendStream, Transfer) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let header = StreamHeader::Put(Put {
        hash: ContentHash::of(content),
        length: content.len() as u64,
        place,
        onward: Vec::new(),
    });
    framed::write_header(&mut send, &header).await.unwrap();
    let answer = timeout(LONG, framed::read_value(&mut recv)).await.unwrap();
    (send, answer.unwrap().unwrap())
}

fn file(path: &str) -> Place {
    Place {
        path: path.to_owned(),
        mode: 0o644,
    }
}

#[tokio::test]
async fn an_agent_may_bring_content_but_make_no_files() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let other = cluster.credentials(Role::Agent(NodeIndex(1)));
    let connection = cluster.connect_as(&agent, &other).await.unwrap();
    let mut peer = Client::new(connection).await;
    peer.say(Frame::Hello(cluster.hello(SessionKind::Peer)))
        .await;
    let welcome = peer.hear().await.unwrap();
    assert!(matches!(welcome, Frame::Message(FromAgent::Welcome(_))));

    let target = cluster.directory.path().join("target");
    let path = target.to_str().unwrap();
    let (_, answer) = put(&peer.connection, b"content", Some(file(path))).await;
    let Transfer::Failed(reason) = answer else {
        panic!("not refused: {answer:?}");
    };
    assert!(reason.starts_with("node 0: ") && reason.contains("may not make files"));
    let hash = ContentHash::of(b"content");
    let refused = peer.ask(1, Request::Place(hash, file(path))).await;
    assert!(refused.unwrap_err().contains("may not"));
    assert_eq!(
        peer.ask(2, Request::Have(vec![hash])).await,
        Ok(Answer::Present(vec![false]))
    );
    let (_, answer) = put(&peer.connection, b"content", None).await;
    assert!(matches!(answer, Transfer::Data { .. }), "{answer:?}");
    assert!(!target.exists());
}

#[tokio::test]
async fn slow_transfers_hold_up_only_transfers() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut tool = cluster.session(&agent, SessionKind::Tool).await;
    let connection = tool.connection.clone();
    let stored = zstd::encode_all(&b"content"[..], 1).unwrap();
    let (mut send, _) = put(&connection, b"content", None).await;
    send.write_all(&stored).await.unwrap();
    send.finish().unwrap();
    let mut slow = Vec::new();
    for n in 0..limits::SESSION_TRANSFERS {
        let (send, answer) = put(&connection, format!("never sent {n}").as_bytes(), None).await;
        assert!(matches!(answer, Transfer::Data { .. }), "{answer:?}");
        slow.push(send);
    }
    // One too many, for this session.
    let next = put(&connection, b"one more", None);
    tokio::pin!(next);
    assert!(
        timeout(std::time::Duration::from_millis(100), &mut next)
            .await
            .is_err()
    );
    let other = cluster.session(&agent, SessionKind::Tool).await;
    put(&other.connection, b"another's", None).await;
    slow.pop().unwrap().reset(1u32.into()).unwrap();
    let (_, answer) = next.await;
    assert!(matches!(answer, Transfer::Data { .. }), "{answer:?}");
    let hash = ContentHash::of(b"content");
    let placed = tool.ask(1, Request::Place(hash, file("placed"))).await;
    assert_eq!(placed, Ok(Answer::Done));
}

#[tokio::test]
async fn a_tool_may_look_and_extend_but_not_start_workers() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut tool = cluster.session(&agent, SessionKind::Tool).await;
    let command = WorkerCommand {
        program: Program::Path("/bin/true".to_owned()),
        name: "true".to_owned(),
        arguments: Vec::new(),
        environment: Vec::new(),
        directory: None,
        slots: None,
        memory_limit: None,
    };
    let refused = tool.ask(1, Request::StartWorkers(command, vec![0])).await;
    assert!(refused.unwrap_err().contains("may not"));
    let logs = tool.ask(2, Request::Logs { history: true }).await;
    assert_eq!(logs, Ok(Answer::Done));
    let extended = tool.ask(3, Request::Extend { seconds: 5_000 }).await;
    assert_eq!(extended, Ok(Answer::Done));
    assert!(tool.status().await.lease_left > 4_900);
    // A later process of the same node keeps to it.
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended().await.success());
    let agent = cluster.start();
    let mut tool = cluster.session(&agent, SessionKind::Tool).await;
    assert!(tool.status().await.lease_left > 4_900);
    // A renewal is the owner's.
    tool.say(Frame::Message(ToAgent::Renew { seconds: 1 }))
        .await;
    assert_eq!(tool.closed().await.0, MALFORMED);
}

#[tokio::test]
async fn only_certificates_of_the_cluster_and_for_the_purpose_are_served() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    // Another CA, though it claims the same name; the agent's CA is known to the client.
    let (other, _) = Authority::create(cluster.handle).unwrap();
    let driver = |handle| Subject {
        handle,
        role: Role::Driver,
    };
    let mut forged = other.issue(driver(cluster.handle)).unwrap();
    forged.ca = cluster.authority.certificate().to_owned();
    match cluster.connect_as(&agent, &forged).await {
        Err(_) => {}
        // With TLS 1.3 a client may believe itself connected until the server has looked.
        Ok(connection) => {
            let end = timeout(LONG, connection.closed()).await.unwrap();
            assert!(
                matches!(end, quinn::ConnectionError::ConnectionClosed(_)),
                "{end}"
            );
        }
    }
    // The cluster's own CA, but for another cluster.
    let foreign = cluster
        .authority
        .issue(driver(cc_core::ids::Handle::random()))
        .unwrap();
    let connection = cluster.connect_as(&agent, &foreign).await.unwrap();
    assert_eq!(closed(&connection).await.0, IDENTITY);
    // An agent's certificate is for peers, and a driver's is not.
    let peer = cluster.credentials(Role::Agent(NodeIndex(7)));
    for (kind, welcome) in [(SessionKind::Owner, false), (SessionKind::Peer, true)] {
        let mut client = Client::new(cluster.connect_as(&agent, &peer).await.unwrap()).await;
        client.say(Frame::Hello(cluster.hello(kind))).await;
        match client.hear().await.unwrap() {
            Frame::Message(FromAgent::Welcome(_)) => assert!(welcome),
            other => {
                assert!(!welcome);
                assert_eq!(refusal(other).kind, RefusalKind::Role);
            }
        }
    }
    let (_, answer) = cluster
        .greet(&agent, cluster.hello(SessionKind::Peer))
        .await;
    assert_eq!(refusal(answer).kind, RefusalKind::Role);
    // The right certificate for the wrong node.
    let mut hello = cluster.hello(SessionKind::Owner);
    hello.node = NodeIndex(3);
    let (_, answer) = cluster.greet(&agent, hello).await;
    assert_eq!(refusal(answer).kind, RefusalKind::WrongNode);
}

#[tokio::test]
async fn another_protocol_is_refused_by_name_and_can_still_end_the_agent() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut hello = cluster.hello(SessionKind::Owner);
    hello.protocol = 999;
    let (client, answer) = cluster.greet(&agent, hello).await;
    let refused = refusal(answer);
    assert_eq!(refused.kind, RefusalKind::Protocol);
    assert!(refused.message.contains("999"), "{}", refused.message);
    assert_eq!(client.closed().await.0, REFUSED);
    let mut client = Client::new(cluster.connect(&agent).await).await;
    client.say(shutdown()).await;
    assert_eq!(client.hear_end().await, None);
    assert!(agent.ended().await.success());
}

#[tokio::test]
async fn malformed_bytes_end_their_connection_and_nothing_else() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut witness = cluster.session(&agent, SessionKind::Owner).await;
    let noise: Vec<u8> = (0..4096u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let huge = (1u32 << 31).to_le_bytes().to_vec();
    let unknown_kind = [vec![3, 0, 0, 0], vec![200, 1, 2]].concat();
    let empty = vec![0; 4];
    let second_hello =
        cc_core::wire::control::encode::<ToAgent>(&Frame::Hello(cluster.hello(SessionKind::Tool)))
            .unwrap();
    for bytes in [&noise, &huge, &unknown_kind, &empty, &second_hello] {
        let mut client = cluster.session(&agent, SessionKind::Tool).await;
        client.send.write_all(bytes).await.unwrap();
        let (code, reason) = client.closed().await;
        assert_eq!(code, MALFORMED, "{reason}");
        assert!(!reason.is_empty());
    }
    for bytes in [&noise, &huge, &unknown_kind, &empty] {
        // Instead of a hello.
        let mut client = Client::new(cluster.connect(&agent).await).await;
        client.send.write_all(bytes).await.unwrap();
        assert_eq!(client.closed().await.0, MALFORMED);
        // Instead of the first stream's header, and of a later one's.
        let connection = cluster.connect(&agent).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(&[&[0xff, 0][..], &[0xee; 255]].concat())
            .await
            .unwrap();
        assert_eq!(closed(&connection).await.0, MALFORMED);
        let client = cluster.session(&agent, SessionKind::Tool).await;
        let (mut send, _recv) = client.connection.open_bi().await.unwrap();
        send.write_all(&[&[9, 0][..], &[0xee; 9]].concat())
            .await
            .unwrap();
        assert_eq!(client.closed().await.0, MALFORMED);
    }
    witness.ping().await;
}

#[tokio::test]
async fn whoever_says_nothing_is_not_waited_for() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mute = cluster.connect(&agent).await;
    let mut owner = cluster.session(&agent, SessionKind::Owner).await;
    let (mut send, mut recv) = owner.connection.open_bi().await.unwrap();
    // Half of a header's length: without a byte the stream would not be seen at all.
    send.write_all(&[9]).await.unwrap();
    let late = timeout(limits::STREAM_HEADER_WAIT + LONG, recv.read_to_end(64));
    let (closed, late) = tokio::join!(closed(&mute), late);
    assert_eq!(closed.0, LATE);
    let late = late.unwrap().unwrap_err().to_string();
    assert!(late.contains("reset"), "{late}");
    owner.ping().await;
}

#[tokio::test]
async fn a_lane_to_a_worker_that_is_not_there_is_reset() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut owner = cluster.session(&agent, SessionKind::Owner).await;
    let mut tool = cluster.session(&agent, SessionKind::Tool).await;
    let header = StreamHeader::Lane {
        worker: WorkerKey {
            slot: 5,
            incarnation: 99,
        },
        id: WorkerId(2),
    };
    for client in [&mut owner, &mut tool] {
        let (mut send, mut recv) = client.connection.open_bi().await.unwrap();
        framed::write_header(&mut send, &header).await.unwrap();
        let ended = timeout(LONG, recv.read_to_end(64)).await.unwrap();
        assert!(ended.unwrap_err().to_string().contains("reset"));
        client.ping().await;
    }
}

#[tokio::test]
async fn shutdown_ends_the_process_and_frees_its_directory() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut owner = cluster.session(&agent, SessionKind::Owner).await;
    let mut tool = cluster.session(&agent, SessionKind::Tool).await;
    owner.say(shutdown()).await;
    let told = refusal(tool.hear().await.unwrap());
    assert_eq!(told.kind, RefusalKind::Ending);
    assert!(told.message.contains("the test is over"));
    assert_eq!(owner.hear_end().await, None);
    assert!(agent.ended().await.success());
    let node = cluster.settings().directory;
    assert_eq!(std::fs::read(node.join("agent.lock")).unwrap(), b"");
    let log = std::fs::read_to_string(node.join("agent.log")).unwrap();
    assert!(log.contains("the test is over"), "{log}");
    // The directory can be used again.
    cluster.start();
}

#[tokio::test]
async fn the_lease_ends_an_agent_that_hears_of_nobody() {
    let cluster = Cluster::new();
    let settings = cc_core::wire::bootstrap::Settings {
        driver_timeout: 1,
        ..cluster.settings()
    };
    let agent = cluster.start_with(&settings).unwrap();
    let mut owner = cluster.session(&agent, SessionKind::Owner).await;
    // The first driver is waited for longer.
    assert!(owner.status().await.lease_left > 60);
    owner
        .say(Frame::Message(ToAgent::Renew { seconds: 1 }))
        .await;
    // A mere connection renews nothing.
    let mut tool = cluster.session(&agent, SessionKind::Tool).await;
    let told = refusal(tool.hear().await.unwrap());
    assert_eq!(told.kind, RefusalKind::Ending);
    assert!(told.message.contains("lease"), "{}", told.message);
    assert!(agent.ended().await.success());
}

#[tokio::test]
async fn an_agent_whose_directory_was_removed_ends() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut tool = cluster.session(&agent, SessionKind::Tool).await;
    std::fs::remove_dir_all(cluster.settings().directory).unwrap();
    let told = refusal(tool.hear().await.unwrap());
    assert!(told.message.contains("removed"), "{}", told.message);
    assert!(agent.ended().await.success());
}

#[tokio::test]
async fn a_terminal_cannot_end_it_but_sigterm_does() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut tool = cluster.session(&agent, SessionKind::Tool).await;
    agent.signal(Signal::SIGINT);
    agent.signal(Signal::SIGHUP);
    tool.ping().await;
    let pid = nix::unistd::Pid::from_raw(agent.ready.pid as i32);
    assert_eq!(nix::unistd::getsid(Some(pid)).unwrap(), pid);
    agent.signal(Signal::SIGTERM);
    let told = refusal(tool.hear().await.unwrap());
    assert_eq!(told.kind, RefusalKind::Ending);
    assert!(agent.ended().await.success());
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    // The directory is taken.
    let reason = cluster.start_with(&cluster.settings()).err().unwrap();
    let holder = format!("pid {} at {}", agent.ready.pid, agent.ready.address);
    assert!(reason.contains(&holder), "{reason}");
    // The port is taken.
    let mut settings = cluster.settings();
    settings.directory = cluster.directory.path().join("other");
    settings.listen = agent.ready.address;
    let reason = cluster.start_with(&settings).err().unwrap();
    assert!(reason.contains("port is taken"), "{reason}");
    // The directory cannot be made.
    settings.directory = "/proc/nothing/here".into();
    let reason = cluster.start_with(&settings).err().unwrap();
    assert!(reason.contains("/proc/nothing/here"), "{reason}");
    // The starter is of another version.
    settings.protocol = 999;
    let reason = cluster.start_with(&settings).err().unwrap();
    assert!(reason.contains("999"), "{reason}");
}

#[tokio::test]
async fn what_an_agent_keeps_is_private_and_names_it() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let node = cluster.settings().directory;
    for name in ["agent.key", "agent.pem", "ca.pem", "agent.lock"] {
        let mode = node.join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(node.join("work").is_dir());
    let text = std::fs::read(node.join("agent.lock")).unwrap();
    let ready: cc_core::wire::bootstrap::Ready = serde_json::from_slice(&text).unwrap();
    assert_eq!(ready, agent.ready);
    // Nothing of the starter's is held: no terminal, no pipe.
    for fd in ["0", "1"] {
        let link = std::fs::read_link(format!("/proc/{}/fd/{fd}", ready.pid)).unwrap();
        assert_eq!(link.to_str().unwrap(), "/dev/null");
    }
}

#[tokio::test]
async fn an_idle_agent_is_small() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut owner = cluster.session(&agent, SessionKind::Owner).await;
    owner.ping().await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.ready.pid)).unwrap();
    for line in status
        .lines()
        .filter(|l| l.contains("Rss") || l.contains("VmRSS"))
    {
        println!("idle agent with one session: {line}");
    }
    // The rest is the executable's pages, of which a debug build has many, and which all
    // agents of a machine share.
    let anonymous = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib = anonymous.unwrap().trim().trim_end_matches(" kB");
    assert!(kib.parse::<u64>().unwrap() <= 10 * 1024, "{kib} KiB");
}
