//! Values beside lanes: large results and arguments, and stored ones.

use super::*;

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
