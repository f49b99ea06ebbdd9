//! Disks of the nodes that misbehave on command: a shim between each node and the C library (`disk.c`).

use anyhow::{Context, Result, ensure};
use howdah_ctl::cluster::Options;
use howdah_protocol::NodeId;
use howdah_tests::Fixture;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

const SHIM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gray/disk.c");

/// A cluster whose disks can be told to fail; `None`, with the reason printed, where there is no C compiler.
pub(crate) async fn start() -> Result<Option<Fixture>> {
    // Built beside nothing of the cluster's: it is read by every process of it.
    let folder = howdah_tests::folder()?;
    let shim = folder.path().join("disk.so");
    match Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(SHIM).arg("-ldl").output() {
        Err(error) => {
            println!("skipped: no C compiler to make a bad disk with: {error}");
            return Ok(None);
        }
        Ok(built) => ensure!(built.status.success(), "cc: {}", String::from_utf8_lossy(&built.stderr)),
    }
    let wrapper = folder.path().join("sidecar");
    let with_shim = |options: &mut Options| {
        let sidecar = &options.binaries.sidecar;
        // Called with: --config DIR/nodeN/sidecar.toml
        let script = format!(
            "#!/bin/sh\nHOWDAH_TEST_DISK=\"$(dirname \"$2\")/disk\" LD_PRELOAD='{}' exec '{}' \"$@\"\n",
            shim.display(),
            sidecar.display()
        );
        fs::write(&wrapper, script).expect("the folder was just made");
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("the file was just made");
        options.binaries.sidecar.clone_from(&wrapper);
    };
    let mut fixture = Fixture::start_with(with_shim).await?;
    fixture.keep_beside(folder);
    Ok(Some(fixture))
}

fn order(fixture: &Fixture, node: NodeId) -> PathBuf {
    fixture.data().join(format!("node{node}")).join("disk")
}

/// From now on the node's disk behaves like this.
pub(crate) fn tell(fixture: &Fixture, node: NodeId, how: &str) -> Result<()> {
    let path = order(fixture, node);
    fs::write(&path, how).with_context(|| path.display().to_string())
}

/// The disk is well again; fails if the order had no effect.
pub(crate) fn heal(fixture: &Fixture, node: NodeId) -> Result<()> {
    let path = order(fixture, node);
    fs::remove_file(&path)?;
    ensure!(path.with_extension("struck").exists(), "the fault never happened");
    Ok(())
}
