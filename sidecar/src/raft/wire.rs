//! Frames of the append stream: binary, bounded, checksummed.
//!
//! ```text
//! frame   length u32 | crc32c(body) u32 | body                            all integers big endian
//! append  vote | prev: has u8 [log id] | commit: has u8 [log id] | count u32 | count times (log id, payload)
//! answer  0, matching: has u8 [log id]  |  1, conflicting log id  |  2, higher vote
//! ```
//!
//! One frame of requests has one frame as its answer, in order.

use super::codec::{
    LOG_ID_LEN, PAYLOAD_HEADER_LEN, PayloadHeader, VOTE_LEN, get_log_id, get_vote, invalid, payload_parts, put_log_id, put_vote,
};
use super::types::{AppendRequest, AppendResult, LogId, RaftEntry, weight};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::StreamAppendError;
use std::io;

/// Version of frames and RPC bodies, in every path.
pub(crate) const WIRE_VERSION: &str = "v1";
const FRAME_HEADER_LEN: usize = 8;
/// An append stops growing at `APPEND_BYTES_MAX` and holds at most one entry more.
pub(crate) const FRAME_LEN_MAX: usize = 72 << 20;

pub(crate) fn encode_append(request: &AppendRequest) -> io::Result<Bytes> {
    let weight: usize = request.entries.iter().map(|entry| weight(&entry.payload)).sum();
    let mut out = frame(128 + weight);
    put_vote(&mut out, &request.vote);
    put_option(&mut out, request.prev_log_id.as_ref());
    put_option(&mut out, request.leader_commit.as_ref());
    out.put_u32(u32::try_from(request.entries.len()).map_err(|_| invalid("too many entries in an append"))?);
    for entry in &request.entries {
        let (header, body) = payload_parts(&entry.payload)?;
        put_log_id(&mut out, &entry.log_id);
        out.put_slice(&header);
        out.put_slice(&body);
    }
    finish(out)
}

/// Entries share the frame's memory.
pub(crate) fn decode_append(mut body: Bytes) -> io::Result<AppendRequest> {
    need(&body, VOTE_LEN)?;
    let vote = get_vote(&mut body);
    let prev_log_id = take_option(&mut body)?;
    let leader_commit = take_option(&mut body)?;
    need(&body, 4)?;
    let count = body.get_u32() as usize;
    // A count beyond what the bytes can hold is found before anything is reserved for it.
    need(&body, count.saturating_mul(LOG_ID_LEN + PAYLOAD_HEADER_LEN))?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        need(&body, LOG_ID_LEN + PAYLOAD_HEADER_LEN)?;
        let log_id = get_log_id(&mut body);
        let mut header = [0; PAYLOAD_HEADER_LEN];
        body.copy_to_slice(&mut header);
        let header = PayloadHeader::decode(&header)?;
        need(&body, header.body_len)?;
        entries.push(RaftEntry { log_id, payload: header.payload(body.split_to(header.body_len))? });
    }
    if !body.is_empty() {
        return Err(invalid("bytes behind the end of an append"));
    }
    Ok(AppendRequest { vote, prev_log_id, entries, leader_commit })
}

pub(crate) fn encode_answer(answer: &AppendResult) -> io::Result<Bytes> {
    let mut out = frame(64);
    match answer {
        Ok(matching) => {
            out.put_u8(0);
            put_option(&mut out, matching.as_ref());
        }
        Err(StreamAppendError::Conflict(log_id)) => {
            out.put_u8(1);
            put_log_id(&mut out, log_id);
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.put_u8(2);
            put_vote(&mut out, vote);
        }
    }
    finish(out)
}

pub(crate) fn decode_answer(mut body: Bytes) -> io::Result<AppendResult> {
    need(&body, 1)?;
    match body.get_u8() {
        0 => take_option(&mut body).map(Ok),
        1 => need(&body, LOG_ID_LEN).map(|()| Err(StreamAppendError::Conflict(get_log_id(&mut body)))),
        2 => need(&body, VOTE_LEN).map(|()| Err(StreamAppendError::HigherVote(get_vote(&mut body)))),
        other => Err(invalid(format!("an append's answer of unknown kind {other}"))),
    }
}

