//! The bytes of every message, held against a snapshot, and arbitrary messages there and back.
//!
//! A change of `wire.snap` is a change of the protocol: see `cc_core::wire::PROTOCOL`. It is
//! written anew by running these tests with `WIRE_SNAPSHOT=overwrite`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may, as tests do")]

mod messages;

use std::fmt::Write as _;

use cc_core::codec;
use cc_core::death::{Cause, Death};
use cc_core::ids::{ContentHash, NodeIndex, WorkerId, WorkerKey};
use cc_core::payload::{Array, Bytes, Payload};
use cc_core::wire::control::{self, *};
use cc_core::wire::lane::{self, Done, Outcome, Task, Value};
use cc_core::wire::local::{FromWorker, ToWorker};
use cc_core::wire::stream::{self, *};
use cc_core::{limits, wire};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Text where it is text, hexadecimal digits where it is not.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with('{') => text.to_owned(),
        _ => bytes.iter().fold(String::new(), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        }),
    }
}

#[test]
fn the_bytes_of_every_message() {
    let mut now = format!("protocol {}\n", wire::PROTOCOL);
    for group in messages::all() {
        let _ = write!(now, "\n{}\n", group.group);
        for (name, bytes) in group.samples {
            // Of a frame of JSON, length and kind stand before the text.
            let split = match bytes.get(5) {
                Some(b'{') => 5,
                _ => 0,
            };
            let (head, body) = bytes.split_at(split);
            let body = readable(body);
            let gap = if split == 0 { "" } else { " " };
            let _ = writeln!(now, "  {name}: {}{gap}{body}", readable(head));
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire.snap");
    if std::env::var_os("WIRE_SNAPSHOT").is_some_and(|v| v == "overwrite") {
        std::fs::write(path, &now).unwrap();
    }
    let then = std::fs::read_to_string(path).unwrap();
    for (then, now) in then.lines().zip(now.lines()) {
        assert_eq!(then, now, "the bytes of a message have changed");
    }
    assert_eq!(then.lines().count(), now.lines().count());
}

#[test]
fn no_variant_is_missing_from_the_snapshot() {
    for group in messages::all() {
        let Some(refusal) = group.variants else {
            continue;
        };
        // The decoder names the variants there are when it is asked for one that is not.
        let said = refusal(&[250]);
        let count: u8 = said
            .rsplit("i < ")
            .next()
            .unwrap()
            .parse()
            .unwrap_or_else(|_| panic!("{}: {said}", group.group));
        for variant in 0..count {
            assert!(
                group.samples.iter().any(|(_, bytes)| bytes[0] == variant),
                "{}: variant {variant} is not among the samples",
                group.group
            );
        }
    }
}

#[test]
fn no_kind_of_lane_frame_is_missing_from_the_snapshot() {
    let groups = messages::all();
    let frames = groups.iter().find(|g| g.group == "lane frame").unwrap();
    let unknown = Err(wire::WireError::Malformed("lane frame: kind"));
    for kind in (0..=255).filter(|kind| lane::decode(&[*kind]) != unknown) {
        assert!(
            frames.samples.iter().any(|(_, bytes)| bytes[2] == kind),
            "lane frame of kind {kind} is not among the samples"
        );
    }
}

#[test]
fn greetings_of_other_versions_are_understood() {
    let later = br#"{"protocol":9,"handle":"abcdefghijklmno","node":3,"session":"Tool",
        "holder":{"host":"h","pid":1,"program":"p","started":0,"colour":"red"},"mood":[1]}"#;
    let frame = [&[0], &later[..]].concat();
    let Ok(control::Frame::<ToAgent>::Hello(hello)) = control::decode(&frame) else {
        panic!("not understood")
    };
    assert_eq!((hello.protocol, hello.take_over), (9, false));

    let later = br#"{"kind":"BadWeather","message":"rain","protocol":9}"#;
    let frame = [&[1], &later[..]].concat();
    let Ok(control::Frame::<FromAgent>::Refusal(refusal)) = control::decode(&frame) else {
        panic!("not understood")
    };
    assert_eq!(refusal.kind, RefusalKind::Other);
}

#[test]
fn frames_that_are_too_long_are_not_sent() {
    let long = ToAgent::Request {
        id: 1,
        request: Request::Have(vec![ContentHash([0; 32]); limits::CONTROL_FRAME / 32]),
    };
    let result = control::encode(&control::Frame::Message(long));
    assert!(matches!(result, Err(wire::WireError::TooLong { .. })));
    let long = StreamHeader::Get(Get {
        path: "x".repeat(stream::HEADER_LIMIT),
    });
    let result = stream::encode_header(&long);
    assert!(matches!(result, Err(wire::WireError::TooLong { .. })));
}

fn key() -> impl Strategy<Value = WorkerKey> {
    any::<(u32, u64)>().prop_map(|(slot, incarnation)| WorkerKey { slot, incarnation })
}

fn hash() -> impl Strategy<Value = ContentHash> {
    any::<[u8; 32]>().prop_map(ContentHash)
}

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        any::<i32>().prop_map(Cause::Exited),
        any::<i32>().prop_map(Cause::Signalled),
        any::<String>().prop_map(Cause::NotStarted),
        any::<String>().prop_map(Cause::Stopped),
        any::<String>().prop_map(Cause::NodeLost),
    ]
}

