//! What a user program imports to get clusters and run its functions on them.
