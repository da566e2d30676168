#![allow(unused)]

#[path = "../mock/mod.rs"]
mod mock;

use cc_macros::remote;

struct Opaque;

#[remote(crate = "crate::mock")]
fn takes(value: Opaque) {}

#[remote(crate = "crate::mock")]
fn returns() -> Result<u8, std::io::Error> {
    Ok(1)
}

#[remote(crate = "crate::mock")]
async fn not_send(value: u8) -> u8 {
    let shared = std::rc::Rc::new(value);
    std::future::ready(()).await;
    *shared
}

fn main() {}
