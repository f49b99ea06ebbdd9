//! The messages of PostgreSQL's `pgoutput` plugin, protocol versions 1 and 2 (streaming), read from their bytes.
//!
//! Layouts: PostgreSQL documentation, "Logical Replication Message Formats". Values are read in either of the two forms that the plugin
//! sends, but Howdah asks for text: binary arrays and composites carry type OIDs, which differ between nodes.

use bytes::{Buf, Bytes};
use howdah_protocol::Lsn;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Begin { final_lsn: Lsn, commit_time_us: i64, xid: u32 },
    Commit { commit_lsn: Lsn, end_lsn: Lsn, commit_time_us: i64 },
    Origin { name: String },
    Relation(Relation),
    Type,
    Insert { relation: u32, new: Tuple },
    Update { relation: u32, old: Option<Old>, new: Tuple },
    Delete { relation: u32, old: Old },
    Truncate { relations: Vec<u32>, cascade: bool, restart_identity: bool },
    Logical { transactional: bool, lsn: Lsn, prefix: String, content: Bytes },
    StreamStart { xid: u32, first: bool },
    StreamStop,
    StreamCommit { xid: u32, commit_lsn: Lsn, end_lsn: Lsn, commit_time_us: i64 },
    StreamAbort { xid: u32, subxid: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    pub id: u32,
    pub schema: String,
    pub name: String,
    pub identity: Identity,
    pub columns: Vec<Column>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    Default,
    Nothing,
    Full,
    Index,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// Part of the replica identity.
    pub key: bool,
    pub type_oid: u32,
    pub type_modifier: i32,
}

/// The values of a row in the order of the relation's columns.
pub type Tuple = Vec<Value>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    /// A TOASTed value that did not change and is not sent: the column must not be touched.
    Unchanged,
    Text(Bytes),
    Binary(Bytes),
}

/// The old row: its key columns only (others are null), or all of it with REPLICA IDENTITY FULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Old {
    Key(Tuple),
    Full(Tuple),
}

impl Old {
    #[must_use]
    pub const fn tuple(&self) -> &Tuple {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("pgoutput message ends before its content does")]
    Short,
    #[error("pgoutput message of unknown kind {:?}", *.0 as char)]
    Kind(u8),
    #[error("pgoutput tuple with unknown part {:?}", *.0 as char)]
    Part(u8),
    #[error("pgoutput name is not UTF-8")]
    Utf8,
}

/// A message and, inside a stream, the (sub)transaction that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    pub xid: Option<u32>,
    pub message: Message,
}

