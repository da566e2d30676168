//! What `#[remote]` and `#[main]` generate, compiled under the workspace's lints and run
//! against a stand-in for `cc_driver`.

#![deny(warnings)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests may, as tests do")]

#[expect(unreachable_pub, reason = "laid out as in `cc_driver`")]
mod mock;

use cc_core::context::Context;
use cc_core::function::{self, Function, Runner, TaskFault};
use cc_core::payload::{Bytes, Payload};
use cc_macros::remote;
use mock::Task;
use serde::de::DeserializeOwned;

/// Adds.
#[remote(crate = "crate::mock")]
fn add(a: u32, mut b: u32) -> u32 {
    b += a;
    b
}

#[remote(crate = "mock")]
fn nothing() {}

#[remote(crate = "crate::mock")]
fn checked(text: String) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

#[remote(crate = "crate::mock")]
async fn later(a: u32, context: &Context, b: Bytes) -> (u32, Bytes) {
    std::future::ready(()).await;
    (a + context.worker().0, b)
}

#[remote(crate = "crate::mock")]
fn remember(context: &cc_core::context::Context, _unused: Option<Vec<(u8, [u16; 3])>>) -> bool {
    context.existing_state::<u64>().is_some()
}

#[remote(crate = "crate::mock")]
fn r#match(r#type: String) -> String {
    r#type
}

#[remote(crate = "crate::mock")]
#[deprecated]
#[cfg(any(unix, windows))]
#[expect(clippy::too_many_arguments, reason = "as many as a task can have")]
fn sixteen(
    a: u8,
    b: u8,
    c: u8,
    d: u8,
    e: u8,
    f: u8,
    g: u8,
    h: u8,
    i: u8,
    j: u8,
    k: u8,
    l: u8,
    m: u8,
    n: u8,
    o: u8,
    p: u8,
) -> u32 {
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
        .into_iter()
        .map(u32::from)
        .sum()
}

#[remote(crate = "crate::mock")]
#[cfg(any())]
fn compiled_out(type_that_is_not_there: Missing) {}

/// Functions of another module.
mod elsewhere {
    /// Doubles.
    #[super::remote(crate = "crate::mock")]
    pub(super) fn double(n: u64) -> u64 {
        n * 2
    }

    /// The same name as in the other module, and other types.
    #[super::remote(crate = "crate::mock")]
    pub(crate) fn add(a: String, b: String) -> String {
        a + &b
    }
}

use elsewhere::double;

fn run<T: DeserializeOwned>(task: &Task<T>) -> Result<T, TaskFault> {
    let context = Context::detached();
    let Payload { body, attachments } = task.payload.clone();
    let payload = match task.function.runner {
        Runner::Blocking(runner) => {
            let mut out = Vec::new();
            let attachments = runner(&context, &body, attachments, &mut out)?;
            Payload {
                body: out,
                attachments,
            }
        }
        Runner::Async(runner) => futures::executor::block_on(runner(context, &body, attachments)?)?,
    };
    Ok(payload.decode().unwrap())
}

#[test]
fn the_function_stays_and_its_task_runs() {
    assert_eq!(add(1, 2), 3);
    assert_eq!(run(&add::task(1, 2)), Ok(3));
    nothing();
    assert_eq!(run(&nothing::task()), Ok(()));
    assert_eq!(run(&checked::task("12".into())), Ok(Ok(12)));
    assert_eq!(
        run(&checked::task("x".into())),
        Ok(Err("x is not a number".into()))
    );
    assert_eq!(run(&r#match::task("raw".into())), Ok("raw".to_owned()));
    #[expect(deprecated, reason = "called to compare")]
    let here = sixteen(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let there = run(&sixteen::task(
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
    ));
    assert_eq!((here, there), (120, Ok(120)));
}

#[test]
fn one_import_brings_function_and_task() {
    assert_eq!(double(4), 8);
    assert_eq!(run(&double::task(4)), Ok(8));
    assert_eq!(
        run(&elsewhere::add::task("a".into(), "b".into())),
        Ok("ab".to_owned())
    );
}

#[test]
fn contexts_are_injected_and_large_values_stay_out_of_the_body() {
    let large = Bytes::from(vec![5; 100_000]);
    let task = later::task(4, large.clone());
    assert_eq!(task.payload.attachments.len(), 1);
    assert_eq!(run(&task), Ok((5, large.clone())));
    let context = Context::detached();
    let here = later(4, &context, large.clone());
    assert_eq!(futures::executor::block_on(here), (5, large));
    assert!(!remember(&Context::detached(), None));
    assert_eq!(run(&remember::task(Some(vec![(1, [2, 3, 4])]))), Ok(false));
}

#[test]
fn arguments_that_do_not_decode_are_a_fault() {
    let mut out = Vec::new();
    let Runner::Blocking(runner) = find("add").runner else {
        panic!("not blocking")
    };
    let fault = runner(&Context::detached(), &[1], Vec::new(), &mut out);
    assert!(matches!(fault, Err(TaskFault::Arguments(_))));
    assert!(out.is_empty());
    let Runner::Async(runner) = find("later").runner else {
        panic!("not async")
    };
    let fault = runner(Context::detached(), &[], Vec::new());
    assert!(matches!(fault, Err(TaskFault::Arguments(_))));
}

fn find(name: &str) -> &'static Function {
    let path = format!("{}::{name}", module_path!());
    let found = function::all().into_iter().find(|f| f.name == path);
    found.unwrap_or_else(|| panic!("{path} is not registered"))
}

#[test]
fn every_function_is_registered_once_under_its_path() {
    let names: Vec<_> = function::all().iter().map(|f| f.name).collect();
    let expected = [
        "remote::add",
        "remote::checked",
        "remote::elsewhere::add",
        "remote::elsewhere::double",
        "remote::every_function_is_registered_once_under_its_path",
        "remote::later",
        "remote::match",
        "remote::nothing",
        "remote::remember",
        "remote::sixteen",
    ];
    // A function inside a function is one of the module's.
    #[remote(crate = "crate::mock")]
    fn every_function_is_registered_once_under_its_path() {}
    assert_eq!(names, expected);

    let add = find("add");
    assert!(add.location.0.ends_with("remote.rs") && add.location.1 > 0);
    assert_eq!(add.name, add::task(0, 0).function.name);
    assert_ne!((add.hash)(), (find("elsewhere::add").hash)());
    // On the wire: neither the layout of the source nor the compiler's printing changes it.
    let text = "fn add ( a : u32 , b : u32 ) - > u32 ";
    let types = ["u32", "u32", "u32"];
    assert_eq!((add.hash)(), function::signature_hash(text, &types));
}

mod program {
    use super::mock::Driver;

    /// A program.
    #[cc_macros::main(crate = "super::mock")]
    pub(super) async fn main(mut _driver: Driver) -> Result<(), std::num::ParseIntError> {
        let number: u8 = async { "300" }.await.parse()?;
        unreachable!("{number}")
    }

    pub(super) mod bare {
        #[cc_macros::main(crate = "crate::mock")]
        pub(in super::super) async fn main() {}
    }
}

#[test]
fn main_runs_and_keeps_its_type() {
    assert!(program::main().is_err());
    program::bare::main();
}

/// The rules, each broken once. The snapshots are made with `TRYBUILD=overwrite`.
#[test]
fn broken_rules_are_named() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
