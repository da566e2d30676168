//! Workers under guards.

mod socket;

pub(crate) use socket::ControlSocket;
