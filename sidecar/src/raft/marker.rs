//! Whose log a folder holds, and the lock that keeps a second process out.
//!
//! ```text
//! "HWRAFTID" | version u8 | cluster length u8 | cluster | group u32 | node u64 | log u64 | crc32c of all before, u32      big endian
//! ```
//!
//! A node id stands for the votes that it gave. A folder that ends up under another node, or another cluster's node with the same id,
//! could vote twice in one term, so it is refused. `log` is a random number that tells this log from any other under the same id (`roster`).

use super::error::Error;
use super::options::Options;
use super::roster::Incarnation;
use bytes::{Buf, BufMut};
use howdah_protocol::{GroupId, NodeId};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"HWRAFTID";
const VERSION: u8 = 3;
const MARKER: &str = "raft.id";
const LOCK: &str = "raft.lock";
const LOG: &str = "log";
const PREFIX_LEN: usize = MAGIC.len() + 2;
const SUFFIX_LEN: usize = 4 + 8 + 8 + 4;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    cluster: String,
    group: GroupId,
    node: NodeId,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of group {} of cluster \"{}\"", self.node, self.group, self.cluster)
    }
}

/// An opened folder. The lock is held for as long as this lives.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) dir: PathBuf,
    pub(crate) log: Incarnation,
    /// Written by [`Folder::claim`], where the folder has none yet.
    missing_marker: Option<Vec<u8>>,
    _lock: File,
}

impl Folder {
    /// Makes, locks and checks the folder.
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        let dir = options.dir.clone();
        fs::create_dir_all(dir.join(LOG)).map_err(|source| Error::File { path: dir.clone(), source })?;
        let lock = lock(&dir)?;
        let owner = Owner { cluster: options.cluster.clone(), group: options.group, node: options.node };
        let path = dir.join(MARKER);
        let (log, missing_marker) = match fs::read(&path) {
            Ok(bytes) => {
                let (found, log) = decode(&bytes, &path)?;
                if found != owner {
                    return Err(Error::Foreign { dir, found: found.to_string(), expected: owner.to_string() });
                }
                if !has_log(&dir.join(LOG))? {
                    let what =
                        "the log beside it is gone, and with it this node's votes: remove the folder, and add the node under a new id";
                    return Err(Error::Damaged { path, what: what.into() });
                }
                (log, None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let log = Incarnation::new();
                (log, Some(encode(&owner, log)))
            }
            Err(source) => return Err(Error::File { path, source }),
        };
        Ok(Self { dir, log, missing_marker, _lock: lock })
    }

    /// It has never been a log's.
    pub(crate) const fn is_new(&self) -> bool {
        self.missing_marker.is_some()
    }

    /// Takes a new folder, whose log nothing was written to, for its owner. The log is there first, so that a marker always has one.
    pub(crate) fn claim(&mut self, pristine: bool) -> Result<(), Error> {
        let Some(marker) = self.missing_marker.take() else { return Ok(()) };
        let path = self.dir.join(MARKER);
        if !pristine {
            return Err(Error::Damaged { path, what: "it is missing beside a log that was written to".into() });
        }
        write_atomically(&path, &marker).map_err(|source| Error::File { path, source })
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.dir.join(LOG)
    }
}

fn has_log(dir: &Path) -> Result<bool, Error> {
    let found = fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let found = found.map_err(|source| Error::File { path: dir.to_owned(), source })?;
    Ok(found.iter().any(|entry| entry.path().extension().is_some_and(|end| end == "wal")))
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let opened = File::options().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|source| Error::File { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(Error::File { path, source }),
    }
}

fn encode(owner: &Owner, log: Incarnation) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_slice(MAGIC);
    out.put_u8(VERSION);
    out.put_u8(u8::try_from(owner.cluster.len()).expect("Options::check bounds the name"));
    out.put_slice(owner.cluster.as_bytes());
    out.put_u32(owner.group.0);
    out.put_u64(owner.node.0);
    out.put_u64(log.0);
    let crc = crc32c::crc32c(&out);
    out.put_u32(crc);
    out
}

