//! `#[main]`: a program's entry, which takes a role before anything else.

use proc_macro2::TokenStream;
use quote::quote;
use syn::spanned::Spanned as _;
use syn::{Error, FnArg, ItemFn, Result, Visibility};

use crate::options::{Options, not_a_function};

const WANTED: &str = "the program's `async fn main(driver: Driver)`, or `async fn main()`";

/// The entry: an ordinary `main` around the user's own.
pub(crate) fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut inner: ItemFn = syn::parse2(item).map_err(|_| not_a_function("main", WANTED))?;
    let driver = Options::parse("main", options)?.driver;
    check(&inner)?;

    let attributes = std::mem::take(&mut inner.attrs);
    let visibility = std::mem::replace(&mut inner.vis, Visibility::Inherited);
    let output = &inner.sig.output;
    let start = if inner.sig.inputs.is_empty() {
        quote!(|_| main())
    } else {
        quote!(main)
    };
    Ok(quote! {
        #(#attributes)*
        #visibility fn main() #output {
            #inner
            #driver::__private::run_main(#start)
        }
    })
}

fn check(function: &ItemFn) -> Result<()> {
    let signature = &function.sig;
    let refuse = |span, why: &str| {
        Err(Error::new(
            span,
            format!("{why}: `#[main]` goes on {WANTED}"),
        ))
    };
    if signature.asyncness.is_none() {
        return refuse(signature.fn_token.span(), "`main` has to be `async`");
    }
    if signature.ident != "main" {
        return refuse(signature.ident.span(), "not the program's entry");
    }
    if !signature.generics.params.is_empty() || signature.generics.where_clause.is_some() {
        return refuse(signature.generics.span(), "`main` cannot be generic");
    }
    if let Some(FnArg::Receiver(receiver)) = signature.inputs.first() {
        return refuse(receiver.span(), "`main` cannot take `self`");
    }
    if let Some(second) = signature.inputs.iter().nth(1) {
        return refuse(second.span(), "`main` takes nothing but the driver");
    }
    Ok(())
}
