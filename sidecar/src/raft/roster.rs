//! Which log each node's id stands for.
//!
//! A node id stands for the votes and the entries that its node has on disk. A node that comes back under its old id with another disk
//! knows of neither: it could vote a second time in one term, and its empty log would count where its old one did. So each log has a
//! number, made at random with its marker and named in every request and answer. Who hears from a node for the first time writes the number
//! down, durably, before believing a word, and tells the others (`acquaint`). From then on another log under the same id is refused, by both sides:
//!
//! - What it asks, and what it answers, is refused by whoever knows the old log.
//! - It is told which log it is taken for, and takes nothing that was meant for another: nothing is written.
//!
//! ```text
//! "HWROSTER" | version u8 | count u32 | count x (node u64, log u64) | crc32c of all before, u32      big endian
//! ```
//!
//! What is left: a node that never heard of the old log of a member, from nobody, takes its new one for the first.

use super::acquaint::Known;
use super::error::Error;
use super::marker::write_atomically;
use bytes::{Buf, BufMut};
use howdah_protocol::NodeId;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

const MAGIC: &[u8; 8] = b"HWROSTER";
const VERSION: u8 = 1;
const FILE: &str = "roster";
const HEADER_LEN: usize = MAGIC.len() + 1 + 4;
const ROW_LEN: usize = 8 + 8;
const CRC_LEN: usize = 4;

/// One life of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incarnation(pub(crate) u64);

impl Incarnation {
    pub(crate) fn new() -> Self {
        Self(rand::random())
    }
}

/// Why what a node says is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Distrust {
    #[error(
        "node {node} is known here with another log than the one it has now: its disk was wiped or replaced, and the votes on it are lost; \
         put a new node in its place: howdahctl node replace {node}"
    )]
    OtherLog { node: NodeId },
    #[error("it cannot be noted which log node {node} has: {source}")]
    NotNoted { node: NodeId, source: io::Error },
}

/// Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Roster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: Incarnation,
    file: PathBuf,
    known: Mutex<Known>,
    /// Why another node does not take this one for who it says it is.
    refused: watch::Sender<Option<Arc<str>>>,
}

impl Roster {
    pub(crate) fn open(dir: &Path, own: Incarnation) -> Result<Self, Error> {
        let file = dir.join(FILE);
        let known = match fs::read(&file) {
            Ok(bytes) => decode(&bytes, &file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Known::new(),
            Err(source) => return Err(Error::File { path: file, source }),
        };
        Ok(Self(Arc::new(Inner { own, file, known: Mutex::new(known), refused: watch::Sender::new(None) })))
    }

    pub(crate) fn own(&self) -> Incarnation {
        self.0.own
    }

    /// The log that this node knows the other one by.
    pub(crate) fn of(&self, node: u64) -> Option<Incarnation> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied().map(Incarnation)
    }

    /// Believes a node that has this log, or says why not. The first time it is noted on disk, which blocks for two fsyncs: once in the
    /// life of a pair of logs.
    pub(crate) fn admit(&self, node: u64, log: Incarnation) -> Result<(), Distrust> {
        self.learn(&BTreeMap::from([(node, log.0)])).map_err(|source| Distrust::NotNoted { node: NodeId(node), source })?;
        self.look(node, log)
    }

    /// Takes what is new. What is known already stays as it is.
    pub(crate) fn learn(&self, theirs: &Known) -> io::Result<()> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if theirs.keys().all(|node| known.contains_key(node)) {
            return Ok(());
        }
        let more = theirs.iter().chain(known.iter()).map(|(node, log)| (*node, *log)).collect();
        write_atomically(&self.0.file, &encode(&more))?;
        *known = more;
        Ok(())
    }

    pub(crate) fn known(&self) -> Known {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As [`Self::admit`], for a node that only asks: nothing is noted.
    pub(crate) fn look(&self, node: u64, log: Incarnation) -> Result<(), Distrust> {
        if self.of(node).is_some_and(|known| known != log) { Err(Distrust::OtherLog { node: NodeId(node) }) } else { Ok(()) }
    }

    /// Another node does not believe this one.
    pub(crate) fn refuse(&self, why: &str) {
        self.0.refused.send_if_modified(|old| old.is_none() && old.replace(why.into()).is_none());
    }

    /// Set once another node has refused this one, and stays.
    pub(crate) fn refused(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.0.refused.subscribe()
    }
}

