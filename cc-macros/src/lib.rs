//! `#[remote]` and `#[main]`.
