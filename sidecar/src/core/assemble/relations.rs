//! The table descriptions that Postgres sent, kept so that every entry can carry the ones it needs.
//!
//! The plugin describes a table once per connection, and again when it changed. An entry is read alone, so the last description of each
//! table is kept here and put in again. Inside a stream the plugin keeps a second account per streamed transaction: what it described
//! there counts for others only once that transaction commits. [`Relations`] is one such account.

use crate::core::pgoutput;
use bytes::{BufMut, Bytes, BytesMut};
use howdah_protocol::settings;
use std::collections::HashMap;

/// The last description of one table.
#[derive(Debug)]
pub(super) struct Known {
    /// The raw Relation message, without a transaction id.
    pub(super) raw: Bytes,
    /// Which description this is; larger than that of every earlier one of any table.
    pub(super) version: u64,
    /// A table of Howdah's own: its rows stay out of the log.
    pub(super) own: bool,
    /// The last draft that used the table.
    pub(super) used_in: u64,
    /// The last scope (a stretch of items in one batch) that carries a description, and which one.
    pub(super) carried: (u64, u64),
}

#[derive(Debug, Default)]
pub(super) struct Relations(HashMap<u32, Known>);

impl Relations {
    /// Takes a description; `raw` is without a transaction id. Answers whether `draft` had used the table already.
    pub(super) fn describe(&mut self, relation: &pgoutput::Relation, raw: &[u8], version: u64, draft: u64) -> bool {
        // A copy: a slice would keep the whole read buffer alive for as long as the table is known.
        let raw = Bytes::copy_from_slice(raw);
        let own = relation.schema == settings::SCHEMA;
        let known = self.0.entry(relation.id).or_insert_with(|| Known { raw: Bytes::new(), version, own, used_in: 0, carried: (0, 0) });
        known.raw = raw;
        known.version = version;
        known.own = own;
        known.used_in == draft
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Known> {
        self.0.get_mut(&id)
    }

    /// The streamed transaction committed: what it described holds for everybody.
    pub(super) fn merge(&mut self, streamed: Self) {
        for (id, known) in streamed.0 {
            match self.0.get(&id) {
                Some(newer) if newer.version > known.version => {}
                _ => {
                    self.0.insert(id, Known { used_in: 0, carried: (0, 0), ..known });
                }
            }
        }
    }
}

/// The message as it stands in an item: inside a stream it names the transaction. Always the top one: a description holds for whatever
/// follows it, even when the subtransaction that brought it about is rolled back.
pub(super) fn message(raw: &Bytes, stream: Option<u32>) -> Bytes {
    let Some(xid) = stream else { return raw.clone() };
    let mut out = BytesMut::with_capacity(raw.len() + 4);
    out.put_slice(&raw[..1]);
    out.put_u32(xid);
    out.put_slice(&raw[1..]);
    out.freeze()
}
