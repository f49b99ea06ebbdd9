//! The bytes of the log's files. Durable: a test pins them.
//!
//! ```text
//! segment  "HWLOGSEG" | version u8 | start u64 | head | zeros | crc32c of all before u32       512 bytes, integers big endian
//!          then records, then zeros or what an earlier use of the file left behind
//! head     vote: has u8 [vote] | committed, purged, last: has u8 [log id]                       the log before this segment
//! record   crc32c(start, all behind) u32 | length of body u32 | durable u64 | kind u8 | body
//!          kind 1 entry: log id, payload · 2 vote · 3 commit: log id · 4 keep until: has u8 [log id] · 5 purge until: log id
//! ```
//!
//! Positions count the bytes of all segments since the log began; a segment's file is named by its `start`. The start is part of every
//! record's checksum, so a record of an earlier use of a recycled file is never taken for one of this use.
//!
//! `durable` is the position up to which the log was on disk when the record was written. It tells a torn tail from damage: where a
//! record is unreadable and one behind it says that the place was durable, what was there is lost, and the log must not open.

use crate::raft::codec::{
    LOG_ID_LEN, PAYLOAD_HEADER_LEN, PayloadHeader, VOTE_LEN, get_log_id, get_vote, invalid, payload_parts, put_log_id, put_vote,
};
use crate::raft::types::{LogId, RaftEntry, Vote};
use bytes::{Buf, BufMut, Bytes};
use std::io;

const MAGIC: &[u8; 8] = b"HWLOGSEG";
const VERSION: u8 = 1;
pub(crate) const SEGMENT_HEADER_LEN: usize = 512;
const RECORD_HEADER_LEN: usize = 4 + 4 + 8 + 1;

const KIND_ENTRY: u8 = 1;
const KIND_VOTE: u8 = 2;
const KIND_COMMIT: u8 = 3;
const KIND_KEEP: u8 = 4;
const KIND_PURGE: u8 = 5;

/// What a prefix of the log comes to, entries aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    Entry(RaftEntry),
    Vote(Vote),
    Commit(LogId),
    /// Entries behind this one are void.
    Keep(Option<LogId>),
    Purge(LogId),
}

pub(crate) fn encode_header(start: u64, head: &Head) -> [u8; SEGMENT_HEADER_LEN] {
    let mut header = [0; SEGMENT_HEADER_LEN];
    let mut out = &mut header[..];
    out.put_slice(MAGIC);
    out.put_u8(VERSION);
    out.put_u64(start);
    out.put_u8(head.vote.is_some().into());
    if let Some(vote) = &head.vote {
        put_vote(&mut out, vote);
    }
    for log_id in [&head.committed, &head.purged, &head.last] {
        put_option(&mut out, log_id.as_ref());
    }
    let crc = crc32c::crc32c(&header[..SEGMENT_HEADER_LEN - 4]);
    header[SEGMENT_HEADER_LEN - 4..].copy_from_slice(&crc.to_be_bytes());
    header
}

pub(crate) fn decode_header(segment: &[u8]) -> io::Result<(u64, Head)> {
    let header = segment.get(..SEGMENT_HEADER_LEN).ok_or_else(|| invalid("it is too short"))?;
    if &header[..MAGIC.len()] != MAGIC {
        return Err(invalid("it is no segment of a log"));
    }
    let version = header[MAGIC.len()];
    if version != VERSION {
        return Err(invalid(format!("it has format {version}, and this version reads format {VERSION}: upgrade this node")));
    }
    let (body, mut crc) = header.split_at(SEGMENT_HEADER_LEN - 4);
    if crc.get_u32() != crc32c::crc32c(body) {
        return Err(invalid("its header does not match its checksum"));
    }
    let mut rest = &body[MAGIC.len() + 1..];
    let start = rest.get_u64();
    let vote = (rest.get_u8() != 0).then(|| get_vote(&mut rest));
    let mut next = || take_option(&mut rest);
    Ok((start, Head { vote, committed: next()?, purged: next()?, last: next()? }))
}

fn put_option(out: &mut impl BufMut, log_id: Option<&LogId>) {
    out.put_u8(log_id.is_some().into());
    if let Some(log_id) = log_id {
        put_log_id(out, log_id);
    }
}

fn take_option(bytes: &mut &[u8]) -> io::Result<Option<LogId>> {
    need(bytes, 1)?;
    match bytes.get_u8() {
        0 => Ok(None),
        _ => need(bytes, LOG_ID_LEN).map(|()| Some(get_log_id(bytes))),
    }
}

fn need(bytes: &[u8], len: usize) -> io::Result<()> {
    if bytes.len() < len { Err(invalid("a record ends before its content does")) } else { Ok(()) }
}

/// Appends the record's bytes to `out`. An entry's payload is copied once, here.
pub(crate) fn encode(record: &Record, start: u64, durable: u64, out: &mut Vec<u8>) -> io::Result<()> {
    let at = out.len();
    out.put_slice(&[0; RECORD_HEADER_LEN]);
    let kind = match record {
        Record::Entry(entry) => {
            let (header, body) = payload_parts(&entry.payload)?;
            put_log_id(out, &entry.log_id);
            out.put_slice(&header);
            out.put_slice(&body);
            KIND_ENTRY
        }
        Record::Vote(vote) => {
            put_vote(out, vote);
            KIND_VOTE
        }
        Record::Commit(log_id) => {
            put_log_id(out, log_id);
            KIND_COMMIT
        }
        Record::Keep(log_id) => {
            put_option(out, log_id.as_ref());
            KIND_KEEP
        }
        Record::Purge(log_id) => {
            put_log_id(out, log_id);
            KIND_PURGE
        }
    };
    let len = u32::try_from(out.len() - at - RECORD_HEADER_LEN).map_err(|_| invalid("a record of more than 4 GiB"))?;
    let mut header = &mut out[at + 4..at + RECORD_HEADER_LEN];
    header.put_u32(len);
    header.put_u64(durable);
    header.put_u8(kind);
    let crc = checksum(start, &out[at + 4..]);
    out[at..at + 4].copy_from_slice(&crc.to_be_bytes());
    Ok(())
}