/// Puts frames together from whatever pieces the transport delivers.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole frame's body.
    pub(crate) fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.buffer.len() < FRAME_HEADER_LEN {
            return Ok(None);
        }
        let mut header = &self.buffer[..FRAME_HEADER_LEN];
        let (len, crc) = (header.get_u32() as usize, header.get_u32());
        if len > FRAME_LEN_MAX {
            return Err(invalid(format!("a frame of {len} bytes; no frame is larger than {FRAME_LEN_MAX}")));
        }
        if self.buffer.len() < FRAME_HEADER_LEN + len {
            self.buffer.reserve(FRAME_HEADER_LEN + len - self.buffer.len());
            return Ok(None);
        }
        let body = self.buffer.split_to(FRAME_HEADER_LEN + len).freeze().slice(FRAME_HEADER_LEN..);
        if crc32c::crc32c(&body) != crc {
            return Err(invalid("a frame does not match its checksum"));
        }
        Ok(Some(body))
    }
}

fn frame(capacity: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(FRAME_HEADER_LEN + capacity);
    out.put_bytes(0, FRAME_HEADER_LEN);
    out
}

fn finish(mut frame: BytesMut) -> io::Result<Bytes> {
    let body = &frame[FRAME_HEADER_LEN..];
    let (len, crc) = (body.len(), crc32c::crc32c(body));
    if len > FRAME_LEN_MAX {
        return Err(invalid(format!("a frame of {len} bytes")));
    }
    let mut header = &mut frame[..FRAME_HEADER_LEN];
    header.put_u32(u32::try_from(len).expect("bounded just above"));
    header.put_u32(crc);
    Ok(frame.freeze())
}

fn need(body: &Bytes, len: usize) -> io::Result<()> {
    if body.len() < len { Err(invalid("a frame ends before its content does")) } else { Ok(()) }
}

fn put_option(out: &mut BytesMut, log_id: Option<&LogId>) {
    out.put_u8(log_id.is_some().into());
    if let Some(log_id) = log_id {
        put_log_id(out, log_id);
    }
}

fn take_option(body: &mut Bytes) -> io::Result<Option<LogId>> {
    need(body, 1)?;
    if body.get_u8() == 0 {
        return Ok(None);
    }
    need(body, LOG_ID_LEN).map(|()| Some(get_log_id(body)))
}

#[cfg(test)]
mod tests {
    use super::super::types::{LeaderId, Proposal, Vote, log_id};
    use super::*;
    use openraft::EntryPayload;

    fn vote() -> Vote {
        Vote { leader_id: LeaderId { term: 4, voted_for: 2 }, committed: true }
    }

    fn request() -> AppendRequest {
        let proposal = EntryPayload::Normal(Proposal { term: 4, bytes: Bytes::from_static(b"hello") });
        let entries =
            vec![RaftEntry { log_id: log_id(4, 8), payload: EntryPayload::Blank }, RaftEntry { log_id: log_id(4, 9), payload: proposal }];
        AppendRequest { vote: vote(), prev_log_id: Some(log_id(3, 7)), entries, leader_commit: None }
    }

    #[test]
    fn frames_come_back_from_any_pieces() {
        let frame = encode_append(&request()).unwrap();
        for piece in [1, 3, 7, frame.len()] {
            let mut reader = FrameReader::default();
            let bytes = [&frame[..], &frame[..]].concat();
            let mut found = 0;
            for chunk in bytes.chunks(piece) {
                reader.push(chunk);
                while let Some(body) = reader.next().unwrap() {
                    let read = decode_append(body).unwrap();
                    assert_eq!(format!("{read:?}"), format!("{:?}", request()));
                    assert_eq!(read.entries, request().entries);
                    found += 1;
                }
            }
            assert_eq!(found, 2, "pieces of {piece}");
        }
    }

    #[test]
    fn answers_come_back() {
        let conflict = Err(StreamAppendError::Conflict(log_id(1, 2)));
        for answer in [Ok(None), Ok(Some(log_id(1, 2))), conflict, Err(StreamAppendError::HigherVote(vote()))] {
            let mut reader = FrameReader::default();
            reader.push(&encode_answer(&answer).unwrap());
            assert_eq!(decode_answer(reader.next().unwrap().unwrap()).unwrap(), answer);
        }
    }

    #[test]
    fn damage_is_found_and_nothing_panics() {
        let good = encode_append(&request()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x11;
            let mut reader = FrameReader::default();
            reader.push(&bad);
            assert!(!matches!(reader.next(), Ok(Some(_))), "flip at {at}");
        }
        let body = good.slice(FRAME_HEADER_LEN..);
        for cut in 0..body.len() {
            assert!(decode_append(body.slice(..cut)).is_err(), "cut at {cut}");
            let _ = decode_answer(body.slice(..cut));
        }
        let mut reader = FrameReader::default();
        reader.push(&[0xff; 8]);
        assert!(reader.next().is_err());
    }
}
