//! Groups of nodes over loopback: in this process where that is enough, in processes of their own where one must be killed.

mod group;
mod handover;
mod log;
mod process;
pub(crate) mod small_disk;
mod throughput;
mod wiped;

use crate::core::entry::{Entry, Item, Messages, Writer};
use bytes::Bytes;
use howdah_protocol::{Epoch, InstanceId, Lsn, NodeId};
use std::time::{Duration, Instant};

/// Long enough for a machine that compiles something else at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition, and says which one did not come.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn writer(node: u64) -> Writer {
    Writer { node: NodeId(node), instance: InstanceId(node), epoch: Epoch(1) }
}

pub(crate) fn opening(node: u64) -> Bytes {
    Entry::Open { writer: writer(node), time_ms: 0 }.encode()
}

/// A batch of one transaction, told apart by its number.
pub(crate) fn batch(node: u64, number: u64, len: usize) -> Bytes {
    let messages = Messages { streamed: false, bytes: Bytes::from(vec![7; len]) };
    let (commit_lsn, end_lsn) = (Lsn(number * 10 + 1), Lsn(number * 10 + 2));
    let item = Item::Commit { xid: 1, commit_lsn, end_lsn, commit_time_us: 0, chunked: false, messages };
    Entry::Batch { writer: writer(node), time_ms: 0, items: vec![item] }.encode()
}

/// The number that [`batch`] was given.
pub(crate) fn number(bytes: &Bytes) -> Option<u64> {
    match Entry::decode(bytes.clone()).unwrap() {
        Entry::Batch { items, .. } => match items[..] {
            [Item::Commit { commit_lsn, .. }] => Some(commit_lsn.0 / 10),
            _ => panic!("one commit"),
        },
        _ => None,
    }
}