fn encode(known: &Known) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + known.len() * ROW_LEN + CRC_LEN);
    out.put_slice(MAGIC);
    out.put_u8(VERSION);
    out.put_u32(u32::try_from(known.len()).expect("ids of one group"));
    for (node, log) in known {
        out.put_u64(*node);
        out.put_u64(*log);
    }
    let crc = crc32c::crc32c(&out);
    out.put_u32(crc);
    out
}

fn decode(bytes: &[u8], path: &Path) -> Result<Known, Error> {
    let damaged = |what: &str| Error::Damaged { path: path.to_owned(), what: what.to_owned() };
    if bytes.len() < HEADER_LEN + CRC_LEN || &bytes[..MAGIC.len()] != MAGIC {
        return Err(damaged("not a roster of a Howdah log"));
    }
    let found = bytes[MAGIC.len()];
    if found != VERSION {
        return Err(Error::Version { path: path.to_owned(), found, known: VERSION });
    }
    let (body, mut crc) = bytes.split_at(bytes.len() - CRC_LEN);
    let (mut count, mut rows) = body[MAGIC.len() + 1..].split_at(4);
    if crc.get_u32() != crc32c::crc32c(body) || rows.len() != count.get_u32() as usize * ROW_LEN {
        return Err(damaged("it does not match its checksum"));
    }
    Ok(std::iter::from_fn(|| rows.has_remaining().then(|| (rows.get_u64(), rows.get_u64()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let known = BTreeMap::from([(2, 7), (3, 0xabcd)]);
        let hex: String = encode(&known).iter().map(|byte| format!("{byte:02x}")).collect();
        let rows = "0000000000000002 0000000000000007 0000000000000003 000000000000abcd".replace(' ', "");
        assert_eq!(hex, format!("4857524f53544552{}{}{rows}{}", "01", "00000002", "299ebcef"));
        assert_eq!(decode(&encode(&known), Path::new("r")).unwrap(), known);
    }

    #[test]
    fn damage_is_found_and_a_newer_format_is_refused() {
        let good = encode(&BTreeMap::from([(2, 7)]));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad, Path::new("r")).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(decode(&good[..cut], Path::new("r")).is_err(), "cut {cut}");
        }
        let mut newer = good;
        newer[MAGIC.len()] = VERSION + 1;
        let error = decode(&newer, Path::new("r")).unwrap_err().to_string();
        assert!(error.contains("upgrade this node"), "{error}");
    }

    #[test]
    fn the_first_log_of_a_node_is_the_only_one_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let roster = Roster::open(dir.path(), Incarnation(1)).unwrap();
        assert_eq!(roster.of(2), None);
        roster.admit(2, Incarnation(20)).unwrap();
        roster.admit(3, Incarnation(30)).unwrap();
        drop(roster);
        let roster = Roster::open(dir.path(), Incarnation(1)).unwrap();
        assert!(roster.look(2, Incarnation(21)).is_err() && roster.look(4, Incarnation(40)).is_ok());
        roster.admit(2, Incarnation(20)).unwrap();
        let error = roster.admit(2, Incarnation(21)).unwrap_err();
        assert!(error.to_string().contains("howdahctl node replace 2"), "{error}");
        assert_eq!([2, 3, 4].map(|node| roster.of(node)), [Some(Incarnation(20)), Some(Incarnation(30)), None]);
    }

    #[test]
    fn what_others_tell_adds_to_what_is_known_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let roster = Roster::open(dir.path(), Incarnation(1)).unwrap();
        roster.admit(2, Incarnation(20)).unwrap();
        roster.learn(&[(2, 21), (3, 30)].into()).unwrap();
        assert_eq!(Roster::open(dir.path(), Incarnation(1)).unwrap().known(), [(2, 20), (3, 30)].into());
    }

    #[test]
    fn who_cannot_be_noted_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let roster = Roster::open(&dir.path().join("gone"), Incarnation(1)).unwrap();
        assert!(matches!(roster.admit(2, Incarnation(20)), Err(Distrust::NotNoted { .. })));
        assert_eq!(roster.of(2), None);
    }
}
