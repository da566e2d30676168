//! One of every message that travels, and arbitrary ones: what the wire tests work on.

use cc_core::codec;
use cc_core::death::{Cause, Death};
use cc_core::function::FunctionName;
use cc_core::ids::{ContentHash, Handle, NodeIndex, WorkerId, WorkerKey};
use cc_core::payload::{Array, Bytes, Payload};
use cc_core::wire::bootstrap::{Identity, Ready, Report, Settings};
use cc_core::wire::control::{self, *};
use cc_core::wire::lane::{self, Done, Outcome, Panic, Task, Value};
use cc_core::wire::local::{FromWorker, GuardReport, ToWorker};
use cc_core::wire::stream::{self, *};
use serde::Serialize;

/// A message's name and its bytes.
pub(crate) type Sample = (String, Vec<u8>);

/// The messages of one type.
pub(crate) struct Samples {
    /// The type, as it is called in the snapshot.
    pub(crate) group: &'static str,
    /// The messages.
    pub(crate) samples: Vec<Sample>,
    /// For an encoded enumeration: what its decoder says to bytes, so that a test can see
    /// whether a variant is missing above.
    pub(crate) variants: Option<fn(&[u8]) -> String>,
}

fn refusal<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> String {
    codec::decode::<T>(bytes)
        .err()
        .map_or_else(String::new, |e| e.to_string())
}

/// Samples of an enumeration that is encoded by itself.
fn encoded<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
    group: &'static str,
    messages: Vec<(&str, T)>,
) -> Samples {
    let samples = messages.into_iter().map(|(name, message)| {
        let bytes = codec::encode(&message).unwrap();
        assert_eq!(codec::decode::<T>(&bytes).as_ref(), Ok(&message));
        (name.to_owned(), bytes)
    });
    Samples {
        group,
        samples: samples.collect(),
        variants: Some(refusal::<T>),
    }
}

/// Samples in JSON.
fn json<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
    group: &'static str,
    messages: Vec<(&str, T)>,
) -> Samples {
    let samples = messages.into_iter().map(|(name, message)| {
        let bytes = serde_json::to_vec(&message).unwrap();
        assert_eq!(serde_json::from_slice::<T>(&bytes).unwrap(), message);
        (name.to_owned(), bytes)
    });
    Samples {
        group,
        samples: samples.collect(),
        variants: None,
    }
}

pub(crate) fn handle() -> Handle {
    "abcdefghijklmno".parse().unwrap()
}

fn hash() -> ContentHash {
    ContentHash(std::array::from_fn(|i| i as u8))
}

fn key() -> WorkerKey {
    WorkerKey {
        slot: 1,
        incarnation: 300,
    }
}

pub(crate) fn holder() -> Holder {
    Holder {
        host: "laptop".into(),
        pid: 4321,
        program: "csv".into(),
        started: 1_700_000_000,
    }
}

fn death() -> Death {
    Death {
        cause: Cause::Signalled(9),
        peak_memory: Some(1 << 30),
        out_of_memory: Some("oom_kill 1".into()),
        stderr_tail: vec!["last".into(), "words".into()],
    }
}

fn command() -> WorkerCommand {
    WorkerCommand {
        program: Program::Content(hash()),
        name: "csv".into(),
        arguments: vec!["--fast".into()],
        environment: vec![("A".into(), "1".into())],
        directory: Some("work".into()),
        slots: Some(2),
        memory_limit: Some(1 << 32),
    }
}

fn status() -> NodeStatus {
    NodeStatus {
        node: NodeIndex(3),
        version: "0.1.0".into(),
        pid: 99,
        hostname: "n3".into(),
        cores: 2,
        memory: 1 << 33,
        architecture: "x86_64".into(),
        uptime: 60,
        lease_left: 600,
        owner: Some(holder()),
        tools: 1,
        workers: vec![WorkerStatus {
            key: key(),
            pid: 100,
            resident: 1 << 20,
            uptime: 59,
            id: Some(WorkerId(2)),
        }],
        last_command: Some(command()),
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        protocol: 1,
        handle: handle(),
        node: NodeIndex(3),
        session: SessionKind::Owner,
        take_over: false,
        holder: holder(),
    }
}