fn death() -> impl Strategy<Value = Death> {
    let rest = any::<(Option<u64>, Option<String>, Vec<String>)>();
    (cause(), rest).prop_map(|(cause, (peak_memory, out_of_memory, stderr_tail))| Death {
        cause,
        peak_memory,
        out_of_memory,
        stderr_tail,
    })
}

fn command() -> impl Strategy<Value = WorkerCommand> {
    let program = prop_oneof![
        hash().prop_map(Program::Content),
        any::<String>().prop_map(Program::Path)
    ];
    let lists = any::<(String, Vec<String>, Vec<(String, String)>)>();
    let options = any::<(Option<String>, Option<u32>, Option<u64>)>();
    (program, lists, options).prop_map(|(program, lists, options)| WorkerCommand {
        program,
        name: lists.0,
        arguments: lists.1,
        environment: lists.2,
        directory: options.0,
        slots: options.1,
        memory_limit: options.2,
    })
}

fn place() -> impl Strategy<Value = Place> {
    any::<(String, u32)>().prop_map(|(path, mode)| Place { path, mode })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (command(), any::<Vec<u32>>()).prop_map(|(c, slots)| Request::StartWorkers(c, slots)),
        (vec(key(), 0..5), any::<u64>(), any::<String>()).prop_map(
            |(workers, grace_ms, reason)| Request::StopWorkers {
                workers,
                grace_ms,
                reason
            }
        ),
        vec(hash(), 0..5).prop_map(Request::Have),
        (hash(), place()).prop_map(|(hash, place)| Request::Place(hash, place)),
        any::<bool>().prop_map(|history| Request::Logs { history }),
        Just(Request::Status),
        any::<u64>().prop_map(|seconds| Request::Extend { seconds }),
        Just(Request::RestartWorkers),
    ]
}

fn to_agent() -> impl Strategy<Value = ToAgent> {
    prop_oneof![
        any::<u64>().prop_map(ToAgent::Ping),
        any::<u64>().prop_map(|seconds| ToAgent::Renew { seconds }),
        (any::<u64>(), request()).prop_map(|(id, request)| ToAgent::Request { id, request }),
    ]
}

fn holder() -> impl Strategy<Value = Holder> {
    any::<(String, u32, String, u64)>().prop_map(|(host, pid, program, started)| Holder {
        host,
        pid,
        program,
        started,
    })
}

fn worker_status() -> impl Strategy<Value = WorkerStatus> {
    (key(), any::<(u32, u64, u64, Option<u32>)>()).prop_map(|(key, rest)| WorkerStatus {
        key,
        pid: rest.0,
        resident: rest.1,
        uptime: rest.2,
        id: rest.3.map(WorkerId),
    })
}

fn node_status() -> impl Strategy<Value = NodeStatus> {
    let numbers = any::<(u32, u32, u32, u64, u64, u64, u32)>();
    let texts = any::<(String, String, String)>();
    let rest = (
        option::of(holder()),
        vec(worker_status(), 0..4),
        option::of(command()),
    );
    (numbers, texts, rest).prop_map(|(numbers, texts, rest)| NodeStatus {
        node: NodeIndex(numbers.0),
        version: texts.0,
        pid: numbers.1,
        hostname: texts.1,
        cores: numbers.2,
        memory: numbers.3,
        architecture: texts.2,
        uptime: numbers.4,
        lease_left: numbers.5,
        owner: rest.0,
        tools: numbers.6,
        workers: rest.1,
        last_command: rest.2,
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    let worker = prop_oneof![key().prop_map(Ok), death().prop_map(Err)];
    prop_oneof![
        Just(Answer::Done),
        vec((any::<u32>(), worker), 0..4).prop_map(Answer::Workers),
        any::<Vec<bool>>().prop_map(Answer::Present),
        node_status().prop_map(|status| Answer::Status(Box::new(status))),
    ]
}

fn log_line() -> impl Strategy<Value = LogLine> {
    let source = prop_oneof![
        Just(LogSource::Stdout),
        Just(LogSource::Stderr),
        any::<u64>().prop_map(LogSource::Dropped)
    ];
    (key(), source, any::<String>()).prop_map(|(worker, source, text)| LogLine {
        worker,
        source,
        text,
    })
}

fn from_agent() -> impl Strategy<Value = FromAgent> {
    let result = prop_oneof![answer().prop_map(Ok), any::<String>().prop_map(Err)];
    prop_oneof![
        (any::<u64>(), node_status()).prop_map(|(session, status)| FromAgent::Welcome(Box::new(
            Welcome { session, status }
        ))),
        any::<u64>().prop_map(FromAgent::Pong),
        (any::<u64>(), result).prop_map(|(id, result)| FromAgent::Answer { id, result }),
        (key(), death()).prop_map(|(worker, death)| FromAgent::WorkerDown { worker, death }),
        vec(log_line(), 0..4).prop_map(FromAgent::Log),
    ]
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Argument), Just(Direction::Result)]
}

