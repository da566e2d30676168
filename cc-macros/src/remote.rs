//! `#[remote]`: the companion of a function, and its entry in the executable's list.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Attribute, Error, ItemFn};

use crate::options::{Options, not_a_function};
use crate::signature::{self, Checked, Parameter};

/// The function and its companion; or why not, and the item as it was.
pub(crate) fn expand(
    options: TokenStream,
    item: TokenStream,
) -> Result<TokenStream, (Error, TokenStream)> {
    let function: ItemFn = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(_) => return Err((not_a_function("remote", "a free `fn` or `async fn`"), item)),
    };
    let made = Options::parse("remote", options).and_then(|options| {
        Ok(companion(
            &options,
            &function,
            &signature::check(&function.sig)?,
        ))
    });
    match made {
        Ok(companion) => Ok(quote! { #item #companion }),
        Err(error) => Err((error, item)),
    }
}

/// The lints that a companion may trip over, though its user did nothing wrong. Whether the
/// function itself is used or documented is said of the function.
fn leniency() -> TokenStream {
    quote! {
        #[allow(
            non_camel_case_types, dead_code, deprecated, missing_docs, unreachable_pub,
            clippy::empty_structs_with_brackets, clippy::missing_errors_doc,
            clippy::missing_panics_doc, clippy::missing_docs_in_private_items,
            clippy::needless_pass_by_value, clippy::too_many_arguments,
        )]
    }
}

fn companion(options: &Options, function: &ItemFn, checked: &Checked) -> TokenStream {
    let driver = &options.driver;
    let private = quote!(#driver::__private);
    let (visibility, name) = (&function.vis, &function.sig.ident);
    let (types, output, text) = (&checked.types, &checked.output, &checked.text);
    let names: Vec<_> = checked.names().collect();
    let plain_name = name.unraw().to_string();
    let runner = runner(&private, function, checked);
    let leniency = leniency();

    let conditions: Vec<&Attribute> = with_path(&function.attrs, "cfg").collect();
    let mut documentation: Vec<TokenStream> = with_path(&function.attrs, "doc")
        .map(|attribute| quote!(#attribute))
        .collect();
    if documentation.is_empty() {
        let line = format!(" A task that calls `{plain_name}` with these arguments.");
        documentation.push(quote!(#[doc = #line]));
    }
    let about =
        format!(" Makes tasks of [`{plain_name}`]({plain_name}()), the function of the same name.");

    // Said of each type at its own place, before the compiler finds it in the tuple.
    let travels = types.iter().chain([output]).map(|ty| {
        quote_spanned! {ty.span()=>
            let _ = #private::payload::encode_value::<#ty>;
            let _ = #private::payload::decode_value::<#ty>;
        }
    });

    quote! {
        #(#conditions)*
        #[doc = #about]
        #leniency
        #visibility struct #name {}

        #(#conditions)*
        #leniency
        const _: () = {
            fn __cc_travels() {
                #(#travels)*
            }

            fn __cc_hash() -> u64 {
                #private::function::signature_hash(
                    #text,
                    &[#(::core::any::type_name::<#types>(),)* ::core::any::type_name::<#output>()],
                )
            }

            const __CC_FUNCTION: #private::function::Function = #private::function::Function {
                name: ::core::concat!(::core::module_path!(), "::", #plain_name),
                hash: __cc_hash,
                runner: #runner,
                location: (::core::file!(), ::core::line!()),
            };

            #private::inventory::submit! { __CC_FUNCTION }

            impl #name {
                #(#documentation)*
                #visibility fn task(#(#names: #types),*) -> #driver::Task<#output> {
                    static __CC_STATIC: #private::function::Function = __CC_FUNCTION;
                    #driver::Task::<#output>::new(&__CC_STATIC, &(#(&#names,)*))
                }
            }
        };
    }
}

fn with_path<'a>(attributes: &'a [Attribute], name: &str) -> impl Iterator<Item = &'a Attribute> {
    attributes.iter().filter(move |a| a.path().is_ident(name))
}

/// What a worker runs: decodes the arguments, calls the function, encodes the output.
fn runner(private: &TokenStream, function: &ItemFn, checked: &Checked) -> TokenStream {
    let (name, types) = (&function.sig.ident, &checked.types);
    let arguments: Vec<Ident> = (0..types.len())
        .map(|place| format_ident!("__argument_{place}"))
        .collect();
    let is_async = function.sig.asyncness.is_some();
    let context = if is_async {
        quote!(&__context)
    } else {
        quote!(__context)
    };
    let call = checked.parameters.iter().map(|parameter| match parameter {
        Parameter::Argument { place, .. } => {
            let argument = &arguments[*place];
            quote!(#argument)
        }
        Parameter::Context => context.clone(),
    });
    let call = quote!(#name(#(#call),*));
    let decode = quote! {
        let (#(#arguments,)*): (#(#types,)*) =
            #private::payload::decode_value(__body, __attachments)
                .map_err(#private::function::TaskFault::Arguments)?;
    };
    let fault = quote!(#private::function::TaskFault::Result);

    if is_async {
        // The span says which function it was when its future is not `Send`.
        let boxed = quote_spanned! {name.span()=>
            let __future: #private::function::TaskFuture = ::std::boxed::Box::pin(__task);
        };
        quote! {
            #private::function::Runner::Async(|__context, __body, __attachments| {
                #decode
                let __task = async move {
                    let __output = #call.await;
                    #private::payload::Payload::encode(&__output).map_err(#fault)
                };
                #boxed
                ::core::result::Result::Ok(__future)
            })
        }
    } else {
        quote! {
            #private::function::Runner::Blocking(|__context, __body, __attachments, __out| {
                #decode
                let __output = #call;
                #private::payload::encode_value(&__output, __out).map_err(#fault)
            })
        }
    }
}
