//! The pool against workers that answer as they like: there is no process behind them.

use std::net::{Ipv4Addr, SocketAddr};

use cc_core::ids::Handle;
use cc_core::net::endpoint;
use cc_core::net::identity::{Authority, Role, Subject};
use cc_core::wire::lane::{Done, Frame, Outcome, Value};
use futures::FutureExt as _;

use super::*;
use crate::call::Call;
use crate::task::Task;

static FUNCTION: Function = Function {
    name: "tests::number",
    hash: || 7,
    runner: Runner::Blocking(|_, _, _, _| Ok(Vec::new())),
    location: ("tests.rs", 1),
};

/// A connection to nobody in particular.
struct Line {
    connection: quinn::Connection,
    _peer: quinn::Connection,
    _endpoints: [quinn::Endpoint; 2],
}

async fn line() -> anyhow::Result<Line> {
    let (handle, node) = (Handle::random(), NodeIndex(0));
    let (authority, _) = Authority::create(handle)?;
    let subject = |role| Subject { handle, role };
    let agent = authority.issue(subject(Role::Agent(node)))?;
    let driver = authority.issue(subject(Role::Driver))?;
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = endpoint::serve(local, &agent)?;
    let client = endpoint::client(local.ip())?;
    let config = endpoint::client_config(&driver, true)?;
    let accepting = async {
        let incoming = server.accept().await;
        anyhow::Ok(incoming.ok_or_else(|| anyhow::anyhow!("closed"))?.await?)
    };
    let connecting = endpoint::connect(&client, config, server.local_addr()?, handle, node);
    let (peer, connection) = futures::join!(accepting, connecting);
    Ok(Line {
        connection: connection?,
        _peer: peer?,
        _endpoints: [server, client],
    })
}

/// A pool, and the workers that it has.
struct Rig {
    pool: Arc<Pool>,
    line: Line,
    _hung: tokio::sync::mpsc::Receiver<WorkerId>,
}

impl Rig {
    async fn new() -> anyhow::Result<Self> {
        let (hung, given_up) = tokio::sync::mpsc::channel(4);
        Ok(Self {
            pool: Pool::new(tokio::runtime::Handle::current(), hung),
            line: line().await?,
            _hung: given_up,
        })
    }

    fn add(&self, id: u32) -> WorkerId {
        let id = WorkerId(id);
        let info = WorkerInfo {
            id,
            node: NodeIndex(0),
            key: WorkerKey {
                slot: id.0,
                incarnation: 1,
            },
            slots: 1,
        };
        let functions = Functions {
            more: false,
            slots: 1,
            build: 0,
            functions: vec![cc_core::function::FunctionName {
                name: FUNCTION.name.to_owned(),
                hash: 7,
            }],
        };
        let link = Link {
            writer: Arc::default(),
            connection: self.line.connection.clone(),
            bulk: Arc::new(tokio::sync::Semaphore::new(1)),
        };
        self.pool.add(info, &[functions], link);
        id
    }

    fn call(&self) -> Call<u64> {
        Call::new(&self.pool, Task::new(&FUNCTION, &()), Target::Any)
    }

    /// The ids of the tasks that were written to a worker's lane.
    fn sent(&self, id: WorkerId) -> Vec<u32> {
        let mut bytes = Vec::new();
        self.pool.take_output(id, &mut bytes);
        let (mut rest, mut tasks) = (&bytes[..], Vec::new());
        while let Some(range) = lane::next_frame(rest) {
            if let Ok(Frame::Task(task)) = lane::decode(&rest[range.clone()]) {
                tasks.push(task.id);
            }
            rest = &rest[range.end..];
        }
        tasks
    }

    fn answer(&self, id: WorkerId, task: u32, output: u64) -> Result<usize, WireError> {
        let body = cc_core::codec::encode(&output).unwrap();
        let mut bytes = Vec::new();
        let done = Done {
            id: task,
            outcome: Outcome::Returned,
            value: Value::Inline(&body, Vec::new()),
        };
        lane::put_done(&mut bytes, &done);
        self.pool.received(id, &bytes.into())
    }
}

/// A number from another, for bytes that are the same in every run.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

fn framed(body: &[u8]) -> bytes::Bytes {
    let mut frame = (body.len() as u16).to_le_bytes().to_vec();
    frame.extend_from_slice(body);
    frame.into()
}

