//! The pool at work, on socket pairs and without a process of its own.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cc_core::codec;
use cc_core::context::Context;
use cc_core::function::{self, Function, Runner, TaskFault, TaskFuture};
use cc_core::ids::{ContentHash, NodeIndex, WorkerId};
use cc_core::payload::{self, Array, Bytes, Payload};
use cc_core::wire::lane::{self, Frame, Outcome, Panic, Task, Value};
use cc_core::wire::stream::Direction;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::lock;
use super::pool::Pool;

mod throughput;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

type Attachments = Vec<bytes::Bytes>;

fn call<A: DeserializeOwned, R: Serialize>(
    body: &[u8],
    attachments: Attachments,
    out: &mut Vec<u8>,
    function: impl FnOnce(A) -> R,
) -> Result<Attachments, TaskFault> {
    let arguments = payload::decode_value(body, attachments).map_err(TaskFault::Arguments)?;
    payload::encode_value(&function(arguments), out).map_err(TaskFault::Result)
}

fn call_async<A: DeserializeOwned, F>(
    body: &[u8],
    attachments: Attachments,
    function: impl FnOnce(A) -> F,
) -> Result<TaskFuture, TaskFault>
where
    F: Future<Output: Serialize> + Send + 'static,
{
    let arguments = payload::decode_value(body, attachments).map_err(TaskFault::Arguments)?;
    let future = function(arguments);
    Ok(Box::pin(async move {
        Payload::encode(&future.await).map_err(TaskFault::Result)
    }))
}

macro_rules! blocking {
    ($name:ident, $function:expr) => {
        cc_core::inventory::submit! {
            Function {
                name: stringify!($name),
                hash: || 1,
                runner: Runner::Blocking(|context, body, attachments, out| {
                    call(body, attachments, out, |a| ($function)(context, a))
                }),
                location: (file!(), line!()),
            }
        }
    };
}

macro_rules! asynchronous {
    ($name:ident, $function:expr) => {
        cc_core::inventory::submit! {
            Function {
                name: stringify!($name),
                hash: || 1,
                runner: Runner::Async(|context, body, attachments| {
                    call_async(body, attachments, move |a| ($function)(context, a))
                }),
                location: (file!(), line!()),
            }
        }
    };
}

/// Where functions and tests wait for one another, by a number that only they use.
static PLACES: Mutex<Option<HashMap<(u64, &'static str), usize>>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

fn arrive(key: u64, what: &'static str) {
    *lock(&PLACES)
        .get_or_insert_default()
        .entry((key, what))
        .or_default() += 1;
    CHANGED.notify_all();
}

fn await_arrivals(key: u64, what: &'static str, count: usize) {
    let (places, timeout) = CHANGED
        .wait_timeout_while(lock(&PLACES), PATIENCE, |places| {
            places
                .as_ref()
                .and_then(|p| p.get(&(key, what)))
                .is_none_or(|n| *n < count)
        })
        .unwrap();
    drop(places);
    assert!(!timeout.timed_out(), "{what} {key}");
}

fn fresh_key() -> u64 {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) as u64
}

