//! Files that hold secrets.

use crate::Error;
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Replaces a file as a whole: temporary name, mode 0600 from its first byte, fsync, rename, fsync of the folder. After a
/// crash at any point there is the old file or the new one.
///
/// # Errors
/// [`Error::File`] with the path of the step that failed.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    // Left behind by a crash; its mode and owner are not ours to trust.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(at(&temporary)(e)),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(at(&temporary))?;
    file.write_all(content).map_err(at(&temporary))?;
    file.sync_all().map_err(at(&temporary))?;
    fs::rename(&temporary, path).map_err(at(path))?;
    File::open(folder).and_then(|d| d.sync_all()).map_err(at(folder))
}
