//! The roles a process can have.

/// Takes the role that the environment gives, if any.
pub fn take() {}
