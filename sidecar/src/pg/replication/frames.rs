//! Bytes on the wire to messages and back, without IO.
//!
//! ```text
//! frame        tag u8, length u32 (counts itself), body
//! in CopyData: 'w' start u64, end u64, time i64, plugin data       'k' end u64, time i64, reply u8
//! to it:       'r' written u64, flushed u64, applied u64, time i64, reply u8
//! ```

use super::{Error, Row, error_fields};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use howdah_protocol::Lsn;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// No message is larger; the plugin sends one per row, so this bounds a row.
pub(super) const FRAME_BYTES_MAX: usize = (256 << 20) + (64 << 10);
const HEADER_LEN: usize = 5;
/// PostgreSQL counts time from 2000-01-01.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// What the stream carries from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// One message of the plugin.
    Data(Bytes),
    /// Everything up to `wal_end` was sent. `reply`: the server wants to hear from us now.
    Keepalive { wal_end: Lsn, reply: bool },
}

/// Takes the next whole message out of the inbox.
pub(super) fn next(inbox: &mut BytesMut) -> Result<Option<Frame>, Error> {
    let Some(total) = total_len(inbox) else { return Ok(None) };
    if total > FRAME_BYTES_MAX {
        return Err(Error::TooLarge { bytes: total, max: FRAME_BYTES_MAX });
    }
    if inbox.len() < total {
        return Ok(None);
    }
    let mut body = inbox.split_to(total).freeze();
    let tag = body[0];
    body.advance(HEADER_LEN);
    Ok(Some(Frame { tag, body }))
}

/// Bytes that the message at the front of the inbox still lacks, as far as that is known.
pub(super) fn missing(inbox: &BytesMut) -> usize {
    total_len(inbox).map_or(0, |total| total.min(FRAME_BYTES_MAX).saturating_sub(inbox.len()))
}

fn total_len(inbox: &BytesMut) -> Option<usize> {
    let length = inbox.get(1..HEADER_LEN)?;
    // A length below four is nonsense; as the smallest frame it is found out by whoever reads the body.
    Some(1 + (u32::from_be_bytes(length.try_into().expect("four bytes")) as usize).max(4))
}

pub(super) fn event(mut body: Bytes) -> Result<Event, Error> {
    let short = || Error::Unexpected("replication data that ends early".to_owned());
    match body.first() {
        Some(b'w') if body.len() >= 25 => {
            body.advance(25);
            Ok(Event::Data(body))
        }
        Some(b'k') if body.len() >= 18 => {
            body.advance(1);
            let wal_end = Lsn(body.get_u64());
            body.advance(8);
            Ok(Event::Keepalive { wal_end, reply: body.get_u8() != 0 })
        }
        Some(b'w' | b'k') | None => Err(short()),
        Some(other) => Err(Error::Unexpected(format!("replication data of kind {:?}", *other as char))),
    }
}

/// A standby status update as CopyData: everything up to `position` is written, flushed and applied. 0/0 says nothing about positions.
pub(super) fn put_status(out: &mut BytesMut, position: Lsn, reply: bool) {
    out.put_u8(b'd');
    out.put_u32(4 + 34);
    out.put_u8(b'r');
    out.put_u64(position.0);
    out.put_u64(position.0);
    out.put_u64(position.0);
    out.put_i64(postgres_now_us());
    out.put_u8(reply.into());
}

fn postgres_now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH + POSTGRES_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or_default()
}

pub(super) fn data_row(frame: &Frame) -> Result<Row, Error> {
    let short = || Error::Unexpected("a row that ends early".to_owned());
    let mut body = frame.body.clone();
    let count = body.try_get_u16().map_err(|_| short())?;
    (0..count)
        .map(|_| match usize::try_from(body.try_get_i32().map_err(|_| short())?) {
            Err(_) => Ok(None),
            Ok(len) if len <= body.len() => Ok(Some(String::from_utf8_lossy(&body.split_to(len)).into_owned())),
            Ok(_) => Err(short()),
        })
        .collect()
}

pub(super) fn server_error(frame: &Frame) -> Error {
    match error_fields(&frame.body) {
        Some((severity, code, message)) => Error::Server { severity, code, message },
        None => Error::Unexpected("an error that cannot be read".to_owned()),
    }
}

pub(super) fn unexpected(tag: u8) -> Error {
    Error::Unexpected(format!("a message of kind {:?}", tag as char))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(tag: u8, body: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_u8(tag);
        out.put_u32(u32::try_from(body.len() + 4).unwrap());
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn frames_come_out_whole_and_in_order() {
        let mut wire = framed(b'd', b"one");
        wire.unsplit(framed(b'd', b""));
        let (mut inbox, mut seen) = (BytesMut::new(), Vec::new());
        for byte in wire {
            inbox.put_u8(byte);
            while let Some(frame) = next(&mut inbox).unwrap() {
                seen.push(frame.body);
            }
        }
        assert_eq!(seen, ["one", ""]);
        assert!(inbox.is_empty());
    }

    #[test]
    fn a_frame_that_is_too_large_is_refused_before_it_is_read() {
        let mut inbox = BytesMut::from(&b"d\x7f\xff\xff\xff"[..]);
        assert!(matches!(next(&mut inbox), Err(Error::TooLarge { .. })));
        assert!(missing(&inbox) <= FRAME_BYTES_MAX);
    }

    #[test]
    fn stream_events() {
        let mut data = vec![b'w'];
        data.extend([0; 24]);
        data.extend(b"payload");
        assert_eq!(event(data.into()).unwrap(), Event::Data(Bytes::from_static(b"payload")));
        let mut keepalive = vec![b'k'];
        keepalive.extend(7_u64.to_be_bytes());
        keepalive.extend([0; 8]);
        keepalive.push(1);
        for cut in 0..keepalive.len() {
            assert!(event(Bytes::copy_from_slice(&keepalive[..cut])).is_err(), "cut at {cut}");
        }
        assert_eq!(event(keepalive.into()).unwrap(), Event::Keepalive { wal_end: Lsn(7), reply: true });
    }

    #[test]
    fn a_status_update_is_one_whole_frame() {
        let mut out = BytesMut::new();
        put_status(&mut out, Lsn(5), true);
        let frame = next(&mut out).unwrap().unwrap();
        assert!(out.is_empty());
        assert_eq!((frame.tag, frame.body[0], frame.body.len()), (b'd', b'r', 34));
        assert_eq!(frame.body[1..9], 5_u64.to_be_bytes());
        assert_eq!(frame.body[33], 1);
    }
}
