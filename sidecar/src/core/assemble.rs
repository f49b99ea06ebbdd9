//! From what Postgres decodes to what goes into the log, and back to what may be confirmed.
//!
//! ```text
//! pgoutput messages --message()--> drafts --> items --> batches --take()--> entries, proposed in this order
//! keepalives ------keepalive()--------------------+        |
//!                                                 v        v decided()
//!                                         confirmed()  <-- positions in commit order
//! ```
//!
//! Invariants:
//! - Items stand in commit order. A transaction is in it once, whole, or not at all (its own origin, Howdah's own tables, already in
//!   the log, rolled back).
//! - Every entry can be read alone: each table is described in it before its first use. Chunks are kept until their transaction ends,
//!   so an item that belongs to a chunked transaction carries its descriptions itself.
//! - A position is confirmed when everything before it is decided, never earlier.
//! - One assembler serves one connection: what Postgres has described, it has described to this one.

mod batches;
mod draft;
mod relations;
#[cfg(test)]
pub(crate) mod tests;

pub use batches::Batch;

use crate::core::entry::{self, Item};
use crate::core::pgoutput::{self, Message};
use batches::Batches;
use bytes::{BufMut, Bytes, BytesMut};
use draft::Draft;
use howdah_protocol::{Lsn, settings};
use relations::Relations;
use std::collections::HashMap;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("cannot read what PostgreSQL decoded: {0}")]
    Pgoutput(#[from] pgoutput::Error),
    #[error("PostgreSQL sent a change of relation {0} without ever having described it")]
    UnknownRelation(u32),
    #[error("PostgreSQL sent {0} where none can be")]
    OutOfOrder(&'static str),
    #[error("a single change of {bytes} bytes exceeds the {max} bytes that a change may have; store values of that size in parts")]
    TooLarge { bytes: usize, max: usize },
    #[error("the watermark {watermark} lies inside the commit record {commit}..{end}: it is not a position of this server")]
    Watermark { watermark: Lsn, commit: Lsn, end: Lsn },
    #[error("PostgreSQL streams more than {0} transactions at the same time")]
    Streams(usize),
}

/// How large things may become.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A transaction larger than this is cut into chunks of at most this.
    pub item_bytes_max: usize,
    /// Items join an entry up to this. A single change that is larger goes alone into a larger entry.
    pub entry_bytes_max: usize,
    /// The largest single change that is taken.
    pub message_bytes_max: usize,
    /// Transactions that are streamed at the same time.
    pub streams_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            item_bytes_max: 1 << 20,
            entry_bytes_max: entry::ENTRY_BYTES_MAX,
            message_bytes_max: entry::CHANGE_BYTES_MAX,
            streams_max: 16 << 10,
        }
    }
}

/// What was seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions put into batches.
    pub commits: u64,
    /// Transactions without anything for the log.
    pub empty: u64,
    /// Transactions that this node applied itself.
    pub own: u64,
    /// Transactions that the log held already.
    pub known: u64,
}

#[derive(Debug)]
pub struct Assembler {
    limits: Limits,
    /// Transactions that end here or before are in the log.
    start_after: Lsn,
    serial: u64,
    relations: Relations,
    /// Between Begin and Commit.
    current: Option<Transaction>,
    /// Between StreamStart and StreamStop: whose block it is.
    in_stream: Option<u32>,
    /// Streamed transactions whose end is not known, by their top transaction id.
    streams: HashMap<u32, Stream>,
    batches: Batches,
    counts: Counts,
}

/// A transaction that Postgres sends whole, after its commit.
#[derive(Debug)]
struct Transaction {
    xid: u32,
    /// Why its changes are not kept, where they are not.
    skip: Option<Skip>,
    chunked: bool,
    draft: Draft,
}

/// A transaction that Postgres sends in blocks before it ends.
#[derive(Debug)]
struct Stream {
    own: bool,
    chunked: bool,
    relations: Relations,
    draft: Draft,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    Own,
    Known,
}