#[tokio::test]
async fn what_no_worker_sends_is_an_error_and_nothing_more() -> anyhow::Result<()> {
    let rig = Rig::new().await?;
    let id = rig.add(2);
    let mut call = Box::pin(rig.call());
    assert!((&mut call).now_or_never().is_none());
    let task = rig.sent(id)[0];

    // Frames that only drivers send, answers to nothing, values that do not belong.
    let mut frames = Vec::new();
    lane::put_cancel(&mut frames, task);
    assert!(rig.pool.received(id, &frames.into()).is_err());
    assert!(rig.answer(id, task + 1, 1).is_err());
    assert!(rig.answer(id, u32::MAX, 1).is_err());
    for body in [&[][..], &[0], &[77, 1, 2], &[3], &[3, 0, 9, 0, 0, 0]] {
        assert!(rig.pool.received(id, &framed(body)).is_err(), "{body:?}");
    }
    // Half a frame waits for its other half.
    assert_eq!(rig.pool.received(id, &vec![9, 0, 3].into())?, 0);
    // Nobody of that name.
    assert_eq!(rig.pool.received(WorkerId(9), &bytes::Bytes::new())?, 0);

    // Random bytes, and answers with random bytes in the place of what they had.
    let mut random = 0x5eed_u64;
    let mut good = Vec::new();
    let panicked = Done {
        id: task,
        outcome: Outcome::Panicked,
        value: Value::Inline(&[5, 1, 2, 3], vec![&[1, 2]]),
    };
    lane::put_done(&mut good, &panicked);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..1 + next(&mut random) % 3 {
            let place = next(&mut random) as usize % bytes.len();
            bytes[place] = next(&mut random) as u8;
        }
        let _ = rig.pool.received(id, &bytes.into());
        let length = next(&mut random) as usize % 64;
        let noise: Vec<u8> = (0..length).map(|_| next(&mut random) as u8).collect();
        let _ = rig.pool.received(id, &framed(&noise));
    }
    // Its lane is given up then, and whoever still waits hears of it, be it for a value that
    // was promised beside the lane.
    rig.line.connection.close(0u32.into(), b"");
    rig.pool
        .lost(id, Death::of(Cause::NodeLost("nonsense".into())));
    let error = call.await.unwrap_err();
    assert!(!error.to_string().is_empty());
    let error = rig.call().await.unwrap_err();
    assert!(error.to_string().contains("no worker is left"), "{error}");
    Ok(())
}

#[tokio::test]
async fn what_was_finished_before_the_end_counts() -> anyhow::Result<()> {
    let rig = Rig::new().await?;
    let id = rig.add(2);
    let mut first = Box::pin(rig.call());
    let mut second = Box::pin(rig.call().retries(1));
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    let tasks = rig.sent(id);
    // The agent's word is faster than the lane.
    rig.pool.down(id, Death::of(Cause::Exited(3)));
    assert!(rig.pool.workers().is_empty());
    assert_eq!(rig.answer(id, tasks[0], 11)?, 9);
    assert_eq!(first.await?, 11);
    // A call that is made meanwhile waits, since one can still come.
    let mut third = Box::pin(rig.call());
    assert!((&mut third).now_or_never().is_none());
    let other = rig.add(3);
    assert!(rig.pool.lane_over(id));
    let again = rig.sent(other);
    assert_eq!(again.len(), 2);
    rig.answer(other, again[1], 22)?;
    rig.answer(other, again[0], 33)?;
    assert_eq!(second.await? + third.await?, 55);

    // The lane's end first: the evidence is waited for.
    let mut last = Box::pin(rig.call());
    assert!((&mut last).now_or_never().is_none());
    assert!(!rig.pool.lane_over(other));
    rig.pool.down(other, Death::of(Cause::Signalled(9)));
    let error = last.await.unwrap_err();
    assert!(error.to_string().contains("SIGKILL"), "{error}");
    Ok(())
}

#[tokio::test]
async fn what_had_not_begun_keeps_its_retries() -> anyhow::Result<()> {
    let rig = Rig::new().await?;
    let end = |id| {
        rig.pool.down(id, Death::of(Cause::Exited(9)));
        rig.pool.lane_over(id);
    };
    let (first, second) = (rig.add(2), rig.add(3));
    // One slot each: of two tasks on a worker one runs and one waits.
    let mut calls: Vec<_> = (0..4).map(|_| Box::pin(rig.call().retries(1))).collect();
    for call in &mut calls {
        assert!(call.as_mut().now_or_never().is_none());
    }
    for id in [first, second] {
        assert_eq!(rig.sent(id).len(), 2);
    }
    // More workers are on their way, so that the tasks wait for them.
    rig.pool.expect(2);
    end(first);
    end(second);
    // 1 runs for the second time and takes this worker down too; the others, behind it, do not
    // run there.
    let third = rig.add(4);
    assert_eq!(rig.sent(third).len(), 4);
    end(third);
    let fourth = rig.add(5);
    loop {
        let tasks = rig.sent(fourth);
        if tasks.is_empty() {
            break;
        }
        for task in tasks {
            rig.answer(fourth, task, 1)?;
        }
    }
    let results = futures::future::join_all(calls).await;
    let lost: Vec<usize> = (0..4).filter(|n| results[*n].is_err()).collect();
    assert_eq!(lost, [1]);
    Ok(())
}
