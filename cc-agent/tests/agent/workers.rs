//! Workers behind an agent, through its port: a worker is started, greets on its lane, and
//! leaves nothing behind when it or its agent ends. The worker's program is the agent's own
//! executable, which contains the runtime and no functions.

use crate::common::{Client, Cluster, LONG, gone};
use cc_core::death::Cause;
use cc_core::ids::{WorkerId, WorkerKey};
use cc_core::net::framed;
use cc_core::wire::control::{
    Answer, Frame, FromAgent, Program, Request, SessionKind, Shutdown, WorkerCommand,
};
use cc_core::wire::stream::StreamHeader;
use tokio::time::timeout;

fn command() -> WorkerCommand {
    WorkerCommand {
        program: Program::Path(env!("CARGO_BIN_EXE_cc-agent").to_owned()),
        name: "worker".to_owned(),
        arguments: Vec::new(),
        environment: Vec::new(),
        directory: None,
        slots: Some(1),
        memory_limit: None,
    }
}

async fn start(owner: &mut Client) -> (WorkerKey, u32) {
    let answer = owner
        .ask(1, Request::StartWorkers(command(), vec![0]))
        .await;
    let key = match answer.unwrap() {
        Answer::Workers(mut workers) => workers.remove(0).1.unwrap(),
        other => panic!("not workers: {other:?}"),
    };
    let status = owner.status().await;
    assert_eq!(status.workers.len(), 1);
    assert_eq!(status.last_command, Some(command()));
    (key, status.workers[0].pid)
}

fn lane(worker: WorkerKey) -> StreamHeader {
    StreamHeader::Lane {
        worker,
        id: WorkerId(2),
    }
}

#[tokio::test]
async fn a_worker_greets_on_every_lane_and_outlives_its_driver() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut owner = cluster.session(&agent, SessionKind::Owner).await;
    let (worker, pid) = start(&mut owner).await;
    for round in 0..2 {
        let (mut send, mut recv) = owner.connection.open_bi().await.unwrap();
        framed::write_header(&mut send, &lane(worker))
            .await
            .unwrap();
        let mut length = [0; 2];
        timeout(LONG, recv.read_exact(&mut length))
            .await
            .unwrap()
            .unwrap();
        let mut frame = vec![0; usize::from(u16::from_le_bytes(length))];
        timeout(LONG, recv.read_exact(&mut frame))
            .await
            .unwrap()
            .unwrap();
        let frame = cc_core::wire::lane::decode(&frame).unwrap();
        let cc_core::wire::lane::Frame::Functions(functions) = frame else {
            panic!("the first frame is {frame:?}");
        };
        assert_eq!((functions.slots, functions.more), (1, false));
        if round == 0 {
            // The driver goes away without a word and another one comes.
            owner.connection.close(0u32.into(), b"");
            owner = cluster.session(&agent, SessionKind::Owner).await;
            assert_eq!(owner.status().await.workers[0].key, worker);
        } else {
            send.finish().unwrap();
            let rest = timeout(LONG, recv.read_to_end(64)).await.unwrap();
            assert_eq!(rest.unwrap(), b"");
        }
    }
    let stopped = Request::StopWorkers {
        workers: vec![worker],
        grace_ms: 2_000,
        reason: "enough".to_owned(),
    };
    owner
        .say(Frame::Message(cc_core::wire::control::ToAgent::Request {
            id: 9,
            request: stopped,
        }))
        .await;
    let (mut done, mut down) = (false, false);
    while !(done && down) {
        match owner.hear().await.unwrap() {
            Frame::Message(FromAgent::WorkerDown { worker: w, death }) => {
                assert_eq!(w, worker);
                assert_eq!(death.cause, Cause::Stopped("enough".to_owned()));
                down = true;
            }
            Frame::Message(FromAgent::Answer { id: 9, result }) => {
                assert_eq!(result, Ok(Answer::Done));
                done = true;
            }
            other => panic!("{other:?}"),
        }
    }
    gone(pid).await;
    // Its lane is gone, too.
    let (mut send, mut recv) = owner.connection.open_bi().await.unwrap();
    framed::write_header(&mut send, &lane(worker))
        .await
        .unwrap();
    assert!(timeout(LONG, recv.read_to_end(64)).await.unwrap().is_err());
}

#[tokio::test]
async fn the_last_command_starts_workers_again_for_a_tool() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let mut tool = cluster.session(&agent, SessionKind::Tool).await;
    let none = tool.ask(1, Request::RestartWorkers).await;
    assert!(none.is_err(), "{none:?}");
    let mut owner = cluster.session(&agent, SessionKind::Owner).await;
    let (_, pid) = start(&mut owner).await;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid as i32),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let Frame::Message(FromAgent::WorkerDown { death, .. }) = owner.hear().await.unwrap() else {
        panic!("no news of the death");
    };
    assert_eq!(death.cause, Cause::Signalled(9));
    let Frame::Message(FromAgent::WorkerDown { .. }) = tool.hear().await.unwrap() else {
        panic!("no news of the death for a tool");
    };
    match tool.ask(2, Request::RestartWorkers).await.unwrap() {
        Answer::Workers(workers) => assert!(workers[0].1.is_ok(), "{workers:?}"),
        other => panic!("not workers: {other:?}"),
    }
}

#[tokio::test]
async fn no_worker_outlives_its_agent() {
    let cluster = Cluster::new();
    // In good order.
    let agent = cluster.start();
    let mut owner = cluster.session(&agent, SessionKind::Owner).await;
    let (_, pid) = start(&mut owner).await;
    owner
        .say(Frame::Shutdown(Shutdown {
            reason: "over".to_owned(),
        }))
        .await;
    while let Some(frame) = owner.hear_end().await {
        assert!(
            matches!(frame, Frame::Message(FromAgent::WorkerDown { .. })),
            "{frame:?}"
        );
    }
    // When the stream has ended, the worker has, too.
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(agent.ended().await.success());
    // And by force.
    let agent = cluster.start();
    let mut owner = cluster.session(&agent, SessionKind::Owner).await;
    let (_, pid) = start(&mut owner).await;
    agent.signal(nix::sys::signal::Signal::SIGKILL);
    gone(pid).await;
}