/// Reads one message. `in_stream`: between StreamStart and StreamStop, where row messages carry their transaction id.
pub fn parse(bytes: Bytes, in_stream: bool) -> Result<Tagged, Error> {
    let mut reader = Reader(bytes);
    let kind = reader.u8()?;
    let tagged = in_stream && matches!(kind, b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M');
    let xid = if tagged { Some(reader.u32()?) } else { None };
    Ok(Tagged { xid, message: parse_message(kind, &mut reader)? })
}

fn parse_message(kind: u8, reader: &mut Reader) -> Result<Message, Error> {
    Ok(match kind {
        b'B' => Message::Begin { final_lsn: reader.lsn()?, commit_time_us: reader.i64()?, xid: reader.u32()? },
        b'C' => {
            reader.u8()?;
            Message::Commit { commit_lsn: reader.lsn()?, end_lsn: reader.lsn()?, commit_time_us: reader.i64()? }
        }
        b'O' => {
            reader.lsn()?;
            Message::Origin { name: reader.string()? }
        }
        b'R' => Message::Relation(parse_relation(reader)?),
        b'Y' => Message::Type,
        b'I' => {
            let relation = reader.u32()?;
            reader.u8()?;
            Message::Insert { relation, new: reader.tuple()? }
        }
        b'U' => {
            let relation = reader.u32()?;
            let (old, part) = match reader.u8()? {
                b'K' => (Some(Old::Key(reader.tuple()?)), reader.u8()?),
                b'O' => (Some(Old::Full(reader.tuple()?)), reader.u8()?),
                part => (None, part),
            };
            if part != b'N' {
                return Err(Error::Part(part));
            }
            Message::Update { relation, old, new: reader.tuple()? }
        }
        b'D' => {
            let relation = reader.u32()?;
            let old = match reader.u8()? {
                b'K' => Old::Key(reader.tuple()?),
                b'O' => Old::Full(reader.tuple()?),
                part => return Err(Error::Part(part)),
            };
            Message::Delete { relation, old }
        }
        b'T' => {
            let count = reader.u32()?;
            let flags = reader.u8()?;
            let relations = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
            Message::Truncate { relations, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0 }
        }
        b'M' => {
            let transactional = reader.u8()? & 1 != 0;
            let (lsn, prefix, len) = (reader.lsn()?, reader.string()?, reader.u32()?);
            Message::Logical { transactional, lsn, prefix, content: reader.take(len as usize)? }
        }
        b'S' => Message::StreamStart { xid: reader.u32()?, first: reader.u8()? == 1 },
        b'E' => Message::StreamStop,
        b'c' => {
            let xid = reader.u32()?;
            reader.u8()?;
            Message::StreamCommit { xid, commit_lsn: reader.lsn()?, end_lsn: reader.lsn()?, commit_time_us: reader.i64()? }
        }
        b'A' => Message::StreamAbort { xid: reader.u32()?, subxid: reader.u32()? },
        other => return Err(Error::Kind(other)),
    })
}

fn parse_relation(reader: &mut Reader) -> Result<Relation, Error> {
    let (id, schema, name) = (reader.u32()?, reader.string()?, reader.string()?);
    let identity = match reader.u8()? {
        b'd' => Identity::Default,
        b'n' => Identity::Nothing,
        b'f' => Identity::Full,
        b'i' => Identity::Index,
        other => return Err(Error::Part(other)),
    };
    let count = reader.u16()?;
    let columns = (0..count)
        .map(|_| {
            let key = reader.u8()? & 1 != 0;
            Ok(Column { key, name: reader.string()?, type_oid: reader.u32()?, type_modifier: reader.i32()? })
        })
        .collect::<Result<_, Error>>()?;
    // An empty schema name is how the plugin writes pg_catalog.
    let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
    Ok(Relation { id, schema, name, identity, columns })
}

struct Reader(Bytes);

impl Reader {
    fn need(&self, len: usize) -> Result<(), Error> {
        if self.0.len() < len { Err(Error::Short) } else { Ok(()) }
    }
    fn u8(&mut self) -> Result<u8, Error> {
        self.need(1).map(|()| self.0.get_u8())
    }
    fn u16(&mut self) -> Result<u16, Error> {
        self.need(2).map(|()| self.0.get_u16())
    }
    fn u32(&mut self) -> Result<u32, Error> {
        self.need(4).map(|()| self.0.get_u32())
    }
    fn i32(&mut self) -> Result<i32, Error> {
        self.need(4).map(|()| self.0.get_i32())
    }
    fn i64(&mut self) -> Result<i64, Error> {
        self.need(8).map(|()| self.0.get_i64())
    }
    fn lsn(&mut self) -> Result<Lsn, Error> {
        self.need(8).map(|()| Lsn(self.0.get_u64()))
    }
    fn take(&mut self, len: usize) -> Result<Bytes, Error> {
        self.need(len).map(|()| self.0.split_to(len))
    }
    fn string(&mut self) -> Result<String, Error> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Error::Short)?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        String::from_utf8(text.into()).map_err(|_| Error::Utf8)
    }
    fn tuple(&mut self) -> Result<Tuple, Error> {
        let count = self.u16()?;
        (0..count).map(|_| self.value()).collect()
    }
    fn value(&mut self) -> Result<Value, Error> {
        Ok(match self.u8()? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            kind @ (b't' | b'b') => {
                let len = self.u32()? as usize;
                let bytes = self.take(len)?;
                if kind == b't' { Value::Text(bytes) } else { Value::Binary(bytes) }
            }
            other => return Err(Error::Part(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update() -> Bytes {
        // Update of relation 5: old key (1), new row (1, unchanged, null).
        let mut bytes = b"U\0\0\0\x05K\0\x01t\0\0\0\x011N\0\x03t\0\0\0\x011un".to_vec();
        bytes.shrink_to_fit();
        bytes.into()
    }

    #[test]
    fn an_update_with_its_old_key() {
        let one = || Value::Text(Bytes::from_static(b"1"));
        let expected = Message::Update { relation: 5, old: Some(Old::Key(vec![one()])), new: vec![one(), Value::Unchanged, Value::Null] };
        assert_eq!(parse(update(), false), Ok(Tagged { xid: None, message: expected }));
    }

    #[test]
    fn inside_a_stream_the_transaction_comes_first() {
        let mut bytes = update().to_vec();
        bytes.splice(1..1, [0, 0, 0, 9]);
        assert_eq!(parse(bytes.into(), true).map(|tagged| tagged.xid), Ok(Some(9)));
    }

    #[test]
    fn cut_messages_are_errors() {
        for cut in 0..update().len() {
            assert!(parse(update().slice(..cut), false).is_err(), "cut at {cut}");
        }
        assert_eq!(parse(Bytes::from_static(b"?"), false), Err(Error::Kind(b'?')));
    }
}
