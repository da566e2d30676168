#![allow(unused)]

use cc_macros::remote;

#[remote]
fn generic<T>(value: T) {}

#[remote]
fn constant<const N: usize>(value: [u8; N]) {}

#[remote]
fn bounded() where String: Clone {}

#[remote]
fn named_lifetime<'a>(value: std::borrow::Cow<'a, str>) {}

#[remote]
fn method(self) {}

#[remote]
fn takes_impl(values: impl Iterator<Item = u8>) {}

#[remote]
async fn returns_impl() -> impl Clone {}

#[remote]
fn text(value: &str) {}

#[remote]
fn slice(value: Option<&[u8]>) {}

#[remote]
fn changes(value: &mut Vec<u8>) {}

#[remote]
fn wrong_context(context: &mut Context) {}

#[remote]
fn returns_reference() -> &'static str { "" }

#[remote]
fn pointer(value: *const u8) {}

#[remote]
unsafe fn not_safe() {}

#[remote]
extern "C" fn foreign() {}

#[remote]
const fn at_compile_time() {}

#[remote]
unsafe extern "C" fn variadic(first: u8, rest: ...) {}

#[remote]
fn pattern((a, b): (u8, u8)) {}

#[remote]
fn nameless(_: u8) {}

#[remote]
fn attributed(#[cfg(unix)] value: u8) {}

#[remote]
fn too_many(
    a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8,
    i: u8, j: u8, k: u8, l: u8, m: u8, n: u8, o: u8, p: u8, q: u8,
) {}

fn main() {}
