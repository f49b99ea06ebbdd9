//! A disk that is soon full, without a disk: the test runs itself again with a limit on the size of files. Writing beyond it fails as
//! on a full disk.

use std::path::PathBuf;
use std::process::Command;

const DIR_VARIABLE: &str = "HOWDAH_TEST_SMALL_DISK";
/// In blocks of 512 bytes, as `ulimit -f` of a POSIX shell counts.
const FILE_BLOCKS_MAX: u32 = 256;

/// In the child, where the limit holds: a folder to write to. In the test itself `None`, once the child has passed.
pub(crate) fn enter(test: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(DIR_VARIABLE) {
        return Some(dir.into());
    }
    let dir = tempfile::tempdir().unwrap();
    let script = format!("trap '' XFSZ && ulimit -f {FILE_BLOCKS_MAX} && exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--test-threads=1"])
        .env(DIR_VARIABLE, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    None
}