fn checksum(start: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&start.to_be_bytes()), bytes)
}

/// A record that is whole, and not looked into yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a> {
    kind: u8,
    body: &'a [u8],
}

impl<'a> Raw<'a> {
    /// The record at the beginning of `bytes`; `None` where there is none that is whole.
    pub(crate) fn find(bytes: &'a [u8], start: u64) -> Option<Self> {
        let mut header = bytes.get(..RECORD_HEADER_LEN)?;
        let crc = header.get_u32();
        let len = header.get_u32() as usize;
        header.advance(8);
        let kind = header.get_u8();
        let whole = bytes.get(4..RECORD_HEADER_LEN + len)?;
        (kind != 0 && crc == checksum(start, whole)).then(|| Self { kind, body: &bytes[RECORD_HEADER_LEN..RECORD_HEADER_LEN + len] })
    }

    /// Whether some record in `bytes`, which begin at position `at`, knows that `at` was durable.
    pub(crate) fn any_knows_durable(bytes: &'a [u8], start: u64, at: u64) -> bool {
        let claims = |offset: &usize| {
            // Cheap before the checksum: a position behind the place and not behind the record itself.
            let mut durable = &bytes[offset + 8..offset + 16];
            let durable = durable.get_u64();
            durable > at && durable <= at + *offset as u64
        };
        let end = bytes.len().saturating_sub(RECORD_HEADER_LEN);
        (1..end).filter(claims).any(|offset| Self::find(&bytes[offset..], start).is_some())
    }

    pub(crate) fn len(&self) -> usize {
        RECORD_HEADER_LEN + self.body.len()
    }

    pub(crate) fn decode(&self) -> io::Result<Record> {
        let mut body = self.body;
        match self.kind {
            KIND_ENTRY => {
                need(body, LOG_ID_LEN + PAYLOAD_HEADER_LEN)?;
                let log_id = get_log_id(&mut body);
                let mut header = [0; PAYLOAD_HEADER_LEN];
                body.copy_to_slice(&mut header);
                let header = PayloadHeader::decode(&header)?;
                if header.body_len != body.len() {
                    return Err(invalid("an entry's length does not match its record's"));
                }
                Ok(Record::Entry(RaftEntry { log_id, payload: header.payload(Bytes::copy_from_slice(body))? }))
            }
            KIND_VOTE => need(body, VOTE_LEN).map(|()| Record::Vote(get_vote(&mut body))),
            KIND_COMMIT => need(body, LOG_ID_LEN).map(|()| Record::Commit(get_log_id(&mut body))),
            KIND_KEEP => take_option(&mut body).map(Record::Keep),
            KIND_PURGE => need(body, LOG_ID_LEN).map(|()| Record::Purge(get_log_id(&mut body))),
            other => Err(invalid(format!("a record of unknown kind {other}: upgrade this node"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::store::tests::{entry, vote};
    use crate::raft::types::log_id;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn records() -> Vec<Record> {
        let id = log_id(3, 7);
        vec![
            Record::Entry(entry(3, 7, 2)),
            Record::Vote(vote(3)),
            Record::Commit(id),
            Record::Keep(None),
            Record::Keep(Some(id)),
            Record::Purge(id),
        ]
    }

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        encode(&records()[0], 1, 2, &mut out).unwrap();
        assert_eq!(
            hex(&out),
            concat!(
                "02778304",
                "00000023",
                "0000000000000002",
                "01",
                "00000000000000030000000000000007",
                "01",
                "0000000000000003",
                "00000002",
                "25815d82",
                "0707"
            )
        );
        let head = Head { vote: Some(vote(3)), committed: None, purged: None, last: Some(log_id(3, 7)) };
        let header = encode_header(9, &head);
        assert_eq!(
            hex(&header[..55]),
            concat!(
                "48574c4f47534547",
                "01",
                "0000000000000009",
                "01",
                "0000000000000003",
                "0000000000000001",
                "00",
                "00",
                "00",
                "01",
                "0000000000000003",
                "0000000000000007",
                "00"
            )
        );
        assert_eq!(decode_header(&header).unwrap(), (9, head));
    }

    #[test]
    fn records_come_back_and_damage_is_found() {
        for record in records() {
            let mut bytes = Vec::new();
            encode(&record, 5, 1, &mut bytes).unwrap();
            let raw = Raw::find(&bytes, 5).unwrap();
            assert_eq!((raw.len(), raw.decode().unwrap()), (bytes.len(), record));
            assert!(Raw::find(&bytes, 6).is_none(), "a record of an earlier use of the file");
            for cut in 0..bytes.len() {
                assert!(Raw::find(&bytes[..cut], 5).is_none(), "cut {cut}");
            }
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Raw::find(&bad, 5).is_none(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_damaged_header_is_refused() {
        let good = encode_header(9, &Head::default());
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(&bad).is_err(), "bit {bit}");
        }
    }
}
