//! Agents that only serve transfers and commands, in the tests' own process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cc_core::ids::{ContentHash, Handle, NodeIndex};
use cc_core::limits;
use cc_core::net::identity::{Authority, Role, Subject};
use cc_core::net::{endpoint, framed};
use cc_core::wire::control::{
    Frame, FromAgent, NodeStatus, Refusal, RefusalKind, ToAgent, Welcome,
};
use cc_core::wire::stream::{PeerAddress, Place, Put, StreamHeader, Transfer};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::exec::serve_exec;
use crate::store::Store;
use crate::transfer::{TransferNode, serve_get, serve_put};

/// How an agent behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Manner {
    Good,
    /// Refuses every session.
    Refusing,
    /// Ends its connections when it has been promised data.
    Dying,
}

pub(crate) struct Cluster {
    pub(crate) handle: Handle,
    authority: Authority,
}

pub(crate) struct Agent {
    pub(crate) node: TransferNode,
    pub(crate) address: SocketAddr,
    /// Connections that it has accepted.
    pub(crate) accepted: Arc<AtomicU64>,
    /// Keeps the node's files.
    _directory: TempDir,
    _endpoint: quinn::Endpoint,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let handle = Handle::random();
        let (authority, _) = Authority::create(handle).unwrap();
        Self { handle, authority }
    }

    pub(crate) fn agent(&self, index: u32, manner: Manner) -> Agent {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("store");
        self.agent_with(index, manner, directory, store)
    }

    pub(crate) fn agent_with(
        &self,
        index: u32,
        manner: Manner,
        directory: TempDir,
        store: PathBuf,
    ) -> Agent {
        let role = Role::Agent(NodeIndex(index));
        let handle = self.handle;
        let credentials = self.authority.issue(Subject { handle, role }).unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = endpoint::serve(listen, &credentials).unwrap();
        let base = directory.path().join("work");
        std::fs::create_dir(&base).unwrap();
        let agent = Agent {
            node: TransferNode {
                node: NodeIndex(index),
                handle,
                store: Store::open(&store).unwrap(),
                base,
                credentials,
                turns: Arc::new(Semaphore::new(limits::TRANSFERS)),
            },
            address: endpoint.local_addr().unwrap(),
            accepted: Arc::default(),
            _directory: directory,
            _endpoint: endpoint.clone(),
        };
        let (node, accepted) = (agent.node.clone(), Arc::clone(&agent.accepted));
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let node = node.clone();
                tokio::spawn(async move {
                    let connection = incoming.await.unwrap();
                    while let Ok((send, recv)) = connection.accept_bi().await {
                        let stream = serve(node.clone(), manner, connection.clone(), send, recv);
                        tokio::spawn(stream);
                    }
                });
            }
        });
        agent
    }

    /// A driver's connection; the endpoint keeps it open.
    pub(crate) async fn connect(&self, agent: &Agent) -> (quinn::Endpoint, quinn::Connection) {
        let role = Role::Driver;
        let handle = self.handle;
        let credentials = self.authority.issue(Subject { handle, role }).unwrap();
        let endpoint = endpoint::client(agent.address.ip()).unwrap();
        let config = endpoint::client_config(&credentials, true).unwrap();
        let connection =
            endpoint::connect(&endpoint, config, agent.address, handle, agent.node.node)
                .await
                .unwrap();
        (endpoint, connection)
    }
}

async fn serve(
    node: TransferNode,
    manner: Manner,
    connection: quinn::Connection,
    mut send: quinn::SendStream,
    mut recv: quinn::RecvStream,
) {
    match framed::read_header(&mut recv).await.unwrap() {
        StreamHeader::Control => {
            let hello = framed::read_control::<ToAgent>(&mut recv).await.unwrap();
            assert!(matches!(hello, Some(Frame::Hello(_))), "{hello:?}");
            let frame = if manner == Manner::Refusing {
                Frame::Refusal(Refusal {
                    kind: RefusalKind::Busy,
                    message: "too busy".to_owned(),
                    holder: None,
                    protocol: 0,
                })
            } else {
                Frame::Message(FromAgent::Welcome(Box::new(welcome(&node))))
            };
            framed::write_control(&mut send, &frame).await.unwrap();
            connection.closed().await;
        }
        StreamHeader::Put(_) if manner == Manner::Dying => {
            let answer = Transfer::Data {
                length: None,
                mode: 0,
            };
            framed::write_value(&mut send, &answer).await.unwrap();
            let _ = recv.read_chunk(1, true).await;
            connection.close(7u32.into(), b"dying");
        }
        StreamHeader::Put(put) => serve_put(&node, put, send, recv).await,
        StreamHeader::Get(get) => serve_get(&node, get, send, recv).await,
        StreamHeader::Exec(exec) => serve_exec(&node.base, exec, send, recv).await,
        other => panic!("{other:?}"),
    }
}

fn welcome(node: &TransferNode) -> Welcome {
    let status = NodeStatus {
        node: node.node,
        version: String::new(),
        pid: 0,
        hostname: String::new(),
        cores: 1,
        memory: 0,
        architecture: String::new(),
        uptime: 0,
        lease_left: 0,
        owner: None,
        tools: 0,
        workers: Vec::new(),
        last_command: None,
    };
    Welcome { session: 1, status }
}

pub(crate) fn peer(agent: &Agent) -> PeerAddress {
    PeerAddress {
        node: agent.node.node,
        address: agent.address,
    }
}

/// A put of content that goes to no place.
pub(crate) fn put_of(content: &[u8]) -> Put {
    Put {
        hash: ContentHash::of(content),
        length: content.len() as u64,
        place: None,
        onward: Vec::new(),
    }
}

pub(crate) fn place(path: &str, mode: u32) -> Option<Place> {
    Some(Place {
        path: path.to_owned(),
        mode,
    })
}

/// Half of it compresses.
pub(crate) fn content(length: usize) -> Vec<u8> {
    let mut content = vec![0; length];
    let mut noise = blake3::Hasher::new().finalize_xof();
    for chunk in content.chunks_mut(64) {
        let half = chunk.len() / 2;
        noise.fill(&mut chunk[..half]);
    }
    content
}
