//! What the plugin writes for the model's transactions.

use super::postgres::{Change, Record};
use bytes::{BufMut, Bytes, BytesMut};
use howdah_protocol::settings;

const KEYED: u32 = 1;
const KEYLESS: u32 = 2;
const TEXT_OID: u32 = 25;

/// The messages of a transaction. `described`: this connection knows the tables.
pub(super) fn messages(record: &Record, described: &mut bool) -> Vec<Bytes> {
    let mut messages = vec![message(b'B', |out| {
        out.put_u64(record.commit.0);
        out.put_i64(0);
        out.put_u32(record.xid);
    })];
    if record.origin {
        messages.push(message(b'O', |out| {
            out.put_u64(0);
            put_name(out, settings::ORIGIN);
        }));
    }
    if !record.changes.is_empty() && !std::mem::replace(described, true) {
        messages.extend([relation(KEYED, "keyed", b'd'), relation(KEYLESS, "keyless", b'f')]);
    }
    messages.extend(record.changes.iter().map(change));
    if !record.origin && record.tx.is_none() {
        messages.push(message(b'M', |out| {
            out.put_u8(1);
            out.put_u64(0);
            put_name(out, "howdah.mark");
            out.put_u32(0);
        }));
    }
    messages.push(message(b'C', |out| {
        out.put_u8(0);
        out.put_u64(record.commit.0);
        out.put_u64(record.end.0);
        out.put_i64(0);
    }));
    messages
}

fn change(change: &Change) -> Bytes {
    match *change {
        Change::Keyed { key, old: None, new: Some(new) } => row(b'I', KEYED, &[(b'N', key, new)]),
        Change::Keyed { key, old: Some(_), new: Some(new) } => row(b'U', KEYED, &[(b'N', key, new)]),
        Change::Keyed { key, old, new: None } => row(b'D', KEYED, &[(b'K', key, old.unwrap_or_default())]),
        Change::Keyless { value, comes: true } => row(b'I', KEYLESS, &[(b'N', 0, value)]),
        Change::Keyless { value, comes: false } => row(b'D', KEYLESS, &[(b'O', 0, value)]),
    }
}

fn message(kind: u8, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(kind);
    body(&mut out);
    out.freeze()
}

fn relation(id: u32, name: &str, identity: u8) -> Bytes {
    message(b'R', |out| {
        out.put_u32(id);
        put_name(out, "public");
        put_name(out, name);
        out.put_u8(identity);
        out.put_u16(2);
        for (column, key) in [("id", 1), ("value", u8::from(identity == b'f'))] {
            out.put_u8(key);
            put_name(out, column);
            out.put_u32(TEXT_OID);
            out.put_i32(-1);
        }
    })
}

fn row(kind: u8, relation: u32, tuples: &[(u8, u64, u64)]) -> Bytes {
    message(kind, |out| {
        out.put_u32(relation);
        for (which, id, value) in tuples {
            out.put_u8(*which);
            out.put_u16(2);
            for number in [id, value] {
                let text = number.to_string();
                out.put_u8(b't');
                out.put_u32(u32::try_from(text.len()).expect("a few digits"));
                out.put_slice(text.as_bytes());
            }
        }
    })
}

fn put_name(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}
