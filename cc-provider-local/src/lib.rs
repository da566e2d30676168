//! Nodes that are agents on this machine.
