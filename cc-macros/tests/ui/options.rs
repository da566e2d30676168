#![allow(unused)]

use cc_macros::remote;

#[remote(mpi)]
fn rank() {}

#[remote(retries = 3)]
fn retried() {}

#[remote(crate = 5)]
fn misplaced() {}

#[remote]
struct NotAFunction;

fn main() {
    // The functions themselves are still there: no second error for each.
    rank();
    retried();
    misplaced();
}
