//! A torn tail that raft-log does not take for one.
//!
//! raft-log recovers from a record that ends behind the end of the file, and from zeros that begin where a record should. It refuses a
//! record that begins soundly and ends in zeros, which is what a lost host leaves on file systems that write the length before the
//! data. Such a record was never acknowledged: its fsync would have written those sectors. It is cut off here, under narrow conditions:
//! the newest file, the first bad record, and from inside that record to the end of the file nothing but zeros, for a sector at least.
//! All other damage stays what it is, and the log refuses to open.

use super::LogTypes;
use crate::raft::codec::{LOG_ID_LEN, PAYLOAD_HEADER_LEN, PayloadHeader};
use raft_log::RaftLogRecord;
use raft_log::codeq::Decode;
use std::fs::{self, File};
use std::io;
use std::path::Path;

const SECTOR_LEN: usize = 512;
const TYPE_LEN: usize = 4;
const CHECKSUM_LEN: usize = 8;
/// Records other than entries have a few fixed fields.
const SMALL_RECORD_LEN_MAX: usize = 128;

/// Cuts a torn record off the newest file. `false` where there is none.
pub(super) fn cut(dir: &Path) -> io::Result<bool> {
    let mut newest = None;
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|end| end == "wal") {
            newest = newest.max(Some(path));
        }
    }
    let Some(path) = newest else { return Ok(false) };
    let Some(at) = torn_at(&fs::read(&path)?) else { return Ok(false) };
    tracing::warn!(file = %path.display(), at, "cutting off a record that a crash left unfinished");
    let file = File::options().write(true).open(&path)?;
    file.set_len(at as u64)?;
    file.sync_all()?;
    Ok(true)
}

fn torn_at(bytes: &[u8]) -> Option<usize> {
    let bad_at = first_bad(bytes)?;
    let data_len = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let zeros_from = data_len.next_multiple_of(SECTOR_LEN);
    let is_torn = bad_at < data_len && zeros_from < bytes.len() && zeros_from < bad_at + record_len(&bytes[bad_at..data_len]);
    is_torn.then_some(bad_at)
}

fn first_bad(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        if RaftLogRecord::<LogTypes>::decode(&mut rest).is_err() {
            return Some(at);
        }
    }
    None
}

/// How long the record is that begins here, or could be.
fn record_len(record: &[u8]) -> usize {
    const HEAD: usize = TYPE_LEN + LOG_ID_LEN;
    let header = record.get(HEAD..HEAD + PAYLOAD_HEADER_LEN).and_then(|header| header.try_into().ok());
    match header.map(PayloadHeader::decode) {
        Some(Ok(header)) => HEAD + PAYLOAD_HEADER_LEN + header.body_len + CHECKSUM_LEN,
        _ => SMALL_RECORD_LEN_MAX,
    }
}
