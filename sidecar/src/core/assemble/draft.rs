//! The messages of one item in the making.
//!
//! Descriptions of the tables used are held back until the item is finished, because only then it is known which entry the item goes
//! into and whether that entry describes them already. They are then put before everything else. A description that arrives for a
//! table which the draft has used already stands in line, where the change happened.

use super::relations::{Relations, message};
use crate::core::entry::Messages;
use bytes::{Bytes, BytesMut};

/// Bytes of the length before each message.
const LENGTH_LEN: usize = 4;

#[derive(Debug)]
struct Used {
    id: u32,
    raw: Bytes,
    version: u64,
}

#[derive(Debug)]
pub(super) struct Draft {
    /// Tells drafts apart; never 0.
    pub(super) serial: u64,
    used: Vec<Used>,
    used_bytes: usize,
    body: BytesMut,
}

impl Draft {
    pub(super) fn new(serial: u64) -> Self {
        Self { serial, used: Vec::new(), used_bytes: 0, body: BytesMut::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// At most this many bytes when finished.
    pub(super) fn len(&self) -> usize {
        self.used_bytes + self.body.len()
    }

    pub(super) fn push(&mut self, raw: &[u8]) {
        Messages::push(&mut self.body, raw);
    }

    /// Notes that the next message needs this table.
    pub(super) fn uses(&mut self, id: u32, raw: &Bytes, version: u64) {
        // The transaction id that a description carries inside a stream is four bytes more.
        self.used_bytes += raw.len() + 2 * LENGTH_LEN;
        self.used.push(Used { id, raw: raw.clone(), version });
    }

    /// All that the item needs: it can be read without any other.
    pub(super) fn finish_alone(&mut self, stream: Option<u32>) -> Messages {
        let used = std::mem::take(&mut self.used);
        self.finish(used.iter(), stream)
    }

    /// What `scope` does not describe yet, and then the changes.
    pub(super) fn finish_in(&mut self, scope: u64, relations: &mut Relations) -> Messages {
        let mut used = std::mem::take(&mut self.used);
        used.retain(|used| {
            let Some(known) = relations.get_mut(used.id) else { return true };
            let missing = known.carried != (scope, used.version);
            known.carried = (scope, known.version);
            missing
        });
        self.finish(used.iter(), None)
    }

    fn finish<'a>(&mut self, used: impl Iterator<Item = &'a Used>, stream: Option<u32>) -> Messages {
        let changes = std::mem::take(&mut self.body);
        let mut out = BytesMut::new();
        for used in used {
            Messages::push(&mut out, &message(&used.raw, stream));
        }
        if out.is_empty() {
            out = changes;
        } else {
            out.extend_from_slice(&changes);
        }
        self.used_bytes = 0;
        Messages { streamed: stream.is_some(), bytes: out.freeze() }
    }
}