fn header() -> impl Strategy<Value = StreamHeader> {
    let peer = any::<(u32, std::net::SocketAddr)>().prop_map(|(node, address)| PeerAddress {
        node: NodeIndex(node),
        // What IPv6 has besides address and port does not travel.
        address: std::net::SocketAddr::new(address.ip(), address.port()),
    });
    let put = (hash(), any::<u64>(), option::of(place()), vec(peer, 0..4));
    type Texts = (Vec<String>, Vec<(String, String)>, Option<String>);
    prop_oneof![
        Just(StreamHeader::Control),
        (key(), any::<u32>()).prop_map(|(worker, id)| StreamHeader::Lane {
            worker,
            id: WorkerId(id)
        }),
        (key(), any::<u32>(), direction()).prop_map(|(worker, task, direction)| {
            StreamHeader::Bulk {
                worker,
                task,
                direction,
            }
        }),
        put.prop_map(|(hash, length, place, onward)| StreamHeader::Put(Put {
            hash,
            length,
            place,
            onward
        })),
        any::<String>().prop_map(|path| StreamHeader::Get(Get { path })),
        any::<(Texts, Option<(u16, u16)>)>().prop_map(|(texts, terminal)| {
            StreamHeader::Exec(Exec {
                argv: texts.0,
                env: texts.1,
                directory: texts.2,
                terminal,
            })
        }),
    ]
}

fn exec_frame() -> impl Strategy<Value = ExecFrame> {
    prop_oneof![
        any::<Vec<u8>>().prop_map(ExecFrame::Input),
        any::<(u16, u16)>().prop_map(|(columns, rows)| ExecFrame::Resize(columns, rows)),
        any::<i32>().prop_map(ExecFrame::Signal),
        any::<Vec<u8>>().prop_map(ExecFrame::Output),
        any::<Vec<u8>>().prop_map(ExecFrame::Error),
        cause().prop_map(ExecFrame::Ended),
        any::<String>().prop_map(ExecFrame::Failed),
    ]
}

fn transfer() -> impl Strategy<Value = Transfer> {
    prop_oneof![
        any::<(Option<u64>, u32)>().prop_map(|(length, mode)| Transfer::Data { length, mode }),
        Just(Transfer::Present),
        Just(Transfer::Done),
        any::<String>().prop_map(Transfer::Failed),
    ]
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    prop_oneof![
        (any::<(u32, u32)>(), key()).prop_map(|((node, slots), key)| ToWorker::Start {
            node: NodeIndex(node),
            key,
            slots
        }),
        any::<(u64, u32, String)>().prop_map(|(session, id, store)| ToWorker::Lane {
            session,
            id: WorkerId(id),
            store
        }),
        (any::<(u64, u32)>(), direction()).prop_map(|((session, task), direction)| {
            ToWorker::Bulk {
                session,
                task,
                direction,
            }
        }),
        Just(ToWorker::Stop),
    ]
}

fn from_worker() -> impl Strategy<Value = FromWorker> {
    prop_oneof![
        any::<u32>().prop_map(|pid| FromWorker::Ready { pid }),
        any::<String>().prop_map(FromWorker::Unable),
    ]
}

/// The parts of a lane's value, as the frame only borrows them.
#[derive(Debug, Clone)]
enum OwnedValue {
    Inline(Vec<u8>, Vec<Vec<u8>>),
    Bulk(u64),
    Stored(ContentHash, u64),
}

impl OwnedValue {
    fn borrowed(&self) -> Value<'_> {
        match self {
            Self::Inline(body, attachments) => {
                Value::Inline(body, attachments.iter().map(Vec::as_slice).collect())
            }
            Self::Bulk(length) => Value::Bulk(*length),
            Self::Stored(hash, length) => Value::Stored(*hash, *length),
        }
    }
}