impl Assembler {
    /// `start_after`: the end of this server's last commit in the log. `confirmed`: what was confirmed to this server before.
    #[must_use]
    pub fn new(limits: Limits, start_after: Lsn, confirmed: Lsn) -> Self {
        Self {
            limits,
            start_after,
            serial: 0,
            relations: Relations::default(),
            current: None,
            in_stream: None,
            streams: HashMap::new(),
            batches: Batches::new(limits.entry_bytes_max, confirmed.max(start_after)),
            counts: Counts::default(),
        }
    }

    /// Takes the next message that the plugin wrote.
    pub fn message(&mut self, raw: Bytes) -> Result<(), Error> {
        if raw.len() > self.limits.message_bytes_max {
            return Err(Error::TooLarge { bytes: raw.len(), max: self.limits.message_bytes_max });
        }
        let streamed = self.in_stream.is_some();
        match raw.first() {
            // Rows are many and are kept as they are: nothing but the table's id is read.
            Some(b'I' | b'U' | b'D') => {
                let at = if streamed { 5 } else { 1 };
                let id = raw.get(at..at + 4).ok_or(pgoutput::Error::Short)?;
                let id = u32::from_be_bytes(id.try_into().expect("four bytes"));
                self.change(&raw, &[id])
            }
            _ => {
                let message = pgoutput::parse(raw.clone(), streamed)?.message;
                self.parsed(&raw, message)
            }
        }
    }

    /// Postgres has sent everything up to `wal_end`.
    pub fn keepalive(&mut self, wal_end: Lsn) {
        // Inside a transaction its commit is still to come, whatever the position says.
        if self.current.is_none() && self.in_stream.is_none() {
            self.batches.reached(wal_end);
        }
    }

    /// The next batch to propose. Each that was taken must be decided, in the same order.
    pub fn take(&mut self) -> Option<Batch> {
        self.batches.take()
    }

    /// The oldest batch that was taken and not decided yet now is.
    pub fn decided(&mut self) {
        self.batches.decided();
    }

