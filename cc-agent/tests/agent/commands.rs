//! Commands on a node, and what is left of them when their agent ends: nothing.

use crate::common::{Client, Cluster, LONG, gone};
use cc_agent::client::{self, ExecSession};
use cc_core::wire::control::{Frame, SessionKind, Shutdown};
use cc_core::wire::stream::{Exec, ExecFrame};
use nix::sys::signal::Signal;
use tokio::time::timeout;

/// A command that minds no signal that can be ignored, and a process of it that has left its
/// session. Gives the process ids of both.
async fn deaf(tool: &Client, terminal: Option<(u16, u16)>) -> (ExecSession, [u32; 2]) {
    let script = "trap '' HUP TERM INT; (setsid sh -c 'echo $$; exec sleep 600' < /dev/null 2>&0 &); \
                  echo $$; while :; do sleep 600; done";
    let exec = Exec {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: Vec::new(),
        directory: None,
        terminal,
    };
    let mut session = client::exec(&tool.connection, exec).await.unwrap();
    let mut text = Vec::new();
    while text.iter().filter(|byte| **byte == b'\n').count() < 2 {
        match timeout(LONG, session.next()).await.unwrap().unwrap() {
            Some(ExecFrame::Output(bytes)) => text.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    let text = String::from_utf8(text).unwrap();
    let pids: Vec<u32> = text.lines().map(|l| l.trim().parse().unwrap()).collect();
    (session, pids.try_into().unwrap())
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn no_command_outlives_its_agent() {
    for terminal in [None, Some((80, 24))] {
        // By force.
        let cluster = Cluster::new();
        let agent = cluster.start();
        let tool = cluster.session(&agent, SessionKind::Tool).await;
        let (_session, pids) = deaf(&tool, terminal).await;
        agent.signal(Signal::SIGKILL);
        for pid in pids {
            gone(pid).await;
        }
        drop(agent);

        // In good order: when the agent is gone, they are, too.
        let agent = cluster.start();
        let tool = cluster.session(&agent, SessionKind::Tool).await;
        let (_session, pids) = deaf(&tool, terminal).await;
        let mut other = cluster.session(&agent, SessionKind::Tool).await;
        other
            .say(Frame::Shutdown(Shutdown {
                reason: "over".to_owned(),
            }))
            .await;
        assert!(agent.ended().await.success());
        assert_eq!(pids.map(alive), [false, false]);
    }
}

#[tokio::test]
async fn a_command_whose_client_is_gone_leaves_nothing() {
    let cluster = Cluster::new();
    let agent = cluster.start();
    let tool = cluster.session(&agent, SessionKind::Tool).await;
    let (session, pids) = deaf(&tool, None).await;
    drop(session);
    for pid in pids {
        gone(pid).await;
    }
    // The guard is waited for.
    let children = format!("/proc/{0}/task/{0}/children", agent.ready.pid);
    let childless = async {
        while !std::fs::read_to_string(&children).unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, childless).await.expect("no zombie stays");
    drop(tool);
}
