//! The agent as a process of its own, as a provider starts it and as drivers see it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod commands;
mod common;
mod sessions;
mod workers;