fn value() -> impl Strategy<Value = OwnedValue> {
    let attachments = vec(any::<Vec<u8>>(), 0..4);
    prop_oneof![
        (vec(any::<u8>(), 0..300), attachments).prop_map(|(b, a)| OwnedValue::Inline(b, a)),
        (0..=limits::VALUE).prop_map(OwnedValue::Bulk),
        (hash(), 0..=limits::VALUE).prop_map(|(hash, length)| OwnedValue::Stored(hash, length)),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Returned),
        Just(Outcome::Panicked),
        Just(Outcome::Fault),
        Just(Outcome::TakenBack),
        Just(Outcome::Cancelled)
    ]
}

fn comes_back<T>(value: &T) -> Result<(), TestCaseError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = codec::encode(value).unwrap();
    prop_assert_eq!(&codec::decode::<T>(&bytes).unwrap(), value);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn control_messages_come_back(to in to_agent(), from in from_agent()) {
        let frame = control::Frame::Message(to);
        let bytes = control::encode(&frame).unwrap();
        prop_assert_eq!(u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len() - 4);
        prop_assert_eq!(control::decode(&bytes[4..]).unwrap(), frame);
        let frame = control::Frame::Message(from);
        let bytes = control::encode(&frame).unwrap();
        prop_assert_eq!(control::decode(&bytes[4..]).unwrap(), frame);
    }

    #[test]
    fn greetings_come_back(holder in holder(), protocol: u32, take_over: bool, message: String) {
        let hello = control::Frame::<ToAgent>::Hello(Hello {
            protocol, take_over, holder: holder.clone(), ..messages::hello()
        });
        let bytes = control::encode(&hello).unwrap();
        prop_assert_eq!(control::decode(&bytes[4..]).unwrap(), hello);
        let refusal = control::Frame::<FromAgent>::Refusal(Refusal {
            kind: RefusalKind::Owned, message: message.clone(), holder: Some(holder), protocol,
        });
        let bytes = control::encode(&refusal).unwrap();
        prop_assert_eq!(control::decode(&bytes[4..]).unwrap(), refusal);
        let shutdown = control::Frame::<ToAgent>::Shutdown(Shutdown { reason: message });
        let bytes = control::encode(&shutdown).unwrap();
        prop_assert_eq!(control::decode(&bytes[4..]).unwrap(), shutdown);
    }

    #[test]
    fn streams_come_back(header in header(), transfer in transfer(), exec in exec_frame()) {
        let bytes = stream::encode_header(&header).unwrap();
        prop_assert_eq!(stream::decode_header(&bytes[2..]).unwrap(), header);
        comes_back(&transfer)?;
        comes_back(&exec)?;
    }

    #[test]
    fn local_messages_come_back(to in to_worker(), from in from_worker()) {
        comes_back(&to)?;
        comes_back(&from)?;
    }

    #[test]
    fn lanes_come_back(
        id: u32, urgent: bool, function: u32,
        arguments in value(), outcome in outcome(), output in value(),
    ) {
        let task = Task { id, urgent, function, arguments: arguments.borrowed() };
        let done = Done { id, outcome, value: output.borrowed() };
        let mut bytes = Vec::new();
        lane::put_task(&mut bytes, &task);
        lane::put_cancel(&mut bytes, id);
        lane::put_take_back(&mut bytes, id);
        lane::put_done(&mut bytes, &done);
        let mut frames = Vec::new();
        let mut rest = &bytes[..];
        while let Some(range) = lane::next_frame(rest) {
            frames.push(lane::decode(&rest[range.clone()]).unwrap());
            rest = &rest[range.end..];
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(
            frames,
            [
                lane::Frame::Task(task),
                lane::Frame::Cancel(id),
                lane::Frame::TakeBack(id),
                lane::Frame::Done(done),
            ]
        );
    }

    #[test]
    fn values_come_back(
        plain: (Vec<Option<(i64, String)>>, std::collections::BTreeMap<u16, Vec<bool>>, char),
        bytes in vec(any::<u8>(), 0..10_000),
        numbers: Vec<u64>,
    ) {
        let value = (plain, Bytes::from(bytes), Array::from(numbers));
        let payload = Payload::encode(&value).unwrap();
        let head = lane::bulk_head(&payload);
        let parts = u64::from_le_bytes(head[..8].try_into().unwrap());
        prop_assert_eq!(lane::bulk_parts(parts).unwrap(), 1 + payload.attachments.len());
        let lengths = lane::bulk_lengths(&head[8..], payload.size()).unwrap();
        prop_assert_eq!(lengths[0], payload.body.len());
        prop_assert!(lane::bulk_lengths(&head[8..], payload.size() + 1).is_err());
        prop_assert_eq!(payload.decode::<(_, Bytes, Array<u64>)>().unwrap(), value);
    }
}
