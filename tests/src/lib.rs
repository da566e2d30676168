//! What the scenarios share: remote functions that behave and misbehave, and a site on which
//! drivers, agents and workers run without touching the user's own state.

pub mod functions;
pub mod lifecycle_functions;
pub mod process;
pub mod site;
