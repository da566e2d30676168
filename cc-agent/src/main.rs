//! The agent as a program of its own.
fn main() {
    cc_agent::role::take();
}