struct Arrives(u64, &'static str);

impl Drop for Arrives {
    fn drop(&mut self) {
        arrive(self.0, self.1);
    }
}

blocking!(noop, |_: &Context, (): ()| ());
blocking!(echo, |_: &Context, n: u64| n);
blocking!(who, |c: &Context, (): ()| (c.worker(), c.node()));
blocking!(panics, |_: &Context, text: String| -> u64 {
    panic!("{text}")
});
blocking!(gate, |_: &Context, key: u64| {
    arrive(key, "started");
    await_arrivals(key, "open", 1);
    key
});
blocking!(meet, |_: &Context, key: u64| {
    arrive(key, "met");
    await_arrivals(key, "met", 2);
});
blocking!(until_cancelled, |c: &Context, key: u64| {
    arrive(key, "started");
    while !c.is_cancelled() {
        std::thread::yield_now();
    }
    arrive(key, "ended");
});
blocking!(count, |c: &Context, (): ()| {
    let calls = c.state(|| AtomicUsize::new(0));
    calls.fetch_add(1, Ordering::Relaxed)
});
blocking!(bytes_of, |_: &Context, (byte, length): (u8, usize)| {
    Bytes::from(vec![byte; length])
});
blocking!(text_of, |_: &Context, length: usize| "x".repeat(length));
blocking!(double, |_: &Context, a: Array<f64>| {
    a.iter().map(|x| x * 2.0).collect::<Array<f64>>()
});
blocking!(sum, |_: &Context, b: Bytes| {
    (b.len(), b.iter().map(|b| u64::from(*b)).sum::<u64>())
});
asynchronous!(async_echo, |_: Context, n: u64| async move { n });
asynchronous!(async_panics, |_: Context, text: String| async move {
    tokio::task::yield_now().await;
    assert!(text.is_empty(), "{text}");
});
asynchronous!(async_forever, |c: Context, key: u64| async move {
    let _dropped = Arrives(key, "dropped");
    arrive(key, "started");
    std::future::pending::<()>().await;
    drop(c);
});
asynchronous!(async_blocks, |_: Context, key: u64| async move {
    arrive(key, "started");
    await_arrivals(key, "open", 1);
});

/// A pool on threads, which end with it.
struct Rig {
    pool: Arc<Pool>,
    threads: Vec<JoinHandle<()>>,
    io: Option<tokio::runtime::Runtime>,
    store: tempfile::TempDir,
}

impl Rig {
    fn new(slots: u32) -> Self {
        let io = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let handle = io.handle().clone();
        let pool = Pool::new(function::all(), slots, NodeIndex(7), 99, handle).unwrap();
        let threads = (0..pool.threads())
            .map(|thread| {
                let pool = Arc::clone(&pool);
                std::thread::spawn(move || pool.work(thread))
            })
            .collect();
        Self {
            pool,
            threads,
            io: Some(io),
            store: tempfile::tempdir().unwrap(),
        }
    }

    fn driver(&self, session: u64) -> Driver {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        let store = self.store.path().to_owned();
        let worker = WorkerId(session as u32 + 100);
        self.pool.lane(session, worker, store, far.into()).unwrap();
        let mut driver = Driver {
            pool: Arc::clone(&self.pool),
            session,
            stream: near,
            read: Vec::new(),
            functions: HashMap::new(),
            next: 1,
        };
        loop {
            let frame = driver.frame().expect("the list of functions");
            let Frame::Functions(list) = lane::decode(&frame).unwrap() else {
                panic!("{frame:?}")
            };
            assert_eq!(
                (list.slots as usize, list.build),
                (driver.pool.slots, 99),
                "as the pool was made"
            );
            for function in list.functions {
                let number = driver.functions.len() as u32;
                driver.functions.insert(function.name, number);
            }
            if !list.more {
                return driver;
            }
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.pool.stop();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        if let Some(io) = self.io.take() {
            io.shutdown_background();
        }
    }
}

/// What a [`lane::Done`] said.
#[derive(Debug, PartialEq)]
enum Said {
    Here(Payload),
    Bulk(u64),
}

#[derive(Debug, PartialEq)]
struct Ended {
    id: u32,
    outcome: Outcome,
    value: Said,
}

impl Ended {
    fn value<T: DeserializeOwned>(self) -> T {
        let Said::Here(payload) = self.value else {
            panic!("{self:?}")
        };
        payload.decode().unwrap()
    }

    fn is(&self, id: u32, outcome: Outcome) -> bool {
        (self.id, self.outcome) == (id, outcome)
    }
}

struct Driver {
    pool: Arc<Pool>,
    session: u64,
    stream: UnixStream,
    read: Vec<u8>,
    functions: HashMap<String, u32>,
    next: u32,
}

impl Driver {
    fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(range) = lane::next_frame(&self.read) {
                let frame = self.read[range.clone()].to_vec();
                self.read.drain(..range.end);
                return Some(frame);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                read => self.read.extend_from_slice(&chunk[..read.unwrap()]),
            }
        }
    }

    fn put(&mut self, out: &mut Vec<u8>, name: &str, urgent: bool, arguments: Value<'_>) -> u32 {
        let id = self.next;
        self.next += 1;
        let function = self.functions[name];
        let task = Task {
            id,
            urgent,
            function,
            arguments,
        };
        lane::put_task(out, &task);
        id
    }

    fn send(&mut self, name: &str, arguments: Value<'_>) -> u32 {
        let mut out = Vec::new();
        let id = self.put(&mut out, name, true, arguments);
        self.stream.write_all(&out).unwrap();
        id
    }

    fn start<A: Serialize>(&mut self, name: &str, arguments: &A) -> u32 {
        let body = codec::encode(arguments).unwrap();
        self.send(name, Value::Inline(&body, Vec::new()))
    }

    fn cancel(&mut self, id: u32) {
        let mut out = Vec::new();
        lane::put_cancel(&mut out, id);
        self.stream.write_all(&out).unwrap();
    }

    fn take_back(&mut self, id: u32) {
        let mut out = Vec::new();
        lane::put_take_back(&mut out, id);
        self.stream.write_all(&out).unwrap();
    }

    fn done(&mut self) -> Ended {
        let frame = self.frame().expect("an answer");
        let Frame::Done(done) = lane::decode(&frame).unwrap() else {
            panic!("{frame:?}")
        };
        let value = match done.value {
            Value::Inline(body, attachments) => Said::Here(Payload {
                body: body.to_vec(),
                attachments: attachments
                    .into_iter()
                    .map(bytes::Bytes::copy_from_slice)
                    .collect(),
            }),
            Value::Bulk(length) => Said::Bulk(length),
            Value::Stored(..) => panic!("{done:?}"),
        };
        Ended {
            id: done.id,
            outcome: done.outcome,
            value,
        }
    }

    fn call<A: Serialize>(&mut self, name: &str, arguments: &A) -> Ended {
        let id = self.start(name, arguments);
        let ended = self.done();
        assert_eq!(ended.id, id);
        ended
    }

    /// A stream that the agent would open.
    fn open(&self, task: u32, direction: Direction) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        self.pool.stream(self.session, task, direction, far);
        near
    }

    fn fetch(&mut self, ended: &Ended) -> Payload {
        let Said::Bulk(total) = ended.value else {
            panic!("{ended:?}")
        };
        let mut bytes = Vec::new();
        self.open(ended.id, Direction::Result)
            .read_to_end(&mut bytes)
            .unwrap();
        split(&bytes, total)
    }
}

