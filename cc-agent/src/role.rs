//! The roles a process can have.
