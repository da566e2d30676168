//! Remote functions that behave, and some that misbehave on purpose.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cc_driver::prelude::*;
use serde::{Deserialize, Serialize};

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
    context
        .state(AtomicU64::default)
        .fetch_add(1, Ordering::Relaxed)
        + 1
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
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "that is what it is for"
)]
pub fn chatter(lines: u32) {
    for line in 0..lines {
        println!("out {line}");
        eprintln!("err {line}");
    }
}

/// The number after some milliseconds, and the worker that ran it.
#[remote]
pub fn stamp(context: &Context, n: u64, millis: u64) -> (u64, u32) {
    std::thread::sleep(Duration::from_millis(millis));
    (n, context.worker().0)
}

/// Adds a line to a file.
fn note(path: &str, line: impl std::fmt::Display) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// Adds a line to a file, then sleeps.
#[remote]
pub fn note_and_sleep(path: String, line: String, millis: u64) -> Result<(), Failure> {
    note(&path, line)?;
    std::thread::sleep(Duration::from_millis(millis));
    Ok(())
}

/// Runs until nobody wants it any more and says so in a file; gives up after 30 s.
#[remote]
pub fn until_cancelled(context: &Context, path: String) -> Result<bool, Failure> {
    note(&path, "begun")?;
    let start = Instant::now();
    while !context.is_cancelled() && start.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(2));
    }
    note(
        &path,
        if context.is_cancelled() {
            "cancelled"
        } else {
            "tired"
        },
    )?;
    Ok(context.is_cancelled())
}

/// Sleeps 30 s without holding a slot; notes in a file that it was told and dropped.
#[remote]
pub async fn doze_until_cancelled(context: &Context, path: String) -> Result<(), Failure> {
    struct Dropped(String);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = note(&self.0, "dropped");
        }
    }
    let _dropped = Dropped(path.clone());
    let told = context.clone();
    note(&path, "begun")?;
    tokio::spawn(async move {
        told.cancelled().await;
        let _ = note(&path, "told");
    });
    tokio::time::sleep(Duration::from_secs(30)).await;
    Ok(())
}

/// An error of a user's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mistake {
    /// Below zero.
    Negative(i64),
    /// Above the limit.
    TooLarge {
        /// The limit.
        limit: i64,
        /// What it was.
        got: i64,
    },
}

/// The root of a small square, or a typed error.
#[remote]
pub fn small(n: i64) -> Result<i64, Mistake> {
    match n {
        ..0 => Err(Mistake::Negative(n)),
        101.. => Err(Mistake::TooLarge { limit: 100, got: n }),
        _ => Ok(n),
    }
}

/// Fails with a cause behind a cause.
#[remote]
pub fn read_settings(path: String) -> Result<String, Failure> {
    use anyhow::Context as _;
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("settings of {path}"))
        .context("start")?;
    Ok(text)
}

/// Panics after an await.
#[remote]
pub async fn explode_later(message: String) {
    tokio::time::sleep(Duration::from_millis(5)).await;
    panic!("{message}");
}

/// Panics with a number for a payload.
#[remote]
pub fn explode_with_a_number() {
    std::panic::panic_any(42u64);
}

/// Panics with a payload that panics when it is dropped.
#[remote]
pub fn explode_twice() {
    struct Again;
    impl Drop for Again {
        fn drop(&mut self) {
            panic!("again");
        }
    }
    std::panic::panic_any(Again);
}

/// Sends its own process a signal and waits for the end.
#[remote]
#[expect(clippy::print_stderr, reason = "that is what it is for")]
pub fn kill_itself(signal: i32) -> Result<(), Failure> {
    for line in 0..60 {
        eprintln!("last words {line}");
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::this(),
        nix::sys::signal::Signal::try_from(signal)?,
    )?;
    std::thread::sleep(Duration::from_secs(30));
    Ok(())
}

/// Writes through a pointer that leads nowhere.
#[remote]
pub fn segfault() {
    let address: usize = std::hint::black_box(8);
    // SAFETY: none; a worker's death by SIGSEGV is what is wanted.
    unsafe { std::ptr::write_volatile(address as *mut u64, 1) };
}

