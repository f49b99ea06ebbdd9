//! The bytes of log ids, votes and payloads, on disk and in frames. Durable: a test pins them.
//!
//! ```text
//! log id   term u64 | index u64                                           all integers big endian
//! vote     term u64 | node u64 | committed u8
//! payload  kind u8 | term u64 | length u32 | crc32c(kind, term, length) u32 | body
//!          kind 0 blank, 1 proposal (body: the encoded entry), 2 membership (body: JSON)
//! ```
//!
//! The header's checksum is looked at before a length is believed.

use super::types::{CommittedLeaderId, LeaderId, LogId, Payload, Proposal, Vote};
use crate::core::entry::ENTRY_BYTES_HARD_MAX;
use bytes::{Buf, BufMut, Bytes};
use openraft::EntryPayload;
use std::io;

pub(crate) const LOG_ID_LEN: usize = 16;
pub(crate) const VOTE_LEN: usize = 17;
pub(crate) const PAYLOAD_HEADER_LEN: usize = 17;
/// Membership bodies are small; entries are bounded by the entry format.
const BODY_LEN_MAX: usize = ENTRY_BYTES_HARD_MAX + 4096;

const KIND_BLANK: u8 = 0;
const KIND_PROPOSAL: u8 = 1;
const KIND_MEMBERSHIP: u8 = 2;

pub(crate) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

pub(crate) fn put_log_id(out: &mut impl BufMut, log_id: &LogId) {
    out.put_u64(log_id.leader_id.term);
    out.put_u64(log_id.index);
}

pub(crate) fn get_log_id(bytes: &mut impl Buf) -> LogId {
    let term = bytes.get_u64();
    LogId::new(CommittedLeaderId::new(term), bytes.get_u64())
}

pub(crate) fn put_vote(out: &mut impl BufMut, vote: &Vote) {
    out.put_u64(vote.leader_id.term);
    out.put_u64(vote.leader_id.voted_for);
    out.put_u8(vote.committed.into());
}

pub(crate) fn get_vote(bytes: &mut impl Buf) -> Vote {
    let leader_id = LeaderId { term: bytes.get_u64(), voted_for: bytes.get_u64() };
    Vote { leader_id, committed: bytes.get_u8() != 0 }
}

/// Header and body of a payload. The body shares the proposal's memory.
pub(crate) fn payload_parts(payload: &Payload) -> io::Result<([u8; PAYLOAD_HEADER_LEN], Bytes)> {
    let (kind, term, body) = match payload {
        EntryPayload::Blank => (KIND_BLANK, 0, Bytes::new()),
        EntryPayload::Normal(proposal) => (KIND_PROPOSAL, proposal.term, proposal.bytes.clone()),
        EntryPayload::Membership(membership) => (KIND_MEMBERSHIP, 0, serde_json::to_vec(membership)?.into()),
    };
    if body.len() > BODY_LEN_MAX {
        return Err(invalid(format!("a payload of {} bytes", body.len())));
    }
    let mut header = [0; PAYLOAD_HEADER_LEN];
    let mut out = &mut header[..];
    out.put_u8(kind);
    out.put_u64(term);
    out.put_u32(u32::try_from(body.len()).expect("bounded just above"));
    let crc = crc32c::crc32c(&header[..PAYLOAD_HEADER_LEN - 4]);
    header[PAYLOAD_HEADER_LEN - 4..].copy_from_slice(&crc.to_be_bytes());
    Ok((header, body))
}

/// What a payload header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PayloadHeader {
    kind: u8,
    term: u64,
    pub(crate) body_len: usize,
}

impl PayloadHeader {
    pub(crate) fn decode(header: &[u8; PAYLOAD_HEADER_LEN]) -> io::Result<Self> {
        let mut rest = &header[..];
        let (kind, term, body_len) = (rest.get_u8(), rest.get_u64(), rest.get_u32() as usize);
        if rest.get_u32() != crc32c::crc32c(&header[..PAYLOAD_HEADER_LEN - 4]) {
            return Err(invalid("a payload header does not match its checksum"));
        }
        if body_len > BODY_LEN_MAX {
            return Err(invalid(format!("a payload of {body_len} bytes")));
        }
        Ok(Self { kind, term, body_len })
    }

    pub(crate) fn payload(self, body: Bytes) -> io::Result<Payload> {
        match self.kind {
            KIND_BLANK => Ok(EntryPayload::Blank),
            KIND_PROPOSAL => Ok(EntryPayload::Normal(Proposal { term: self.term, bytes: body })),
            KIND_MEMBERSHIP => Ok(EntryPayload::Membership(serde_json::from_slice(&body)?)),
            other => Err(invalid(format!("a payload of unknown kind {other}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Address, log_id};
    use super::*;
    use openraft::Membership;
    use std::collections::BTreeMap;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn proposal() -> Payload {
        EntryPayload::Normal(Proposal { term: 3, bytes: Bytes::from_static(b"abc") })
    }

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        put_log_id(&mut out, &log_id(1, 2));
        assert_eq!(hex(&out), "00000000000000010000000000000002");
        out.clear();
        put_vote(&mut out, &Vote { leader_id: LeaderId { term: 1, voted_for: 2 }, committed: true });
        assert_eq!(hex(&out), "0000000000000001000000000000000201");
        let (header, body) = payload_parts(&proposal()).unwrap();
        assert_eq!((hex(&header), hex(&body)), (concat!("01", "0000000000000003", "00000003", "d7eade81").into(), "616263".into()));
    }

    #[test]
    fn payloads_round_trip() {
        let nodes = BTreeMap::from([(1, Address { admin: "a:1".into(), sql: "b:2".into() })]);
        let membership = Membership::new(vec![[1].into()], nodes).unwrap();
        for payload in [EntryPayload::Blank, proposal(), EntryPayload::Membership(membership)] {
            let (header, body) = payload_parts(&payload).unwrap();
            assert_eq!(PayloadHeader::decode(&header).unwrap().payload(body).unwrap(), payload);
        }
    }

    #[test]
    fn a_flip_in_the_header_is_found() {
        let (good, _) = payload_parts(&proposal()).unwrap();
        for bit in 0..PAYLOAD_HEADER_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(PayloadHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
