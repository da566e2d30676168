//! Remote functions by which scenarios of a cluster's life see what is kept and what is not.

use std::io::Write as _;
use std::time::Duration;

use cc_driver::prelude::*;

/// Writes a file, relative to the worker's working directory.
#[remote]
pub fn write_text(path: String, text: String) -> Result<(), Failure> {
    Ok(std::fs::write(path, text)?)
}

/// Reads a file.
#[remote]
pub fn read_text(path: String) -> Result<String, Failure> {
    Ok(std::fs::read_to_string(path)?)
}

/// Appends a byte to a file, and then sleeps.
#[remote]
pub fn mark_and_sleep(path: String, millis: u64) -> Result<(), Failure> {
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)?;
    file.write_all(b"x")?;
    std::thread::sleep(Duration::from_millis(millis));
    Ok(())
}

/// A variable of the worker's environment.
#[remote]
pub fn variable(name: String) -> Option<String> {
    std::env::var(name).ok()
}
