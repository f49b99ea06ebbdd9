//! What the log holds, and its bytes.
//!
//! An entry is the payload of one Raft entry: either the opening of a leader, or a batch of what that leader's Postgres committed, in
//! commit order. This is the one file that writes and reads these bytes. They are durable and travel between versions, so they open
//! with a magic, a version and a checksum, and a test pins them.
//!
//! ```text
//! "HW" | version u8 | kind u8 | crc32c(body) u32 | body          all integers big endian
//! kind 1  open : node u64, instance u64, epoch u64, time_ms u64
//! kind 2  batch: node u64, instance u64, epoch u64, time_ms u64, item count u32, items
//! kind 3  sequences: count u32, then (name length u32, name, last value i64)
//! item    kind u8, xid u32, then
//!   1 chunk     streamed u8, length u32, messages
//!   2 commit    streamed u8, commit_lsn u64, end_lsn u64, commit_time_us i64, chunked u8, length u32, messages
//!   3 abort     -
//!   4 subabort  subxid u32
//! messages: repeated (length u32, raw pgoutput message)
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use howdah_protocol::{Epoch, InstanceId, Lsn, NodeId};

const MAGIC: [u8; 2] = *b"HW";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 8;
/// Entries are filled up to this; a transaction that is larger is cut into chunks.
pub const ENTRY_BYTES_MAX: usize = 4 << 20;
/// The largest single change that is taken, in its text form. One that exceeds [`ENTRY_BYTES_MAX`] goes alone into a larger entry.
pub const CHANGE_BYTES_MAX: usize = 64 << 20;
/// No entry is larger than this: the largest change, its table's description, and the frame around them.
pub const ENTRY_BYTES_HARD_MAX: usize = CHANGE_BYTES_MAX + (1 << 20);

/// Who wrote an entry: the node, the life of its Postgres, and the opening during which it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    pub node: NodeId,
    pub instance: InstanceId,
    pub epoch: Epoch,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// From here on only batches of this writer count.
    Open {
        writer: Writer,
        time_ms: u64,
    },
    Batch {
        writer: Writer,
        time_ms: u64,
        items: Vec<Item>,
    },
    /// High-water marks: no sequence hands out a value at or below its mark after a leader change.
    Sequences {
        marks: Vec<(String, i64)>,
    },
}

/// Raw pgoutput messages, each behind its length. `streamed` messages carry their (sub)transaction id (protocol 2, inside a stream).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Messages {
    pub streamed: bool,
    pub bytes: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A part of a transaction whose end is not known yet.
    Chunk { xid: u32, messages: Messages },
    /// A transaction's last part, or all of it; `chunked` where chunks came before.
    Commit { xid: u32, commit_lsn: Lsn, end_lsn: Lsn, commit_time_us: i64, chunked: bool, messages: Messages },
    /// A chunked transaction that rolled back: its chunks are void.
    Abort { xid: u32 },
    /// A subtransaction of a chunked transaction that rolled back: its messages in earlier chunks are void.
    SubAbort { xid: u32, subxid: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("entry of {0} bytes ends before its content does")]
    Short(usize),
    #[error("not a Howdah log entry (magic {0:02x?})")]
    Magic([u8; 2]),
    #[error("log entry of format {0}: this version reads format {VERSION}; upgrade this node")]
    Version(u8),
    #[error("log entry of unknown kind {0}")]
    Kind(u8),
    #[error("log entry does not match its checksum")]
    Checksum,
}

impl Entry {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_LEN + 64 + self.items_len());
        out.put_slice(&MAGIC);
        out.put_u8(VERSION);
        match self {
            Self::Open { writer, time_ms } => {
                out.put_u8(1);
                out.put_u32(0);
                put_writer(&mut out, writer, *time_ms);
            }
            Self::Batch { writer, time_ms, items } => {
                out.put_u8(2);
                out.put_u32(0);
                put_writer(&mut out, writer, *time_ms);
                out.put_u32(len_u32(items.len()));
                items.iter().for_each(|item| put_item(&mut out, item));
            }
            Self::Sequences { marks } => {
                out.put_u8(3);
                out.put_u32(0);
                out.put_u32(len_u32(marks.len()));
                for (name, value) in marks {
                    put_bytes(&mut out, name.as_bytes());
                    out.put_i64(*value);
                }
            }
        }
        let crc = crc32c::crc32c(&out[HEADER_LEN..]);
        out[4..HEADER_LEN].copy_from_slice(&crc.to_be_bytes());
        out.freeze()
    }

    /// Who opens, if these are the bytes of an opening. Looks at one byte of all others.
    #[must_use]
    pub fn opening(bytes: &Bytes) -> Option<Writer> {
        const KIND_AT: usize = 3;
        match bytes.get(KIND_AT) {
            Some(1) => match Self::decode(bytes.clone()) {
                Ok(Self::Open { writer, .. }) => Some(writer),
                _ => None,
            },
            _ => None,
        }
    }

    fn items_len(&self) -> usize {
        match self {
            Self::Batch { items, .. } => items.iter().map(Item::encoded_len).sum(),
            _ => 0,
        }
    }

    /// Shares the memory of `bytes`: row data is not copied.
    pub fn decode(mut bytes: Bytes) -> Result<Self, Error> {
        let total = bytes.len();
        if total < HEADER_LEN {
            return Err(Error::Short(total));
        }
        let magic = [bytes.get_u8(), bytes.get_u8()];
        if magic != MAGIC {
            return Err(Error::Magic(magic));
        }
        let version = bytes.get_u8();
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let kind = bytes.get_u8();
        if bytes.get_u32() != crc32c::crc32c(&bytes) {
            return Err(Error::Checksum);
        }
        decode_body(kind, &mut Reader { bytes, total })
    }
}

