//! The rollback file on disk.
//!
//! It is written beside, flushed, and renamed, so a file with its final name is whole. The name is made of the last commit in it and the
//! instance, so another attempt at the same repair finds it. Nothing ever removes one: it is the operator's.

use super::Error;
use crate::core::divergence::Divergence;
use crate::core::rollback;
use howdah_protocol::InstanceId;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Writes the file, if there is anything to write, and answers where it is. On disk when this returns. Blocks.
pub(super) fn write(dir: &Path, instance: InstanceId, divergence: &Divergence) -> Result<Option<PathBuf>, Error> {
    let Some(last) = divergence.commits.last() else { return Ok(None) };
    let time = rollback::iso(last.time_us).replace(['-', ':'], "");
    let path = dir.join(format!("{time}-{instance}.jsonl"));
    store(dir, &path, divergence).map_err(|source| Error::File { path: path.clone(), source })?;
    Ok(Some(path))
}

fn store(dir: &Path, path: &Path, divergence: &Divergence) -> io::Result<()> {
    if !dir.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    if !path.exists() {
        let fresh = path.with_extension("new");
        let mut file = BufWriter::new(OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?);
        for line in rollback::lines(divergence) {
            file.write_all(line.as_bytes())?;
            file.write_all(b"\n")?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&fresh, path)?;
    }
    // Also where an earlier attempt renamed it: that may have been its last act.
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::coalesce::{Change, Table, TableId};
    use crate::core::divergence::{Commit, Divergent};
    use crate::core::pgoutput::{Column, Identity, Relation, Value};
    use bytes::Bytes;
    use howdah_protocol::Lsn;
    use std::sync::Arc;

    fn divergence(rows: usize) -> Divergence {
        let columns = vec![Column { name: "id".into(), key: true, type_oid: 25, type_modifier: -1 }];
        let relation = Relation { id: 1, schema: "public".into(), name: "t".into(), identity: Identity::Default, columns };
        let table = Arc::new(Table::new(TableId(0), relation));
        let change = |id: usize| Change::Insert { new: vec![Value::Text(Bytes::from(id.to_string()))] };
        let changes = (0..rows).map(|id| Divergent { table: Arc::clone(&table), change: change(id), commit: 0 }).collect();
        let commits = vec![Commit { xid: 7, commit_lsn: Lsn(16), end_lsn: Lsn(32), time_us: 1 }];
        Divergence { rows: rows as u64, commits, changes, ..Divergence::default() }
    }

    #[test]
    fn the_file_is_whole_has_a_name_that_follows_from_the_tail_and_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("rollback");
        fs::create_dir(&dir).unwrap();
        // What a crash in the middle left behind.
        fs::write(dir.join("20000101T000000.000001Z-5.new"), "half").unwrap();
        let path = write(&dir, InstanceId(5), &divergence(3)).unwrap().unwrap();
        assert_eq!(path.file_name().unwrap(), "20000101T000000.000001Z-5.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with('\n') && text.lines().count() == 3 && text.lines().all(|line| line.contains(r#""op":"insert""#)), "{text}");
        assert_eq!(write(&dir, InstanceId(5), &divergence(3)).unwrap(), Some(path));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert_eq!(write(&dir, InstanceId(5), &Divergence::default()).unwrap(), None);
    }

    #[test]
    fn a_disk_that_refuses_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("file");
        fs::write(&dir, "").unwrap();
        assert!(matches!(write(&dir, InstanceId(5), &divergence(1)), Err(Error::File { .. })));
    }
}