fn split(bytes: &[u8], total: u64) -> Payload {
    let mut bytes = bytes::Bytes::copy_from_slice(bytes);
    let count = u64::from_le_bytes(bytes.split_to(8)[..].try_into().unwrap());
    let count = lane::bulk_parts(count).unwrap();
    let lengths = lane::bulk_lengths(&bytes.split_to(8 * count), total).unwrap();
    let mut parts: Vec<_> = lengths.into_iter().map(|n| bytes.split_to(n)).collect();
    assert!(bytes.is_empty());
    Payload {
        body: parts.remove(0).to_vec(),
        attachments: parts,
    }
}

fn write_bulk(mut stream: UnixStream, payload: &Payload) {
    let mut write = |bytes: &[u8]| stream.write_all(bytes);
    let _ = write(&lane::bulk_head(payload))
        .and_then(|()| write(&payload.body))
        .and_then(|()| payload.attachments.iter().try_for_each(|a| write(a)));
}

#[test]
fn results_panics_and_faults() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    assert_eq!(driver.call("echo", &300u64).value::<u64>(), 300);
    let who: (WorkerId, NodeIndex) = driver.call("who", &()).value();
    assert_eq!(who, (WorkerId(101), NodeIndex(7)));

    for name in ["panics", "async_panics"] {
        let ended = driver.call(name, &"no such luck");
        assert_eq!(ended.outcome, Outcome::Panicked);
        let panic: Panic = ended.value();
        assert_eq!(panic.message, "no such luck");
        assert!(panic.location.unwrap().contains("tests.rs"));
    }
    let ended = driver.call("panics", &"ä".repeat(25_000));
    assert!(ended.value::<Panic>().message.len() < 20_000);

    for name in ["echo", "async_echo"] {
        let ended = driver.call(name, &());
        assert_eq!(ended.outcome, Outcome::Fault);
        assert!(ended.value::<String>().contains("decode"));
    }
    driver.functions.insert("none".to_owned(), 1 << 30);
    let ended = driver.call("none", &());
    assert_eq!(ended.outcome, Outcome::Fault);
    assert!(ended.value::<String>().contains("no function number"));

    assert_eq!(driver.call("async_echo", &4u64).value::<u64>(), 4);
}