    /// Everything up to here is decided, or needs no decision.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.batches.confirmed()
    }

    /// Bytes in batches that wait to be taken.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.batches.waiting_bytes()
    }

    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    fn parsed(&mut self, raw: &Bytes, message: Message) -> Result<(), Error> {
        match message {
            Message::Begin { final_lsn, xid, .. } => self.begin(xid, final_lsn),
            Message::Commit { commit_lsn, end_lsn, commit_time_us } => self.commit(commit_lsn, end_lsn, commit_time_us),
            Message::Origin { name } => self.origin(&name),
            Message::Relation(relation) => self.describe(raw, &relation),
            Message::Truncate { relations, .. } => self.truncate(raw, relations),
            // A message outside of a transaction takes part in none: it has no place in the order of commits.
            Message::Logical { transactional: false, .. } | Message::Type => Ok(()),
            Message::Logical { .. } => self.change(raw, &[]),
            Message::StreamStart { xid, .. } => self.stream_start(xid),
            Message::StreamStop => self.stream_stop(),
            Message::StreamCommit { xid, commit_lsn, end_lsn, commit_time_us } => {
                self.stream_commit(xid, commit_lsn, end_lsn, commit_time_us)
            }
            Message::StreamAbort { xid, subxid } => self.stream_abort(xid, subxid),
            Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. } => Err(Error::OutOfOrder("a row")),
        }
    }

    fn next_draft(&mut self) -> Draft {
        self.serial += 1;
        Draft::new(self.serial)
    }

    fn begin(&mut self, xid: u32, final_lsn: Lsn) -> Result<(), Error> {
        if self.current.is_some() || self.in_stream.is_some() {
            return Err(Error::OutOfOrder("the begin of a transaction"));
        }
        // A commit record that starts before the watermark ends at or before it; `commit` makes sure.
        let skip = (final_lsn < self.start_after).then_some(Skip::Known);
        let draft = self.next_draft();
        self.current = Some(Transaction { xid, skip, chunked: false, draft });
        Ok(())
    }

    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn, commit_time_us: i64) -> Result<(), Error> {
        let Some(mut transaction) = self.current.take() else { return Err(Error::OutOfOrder("a commit")) };
        if (commit_lsn < self.start_after) != (end_lsn <= self.start_after) {
            return Err(Error::Watermark { watermark: self.start_after, commit: commit_lsn, end: end_lsn });
        }
        let (xid, chunked, draft) = (transaction.xid, transaction.chunked, &mut transaction.draft);
        match transaction.skip {
            Some(Skip::Own) => self.counts.own += 1,
            Some(Skip::Known) => self.counts.known += 1,
            None if draft.is_empty() && !chunked => self.counts.empty += 1,
            None => {
                let messages = if chunked {
                    draft.finish_alone(None)
                } else {
                    let scope = self.batches.make_room(draft.len() + 64);
                    draft.finish_in(scope, &mut self.relations)
                };
                self.counts.commits += 1;
                self.batches.push(Item::Commit { xid, commit_lsn, end_lsn, commit_time_us, chunked, messages });
            }
        }
        self.batches.reached(end_lsn);
        Ok(())
    }

    fn origin(&mut self, name: &str) -> Result<(), Error> {
        let own = name == settings::ORIGIN;
        if let Some(xid) = self.in_stream {
            self.streams.get_mut(&xid).expect("a block belongs to a stream").own |= own;
        } else if let Some(transaction) = &mut self.current {
            if own {
                transaction.skip = Some(Skip::Own);
            }
        } else {
            return Err(Error::OutOfOrder("an origin"));
        }
        Ok(())
    }

    fn describe(&mut self, raw: &Bytes, relation: &pgoutput::Relation) -> Result<(), Error> {
        self.serial += 1;
        let version = self.serial;
        if let Some(xid) = self.in_stream {
            let mut plain = BytesMut::with_capacity(raw.len());
            plain.put_slice(&raw[..1]);
            plain.put_slice(&raw[5..]);
            let stream = self.streams.get_mut(&xid).expect("a block belongs to a stream");
            if stream.relations.describe(relation, &plain, version, stream.draft.serial) {
                stream.draft.push(&relations::message(&plain.freeze(), Some(xid)));
            }
            return Ok(());
        }
        let draft = self.current.as_mut().map(|transaction| &mut transaction.draft);
        let used = self.relations.describe(relation, raw, version, draft.as_ref().map_or(0, |draft| draft.serial));
        match draft {
            Some(draft) if used => draft.push(raw),
            _ => {}
        }
        Ok(())
    }

    /// Puts one change that needs `ids` described into its transaction.
    fn change(&mut self, raw: &[u8], ids: &[u32]) -> Result<(), Error> {
        let stream = self.in_stream;
        let (draft, relations) = if let Some(xid) = stream {
            let stream = self.streams.get_mut(&xid).expect("a block belongs to a stream");
            if stream.own {
                return Ok(());
            }
            (&mut stream.draft, &mut stream.relations)
        } else {
            let transaction = self.current.as_mut().ok_or(Error::OutOfOrder("a change"))?;
            if transaction.skip.is_some() {
                return Ok(());
            }
            (&mut transaction.draft, &mut self.relations)
        };
        let described = |id: &u32| relations.get_mut(*id).map(|known| known.own).ok_or(Error::UnknownRelation(*id));
        let own = ids.iter().map(described).collect::<Result<Vec<_>, _>>()?;
        if !own.is_empty() && own.iter().all(|own| *own) {
            return Ok(());
        }
        let full = !draft.is_empty() && draft.len() + raw.len() > self.limits.item_bytes_max;
        if full {
            self.cut();
        }
        self.append(raw, ids);
        Ok(())
    }

    /// Appends a change whose tables are known to the draft that is being written.
    fn append(&mut self, raw: &[u8], ids: &[u32]) {
        let (draft, relations) = match self.in_stream {
            Some(xid) => {
                let stream = self.streams.get_mut(&xid).expect("a block belongs to a stream");
                (&mut stream.draft, &mut stream.relations)
            }
            None => (&mut self.current.as_mut().expect("`change` looked").draft, &mut self.relations),
        };
        for id in ids {
            let known = relations.get_mut(*id).expect("`change` looked");
            if known.used_in != draft.serial {
                known.used_in = draft.serial;
                draft.uses(*id, &known.raw, known.version);
            }
        }
        draft.push(raw);
    }

    /// Makes a chunk of what the transaction being written has so far.
    fn cut(&mut self) {
        let next = self.next_draft();
        let (xid, draft) = match self.in_stream {
            Some(xid) => {
                let stream = self.streams.get_mut(&xid).expect("a block belongs to a stream");
                stream.chunked = true;
                (xid, &mut stream.draft)
            }
            None => {
                let transaction = self.current.as_mut().expect("a transaction is being written");
                transaction.chunked = true;
                (transaction.xid, &mut transaction.draft)
            }
        };
        let messages = std::mem::replace(draft, next).finish_alone(self.in_stream);
        self.batches.push(Item::Chunk { xid, messages });
    }

    /// Leaves Howdah's own tables out. Nothing is left when there were no others.
    fn truncate(&mut self, raw: &Bytes, mut ids: Vec<u32>) -> Result<(), Error> {
        let relations = match self.in_stream {
            Some(xid) => &mut self.streams.get_mut(&xid).expect("a block belongs to a stream").relations,
            None => &mut self.relations,
        };
        let before = ids.len();
        ids.retain(|id| relations.get_mut(*id).is_none_or(|known| !known.own));
        if ids.is_empty() {
            return Ok(());
        }
        if ids.len() == before {
            return self.change(raw, &ids);
        }
        let header = if self.in_stream.is_some() { 5 } else { 1 };
        let mut rest = BytesMut::with_capacity(raw.len());
        rest.put_slice(&raw[..header]);
        rest.put_u32(u32::try_from(ids.len()).expect("fewer than were counted in 32 bits"));
        rest.put_u8(raw[header + 4]);
        ids.iter().for_each(|id| rest.put_u32(*id));
        self.change(&rest, &ids)
    }

    fn stream_start(&mut self, xid: u32) -> Result<(), Error> {
        if self.current.is_some() || self.in_stream.is_some() {
            return Err(Error::OutOfOrder("the start of a stream"));
        }
        let draft = self.next_draft();
        self.in_stream = Some(xid);
        let stream = self.streams.entry(xid);
        stream.or_insert_with(|| Stream { own: false, chunked: false, relations: Relations::default(), draft });
        if self.streams.len() > self.limits.streams_max {
            return Err(Error::Streams(self.limits.streams_max));
        }
        Ok(())
    }

    /// Nothing of a stream is held back between its blocks: what is buffered here stays bounded by one item.
    fn stream_stop(&mut self) -> Result<(), Error> {
        let xid = self.in_stream.ok_or(Error::OutOfOrder("the stop of a stream"))?;
        if self.streams.get(&xid).is_some_and(|stream| !stream.draft.is_empty()) {
            self.cut();
        }
        self.in_stream = None;
        Ok(())
    }

    fn stream_commit(&mut self, xid: u32, commit_lsn: Lsn, end_lsn: Lsn, commit_time_us: i64) -> Result<(), Error> {
        let stream = self.streams.remove(&xid).filter(|_| self.in_stream.is_none());
        let stream = stream.ok_or(Error::OutOfOrder("the commit of a stream"))?;
        let known = end_lsn <= self.start_after;
        match stream {
            Stream { own: true, .. } => self.counts.own += 1,
            Stream { chunked: true, .. } if known => {
                // The log holds the transaction; the chunks that went in again belong to nothing.
                self.counts.known += 1;
                self.batches.push(Item::Abort { xid });
            }
            Stream { chunked: true, .. } => {
                self.counts.commits += 1;
                let messages = entry::Messages { streamed: true, bytes: Bytes::new() };
                self.batches.push(Item::Commit { xid, commit_lsn, end_lsn, commit_time_us, chunked: true, messages });
            }
            Stream { .. } => self.counts.empty += 1,
        }
        self.relations.merge(stream.relations);
        self.batches.reached(end_lsn);
        Ok(())
    }

    fn stream_abort(&mut self, xid: u32, subxid: u32) -> Result<(), Error> {
        if self.in_stream.is_some() {
            return Err(Error::OutOfOrder("the abort of a stream"));
        }
        let top = xid == subxid;
        let chunked = self.streams.get(&xid).is_some_and(|stream| stream.chunked);
        if top {
            self.streams.remove(&xid);
        }
        if chunked {
            self.batches.push(if top { Item::Abort { xid } } else { Item::SubAbort { xid, subxid } });
        }
        Ok(())
    }
}
