//! Tasks through lanes: answers, cancelling, slots, drivers that leave or break the rules.

use super::*;

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