impl Item {
    /// Bytes that this item takes in an entry.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Chunk { messages, .. } => 10 + messages.bytes.len(),
            Self::Commit { messages, .. } => 35 + messages.bytes.len(),
            Self::Abort { .. } => 5,
            Self::SubAbort { .. } => 9,
        }
    }
}

impl Messages {
    /// Appends one raw message in the form that [`Messages::iter`] reads.
    pub fn push(into: &mut BytesMut, message: &[u8]) {
        put_bytes(into, message);
    }

    /// The raw messages, in order. Fails on the first that is cut short.
    pub fn iter(&self) -> impl Iterator<Item = Result<Bytes, Error>> + use<> {
        let mut reader = Reader { total: self.bytes.len(), bytes: self.bytes.clone() };
        std::iter::from_fn(move || {
            let item = (!reader.bytes.is_empty()).then(|| reader.bytes())?;
            if item.is_err() {
                reader.bytes.clear();
            }
            Some(item)
        })
    }
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("an entry is bounded by ENTRY_BYTES_MAX, far below 4 GiB")
}

fn put_writer(out: &mut BytesMut, writer: &Writer, time_ms: u64) {
    out.put_u64(writer.node.0);
    out.put_u64(writer.instance.0);
    out.put_u64(writer.epoch.0);
    out.put_u64(time_ms);
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(len_u32(bytes.len()));
    out.put_slice(bytes);
}

fn put_item(out: &mut BytesMut, item: &Item) {
    match item {
        Item::Chunk { xid, messages } => {
            out.put_u8(1);
            out.put_u32(*xid);
            out.put_u8(messages.streamed.into());
            put_bytes(out, &messages.bytes);
        }
        Item::Commit { xid, commit_lsn, end_lsn, commit_time_us, chunked, messages } => {
            out.put_u8(2);
            out.put_u32(*xid);
            out.put_u8(messages.streamed.into());
            out.put_u64(commit_lsn.0);
            out.put_u64(end_lsn.0);
            out.put_i64(*commit_time_us);
            out.put_u8((*chunked).into());
            put_bytes(out, &messages.bytes);
        }
        Item::Abort { xid } => {
            out.put_u8(3);
            out.put_u32(*xid);
        }
        Item::SubAbort { xid, subxid } => {
            out.put_u8(4);
            out.put_u32(*xid);
            out.put_u32(*subxid);
        }
    }
}

/// Bounds-checked reads: durable bytes are never trusted to be whole.
struct Reader {
    bytes: Bytes,
    total: usize,
}

impl Reader {
    fn need(&self, len: usize) -> Result<(), Error> {
        if self.bytes.len() < len { Err(Error::Short(self.total)) } else { Ok(()) }
    }
    fn u8(&mut self) -> Result<u8, Error> {
        self.need(1).map(|()| self.bytes.get_u8())
    }
    fn u32(&mut self) -> Result<u32, Error> {
        self.need(4).map(|()| self.bytes.get_u32())
    }
    fn u64(&mut self) -> Result<u64, Error> {
        self.need(8).map(|()| self.bytes.get_u64())
    }
    fn i64(&mut self) -> Result<i64, Error> {
        self.need(8).map(|()| self.bytes.get_i64())
    }
    fn bytes(&mut self) -> Result<Bytes, Error> {
        let len = self.u32()? as usize;
        self.need(len).map(|()| self.bytes.split_to(len))
    }
    fn writer(&mut self) -> Result<(Writer, u64), Error> {
        let writer = Writer { node: NodeId(self.u64()?), instance: InstanceId(self.u64()?), epoch: Epoch(self.u64()?) };
        Ok((writer, self.u64()?))
    }
    fn messages(&mut self, streamed: bool) -> Result<Messages, Error> {
        Ok(Messages { streamed, bytes: self.bytes()? })
    }
}

