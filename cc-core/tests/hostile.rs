//! Every entry point that bytes of a peer reach, on random bytes and on messages with some
//! bytes changed: it may refuse or accept, but must not panic, loop, or allocate more than the
//! bytes justify.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may, as tests do")]

#[expect(dead_code, reason = "shared with other tests")]
mod messages;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use cc_core::codec;
use cc_core::payload::{self, Array, Bytes};
use cc_core::record::ClusterRecord;
use cc_core::wire::bootstrap::{Identity, Report, Settings};
use cc_core::wire::control::{self, FromAgent, ToAgent};
use cc_core::wire::lane;
use cc_core::wire::local::{FromWorker, GuardReport, ToWorker};
use cc_core::wire::stream::{self, ExecFrame, Transfer};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

thread_local! {
    /// Bytes that this thread has allocated, whether or not they were freed since.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator with a count.
struct Counting;

// SAFETY: every call is the system allocator's with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are what the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(size: usize) {
    // A thread that is ending may allocate after its counter is gone.
    let _ = ALLOCATED.try_with(|n| n.set(n.get().saturating_add(size)));
}

/// A type with everything that serde has, nested in itself.
#[derive(Debug, Serialize, Deserialize)]
enum Anything {
    Unit,
    Text(String),
    Pair(Box<Anything>, Box<Anything>),
    Fields {
        one: Option<Box<Anything>>,
        units: Vec<()>,
    },
    Many(Vec<Anything>),
    Named(BTreeMap<String, Anything>),
    Hashed(HashMap<u64, [u8; 32]>),
    Wide(Vec<[u64; 32]>),
    Bytes(Bytes),
    Array(Array<f64>),
}

/// Reads `bytes` as everything a peer could claim them to be.
fn read_as_everything(bytes: &[u8]) {
    let _ = control::decode::<ToAgent>(bytes);
    let _ = control::decode::<FromAgent>(bytes);
    let _ = stream::decode_header(bytes);
    let _ = codec::decode::<ToAgent>(bytes);
    let _ = codec::decode::<FromAgent>(bytes);
    let _ = codec::decode::<Transfer>(bytes);
    let _ = codec::decode::<ExecFrame>(bytes);
    let _ = codec::decode::<ToWorker>(bytes);
    let _ = codec::decode::<FromWorker>(bytes);
    let _ = codec::decode::<lane::Panic>(bytes);
    let _ = codec::decode::<Anything>(bytes);
    let _ = codec::decode::<(u64, Vec<Vec<String>>, HashMap<String, Vec<()>>)>(bytes);
    let (body, attachment) = bytes.split_at(bytes.len() / 2);
    let attachments = vec![bytes::Bytes::copy_from_slice(attachment); 2];
    let _ = payload::decode_value::<Anything>(body, attachments);

    let _ = lane::decode(bytes);
    let mut rest = bytes;
    while let Some(range) = lane::next_frame(rest) {
        let _ = lane::decode(&rest[range.clone()]);
        rest = &rest[range.end..];
    }
    let number = bytes
        .iter()
        .take(8)
        .fold(0, |n, byte| n << 8 | u64::from(*byte));
    let _ = lane::bulk_parts(number);
    let _ = lane::bulk_lengths(bytes, number);
    let _ = control::check_length(number);

    let _ = serde_json::from_slice::<Settings>(bytes);
    let _ = serde_json::from_slice::<Identity>(bytes);
    let _ = serde_json::from_slice::<Report>(bytes);
    let _ = serde_json::from_slice::<GuardReport>(bytes);
    let _ = serde_json::from_slice::<ClusterRecord>(bytes);
}

/// What all of the above together may allocate: each decoder its allowance of items without
/// bytes (at 1 MiB for each collection, by serde), and a multiple of what it was given.
fn allowance(bytes: usize) -> usize {
    (32 << 20) + 4096 * bytes
}

