//! Items become batches, and batches that are decided become positions that may be confirmed.
//!
//! One queue holds a position per undecided batch, oldest first; the last may still be open. A position that needs nothing of its own
//! (an empty transaction, a keepalive) joins the youngest undecided batch, and is confirmed at once where there is none.
//!
//! Invariant: a position is confirmed only when every batch before it is decided. Confirmed positions only go forward.

use crate::core::entry::Item;
use howdah_protocol::Lsn;
use std::collections::VecDeque;

/// Bytes of a batch entry around its items.
const FRAME_BYTES: usize = 64;

/// What goes into one entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub items: Vec<Item>,
    /// Encoded size of the items and the frame around them.
    pub bytes: usize,
    /// How many of the items end a transaction.
    pub commits: usize,
}

#[derive(Debug)]
pub(super) struct Batches {
    entry_bytes_max: usize,
    /// Serial of the stretch in which a description holds, never 0: it ends with its batch, and where an item comes between that is kept
    /// aside until its transaction ends and has descriptions of its own.
    scope: u64,
    open: Option<Batch>,
    /// Full, and not taken yet.
    sealed: VecDeque<Batch>,
    sealed_bytes: usize,
    /// Position that each undecided batch confirms: the taken ones, the sealed ones, the open one.
    undecided: VecDeque<Lsn>,
    confirmed: Lsn,
}

impl Batches {
    pub(super) fn new(entry_bytes_max: usize, confirmed: Lsn) -> Self {
        Self { entry_bytes_max, scope: 0, open: None, sealed: VecDeque::new(), sealed_bytes: 0, undecided: VecDeque::new(), confirmed }
    }

    /// Opens a batch with room for `bytes` more, and answers its scope of descriptions.
    pub(super) fn make_room(&mut self, bytes: usize) -> u64 {
        if self.open.as_ref().is_some_and(|open| !open.items.is_empty() && open.bytes + bytes > self.entry_bytes_max) {
            let full = self.open.take().expect("looked at above");
            self.sealed_bytes += full.bytes;
            self.sealed.push_back(full);
        }
        if self.open.is_none() {
            self.scope += 1;
            self.open = Some(Batch { bytes: FRAME_BYTES, ..Batch::default() });
            self.undecided.push_back(Lsn(0));
        }
        self.scope
    }

    pub(super) fn push(&mut self, item: Item) {
        let bytes = item.encoded_len() + 16;
        self.make_room(bytes);
        let open = self.open.as_mut().expect("room was made");
        open.bytes += bytes;
        open.commits += usize::from(matches!(item, Item::Commit { .. }));
        self.scope += u64::from(!matches!(item, Item::Commit { chunked: false, .. }));
        open.items.push(item);
    }

    /// Everything up to `lsn` is in the batches so far, or needs none.
    pub(super) fn reached(&mut self, lsn: Lsn) {
        let position = self.undecided.back_mut().unwrap_or(&mut self.confirmed);
        *position = lsn.max(*position);
    }

    pub(super) fn take(&mut self) -> Option<Batch> {
        let Some(batch) = self.sealed.pop_front() else { return self.open.take() };
        self.sealed_bytes -= batch.bytes;
        Some(batch)
    }

    /// The oldest batch that was taken is decided.
    pub(super) fn decided(&mut self) {
        let position = self.undecided.pop_front().expect("only batches that were taken are decided");
        self.confirmed = position.max(self.confirmed);
    }

    pub(super) fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// Bytes that wait to be taken.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.sealed_bytes + self.open.as_ref().map_or(0, |open| open.bytes)
    }
}
