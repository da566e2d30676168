//! Remote functions that behave, and some that misbehave on purpose.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cc_driver::prelude::*;

/// Does nothing.
#[remote]
pub fn nothing() {}

/// Twice the number.
#[remote]
pub fn double(n: u64) -> u64 {
    2 * n
}

/// What it is given.
#[remote]
pub fn echo(bytes: Bytes) -> Bytes {
    bytes
}

/// The process that runs it.
#[remote]
pub fn pid() -> u32 {
    std::process::id()
}

/// The worker's own id.
#[remote]
pub fn whoami(context: &Context) -> u32 {
    context.worker().0
}

/// Counts its calls on this worker.
#[remote]
pub fn count(context: &Context) -> u64 {
    context.state(AtomicU64::default).fetch_add(1, Ordering::Relaxed) + 1
}

/// Keeps the processor busy for some microseconds and gives the number back.
#[remote]
pub fn spin(n: u64, micros: u64) -> u64 {
    let until = Instant::now() + Duration::from_micros(micros);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    n
}

/// Sleeps.
#[remote]
pub fn sleep(millis: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(millis));
    millis
}

/// Sleeps without holding a slot.
#[remote]
pub async fn doze(millis: u64) -> u64 {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    millis
}

/// Parses a number or says why it cannot.
#[remote]
pub fn parse(text: String) -> Result<u32, Failure> {
    Ok(text.parse()?)
}

/// Panics.
#[remote]
pub fn explode(message: String) {
    panic!("{message}");
}

/// Ends the worker's process.
#[remote]
pub fn exit(status: i32) {
    std::process::exit(status);
}

/// Prints lines on both outputs.
#[remote]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "that is what it is for")]
pub fn chatter(lines: u32) {
    for line in 0..lines {
        println!("out {line}");
        eprintln!("err {line}");
    }
}
