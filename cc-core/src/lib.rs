//! The vocabulary that every crate of the workspace shares: identities, contracts,
//! the wire format, cluster records and the provider trait.
//!
//! Nothing here does I/O unless the `net` feature is on, and nothing here knows a
//! particular provider. The other crates lean on this one and not on each other.

pub mod catalog;
pub mod codec;
pub mod context;
pub mod contract;
pub mod death;
pub mod function;
pub mod ids;
pub mod limits;
pub mod nearest;
#[cfg(feature = "net")]
pub mod net;
pub mod payload;
pub mod platform;
pub mod provider;
pub mod quantity;
pub mod record;
pub mod resolve;
pub mod settings;
pub mod toml;
pub mod tree;
pub mod wire;

#[doc(hidden)]
pub use inventory;