/// Kills its worker if nobody made the file before it; otherwise gives the number back.
#[remote]
pub fn die_first(path: String, n: u64) -> u64 {
    if std::fs::File::create_new(path).is_ok() {
        // SAFETY: a signal to itself.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
    n
}

/// Exits with status 9 for one number, and gives back the others.
#[remote]
pub fn poisoned(n: u64, bad: u64) -> u64 {
    if n == bad {
        std::process::exit(9);
    }
    std::thread::sleep(Duration::from_millis(1));
    n
}

/// Wants memory.
#[remote]
pub fn hog(bytes: u64) -> u64 {
    vec![1u8; bytes as usize].into_iter().map(u64::from).sum()
}

/// Never returns when the number is that one.
#[remote]
pub fn stuck_at(n: u64, at: u64) -> u64 {
    if n == at {
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    n
}

/// Blocks the thread of the asynchronous runtime that it runs on.
#[remote]
pub async fn block_the_runtime(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// Some bytes, in a pattern.
#[remote]
pub fn make_bytes(length: u64) -> Bytes {
    pattern(length).into()
}

/// The pattern of [`make_bytes()`].
pub fn pattern(length: u64) -> Vec<u8> {
    let block: Vec<u8> = (0..251u8).collect();
    let mut bytes = block.repeat((length as usize).div_ceil(block.len()));
    bytes.truncate(length as usize);
    bytes
}

/// How many bytes these are.
#[remote]
pub fn length(bytes: Bytes) -> u64 {
    bytes.len() as u64
}

/// What it is given, the ordinary way.
#[remote]
pub fn echo_vec(bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

/// What it is given.
#[remote]
pub fn echo_text(text: String) -> String {
    text
}

/// What it is given.
#[remote]
pub fn echo_array(array: Array<f64>) -> Array<f64> {
    array
}

/// The sum of numbers.
#[remote]
pub fn sum(array: Array<f64>) -> f64 {
    array.iter().sum()
}

/// Values inside values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nested {
    /// A name.
    pub name: String,
    /// Bytes, some of them large.
    pub parts: Vec<Bytes>,
    /// Perhaps an array.
    pub numbers: Option<Array<f64>>,
    /// Deeper ones.
    pub inner: Vec<Nested>,
}

/// What it is given.
#[remote]
pub fn echo_nested(nested: Nested) -> Nested {
    nested
}

/// As many pieces as asked for, each large enough to travel by itself.
#[remote]
pub fn pieces(count: u64) -> Vec<Bytes> {
    let piece = Bytes::from(vec![7u8; 4096]);
    vec![piece; count as usize]
}

/// Leaves a process in a session of its own behind and gives its id.
#[remote]
pub fn grandchild() -> Result<i32, Failure> {
    let command = "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!";
    let output = std::process::Command::new("sh")
        .args(["-c", command])
        .output()?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Prints one very long line.
#[remote]
#[expect(clippy::print_stdout, reason = "that is what it is for")]
pub fn long_line(length: u64) {
    println!("{}", "x".repeat(length as usize));
}

/// Sleeps a long while on that worker and returns at once on others.
#[remote]
pub async fn stuck_after_dozing(context: &Context, at: u32) {
    if context.worker().0 == at {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}

/// Notes that it ran, and panics if it is to.
#[remote]
pub fn fail_for_once(path: String, fail: bool) -> Result<(), Failure> {
    note(&path, "ran")?;
    std::thread::sleep(Duration::from_millis(5));
    assert!(!fail, "once");
    Ok(())
}

/// Panics for one number.
#[remote]
pub fn explode_at(n: u64, at: u64) -> u64 {
    assert!(n != at, "at {n}");
    n
}

/// Prints numbers, as fast as it can.
#[remote]
pub fn flood(lines: u64) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in 0..lines {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    Ok(())
}

/// The contents of a file in the worker's directory.
#[remote]
pub fn read_file(path: String) -> Result<String, Failure> {
    Ok(std::fs::read_to_string(path)?)
}

/// Writes a file on the node.
#[remote]
pub fn write_file(path: String, text: String) -> Result<(), Failure> {
    std::fs::write(path, text)?;
    Ok(())
}

/// A file's permission bits.
#[remote]
pub fn mode_of(path: String) -> Result<u32, Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777)
}
