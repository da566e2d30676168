//! What a remote function's signature may be, and an error in words for whatever it may not.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens as _, quote};
use syn::spanned::Spanned as _;
use syn::visit::Visit;
use syn::{Error, FnArg, Pat, ReturnType, Signature, Type};

/// The most arguments of a task: serde encodes tuples up to this length.
const MOST_ARGUMENTS: usize = 16;

/// A parameter of a remote function.
pub(crate) enum Parameter {
    /// Sent by the caller; the place is its index in the arguments' tuple.
    Argument { name: Ident, place: usize },
    /// `&Context`, given by the worker.
    Context,
}

/// A signature that keeps the rules.
pub(crate) struct Checked {
    /// The parameters in order.
    pub(crate) parameters: Vec<Parameter>,
    /// The types of the arguments in order.
    pub(crate) types: Vec<Type>,
    /// The type of the output.
    pub(crate) output: Type,
    /// The signature's tokens, whatever the layout of the source: what is hashed.
    pub(crate) text: String,
}

impl Checked {
    /// The arguments' names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Ident> {
        self.parameters.iter().filter_map(|p| match p {
            Parameter::Argument { name, .. } => Some(name),
            Parameter::Context => None,
        })
    }
}

/// Collects every broken rule, so that a user sees them all at once.
#[derive(Default)]
struct Faults(Option<Error>);

impl Faults {
    fn add(&mut self, span: Span, message: impl std::fmt::Display) {
        let error = Error::new(span, message);
        match &mut self.0 {
            Some(first) => first.combine(error),
            none => *none = Some(error),
        }
    }

    /// Complains of a keyword that is there.
    fn refuse<T: quote::ToTokens>(&mut self, found: Option<&T>, message: &str) {
        if let Some(tokens) = found {
            self.add(tokens.span(), message);
        }
    }
}

/// Finds what a type may not contain.
impl Visit<'_> for Faults {
    fn visit_type_reference(&mut self, reference: &syn::TypeReference) {
        let instead = match &*reference.elem {
            Type::Path(path) if path.path.is_ident("str") => "`String` instead of `&str`",
            Type::Slice(_) => "`Vec<T>` instead of `&[T]`",
            _ => "`T` instead of `&T`",
        };
        self.add(
            reference.span(),
            format!(
                "a remote function cannot take or return references, only owned values: \
                 write {instead} (`&Context`, which the worker injects, is the one exception)"
            ),
        );
    }

    fn visit_lifetime(&mut self, lifetime: &syn::Lifetime) {
        self.add(
            lifetime.span(),
            "a remote function cannot have lifetimes: its arguments and output are owned values",
        );
    }

    fn visit_type_impl_trait(&mut self, found: &syn::TypeImplTrait) {
        self.add(
            found.span(),
            "a remote function cannot take or return `impl Trait`: write the type, so that both \
             sides know what travels",
        );
    }

    fn visit_type_ptr(&mut self, pointer: &syn::TypePtr) {
        self.add(
            pointer.span(),
            "a remote function cannot take or return pointers: they mean nothing on another \
             machine",
        );
    }
}

/// Checks a signature against the rules.
pub(crate) fn check(signature: &Signature) -> Result<Checked, Error> {
    let mut faults = Faults::default();
    faults.refuse(
        signature.constness.as_ref(),
        "a remote function cannot be `const`",
    );
    faults.refuse(
        signature.unsafety.as_ref(),
        "a remote function cannot be `unsafe`: no caller on another machine can uphold its \
         conditions",
    );
    faults.refuse(
        signature.abi.as_ref(),
        "a remote function cannot be `extern`: it is called by its path, not by a symbol",
    );
    faults.refuse(
        signature.variadic.as_ref(),
        "a remote function cannot be variadic: write a `Vec` of the arguments",
    );
    if !signature.generics.params.is_empty() {
        faults.add(
            signature.generics.params.span(),
            "a remote function cannot be generic: a worker has to know which function is meant; \
             write one for each type",
        );
    }
    faults.refuse(
        signature.generics.where_clause.as_ref(),
        "a remote function cannot have a `where` clause, as it cannot be generic",
    );

    let mut parameters = Vec::new();
    let mut types = Vec::new();
    let mut text = Vec::new();
    for input in &signature.inputs {
        let FnArg::Typed(input) = input else {
            faults.add(
                input.span(),
                "a remote function cannot take `self`: write a free function that takes the \
                 value as an argument",
            );
            continue;
        };
        if let Some(attribute) = input.attrs.first() {
            faults.add(
                attribute.span(),
                "the parameters of a remote function cannot have attributes",
            );
        }
        let ty = &input.ty;
        if is_context(ty) {
            parameters.push(Parameter::Context);
            text.push(quote!(_: #ty));
        } else if let Some(name) = plain_name(&input.pat) {
            faults.visit_type(ty);
            text.push(quote!(#name: #ty));
            parameters.push(Parameter::Argument {
                name,
                place: types.len(),
            });
            types.push((**ty).clone());
        } else {
            faults.add(
                input.pat.span(),
                "give this parameter a name: the parameters of a remote function are those of \
                 its `task`, so they cannot be patterns (take it apart inside the function)",
            );
        }
    }
    if types.len() > MOST_ARGUMENTS {
        faults.add(
            types[MOST_ARGUMENTS].span(),
            format!(
                "a remote function takes at most {MOST_ARGUMENTS} arguments: put some of them \
                 into a structure"
            ),
        );
    }
    let output = match &signature.output {
        ReturnType::Default => syn::parse_quote!(()),
        ReturnType::Type(_, ty) => {
            faults.visit_type(ty);
            (**ty).clone()
        }
    };
    if let Some(error) = faults.0 {
        return Err(error);
    }

    let (asyncness, name) = (&signature.asyncness, &signature.ident);
    let text = flat(quote!(#asyncness fn #name(#(#text),*) -> #output));
    Ok(Checked {
        parameters,
        types,
        output,
        text,
    })
}

/// Whether a parameter's type is `&Context`, by whatever path.
fn is_context(ty: &Type) -> bool {
    let Type::Reference(reference) = ty else {
        return false;
    };
    let Type::Path(path) = &*reference.elem else {
        return false;
    };
    reference.mutability.is_none()
        && reference.lifetime.is_none()
        && path.qself.is_none()
        && path
            .path
            .segments
            .last()
            .is_some_and(|last| last.ident == "Context" && last.arguments.is_none())
}

/// The name in `name` and `mut name`.
fn plain_name(pattern: &Pat) -> Option<Ident> {
    match pattern {
        Pat::Ident(p) if p.by_ref.is_none() && p.subpat.is_none() => Some(p.ident.clone()),
        _ => None,
    }
}

/// Tokens one after the other with a space between: unlike their own `to_string` the same
/// from every compiler and for every layout of the source.
fn flat(tokens: TokenStream) -> String {
    fn append(out: &mut String, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                        proc_macro2::Delimiter::Brace => ("{", "}"),
                        proc_macro2::Delimiter::Bracket => ("[", "]"),
                        // What a `macro_rules!` put around a type it was given.
                        proc_macro2::Delimiter::None => ("", ""),
                    };
                    out.extend([open, " "]);
                    append(out, group.stream());
                    out.extend([close, " "]);
                }
                other => out.extend([&*other.to_token_stream().to_string(), " "]),
            }
        }
    }
    let mut out = String::new();
    append(&mut out, tokens);
    out
}
