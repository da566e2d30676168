//! The agent that runs on every node, and the worker runtime that user binaries contain.
//!
//! The agent supervises workers, copies lanes and bulk streams between QUIC and the workers'
//! sockets without reading them, and moves files. It never links user code.

mod agent;
mod bootstrap;
pub mod build;
pub mod client;
mod exec;
mod lease;
mod logfile;
pub mod role;
mod session;
mod splice;
mod status;
mod store;
mod streams;
mod supervise;
mod transfer;
mod worker;