/// The frames whose bytes are JSON and never change.
fn greetings() -> Vec<(&'static str, control::Frame<ToAgent>)> {
    let refusal = |kind, holder| {
        control::Frame::Refusal(Refusal {
            kind,
            message: "no".into(),
            holder,
            protocol: 1,
        })
    };
    let hello = |session, take_over| {
        control::Frame::Hello(Hello {
            session,
            take_over,
            ..self::hello()
        })
    };
    vec![
        ("Hello owner", hello(SessionKind::Owner, false)),
        ("Hello tool", hello(SessionKind::Tool, false)),
        ("Hello peer", hello(SessionKind::Peer, true)),
        ("Refusal protocol", refusal(RefusalKind::Protocol, None)),
        ("Refusal role", refusal(RefusalKind::Role, None)),
        ("Refusal wrong node", refusal(RefusalKind::WrongNode, None)),
        ("Refusal owned", refusal(RefusalKind::Owned, Some(holder()))),
        (
            "Refusal taken over",
            refusal(RefusalKind::TakenOver, Some(holder())),
        ),
        ("Refusal busy", refusal(RefusalKind::Busy, None)),
        ("Refusal ending", refusal(RefusalKind::Ending, None)),
        ("Refusal other", refusal(RefusalKind::Other, None)),
        (
            "Shutdown",
            control::Frame::Shutdown(Shutdown {
                reason: "terminate".into(),
            }),
        ),
        ("Message", control::Frame::Message(ToAgent::Ping(1))),
    ]
}

fn requests() -> Vec<(&'static str, Request)> {
    vec![
        ("StartWorkers", Request::StartWorkers(command(), vec![0, 1])),
        (
            "StopWorkers",
            Request::StopWorkers {
                workers: vec![key()],
                grace_ms: 2000,
                reason: "restart".into(),
            },
        ),
        ("Have", Request::Have(vec![hash()])),
        (
            "Place",
            Request::Place(
                hash(),
                Place {
                    path: "in.csv".into(),
                    mode: 0o644,
                },
            ),
        ),
        ("Logs", Request::Logs { history: true }),
        ("Status", Request::Status),
        ("Extend", Request::Extend { seconds: 3600 }),
        ("RestartWorkers", Request::RestartWorkers),
    ]
}

fn from_agent() -> Vec<(&'static str, FromAgent)> {
    let answer = |result| FromAgent::Answer { id: 7, result };
    let line = |source| {
        FromAgent::Log(vec![LogLine {
            worker: key(),
            source,
            text: "line".into(),
        }])
    };
    vec![
        (
            "Welcome",
            FromAgent::Welcome(Box::new(Welcome {
                session: 5,
                status: status(),
            })),
        ),
        ("Pong", FromAgent::Pong(1)),
        ("Answer done", answer(Ok(Answer::Done))),
        (
            "Answer workers",
            answer(Ok(Answer::Workers(vec![(0, Ok(key())), (1, Err(death()))]))),
        ),
        (
            "Answer present",
            answer(Ok(Answer::Present(vec![true, false]))),
        ),
        (
            "Answer status",
            answer(Ok(Answer::Status(Box::new(status())))),
        ),
        ("Answer failed", answer(Err("place: disk full".into()))),
        (
            "WorkerDown",
            FromAgent::WorkerDown {
                worker: key(),
                death: death(),
            },
        ),
        ("Log stdout", line(LogSource::Stdout)),
        ("Log stderr", line(LogSource::Stderr)),
        ("Log dropped", line(LogSource::Dropped(12))),
    ]
}

fn causes() -> Vec<(&'static str, Cause)> {
    vec![
        ("Exited", Cause::Exited(-1)),
        ("Signalled", Cause::Signalled(9)),
        ("NotStarted", Cause::NotStarted("exec: not found".into())),
        ("Stopped", Cause::Stopped("restart".into())),
        ("NodeLost", Cause::NodeLost("silent".into())),
    ]
}

