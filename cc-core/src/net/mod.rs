//! QUIC sessions: certificates and roles ([`identity`]), endpoints set for speed
//! ([`endpoint`]), and framed control streams ([`framed`]).

pub mod endpoint;
pub mod framed;
pub mod identity;
