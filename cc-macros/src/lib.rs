//! The attributes `#[remote]` and `#[main]`, which users import from `cc_driver`.
//!
//! This crate checks and generates; it never runs anything. Generated code names nothing but
//! `cc_driver::Task` and `cc_driver::__private`, so that what a user imports or shadows
//! does not matter, and every rule that a function breaks is an error at the place that
//! breaks it.

mod entry;
mod options;
mod remote;
mod signature;

use proc_macro::TokenStream;

/// Makes a free `fn` or `async fn` callable on workers.
///
/// The function stays as it is, to be called locally and tested. Beside it appears a
/// companion of the same name and visibility, whose `task` takes the function's arguments and
/// gives a `Task` for `call`, `map` and `everywhere`; importing the name imports both.
///
/// ```ignore
/// use cc_driver::prelude::*;
///
/// /// Counts the words of a file on the node.
/// #[remote]
/// fn word_count(path: String) -> Result<usize, String> {
///     let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
///     Ok(text.split_whitespace().count())
/// }
///
/// let here = word_count("a.csv".into())?;
/// let there = cluster.call(word_count::task("a.csv".into())).await??;
/// ```
///
/// # Rules
/// Each is a compile error that says so:
/// - arguments and output are owned values that implement serde's `Serialize` and
///   `Deserialize`: no references, no lifetimes, no `impl Trait`;
/// - a `&Context` parameter is not an argument: the worker injects the task's own;
/// - no generics, `self`, `const`, `unsafe`, `extern` or variadics;
/// - arguments are plain names (`mut` is fine), at most 16 of them;
/// - the future of an `async fn` is `Send`.
///
/// The companion is a type, so no other type or module in scope may have the function's name.
///
/// # Options
/// `#[remote(crate = "path")]` says where `cc_driver` is when it goes by another name.
#[proc_macro_attribute]
pub fn remote(options: TokenStream, item: TokenStream) -> TokenStream {
    remote::expand(options.into(), item.into())
        .unwrap_or_else(|(error, item)| {
            // The function itself stays, so that its other uses are not errors too.
            let error = error.into_compile_error();
            quote::quote! { #item #error }
        })
        .into()
}

/// Makes an `async fn main` the program's entry, with a `Driver` as its argument if it
/// wants one.
///
/// The same executable may have been started as an agent or a worker: then it takes that role
/// here and the function's body never runs.
///
/// ```ignore
/// #[cc_driver::main]
/// async fn main(driver: Driver) -> anyhow::Result<()> {
///     let cluster = driver.deploy(&Contract::new().node_count(4).resolve()?).await?;
///     cluster.terminate().await?;
///     Ok(())
/// }
/// ```
///
/// If no driver can be made, the program says why on its standard error and exits with
/// status 1.
///
/// # Options
/// `#[main(crate = "path")]` says where `cc_driver` is when it goes by another name.
#[proc_macro_attribute]
pub fn main(options: TokenStream, item: TokenStream) -> TokenStream {
    entry::expand(options.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
