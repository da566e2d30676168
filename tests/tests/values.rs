//! Values of every kind and size, in and beside the lane, and shared by all workers.

use cc_core::limits;
use cc_driver::prelude::*;
use cc_tests::functions::*;
use cc_tests::site::{Site, contract};

fn site() -> Site {
    Site::new(env!("CARGO_BIN_EXE_cc-test-worker"))
}

#[tokio::test]
async fn values_of_every_kind_and_size() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.driver().deploy(&contract(1, 2).resolve()?).await?;

    // Around every boundary: attached or not, in the frame or beside it, one chunk or two.
    let boundaries = [
        0,
        limits::ATTACHMENT_MIN,
        limits::INLINE_VALUE,
        limits::LANE_FRAME,
        limits::CHUNK,
        1 << 20,
    ];
    let sizes = boundaries
        .iter()
        .flat_map(|b| (b.saturating_sub(20)..b + 4).chain([b + 1_000]));
    let sizes: Vec<u64> = sizes.map(|n| n as u64).collect();
    let echoed = cluster
        .map(sizes.clone(), |n| echo::task(pattern(n).into()))
        .collect()
        .await?;
    for (size, bytes) in sizes.iter().zip(echoed) {
        assert!(bytes[..] == pattern(*size)[..], "{size}");
    }
    let echoed = cluster
        .map(sizes.clone(), |n| echo_vec::task(pattern(n)))
        .collect()
        .await?;
    for (size, bytes) in sizes.iter().zip(echoed) {
        assert!(bytes == pattern(*size), "{size}");
    }

    let text = "äöü€".repeat(1 << 20);
    assert!(cluster.call(echo_text::task(text.clone())).await? == text);
    assert_eq!(cluster.call(echo_text::task(String::new())).await?, "");
    assert_eq!(cluster.call(length::task(Bytes::default())).await?, 0);
    for count in [0u32, 1, 511, 512, 513, 7_679, 7_681, 200_000] {
        let array: Array<f64> = (0..count).map(f64::from).collect();
        let n = f64::from(count);
        assert_eq!(
            cluster.call(sum::task(array.clone())).await?,
            n * (n - 1.0) / 2.0
        );
        assert_eq!(cluster.call(echo_array::task(array.clone())).await?, array);
    }

    let leaf = |size: u64| Nested {
        name: format!("leaf {size}"),
        parts: vec![
            pattern(size).into(),
            Bytes::default(),
            pattern(size / 2).into(),
        ],
        numbers: (size > 5_000).then(|| (0..size as u32).map(f64::from).collect()),
        inner: Vec::new(),
    };
    let nested = Nested {
        name: "root".into(),
        parts: Vec::new(),
        numbers: Some(Array::from(Vec::new())),
        inner: vec![leaf(10), leaf(5_000), leaf(100_000), leaf(0)],
    };
    assert!(cluster.call(echo_nested::task(nested.clone())).await? == nested);

    // More parts than may travel, in both directions.
    let most = limits::ATTACHMENTS as u64;
    assert_eq!(cluster.call(pieces::task(most)).await?.len() as u64, most);
    let error = cluster.call(pieces::task(most + 1)).await.unwrap_err();
    assert!(error.to_string().contains("4096"), "{error}");
    let nested = Nested {
        name: String::new(),
        parts: vec![pattern(4_096).into(); limits::ATTACHMENTS + 1],
        numbers: None,
        inner: Vec::new(),
    };
    match cluster.call(echo_nested::task(nested.clone())).await {
        Err(CallError::Framework {
            phase,
            worker: None,
            ..
        }) => {
            assert_eq!(phase, "encode the arguments");
        }
        other => panic!("{other:?}"),
    }
    let mapped = cluster.map([nested], echo_nested::task).collect().await;
    assert!(
        mapped
            .unwrap_err()
            .to_string()
            .contains("encode the arguments")
    );
    assert_eq!(cluster.call(double::task(4)).await?, 8);
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn a_gigabyte_comes_back() -> anyhow::Result<()> {
    let site = site();
    let cluster = site.driver().deploy(&contract(1, 1).resolve()?).await?;
    // Without optimization a gigabyte takes up to 20 s: a quarter of it is as telling.
    let length = 1u64 << if cfg!(debug_assertions) { 28 } else { 30 };
    let bytes = cluster.call(make_bytes::task(length)).await?;
    assert_eq!(bytes.len() as u64, length);
    assert_eq!(bytes[..1_000], pattern(1_000));
    assert_eq!(bytes[bytes.len() - 1], ((length - 1) % 251) as u8);
    cluster.terminate().await?;
    Ok(())
}

#[tokio::test]
async fn one_value_for_all_workers() -> anyhow::Result<()> {
    for shared in [true, false] {
        let site = site();
        let mut contract = contract(3, 2);
        contract.settings_mut().shared_store = Some(shared);
        let cluster = site.driver().deploy(&contract.resolve()?).await?;
        let bytes = Bytes::from(pattern(5 << 20));
        let lengths = cluster.everywhere(length::task(bytes.clone())).await?;
        assert_eq!(lengths, vec![5 << 20; 6]);
        // Again, as it is there already; and changed by one byte.
        let echoed = cluster.everywhere(echo::task(bytes.clone())).each().await?;
        for (_, echoed) in echoed {
            assert!(echoed? == bytes);
        }
        let mut other = bytes.to_vec();
        other[77] ^= 1;
        for echoed in cluster.everywhere(echo::task(other.clone().into())).await? {
            assert!(echoed[..] == other[..]);
        }
        let array: Array<f64> = (0..500_000u32).map(f64::from).collect();
        let sums = cluster.everywhere(sum::task(array)).await?;
        assert_eq!(sums, vec![499_999.0 * 250_000.0; 6]);
        cluster.terminate().await?;
        assert_eq!(site.processes(), []);
    }
    Ok(())
}