fn decode_body(kind: u8, reader: &mut Reader) -> Result<Entry, Error> {
    match kind {
        1 => {
            let (writer, time_ms) = reader.writer()?;
            Ok(Entry::Open { writer, time_ms })
        }
        2 => {
            let (writer, time_ms) = reader.writer()?;
            let count = reader.u32()?;
            let items = (0..count).map(|_| decode_item(reader)).collect::<Result<_, _>>()?;
            Ok(Entry::Batch { writer, time_ms, items })
        }
        3 => {
            let count = reader.u32()?;
            let mark = |reader: &mut Reader| Ok((String::from_utf8_lossy(&reader.bytes()?).into_owned(), reader.i64()?));
            Ok(Entry::Sequences { marks: (0..count).map(|_| mark(reader)).collect::<Result<_, Error>>()? })
        }
        other => Err(Error::Kind(other)),
    }
}

fn decode_item(reader: &mut Reader) -> Result<Item, Error> {
    let kind = reader.u8()?;
    let xid = reader.u32()?;
    match kind {
        1 => {
            let streamed = reader.u8()? != 0;
            Ok(Item::Chunk { xid, messages: reader.messages(streamed)? })
        }
        2 => {
            let streamed = reader.u8()? != 0;
            let (commit_lsn, end_lsn, commit_time_us) = (Lsn(reader.u64()?), Lsn(reader.u64()?), reader.i64()?);
            let chunked = reader.u8()? != 0;
            Ok(Item::Commit { xid, commit_lsn, end_lsn, commit_time_us, chunked, messages: reader.messages(streamed)? })
        }
        3 => Ok(Item::Abort { xid }),
        4 => Ok(Item::SubAbort { xid, subxid: reader.u32()? }),
        other => Err(Error::Kind(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITER: Writer = Writer { node: NodeId(2), instance: InstanceId(3), epoch: Epoch(4) };

    fn batch() -> Entry {
        let mut messages = BytesMut::new();
        Messages::push(&mut messages, b"I1");
        Messages::push(&mut messages, b"");
        let messages = Messages { streamed: false, bytes: messages.freeze() };
        let items = vec![
            Item::Chunk { xid: 7, messages: Messages { streamed: true, bytes: messages.bytes.clone() } },
            Item::SubAbort { xid: 7, subxid: 8 },
            Item::Abort { xid: 7 },
            Item::Commit { xid: 9, commit_lsn: Lsn(10), end_lsn: Lsn(11), commit_time_us: -1, chunked: false, messages },
        ];
        Entry::Batch { writer: WRITER, time_ms: 5, items }
    }

    #[test]
    fn every_kind_round_trips() {
        let marks = vec![("public.a".to_owned(), i64::MIN), ("b".to_owned(), 1)];
        for entry in [batch(), Entry::Open { writer: WRITER, time_ms: 5 }, Entry::Sequences { marks }] {
            assert_eq!(Entry::decode(entry.encode()), Ok(entry));
        }
    }

    #[test]
    fn golden_bytes() {
        let open = Entry::Open { writer: WRITER, time_ms: 5 };
        let hex: String = open.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, concat!("48570101", "ddeb135e", "0000000000000002", "0000000000000003", "0000000000000004", "0000000000000005"));
    }

    #[test]
    fn an_opening_is_told_from_everything_else() {
        assert_eq!(Entry::opening(&Entry::Open { writer: WRITER, time_ms: 5 }.encode()), Some(WRITER));
        assert_eq!(Entry::opening(&batch().encode()), None);
        assert_eq!(Entry::opening(&Bytes::new()), None);
    }

    #[test]
    fn damage_is_found_and_nothing_panics() {
        let good = batch().encode();
        for cut in 0..good.len() {
            assert!(Entry::decode(good.slice(..cut)).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x10;
            assert!(Entry::decode(bad.into()).is_err(), "flip at {at}");
        }
    }

    #[test]
    fn messages_come_back_and_a_cut_one_is_an_error() {
        let Entry::Batch { items, .. } = batch() else { panic!("a batch") };
        let Item::Commit { messages, .. } = &items[3] else { panic!("a commit") };
        let read: Vec<_> = messages.iter().collect();
        assert_eq!(read, vec![Ok(Bytes::from_static(b"I1")), Ok(Bytes::new())]);
        let cut = Messages { streamed: false, bytes: messages.bytes.slice(..5) };
        assert_eq!(cut.iter().collect::<Vec<_>>(), vec![Err(Error::Short(5))]);
    }
}