fn headers() -> Vec<(&'static str, StreamHeader)> {
    let bulk = |direction| StreamHeader::Bulk {
        worker: key(),
        task: 300,
        direction,
    };
    vec![
        ("Control", StreamHeader::Control),
        (
            "Lane",
            StreamHeader::Lane {
                worker: key(),
                id: WorkerId(2),
            },
        ),
        ("Bulk argument", bulk(Direction::Argument)),
        ("Bulk result", bulk(Direction::Result)),
        (
            "Put",
            StreamHeader::Put(Put {
                hash: hash(),
                length: 1 << 20,
                place: Some(Place {
                    path: "bin/csv".into(),
                    mode: 0o755,
                }),
                onward: vec![
                    PeerAddress {
                        node: NodeIndex(1),
                        address: "127.0.0.2:7000".parse().unwrap(),
                    },
                    PeerAddress {
                        node: NodeIndex(2),
                        address: "[::1]:7000".parse().unwrap(),
                    },
                ],
            }),
        ),
        ("Get", StreamHeader::Get(Get { path: "out".into() })),
        (
            "Exec",
            StreamHeader::Exec(Exec {
                argv: vec!["sh".into(), "-c".into(), "ls".into()],
                env: vec![("A".into(), "1".into())],
                directory: None,
                terminal: Some((80, 24)),
            }),
        ),
    ]
}

