//! What stands in the attributes' parentheses.

use proc_macro2::{Span, TokenStream};
use syn::parse::Parser as _;
use syn::{Error, LitStr, Path, Result, parse_quote};

/// The options of `#[remote]` and `#[main]`.
pub(crate) struct Options {
    /// The path of `cc_driver` in generated code.
    pub(crate) driver: Path,
}

impl Options {
    /// Reads the options of the attribute `name`.
    pub(crate) fn parse(name: &str, tokens: TokenStream) -> Result<Self> {
        let mut driver: Path = parse_quote!(::cc_driver);
        let parser = syn::meta::parser(|meta| {
            if meta.path.is_ident("crate") {
                let path: LitStr = meta.value()?.parse()?;
                driver = path.parse_with(Path::parse_mod_style)?;
                Ok(())
            } else if name == "remote" && meta.path.is_ident("mpi") {
                Err(meta.error("needs the `mpi` feature, not available yet"))
            } else {
                Err(meta.error(format!(
                    "`#[{name}]` takes no such option: write `#[{name}]`, or \
                     `#[{name}(crate = \"path\")]` if `cc_driver` goes by another name"
                )))
            }
        });
        parser.parse2(tokens)?;
        Ok(Self { driver })
    }
}

/// An error for what is not a function at all.
pub(crate) fn not_a_function(name: &str, wanted: &str) -> Error {
    Error::new(Span::call_site(), format!("`#[{name}]` goes on {wanted}"))
}
