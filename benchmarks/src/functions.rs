//! The functions that run on workers.

use std::time::{Duration, Instant};

use cc_driver::{Array, Bytes, Context, Failure, remote};

use crate::process;

/// Nothing.
#[remote]
pub(crate) fn noop() {}

/// Nothing, for an item.
#[remote]
pub(crate) fn ignore(_item: u32) {}

/// Is busy for a time by the clock.
#[remote]
pub(crate) fn spin(nanoseconds: u64) {
    let (start, time) = (Instant::now(), Duration::from_nanos(nanoseconds));
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// A value that the worker keeps.
struct Held(Bytes);

/// Keeps a value of a length, to be had with [`get()`]; none for a length of 0.
#[remote]
pub(crate) fn hold(context: &Context, length: usize) {
    context.set_state(Held(vec![7; length].into()));
}

/// The value that the worker keeps.
#[remote]
pub(crate) fn get(context: &Context) -> Bytes {
    let held = context.existing_state::<Held>();
    held.map(|held| held.0.clone()).unwrap_or_default()
}

/// Takes a value.
#[remote]
pub(crate) fn put(value: Bytes) -> usize {
    value.len()
}

/// Takes a value and gives it back.
#[remote]
pub(crate) fn round_trip(value: Bytes) -> Bytes {
    value
}

/// The peak of the worker's resident memory in bytes; begins a new one.
#[remote]
pub(crate) fn peak_memory() -> Result<u64, Failure> {
    let peak = process::memory("self")?.peak;
    process::forget_peak()?;
    Ok(peak)
}

/// Takes and gives other types.
pub(crate) mod types {
    use super::*;

    #[remote]
    pub(crate) fn put_vec(value: Vec<u8>) -> usize {
        value.len()
    }

    #[remote]
    pub(crate) fn get_vec(length: usize) -> Vec<u8> {
        vec![7; length]
    }

    #[remote]
    pub(crate) fn put_floats(value: Vec<f64>) -> usize {
        value.len()
    }

    #[remote]
    pub(crate) fn get_floats(length: usize) -> Vec<f64> {
        vec![7.0; length]
    }

    #[remote]
    pub(crate) fn put_array(value: Array<f64>) -> usize {
        value.len()
    }

    #[remote]
    pub(crate) fn get_array(length: usize) -> Array<f64> {
        vec![7.0; length].into()
    }

    #[remote]
    pub(crate) fn put_string(value: String) -> usize {
        value.len()
    }

    #[remote]
    pub(crate) fn get_string(length: usize) -> String {
        "7".repeat(length)
    }
}
