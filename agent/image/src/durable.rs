//! Files that are whole or absent, whatever instant the machine stops at.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::error::At;

/// Prefix of names that are not finished; swept when the store opens.
pub(crate) const UNFINISHED: &str = ".new-";

/// A name nobody uses yet: 16 hex digits.
pub(crate) fn unique() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// Replaces `dir/name` by `bytes`: temporary name, fsync, rename, fsync of the folder.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let temporary = dir.join(format!("{UNFINISHED}{}", unique()));
    let written = write_synced(&temporary, bytes).and_then(|()| {
        let target = dir.join(name);
        fs::rename(&temporary, &target).at("rename into place", &target)
    });
    if written.is_err() {
        // The error that counts is the first one; what stays behind is swept at the next open.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_dir(dir)
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes).at("write", path)?;
    file.sync_all().at("flush", path)
}

/// Creates a file that must not exist, readable by its owner only.
pub(crate) fn create(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).at("create", path)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|file| file.sync_all()).at("flush", dir)
}

/// Makes everything written to the file system of `path` durable.
pub(crate) fn sync_fs(path: &Path) -> Result<()> {
    let file = File::open(path).at("open", path)?;
    rustix::fs::syncfs(&file).at("flush the file system of", path)
}

/// The paths in a folder.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(dir).and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect());
    listed.at("list", dir)
}

/// The last component as text, if it is UTF-8.
pub(crate) fn name_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(|name| name.to_str())
}