fn decode(bytes: &[u8], path: &Path) -> Result<(Owner, Incarnation), Error> {
    let damaged = |what: &str| Error::Damaged { path: path.to_owned(), what: what.to_owned() };
    if bytes.len() < PREFIX_LEN + SUFFIX_LEN || &bytes[..MAGIC.len()] != MAGIC {
        return Err(damaged("not a marker of a Howdah log"));
    }
    let found = bytes[MAGIC.len()];
    if found != VERSION {
        return Err(Error::Version { path: path.to_owned(), found, known: VERSION });
    }
    let name_len = usize::from(bytes[MAGIC.len() + 1]);
    let (body, mut crc) = bytes.split_at(bytes.len() - 4);
    if crc.get_u32() != crc32c::crc32c(body) || bytes.len() != PREFIX_LEN + name_len + SUFFIX_LEN {
        return Err(damaged("it does not match its checksum"));
    }
    let mut rest = &body[PREFIX_LEN + name_len..];
    let cluster = String::from_utf8_lossy(&body[PREFIX_LEN..PREFIX_LEN + name_len]).into_owned();
    let owner = Owner { cluster, group: GroupId(rest.get_u32()), node: NodeId(rest.get_u64()) };
    Ok((owner, Incarnation(rest.get_u64())))
}

/// Either the old or the new content is there after a crash, never a mixture: a new file is synced before it takes the old one's name,
/// and the folder is synced so that the name survives.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let parent = path.parent().expect("a file in a folder");
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(dir: &Path, cluster: &str, node: u64) -> Options {
        Options::new(dir.to_owned(), cluster.into(), GroupId(7), NodeId(node), Vec::new(), "s".into())
    }

    #[test]
    fn golden_bytes() {
        let owner = Owner { cluster: "c".into(), group: GroupId(7), node: NodeId(9) };
        let log = Incarnation(0xabcd);
        let hex: String = encode(&owner, log).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, concat!("4857524146544944", "03", "01", "63", "00000007", "0000000000000009", "000000000000abcd", "702db9bf"));
        assert_eq!(decode(&encode(&owner, log), Path::new("m")).unwrap(), (owner, log));
    }

    #[test]
    fn damage_is_found() {
        let good = encode(&Owner { cluster: "c".into(), group: GroupId(7), node: NodeId(9) }, Incarnation(1));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad, Path::new("m")).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(decode(&good[..cut], Path::new("m")).is_err(), "cut {cut}");
        }
    }

    #[test]
    fn a_folder_in_use_or_of_another_node_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(&options(dir.path(), "c", 1)).unwrap();
        fs::write(folder.log_dir().join("0.wal"), b"").unwrap();
        folder.claim(true).unwrap();
        let error = Folder::open(&options(dir.path(), "c", 1)).unwrap_err();
        assert!(matches!(error, Error::InUse(_)), "{error}");
        drop(folder);
        for (cluster, node) in [("c", 2), ("d", 1)] {
            let error = Folder::open(&options(dir.path(), cluster, node)).unwrap_err();
            assert!(error.to_string().contains("belongs to node 1 of group 7 of cluster \"c\""), "{error}");
        }
        Folder::open(&options(dir.path(), "c", 1)).unwrap();
    }

    #[test]
    fn a_log_and_its_marker_belong_together() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(&options(dir.path(), "c", 1)).unwrap();
        fs::write(folder.log_dir().join("0.wal"), b"").unwrap();
        assert!(matches!(folder.claim(false), Err(Error::Damaged { .. })));
        drop(folder);
        let mut folder = Folder::open(&options(dir.path(), "c", 1)).unwrap();
        folder.claim(true).unwrap();
        drop(folder);
        let folder = Folder::open(&options(dir.path(), "c", 1)).unwrap();
        fs::remove_file(folder.log_dir().join("0.wal")).unwrap();
        drop(folder);
        let error = Folder::open(&options(dir.path(), "c", 1)).unwrap_err();
        assert!(error.to_string().contains("under a new id"), "{error}");
    }
}