#[test]
fn many_tasks_are_answered_once_each_and_a_result_that_waits_is_not_forgotten() {
    for slots in [1, 2, 5] {
        let rig = Rig::new(slots);
        let mut driver = rig.driver(1);
        let mut out = Vec::new();
        let mut open = HashMap::new();
        for n in 0..5000u64 {
            let name = if n % 10 == 0 { "async_echo" } else { "echo" };
            let body = codec::encode(&n).unwrap();
            let id = driver.put(&mut out, name, false, Value::Inline(&body, Vec::new()));
            open.insert(id, n);
        }
        driver.stream.write_all(&out).unwrap();
        while !open.is_empty() {
            let ended = driver.done();
            let n = open.remove(&ended.id).expect("one answer");
            assert_eq!(ended.value::<u64>(), n);
        }
    }
}

#[test]
fn a_slow_task_does_not_hold_up_the_results_before_it() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    let key = fresh_key();
    let mut out = Vec::new();
    let quick = codec::encode(&1u64).unwrap();
    let slow = codec::encode(&key).unwrap();
    let first = driver.put(&mut out, "echo", false, Value::Inline(&quick, Vec::new()));
    let second = driver.put(&mut out, "gate", false, Value::Inline(&slow, Vec::new()));
    driver.stream.write_all(&out).unwrap();
    // Comes although the second runs and nothing else happens.
    assert!(driver.done().is(first, Outcome::Returned));
    arrive(key, "open");
    assert!(driver.done().is(second, Outcome::Returned));
}

#[test]
fn as_many_at_once_as_slots() {
    let rig = Rig::new(2);
    let mut driver = rig.driver(1);
    let key = fresh_key();
    driver.start("meet", &key);
    driver.start("meet", &key);
    assert_eq!(driver.done().outcome, Outcome::Returned);
    assert_eq!(driver.done().outcome, Outcome::Returned);

    // All slots taken: a third one waits, and lanes are read nevertheless.
    let keys = [fresh_key(), fresh_key(), fresh_key()];
    for key in &keys {
        driver.start("gate", key);
    }
    await_arrivals(keys[0], "started", 1);
    await_arrivals(keys[1], "started", 1);
    assert_eq!(rig.driver(2).call("async_echo", &1u64).value::<u64>(), 1);
    arrive(keys[2], "open");
    arrive(keys[1], "open");
    assert_eq!(driver.done().value::<u64>(), keys[1]);
    assert_eq!(driver.done().value::<u64>(), keys[2]);
    arrive(keys[0], "open");
    assert_eq!(driver.done().value::<u64>(), keys[0]);
}

#[test]
fn cancelling_and_taking_back() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    let key = fresh_key();
    let running = driver.start("until_cancelled", &key);
    let queued: Vec<u32> = (0..4u64).map(|n| driver.start("echo", &n)).collect();
    await_arrivals(key, "started", 1);
    driver.cancel(queued[1]);
    assert!(driver.done().is(queued[1], Outcome::TakenBack));
    driver.take_back(queued[2]);
    assert!(driver.done().is(queued[2], Outcome::TakenBack));
    // Has started: it has no effect.
    driver.take_back(running);
    // Nobody knows of it.
    driver.cancel(12345);
    driver.cancel(running);
    assert_eq!(
        driver.done(),
        Ended {
            id: running,
            outcome: Outcome::Cancelled,
            value: Said::Here(Payload::default())
        }
    );
    assert!(driver.done().is(queued[0], Outcome::Returned));
    assert!(driver.done().is(queued[3], Outcome::Returned));
    // The cancellation was of that task and of none after it.
    let key = fresh_key();
    let id = driver.start("until_cancelled", &key);
    await_arrivals(key, "started", 1);
    driver.cancel(id);
    assert!(driver.done().is(id, Outcome::Cancelled));
}

#[test]
fn an_id_can_be_used_again_right_behind_its_cancellation() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    let id = driver.start("echo", &1u64);
    assert!(driver.done().is(id, Outcome::Returned));
    // A cancellation that crossed with the answer, and the id's next task.
    let mut out = Vec::new();
    lane::put_cancel(&mut out, id);
    driver.next = id;
    let body = codec::encode(&2u64).unwrap();
    driver.put(&mut out, "echo", true, Value::Inline(&body, Vec::new()));
    driver.stream.write_all(&out).unwrap();
    assert_eq!(driver.done().value::<u64>(), 2);
}

