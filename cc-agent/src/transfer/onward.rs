//! Passing content on to the nodes below this one in the tree.
//!
//! Each branch has a task that connects to its head with this agent's certificate and
//! writes what comes out of its pipe. A full pipe holds everyone back, up to a limit: then
//! the branch is given up, and the nodes below its head get another chance later.

use std::time::Duration;

use cc_core::ids::{Handle, NodeIndex};
use cc_core::limits;
use cc_core::net::identity::Credentials;
use cc_core::net::{endpoint, framed};
use cc_core::tree::Branch;
use cc_core::wire::PROTOCOL;
use cc_core::wire::control::{Frame, FromAgent, Hello, Holder, SessionKind, ToAgent};
use cc_core::wire::stream::{PeerAddress, Put, StreamHeader, Transfer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{PutStream, TransferError};
use crate::transfer::TransferNode;
use crate::transfer::pipe::{self, Part};

/// Pipes that all get the same.
pub(crate) struct Fan {
    outputs: Vec<(mpsc::Sender<Part>, Duration)>,
}

impl Fan {
    /// One more pipe, which may hold the others back for this long at a time.
    pub(crate) fn add(&mut self, output: mpsc::Sender<Part>, patience: Duration) {
        self.outputs.push((output, patience));
    }

    /// Whether nobody wants any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }

    /// Gives a part to all, and drops the pipes that are closed or stuck.
    pub(crate) async fn send(&mut self, part: Part) {
        let mut at = 0;
        while let Some((output, patience)) = self.outputs.get(at) {
            // The part's bytes are shared, not copied.
            match timeout(*patience, output.send(part.clone())).await {
                Ok(Ok(())) => at += 1,
                Ok(Err(_)) | Err(_) => {
                    self.outputs.swap_remove(at);
                }
            }
        }
    }
}

/// The nodes below, while content is passed on to them.
pub(crate) struct Below {
    tasks: JoinSet<Outcome>,
    outputs: Vec<(mpsc::Sender<Part>, Duration)>,
    wants: mpsc::Receiver<()>,
}

/// What became of a branch.
struct Outcome {
    errors: Vec<String>,
    unreached: Vec<PeerAddress>,
}

impl Below {
    /// Connects to the heads of the branches.
    pub(crate) fn start(node: &TransferNode, put: &Put, branches: &[Branch<PeerAddress>]) -> Self {
        let (want, wants) = mpsc::channel(branches.len().max(1));
        let mut below = Self {
            tasks: JoinSet::new(),
            outputs: Vec::new(),
            wants,
        };
        for branch in branches {
            let (output, parts) = mpsc::channel(pipe::DEPTH);
            // A head is itself held back by those below it, and knows better whom to give up.
            let depth = 1 + (branch.below.len() + 1).ilog2();
            below
                .outputs
                .push((output, limits::TRANSFER_STALL * (1 + depth)));
            let link = Link {
                from: node.node,
                handle: node.handle,
                credentials: node.credentials.clone(),
                head: branch.member.clone(),
            };
            // Where it goes on the others is not an agent's to say.
            let put = Put {
                hash: put.hash,
                length: put.length,
                place: None,
                onward: branch.below.clone(),
            };
            below.tasks.spawn(link.pass_on(put, parts, want.clone()));
        }
        below
    }

    /// Whether any of the heads needs the data; waits until one says so, or all have said
    /// otherwise.
    pub(crate) async fn wanted(&mut self) -> bool {
        self.wants.recv().await.is_some()
    }

    /// The pipes to the heads.
    pub(crate) fn fan(&mut self) -> Fan {
        Fan {
            outputs: std::mem::take(&mut self.outputs),
        }
    }

    /// Waits for everyone's answer. Returns the nodes below heads that failed.
    pub(crate) async fn finish(mut self, errors: &mut Vec<String>) -> Vec<PeerAddress> {
        // A head that was not given its pipe's end waits no longer.
        self.outputs.clear();
        let mut unreached = Vec::new();
        while let Some(result) = self.tasks.join_next().await {
            match result {
                Ok(outcome) => {
                    errors.extend(outcome.errors);
                    unreached.extend(outcome.unreached);
                }
                Err(error) => errors.push(format!("passing on: {error}")),
            }
        }
        unreached
    }
}

/// The way to one head.
struct Link {
    from: NodeIndex,
    handle: Handle,
    credentials: Credentials,
    head: PeerAddress,
}

impl Link {
    async fn pass_on(
        self,
        put: Put,
        parts: mpsc::Receiver<Part>,
        want: mpsc::Sender<()>,
    ) -> Outcome {
        let below = put.onward.clone();
        match self.try_pass_on(put, parts, want).await {
            Ok(()) => Outcome {
                errors: Vec::new(),
                unreached: Vec::new(),
            },
            // The head has seen to those below it, and names whoever failed.
            Err(Failure::Reported(text)) => Outcome {
                errors: vec![text],
                unreached: Vec::new(),
            },
            Err(Failure::Lost(phase, text)) => Outcome {
                errors: vec![format!(
                    "{}: {phase} from {}: {text}",
                    self.head.node, self.from
                )],
                unreached: below,
            },
        }
    }

    async fn try_pass_on(
        &self,
        put: Put,
        mut parts: mpsc::Receiver<Part>,
        want: mpsc::Sender<()>,
    ) -> Result<(), Failure> {
        let session = self
            .connect()
            .await
            .map_err(|e| Failure::Lost("connecting", e))?;
        let sending = |e: TransferError| match e.because_of(&session.connection) {
            TransferError::Node(text) => Failure::Reported(text),
            other => Failure::Lost("passing on", other.to_string()),
        };
        let (mut stream, answer) = PutStream::open(&session.connection, put)
            .await
            .map_err(sending)?;
        match answer {
            Transfer::Data { .. } => {
                let _ = want.try_send(());
                drop(want);
                loop {
                    match parts.recv().await {
                        Some(Part::Data(mut chunks)) => {
                            if !stream.write(&mut chunks).await.map_err(sending)? {
                                break;
                            }
                        }
                        Some(Part::End) => break,
                        None => {
                            stream.abandon();
                            let why = "the data broke off before its end".to_owned();
                            return Err(Failure::Lost("passing on", why));
                        }
                    }
                }
                // So that the others are not held back by what this one will not read.
                drop(parts);
            }
            _ => {
                drop(want);
                drop(parts);
            }
        }
        let result = stream.finish().await.map_err(sending);
        session.connection.close(0u32.into(), b"done");
        result
    }

    async fn connect(&self) -> Result<Session, String> {
        let address = self.head.address;
        let text = |e: endpoint::EndpointError| e.to_string();
        let endpoint = endpoint::client(address.ip()).map_err(text)?;
        let config =
            endpoint::client_config(&self.credentials, address.ip().is_loopback()).map_err(text)?;
        let connection = endpoint::connect(&endpoint, config, address, self.handle, self.head.node)
            .await
            .map_err(text)?;
        let control = timeout(limits::HELLO_WAIT, self.greet(&connection))
            .await
            .map_err(|_| format!("no welcome within {} s", limits::HELLO_WAIT.as_secs()))??;
        Ok(Session {
            connection,
            _control: control,
            _endpoint: endpoint,
        })
    }

    async fn greet(
        &self,
        connection: &quinn::Connection,
    ) -> Result<(quinn::SendStream, quinn::RecvStream), String> {
        let (mut send, mut recv) = connection.open_bi().await.map_err(|e| e.to_string())?;
        let hello = Frame::<ToAgent>::Hello(Hello {
            protocol: PROTOCOL,
            handle: self.handle,
            node: self.head.node,
            session: SessionKind::Peer,
            take_over: false,
            holder: holder(self.from),
        });
        framed::write_header(&mut send, &StreamHeader::Control)
            .await
            .map_err(|e| e.to_string())?;
        framed::write_control(&mut send, &hello)
            .await
            .map_err(|e| e.to_string())?;
        let answer = framed::read_control::<FromAgent>(&mut recv)
            .await
            .map_err(|e| e.to_string())?;
        match answer {
            Some(Frame::Message(FromAgent::Welcome(_))) => Ok((send, recv)),
            Some(Frame::Refusal(refusal)) => Err(format!("refused: {}", refusal.message)),
            Some(_) | None => Err("no welcome".to_owned()),
        }
    }
}

/// A connection to another agent, with what keeps it open.
struct Session {
    connection: quinn::Connection,
    _control: (quinn::SendStream, quinn::RecvStream),
    _endpoint: quinn::Endpoint,
}

enum Failure {
    /// The head answers, and says what failed.
    Reported(String),
    /// The head does not answer; the phase, and why.
    Lost(&'static str, String),
}

fn holder(node: NodeIndex) -> Holder {
    let host = nix::unistd::gethostname().unwrap_or_default();
    Holder {
        host: host.to_string_lossy().into_owned(),
        pid: std::process::id(),
        program: format!("agent of {node}"),
        started: 0,
    }
}
