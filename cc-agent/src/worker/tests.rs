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

mod lanes;
mod throughput;
mod values;

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