#[test]
fn asynchronous_tasks_are_dropped_when_cancelled_and_may_block_their_runtime() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    let key = fresh_key();
    let forever = driver.start("async_forever", &key);
    await_arrivals(key, "started", 1);
    driver.cancel(forever);
    assert!(driver.done().is(forever, Outcome::Cancelled));
    await_arrivals(key, "dropped", 1);

    let other = fresh_key();
    let forever = driver.start("async_forever", &other);
    await_arrivals(other, "started", 1);
    let key = fresh_key();
    let blocks = driver.start("async_blocks", &key);
    await_arrivals(key, "started", 1);
    assert_eq!(driver.call("echo", &5u64).value::<u64>(), 5);
    // It is not answered while the runtime cannot let go of it; everything else is.
    driver.cancel(forever);
    assert_eq!(driver.call("echo", &6u64).value::<u64>(), 6);
    arrive(key, "open");
    let ends = [driver.done(), driver.done()];
    assert!(ends.iter().any(|e| e.is(forever, Outcome::Cancelled)));
    assert!(ends.iter().any(|e| e.is(blocks, Outcome::Returned)));
    await_arrivals(other, "dropped", 1);
}

#[test]
fn more_asynchronous_tasks_than_run_at_once_wait() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    let key = fresh_key();
    let limit = cc_core::limits::ASYNC_TASKS;
    let ids: Vec<u32> = (0..limit + 2)
        .map(|_| driver.start("async_forever", &key))
        .collect();
    await_arrivals(key, "started", limit);
    driver.cancel(ids[limit]);
    assert!(driver.done().is(ids[limit], Outcome::TakenBack));
    driver.cancel(ids[3]);
    assert!(driver.done().is(ids[3], Outcome::Cancelled));
    await_arrivals(key, "started", limit + 1);
}

#[test]
fn the_workers_state_outlives_a_driver() {
    let rig = Rig::new(1);
    assert_eq!(rig.driver(1).call("count", &()).value::<usize>(), 0);
    assert_eq!(rig.driver(2).call("count", &()).value::<usize>(), 1);
}

#[test]
fn large_results_come_in_streams() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    for length in [0, 4096, 60_000, 70_000, 5_000_000] {
        let ended = driver.call("bytes_of", &(3u8, length));
        let payload = match &ended.value {
            Said::Here(payload) => payload.clone(),
            Said::Bulk(_) => driver.fetch(&ended),
        };
        assert_eq!(matches!(ended.value, Said::Bulk(_)), length > 60 * 1024);
        let bytes: Bytes = payload.decode().unwrap();
        assert!(bytes.len() == length && bytes.iter().all(|b| *b == 3));
    }
    let ended = driver.call("text_of", &100_000usize);
    let text: String = driver.fetch(&ended).decode().unwrap();
    assert_eq!(text.len(), 100_000);

    // Fetched, cancelled or not there: the stream ends at once.
    assert_eq!(
        driver
            .open(ended.id, Direction::Result)
            .read(&mut [0])
            .unwrap(),
        0
    );
    let ended = driver.call("text_of", &100_000usize);
    driver.cancel(ended.id);
    driver.call("noop", &());
    assert_eq!(
        driver
            .open(ended.id, Direction::Result)
            .read(&mut [0])
            .unwrap(),
        0
    );
}

#[test]
fn large_arguments_come_in_streams_before_or_after_the_frame() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    let array: Array<f64> = (0..300_000).map(f64::from).collect();
    let payload = Payload::encode(&array).unwrap();
    let small = Payload::encode(&Bytes::from(vec![1; 70_000])).unwrap();
    for early in [false, true] {
        for (name, payload) in [("double", &payload), ("sum", &small)] {
            let value = Value::Bulk(payload.size());
            let id = driver.next;
            let stream = if early {
                let stream = driver.open(id, Direction::Argument);
                driver.send(name, value);
                stream
            } else {
                driver.send(name, value);
                // So that the frame has been read.
                assert!(
                    driver
                        .call("noop", &())
                        .is(driver.next - 1, Outcome::Returned)
                );
                driver.open(id, Direction::Argument)
            };
            write_bulk(stream, payload);
            let ended = driver.done();
            assert!(ended.is(id, Outcome::Returned), "{ended:?}");
            if name == "double" {
                let doubled: Array<f64> = driver.fetch(&ended).decode().unwrap();
                assert_eq!(doubled[299_999], 599_998.0);
            } else {
                assert_eq!(ended.value::<(usize, u64)>(), (70_000, 70_000));
            }
        }
    }
}

