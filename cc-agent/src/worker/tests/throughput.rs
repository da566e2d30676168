//! How fast the pool is; printed, never asserted. Run with
//! `cargo test --release -p cc-agent worker::tests::throughput -- --ignored --nocapture`.

use super::*;

const TASKS: usize = 2_000_000;
/// Tasks that the driver keeps outstanding.
const WINDOW: usize = 8_000;

fn no_ops(slots: u32) {
    let rig = Rig::new(slots);
    let driver = rig.driver(1);
    let function = driver.functions["noop"];
    let mut writer = driver.stream.try_clone().unwrap();
    let outstanding = Arc::new((Mutex::new(0usize), Condvar::new()));
    let begin = Instant::now();
    let shared = Arc::clone(&outstanding);
    let sender = std::thread::spawn(move || {
        let mut out = Vec::new();
        let mut id = 0;
        for _ in 0..TASKS / 1000 {
            out.clear();
            for _ in 0..1000 {
                id = (id + 1) % 10_000;
                let task = Task {
                    id,
                    urgent: false,
                    function,
                    arguments: Value::Inline(&[], Vec::new()),
                };
                lane::put_task(&mut out, &task);
            }
            let guard = lock(&shared.0);
            *shared.1.wait_while(guard, |n| *n > WINDOW - 1000).unwrap() += 1000;
            writer.write_all(&out).unwrap();
        }
    });
    let mut buffer = vec![0; 1 << 20];
    let (mut filled, mut done) = (0, 0);
    while done < TASKS {
        let read = (&driver.stream).read(&mut buffer[filled..]).unwrap();
        assert!(read > 0);
        filled += read;
        let (mut at, before) = (0, done);
        while let Some(range) = lane::next_frame(&buffer[at..filled]) {
            at += range.end;
            done += 1;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        *lock(&outstanding.0) -= done - before;
        outstanding.1.notify_one();
    }
    sender.join().unwrap();
    let rate = TASKS as f64 / begin.elapsed().as_secs_f64() / 1e6;
    println!("{slots} slots: {rate:.2} million no-op tasks/s");
}

#[test]
#[ignore = "measures"]
fn throughput() {
    for slots in [1, 2, 1] {
        no_ops(slots);
    }
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    let mut times: Vec<_> = (0..20_000)
        .map(|_| {
            let begin = Instant::now();
            driver.call("noop", &());
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("call: median {:?}, p99 {:?}", times[10_000], times[19_800]);
}

#[test]
#[ignore = "measures"]
fn streams() {
    let rig = Rig::new(1);
    let mut driver = rig.driver(1);
    let payload = Payload::encode(&Bytes::from(vec![1u8; 64 << 20])).unwrap();
    let rate = |begin: Instant| 64.0 / begin.elapsed().as_secs_f64();
    for _ in 0..4 {
        let (near, mut far) = UnixStream::pair().unwrap();
        let begin = Instant::now();
        let copy = payload.clone();
        let writer = std::thread::spawn(move || write_bulk(near, &copy));
        let mut buffer = vec![0; 1 << 20];
        while far.read(&mut buffer).unwrap() > 0 {}
        writer.join().unwrap();
        let raw = rate(begin);

        let id = driver.send("noop", Value::Bulk(payload.size()));
        let stream = driver.open(id, Direction::Argument);
        let begin = Instant::now();
        write_bulk(stream, &payload);
        // The function takes no such argument and says so at once.
        assert!(driver.done().is(id, Outcome::Fault));
        let put = rate(begin);

        let ended = driver.call("bytes_of", &(1u8, 64usize << 20));
        let begin = Instant::now();
        let mut stream = driver.open(ended.id, Direction::Result);
        while stream.read(&mut buffer).unwrap() > 0 {}
        println!("MiB/s: raw {raw:.0}, put {put:.0}, get {:.0}", rate(begin));
    }
}