fn survives(bytes: &[u8]) {
    let (before, start) = (ALLOCATED.get(), Instant::now());
    read_as_everything(bytes);
    let allocated = ALLOCATED.get() - before;
    assert!(
        allocated <= allowance(bytes.len()),
        "{allocated} bytes allocated for {}",
        bytes.len()
    );
    // Far more than a debug build on a busy machine needs: only a loop is as slow.
    assert!(start.elapsed() < Duration::from_secs(20), "{bytes:?}");
}

/// Every sample, as it is and without the lengths and kinds that stand before it.
fn bases() -> Vec<Vec<u8>> {
    let mut bases = Vec::new();
    for (_, bytes) in messages::all().into_iter().flat_map(|group| group.samples) {
        for head in [2, 4, 5] {
            bases.extend(bytes.get(head..).map(<[u8]>::to_vec));
        }
        bases.push(bytes);
    }
    bases
}

/// The varints of lengths that lie.
const LIES: [&[u8]; 5] = [
    &[250],
    &[251, 255, 255],
    &[252, 255, 255, 255, 255],
    &[253, 0, 0, 0, 0, 0, 0, 0, 16],
    &[253, 255, 255, 255, 255, 255, 255, 255, 255],
];

#[test]
fn every_byte_of_every_message_replaced_by_a_lie() {
    for base in bases() {
        for place in 0..base.len() {
            for lie in LIES {
                let bytes = [&base[..place], lie, &base[place + 1..]].concat();
                let _ = control::decode::<FromAgent>(&bytes);
                let _ = codec::decode::<ToAgent>(&bytes);
                let _ = codec::decode::<FromAgent>(&bytes);
                let _ = stream::decode_header(&bytes);
                let _ = codec::decode::<ToWorker>(&bytes);
                let _ = lane::decode(&bytes);
            }
        }
        survives(&base);
    }
}

#[test]
fn the_worst_there_is() {
    survives(&[]);
    for byte in 0..=255 {
        survives(&vec![byte; 4096]);
    }
    // A claim at every level of nesting, each as large as it may be.
    let mut bytes = Vec::new();
    for _ in 0..200 {
        bytes.extend([4, 251, 0, 2]);
    }
    survives(&bytes);
    for lie in LIES {
        for variant in 0..10 {
            survives(&[&[variant], lie, lie].concat());
            survives(&[&[variant, 0], lie, lie].concat());
        }
    }
    // Deep JSON.
    survives("[".repeat(100_000).as_bytes());
    survives("{\"a\":".repeat(100_000).as_bytes());
}

/// One change of a message.
#[derive(Debug, Clone)]
enum Change {
    Set(usize, u8),
    Flip(usize, u8),
    Insert(usize, Vec<u8>),
    Cut(usize),
    Remove(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |n: usize| n % bytes.len().max(1);
        match self {
            _ if bytes.is_empty() => {}
            Self::Set(n, byte) => {
                let place = place(*n);
                bytes[place] = *byte;
            }
            Self::Flip(n, bit) => {
                let place = place(*n);
                bytes[place] ^= 1 << (bit % 8);
            }
            Self::Insert(n, more) => {
                let place = place(*n);
                bytes.splice(place..place, more.iter().copied());
            }
            Self::Cut(n) => bytes.truncate(place(*n)),
            Self::Remove(n) => {
                bytes.remove(place(*n));
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let lie = proptest::sample::select(LIES.to_vec());
    prop_oneof![
        any::<(usize, u8)>().prop_map(|(n, byte)| Change::Set(n, byte)),
        any::<(usize, u8)>().prop_map(|(n, bit)| Change::Flip(n, bit)),
        (any::<usize>(), lie).prop_map(|(n, lie)| Change::Insert(n, lie.to_vec())),
        any::<usize>().prop_map(Change::Cut),
        any::<usize>().prop_map(Change::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..2048)) {
        survives(&bytes);
    }

    #[test]
    fn small_numbers(bytes in vec(0..12u8, 0..2048)) {
        survives(&bytes);
    }

    #[test]
    fn changed_messages(
        base in proptest::sample::select(bases()),
        changes in vec(change(), 1..6),
    ) {
        let mut bytes = base;
        for change in &changes {
            change.apply(&mut bytes);
        }
        survives(&bytes);
    }
}
