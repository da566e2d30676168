//! QUIC sessions: certificates and roles ([`identity`]), endpoints set for speed
//! ([`endpoint`]), framed control streams ([`framed`]), and memory for large values ([`pages`]).

pub mod endpoint;
pub mod framed;
pub mod identity;
pub mod pages;