fn lane_frames() -> Vec<Sample> {
    let frame = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    let task = |urgent, arguments| {
        let task = Task {
            id: 300,
            urgent,
            function: 7,
            arguments,
        };
        frame(&|out| lane::put_task(out, &task))
    };
    let done = |outcome, value| {
        let done = Done {
            id: 300,
            outcome,
            value,
        };
        frame(&|out| lane::put_done(out, &done))
    };
    let empty = || Value::Inline(b"", vec![]);
    let functions = [FunctionName {
        name: "csv::count".into(),
        hash: u64::MAX,
    }];
    let panic = codec::encode(&Panic {
        message: "index out of bounds".into(),
        location: Some("src/main.rs:1:2".into()),
    });
    [
        (
            "Task inline",
            task(false, Value::Inline(b"ab", vec![b"c", b""])),
        ),
        ("Task urgent", task(true, empty())),
        ("Task bulk", task(false, Value::Bulk(1 << 20))),
        ("Task stored", task(false, Value::Stored(hash(), 300))),
        ("Cancel", frame(&|out| lane::put_cancel(out, u32::MAX))),
        ("TakeBack", frame(&|out| lane::put_take_back(out, 5))),
        (
            "Done returned",
            done(Outcome::Returned, Value::Inline(b"x", vec![])),
        ),
        ("Done bulk", done(Outcome::Returned, Value::Bulk(70_000))),
        (
            "Done panicked",
            done(Outcome::Panicked, Value::Inline(&panic.unwrap(), vec![])),
        ),
        (
            "Done fault",
            done(Outcome::Fault, Value::Inline(b"\x02no", vec![])),
        ),
        ("Done taken back", done(Outcome::TakenBack, empty())),
        ("Done cancelled", done(Outcome::Cancelled, empty())),
        (
            "Functions",
            lane::function_frames(&functions, 2, 9).unwrap(),
        ),
        ("Functions none", lane::function_frames(&[], 1, 0).unwrap()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

fn to_worker() -> Vec<(&'static str, ToWorker)> {
    vec![
        (
            "Start",
            ToWorker::Start {
                node: NodeIndex(3),
                key: key(),
                slots: 2,
            },
        ),
        (
            "Lane",
            ToWorker::Lane {
                session: 5,
                id: WorkerId(2),
                store: "/tmp/store".into(),
            },
        ),
        (
            "Bulk",
            ToWorker::Bulk {
                session: 5,
                task: 300,
                direction: Direction::Argument,
            },
        ),
        ("Stop", ToWorker::Stop),
    ]
}

fn values() -> Vec<Sample> {
    fn body<T: Serialize>(name: &str, value: T) -> Sample {
        (name.to_owned(), Payload::encode(&value).unwrap().body)
    }
    let large = Bytes::from(vec![7; 10_000]);
    let head = lane::bulk_head(&Payload::encode(&(1u8, &large)).unwrap());
    vec![
        body("unit", ()),
        body("integers", (1u8, -1i64, 300u32, u64::MAX, -1i128)),
        body("others", (true, 'ß', 0.5f64, "text", Some(1u8), None::<u8>)),
        body(
            "sequences",
            (vec![1u16, 2], [1u8, 2], vec![Vec::<u8>::new()]),
        ),
        body(
            "map",
            std::collections::BTreeMap::from([("a", 1), ("b", 2)]),
        ),
        body(
            "result",
            (Ok::<u8, String>(1), Err::<u8, _>("no".to_owned())),
        ),
        body("Bytes inline", Bytes::from(vec![1, 2, 3])),
        body("Bytes attached", (&large, &large)),
        body("Array inline", Array::from(vec![1u16, 2])),
        ("head of a bulk stream".to_owned(), head),
    ]
}

/// Every message.
pub(crate) fn all() -> Vec<Samples> {
    let plain = |group, samples| Samples {
        group,
        samples,
        variants: None,
    };
    let owned = |name: &str, bytes| (name.to_owned(), bytes);
    let control = greetings().into_iter().map(|(name, frame)| {
        let bytes = control::encode(&frame).unwrap();
        assert_eq!(control::decode(&bytes[4..]), Ok(frame));
        owned(name, bytes)
    });
    let stream = headers().into_iter().map(|(name, header)| {
        let bytes = stream::encode_header(&header).unwrap();
        assert_eq!(stream::decode_header(&bytes[2..]), Ok(header));
        owned(name, bytes)
    });
    let to_agent = [
        ("Ping", ToAgent::Ping(1)),
        ("Renew", ToAgent::Renew { seconds: 600 }),
    ]
    .into_iter()
    .chain(
        requests()
            .into_iter()
            .map(|(name, request)| (name, ToAgent::Request { id: 7, request })),
    );
    vec![
        plain("control frame", control.collect()),
        encoded("ToAgent", to_agent.collect()),
        encoded("Request", requests()),
        encoded("FromAgent", from_agent()),
        encoded(
            "Answer",
            from_agent()
                .into_iter()
                .filter_map(|(name, message)| match message {
                    FromAgent::Answer {
                        result: Ok(answer), ..
                    } => Some((name, answer)),
                    _ => None,
                })
                .collect(),
        ),
        encoded("Cause", causes()),
        encoded(
            "Program",
            vec![
                ("Content", Program::Content(hash())),
                ("Path", Program::Path("/bin/true".into())),
            ],
        ),
        plain("stream frame", stream.collect()),
        encoded("StreamHeader", headers()),
        encoded(
            "Transfer",
            vec![
                (
                    "Data",
                    Transfer::Data {
                        length: Some(1 << 20),
                        mode: 0o644,
                    },
                ),
                ("Present", Transfer::Present),
                ("Done", Transfer::Done),
                ("Failed", Transfer::Failed("write: disk full".into())),
            ],
        ),
        encoded(
            "ExecFrame",
            vec![
                ("Input", ExecFrame::Input(b"in".to_vec())),
                ("Resize", ExecFrame::Resize(80, 24)),
                ("Signal", ExecFrame::Signal(2)),
                ("Output", ExecFrame::Output(b"out".to_vec())),
                ("Error", ExecFrame::Error(b"err".to_vec())),
                ("Ended", ExecFrame::Ended(Cause::Exited(0))),
                ("Failed", ExecFrame::Failed("not found".into())),
            ],
        ),
        plain("lane frame", lane_frames()),
        encoded("ToWorker", to_worker()),
        encoded(
            "FromWorker",
            vec![
                ("Ready", FromWorker::Ready { pid: 100 }),
                ("Unable", FromWorker::Unable("no functions".into())),
            ],
        ),
        json(
            "GuardReport",
            causes()
                .into_iter()
                .map(|(name, cause)| {
                    let report = GuardReport {
                        cause,
                        peak_memory: Some(1 << 20),
                        killed: 2,
                        left: 0,
                    };
                    (name, report)
                })
                .collect(),
        ),
        json(
            "bootstrap Settings",
            vec![(
                "Settings",
                Settings {
                    protocol: 1,
                    handle: handle(),
                    node: NodeIndex(3),
                    directory: "/tmp/node".into(),
                    store: "/tmp/store".into(),
                    listen: "127.0.0.4:0".parse().unwrap(),
                    workers: 2,
                    driver_timeout: 600,
                },
            )],
        ),
        json(
            "bootstrap Identity",
            vec![(
                "Identity",
                Identity {
                    certificate: "PEM".into(),
                    ca: "PEM".into(),
                },
            )],
        ),
        json(
            "bootstrap Report",
            vec![
                ("Request", Report::Request("PEM".into())),
                (
                    "Ready",
                    Report::Ready(Ready {
                        address: "127.0.0.4:7000".parse().unwrap(),
                        pid: 99,
                        start_ticks: 12345,
                    }),
                ),
                ("Failed", Report::Failed("listen: port taken".into())),
            ],
        ),
        plain("value", values()),
    ]
}
