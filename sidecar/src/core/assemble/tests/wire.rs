//! Messages as the plugin writes them.

use bytes::{BufMut, Bytes, BytesMut};

/// Writes the messages of one (sub)transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire(Option<u32>);

impl Wire {
    pub(super) fn plain() -> Self {
        Self(None)
    }

    /// Inside a stream, where messages name their transaction.
    pub(super) fn streamed(xid: u32) -> Self {
        Self(Some(xid))
    }

    fn message(self, kind: u8, body: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(kind);
        if let Some(xid) = self.0 {
            out.put_u32(xid);
        }
        body(&mut out);
        out.freeze()
    }

    pub(super) fn begin(self, xid: u32, final_lsn: u64) -> Bytes {
        self.message(b'B', |out| {
            out.put_u64(final_lsn);
            out.put_i64(0);
            out.put_u32(xid);
        })
    }

    pub(super) fn commit(self, commit_lsn: u64, end_lsn: u64) -> Bytes {
        self.message(b'C', |out| {
            out.put_u8(0);
            out.put_u64(commit_lsn);
            out.put_u64(end_lsn);
            out.put_i64(0);
        })
    }

    pub(super) fn origin(self, name: &str) -> Bytes {
        Self(None).message(b'O', |out| {
            out.put_u64(0);
            put_string(out, name);
        })
    }

    /// `version` is the type of its one column.
    pub(super) fn relation(self, id: u32, schema: &str, name: &str, version: u32) -> Bytes {
        self.message(b'R', |out| {
            out.put_u32(id);
            put_string(out, schema);
            put_string(out, name);
            out.put_u8(b'd');
            out.put_u16(1);
            out.put_u8(1);
            put_string(out, "id");
            out.put_u32(version);
            out.put_i32(-1);
        })
    }

    pub(super) fn insert(self, relation: u32, value: &str) -> Bytes {
        self.message(b'I', |out| {
            out.put_u32(relation);
            out.put_u8(b'N');
            put_tuple(out, value);
        })
    }

    pub(super) fn delete(self, relation: u32, value: &str) -> Bytes {
        self.message(b'D', |out| {
            out.put_u32(relation);
            out.put_u8(b'K');
            put_tuple(out, value);
        })
    }

    pub(super) fn truncate(self, relations: &[u32]) -> Bytes {
        self.message(b'T', |out| {
            out.put_u32(u32::try_from(relations.len()).unwrap());
            out.put_u8(1);
            relations.iter().for_each(|id| out.put_u32(*id));
        })
    }

    pub(super) fn logical(self, transactional: bool, content: &str) -> Bytes {
        self.message(b'M', |out| {
            out.put_u8(transactional.into());
            out.put_u64(0);
            put_string(out, "prefix");
            out.put_u32(u32::try_from(content.len()).unwrap());
            out.put_slice(content.as_bytes());
        })
    }

    pub(super) fn stream_start(self, first: bool) -> Bytes {
        self.message(b'S', |out| out.put_u8(first.into()))
    }

    pub(super) fn stream_stop(self) -> Bytes {
        Self(None).message(b'E', |_| {})
    }

    pub(super) fn stream_commit(self, xid: u32, commit_lsn: u64, end_lsn: u64) -> Bytes {
        let body = Self(None).commit(commit_lsn, end_lsn);
        Self(Some(xid)).message(b'c', |out| out.put_slice(&body[1..]))
    }

    pub(super) fn stream_abort(self, xid: u32, subxid: u32) -> Bytes {
        Self(None).message(b'A', |out| {
            out.put_u32(xid);
            out.put_u32(subxid);
        })
    }
}

fn put_string(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn put_tuple(out: &mut BytesMut, value: &str) {
    out.put_u16(1);
    out.put_u8(b't');
    out.put_u32(u32::try_from(value.len()).unwrap());
    out.put_slice(value.as_bytes());
}
