//! The state machine in a file: what a prefix of the log decided, so that the prefix can be purged.
//!
//! ```text
//! "HWSNAP\0\0" | version u8 | crc32c(body) u32 | body (JSON)          big endian
//! ```
//!
//! The same bytes travel to a follower whose next entry was purged. They hold no rows: such a follower's Postgres must be seeded again.

use super::codec::invalid;
use super::marker::write_atomically;
use super::types::{LogId, SnapshotMeta, StoredMembership};
use crate::core::decisions::Decisions;
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"HWSNAP\0\0";
const VERSION: u8 = 1;
const HEADER_LEN: usize = MAGIC.len() + 1 + 4;
const FILE: &str = "decided.snapshot";
/// Far more than any real state: two numbers per Postgres that ever led, and one per sequence.
pub(crate) const SNAPSHOT_LEN_MAX: usize = 64 << 20;

/// What the decided prefix of the log says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DecidedState {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) decisions: Decisions,
    /// Every node that is or was a member. Kept because the log that says so is purged, and an id is never given away twice: its votes
    /// outlive its membership.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) ids_used: BTreeSet<u64>,
}

impl DecidedState {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }

    /// Takes the members of a decided change.
    pub(crate) fn change_membership(&mut self, membership: StoredMembership) {
        self.ids_used.extend(membership.nodes().map(|(node, _)| *node));
        self.membership = membership;
    }

    pub(crate) fn encode(&self) -> io::Result<Bytes> {
        let body = serde_json::to_vec(self)?;
        let mut out = BytesMut::with_capacity(HEADER_LEN + body.len());
        out.put_slice(MAGIC);
        out.put_u8(VERSION);
        out.put_u32(crc32c::crc32c(&body));
        out.put_slice(&body);
        Ok(out.freeze())
    }

    pub(crate) fn decode(bytes: &[u8]) -> io::Result<Self> {
        if bytes.len() < HEADER_LEN || &bytes[..MAGIC.len()] != MAGIC {
            return Err(invalid("not a snapshot of a Howdah log"));
        }
        let version = bytes[MAGIC.len()];
        if version != VERSION {
            return Err(invalid(format!("a snapshot of format {version}; this version reads format {VERSION}; upgrade this node")));
        }
        let (header, body) = bytes.split_at(HEADER_LEN);
        if header[MAGIC.len() + 1..] != crc32c::crc32c(body).to_be_bytes() {
            return Err(invalid("the snapshot does not match its checksum"));
        }
        let mut state: Self = serde_json::from_slice(body)?;
        // Earlier versions never removed a member, and wrote no list.
        state.ids_used.extend(state.membership.nodes().map(|(node, _)| *node));
        Ok(state)
    }
}

/// The newest snapshot of this node.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile(PathBuf);

impl SnapshotFile {
    pub(crate) fn in_folder(dir: &Path) -> Self {
        Self(dir.join(FILE))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Durable when it returns. Blocks for two fsyncs.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        write_atomically(&self.0, bytes)
    }

    pub(crate) fn read(&self) -> io::Result<Option<Bytes>> {
        match fs::read(&self.0) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Address, log_id};
    use super::*;
    use howdah_protocol::{InstanceId, Lsn};

    fn state() -> DecidedState {
        let mut state = DecidedState { applied: Some(log_id(2, 9)), ..DecidedState::default() };
        state.decisions.watermarks.insert(InstanceId(1), Lsn(5));
        state
    }

    #[test]
    fn golden_bytes() {
        const APPLIED: &str =
            r#"{"applied":{"leader_id":2,"index":9},"membership":{"log_id":null,"membership":{"configs":[],"nodes":{}}},"#;
        const FIRST: &str = r#""decisions":{"serving":null,"watermarks":{"1":5},"sequences":{}}}"#;
        const NOW: &str = r#""decisions":{"serving":null,"watermarks":{"1":5},"sequences":{},"unfinished":[]}}"#;
        let golden = |crc: [u8; 4], decisions: &str| [&b"HWSNAP\0\0\x01"[..], &crc, APPLIED.as_bytes(), decisions.as_bytes()].concat();
        assert_eq!(state().encode().unwrap(), golden([0x3a, 0xea, 0x1f, 0x59], NOW));
        // What the first version wrote is still read.
        assert_eq!(DecidedState::decode(&golden([0x5f, 0x24, 0x26, 0xe7], FIRST)).unwrap(), state());
    }

    #[test]
    fn ids_stay_used_when_their_nodes_have_left() {
        let membership = |ids: &[u64]| {
            let nodes: std::collections::BTreeMap<_, _> = ids.iter().map(|id| (*id, Address::default())).collect();
            StoredMembership::new(Some(log_id(1, 1)), openraft::Membership::from(nodes))
        };
        let mut state = state();
        state.change_membership(membership(&[1, 2, 3]));
        state.change_membership(membership(&[2, 3, 4]));
        let back = DecidedState::decode(&state.encode().unwrap()).unwrap();
        assert_eq!(back.ids_used, [1, 2, 3, 4].into());
        // As an earlier version would have written it.
        state.ids_used.clear();
        assert_eq!(DecidedState::decode(&state.encode().unwrap()).unwrap().ids_used, [2, 3, 4].into());
    }

    #[test]
    fn a_file_comes_back_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::in_folder(dir.path());
        assert_eq!(file.read().unwrap(), None);
        let bytes = state().encode().unwrap();
        file.write(&bytes).unwrap();
        assert_eq!(DecidedState::decode(&file.read().unwrap().unwrap()).unwrap(), state());
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x10;
            assert!(DecidedState::decode(&bad).is_err(), "flip at {at}");
            assert!(DecidedState::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
