//! Groups of nodes in one process, over loopback.

pub(crate) mod small_disk;
