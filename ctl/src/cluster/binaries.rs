//! Where `howdah-sidecar` and `howdah-proxy` are.

use super::Error;
use std::path::{Path, PathBuf};

pub(crate) const BIN_DIR_VARIABLE: &str = "HOWDAH_BIN_DIR";

#[derive(Debug, Clone)]
pub struct Binaries {
    pub sidecar: PathBuf,
    pub proxy: PathBuf,
}

impl Binaries {
    /// In the folder that `HOWDAH_BIN_DIR` names; otherwise beside the running program, or one folder up, where cargo puts the binaries of
    /// a program that runs from `deps` (a test).
    pub fn find() -> Result<Self, Error> {
        let dirs = match std::env::var_os(BIN_DIR_VARIABLE) {
            Some(dir) => vec![PathBuf::from(dir)],
            None => {
                let me = std::env::current_exe().map_err(Error::io("finding the running program"))?;
                me.ancestors().skip(1).take(2).map(Path::to_owned).collect()
            }
        };
        Self::find_in(&dirs)
    }

    fn find_in(dirs: &[PathBuf]) -> Result<Self, Error> {
        let find = |name: &'static str| {
            let found = dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
            found.ok_or_else(|| Error::NoBinary { name, dirs: dirs.to_owned(), variable: BIN_DIR_VARIABLE })
        };
        Ok(Self { sidecar: find("howdah-sidecar")?, proxy: find("howdah-proxy")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::write(dir.path().join("howdah-sidecar"), "").expect("file");
        let error = Binaries::find_in(&[dir.path().to_owned()]).expect_err("no proxy").to_string();
        assert!(error.contains("`howdah-proxy` was not found") && error.contains("HOWDAH_BIN_DIR"), "{error}");
        std::fs::write(dir.path().join("howdah-proxy"), "").expect("file");
        assert!(Binaries::find_in(&[PathBuf::from("/nowhere"), dir.path().to_owned()]).is_ok());
    }
}