#[test]
fn arguments_whose_stream_is_wrong_are_faults() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    let payload = Payload::encode(&Bytes::from(vec![1; 70_000])).unwrap();
    let size = payload.size();
    let mut bytes = lane::bulk_head(&payload);
    bytes.extend_from_slice(&payload.body);
    bytes.extend_from_slice(&payload.attachments[0]);
    let huge = 1u64 << 37;
    let mut head = vec![];
    for n in [1, huge] {
        head.extend_from_slice(&n.to_le_bytes());
    }
    let mut many = vec![0xff; 8];
    many.extend_from_slice(&bytes);
    let wrong: [(&[u8], u64); 7] = [
        (&bytes[..bytes.len() - 1], size),
        (&bytes[..20], size),
        (&bytes[..3], size),
        (&[], size),
        (&bytes, size + 1),
        (&many, size),
        (&head, huge),
    ];
    for (bytes, total) in wrong {
        let id = driver.send("sum", Value::Bulk(total));
        let mut stream = driver.open(id, Direction::Argument);
        let _ = stream.write_all(bytes);
        drop(stream);
        assert!(driver.done().is(id, Outcome::Fault));
    }
    // Waiting for a stream, or reading it: not started.
    let id = driver.send("sum", Value::Bulk(size));
    driver.take_back(id);
    assert!(driver.done().is(id, Outcome::TakenBack));
    // Its stream, which was under way, is not of the id's next task.
    let mut late = driver.open(id, Direction::Argument);
    assert_eq!(late.read(&mut [0]).unwrap(), 0);
    driver.next = id;
    driver.send("sum", Value::Bulk(size));
    write_bulk(driver.open(id, Direction::Argument), &payload);
    assert!(driver.done().is(id, Outcome::Returned));
    let id = driver.send("sum", Value::Bulk(size));
    driver.call("noop", &());
    let mut stream = driver.open(id, Direction::Argument);
    stream.write_all(&bytes[..100]).unwrap();
    driver.cancel(id);
    assert!(driver.done().is(id, Outcome::TakenBack));
}

fn keep(store: &Path, payload: &Payload) -> ContentHash {
    let mut bytes = lane::bulk_head(payload);
    bytes.extend_from_slice(&payload.body);
    for attachment in &payload.attachments {
        bytes.extend_from_slice(attachment);
    }
    let hash = ContentHash::of(&bytes);
    std::fs::write(store.join(hash.to_hex()), bytes).unwrap();
    hash
}

#[test]
fn stored_values_are_mapped() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    let payload = Payload::encode(&Bytes::from(vec![2; 100_000])).unwrap();
    let hash = keep(rig.store.path(), &payload);
    for _ in 0..2 {
        driver.send("sum", Value::Stored(hash, payload.size()));
        assert_eq!(driver.done().value::<(usize, u64)>(), (100_000, 200_000));
    }
    let other = keep(rig.store.path(), &Payload::encode(&9u64).unwrap());
    let id = driver.send("async_echo", Value::Stored(other, 1));
    let ended = driver.done();
    assert!(ended.is(id, Outcome::Returned), "{ended:?}");
    assert_eq!(ended.value::<u64>(), 9);

    for (content, total) in [(&b""[..], 5), (b"abc", 5), (&[1; 500], 5), (&[0; 16], 0)] {
        let hash = ContentHash::of(content);
        std::fs::write(rig.store.path().join(hash.to_hex()), content).unwrap();
        let id = driver.send("sum", Value::Stored(hash, total));
        assert!(driver.done().is(id, Outcome::Fault));
    }
    let id = driver.send("sum", Value::Stored(ContentHash::of(b"missing"), 5));
    let ended = driver.done();
    assert!(ended.is(id, Outcome::Fault));
    assert!(ended.value::<String>().contains("not to be had"));
}

#[test]
fn a_lane_that_ends_takes_its_tasks_along() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    let [running, forever] = [fresh_key(), fresh_key()];
    driver.start("until_cancelled", &running);
    driver.start("async_forever", &forever);
    for _ in 0..100 {
        driver.start("panics", &"never run");
    }
    await_arrivals(running, "started", 1);
    await_arrivals(forever, "started", 1);
    drop(driver);
    await_arrivals(running, "ended", 1);
    await_arrivals(forever, "dropped", 1);
    assert_eq!(rig.driver(2).call("echo", &1u64).value::<u64>(), 1);
    let state = lock(&rig.pool.state);
    assert!(state.queue.is_empty());
}

#[test]
fn a_driver_that_reads_nothing_holds_up_nobody_and_loses_nothing() {
    let rig = Rig::new(1);
    let mut slow = rig.driver(1);
    let ids: Vec<u32> = (0..200)
        .map(|_| slow.start("text_of", &50_000usize))
        .collect();
    assert_eq!(rig.driver(2).call("echo", &1u64).value::<u64>(), 1);
    for id in ids {
        let ended = slow.done();
        assert!(ended.is(id, Outcome::Returned));
        assert_eq!(ended.value::<String>().len(), 50_000);
    }
}

#[test]
fn what_the_protocol_does_not_allow_ends_that_lane_only() {
    let rig = Rig::new(1);
    let mut good = rig.driver(1);
    let mut done = Vec::new();
    lane::put_done(
        &mut done,
        &lane::Done {
            id: 1,
            outcome: Outcome::Returned,
            value: Value::Bulk(1),
        },
    );
    for (session, bytes) in [&b"\x01\x00\x4d"[..], b"\x00\x00", &done]
        .into_iter()
        .enumerate()
    {
        let mut bad = rig.driver(2 + session as u64);
        bad.stream.write_all(bytes).unwrap();
        assert_eq!(bad.frame(), None);
    }
    // More tasks than may be outstanding.
    let mut bad = rig.driver(9);
    let key = fresh_key();
    bad.start("gate", &key);
    let mut out = Vec::new();
    for _ in 0..cc_core::limits::LANE_TASKS {
        bad.put(&mut out, "noop", false, Value::Inline(&[], Vec::new()));
    }
    let _ = bad.stream.write_all(&out);
    assert_eq!(bad.frame(), None);
    arrive(key, "open");
    // Streams without frames.
    let mut bad = rig.driver(10);
    let streams: Vec<_> = (0..cc_core::limits::EARLY_STREAMS as u32 + 1)
        .map(|task| bad.open(task, Direction::Argument))
        .collect();
    assert_eq!(bad.frame(), None);
    drop(streams);
    // An id that waits for its stream already.
    let mut bad = rig.driver(11);
    bad.send("sum", Value::Bulk(1));
    bad.next -= 1;
    bad.send("sum", Value::Bulk(1));
    assert_eq!(bad.frame(), None);

    assert_eq!(good.call("echo", &1u64).value::<u64>(), 1);
}

#[test]
fn random_and_mutated_bytes_harm_nothing() {
    let rig = Rig::new(2);
    let mut good = rig.driver(1);
    let mut rng = rand::rngs::StdRng::seed_from_u64(2);
    let safe = ["noop", "echo", "sum", "async_echo", "count"];
    let numbers: Vec<u32> = safe.iter().map(|name| good.functions[*name]).collect();
    for round in 0..300u64 {
        let bad = rig.driver(2 + round);
        let mut out = Vec::new();
        for _ in 0..rng.random_range(1..20) {
            let id = rng.random_range(0..4);
            let arguments = match rng.random_range(0..4) {
                0 => Value::Bulk(rng.random_range(0..100)),
                1 => Value::Stored(ContentHash([1; 32]), 5),
                2 => Value::Inline(&[1, 2], vec![&[3]]),
                _ => Value::Inline(&[1], Vec::new()),
            };
            let task = Task {
                id,
                urgent: rng.random(),
                function: numbers[rng.random_range(0..numbers.len())],
                arguments,
            };
            match rng.random_range(0..6) {
                0 => lane::put_cancel(&mut out, id),
                1 => lane::put_take_back(&mut out, id),
                _ => lane::put_task(&mut out, &task),
            }
        }
        if round % 3 > 0 {
            // Only ever a function that ends: gates would wait for ever.
            for _ in 0..rng.random_range(1..3) {
                let at = rng.random_range(0..out.len());
                out[at] = rng.random_range(100..=255);
            }
        }
        if round % 3 == 2 {
            out.iter_mut().for_each(|b| *b = rng.random_range(6..=255));
        }
        let _ = (&bad.stream).write_all(&out);
        let mut stream = bad.open(rng.random_range(0..4), Direction::Argument);
        let _ = stream.write_all(&out);
        drop(bad.open(rng.random_range(0..4), Direction::Result));
        if rng.random() {
            bad.stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = (&bad.stream).read_to_end(&mut Vec::new());
        }
    }
    assert_eq!(good.call("echo", &1u64).value::<u64>(), 1);
}
