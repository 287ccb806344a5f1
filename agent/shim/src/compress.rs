//! Compressing a log file that was rotated away, in a process of its own: the shim goes on with the next one.
//!
//! `muster-shim compress FILE` writes `FILE.gz` under a temporary name and then removes `FILE`, so that at every moment one of the
//! two is there and whole. If it is killed, the file stays as it is.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use flate2::Compression;
use flate2::write::GzEncoder;

/// `FILE.gz`.
pub fn zipped(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".gz");
    PathBuf::from(name)
}

/// What the process does.
pub fn run(path: Option<String>) -> ExitCode {
    let Some(path) = path.map(PathBuf::from).filter(|path| path.is_absolute()) else {
        eprintln!("muster-shim: compress: needs an absolute path");
        return ExitCode::from(2);
    };
    match compress(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A full disk: the log stays uncompressed.
            eprintln!("muster-shim: compress {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn compress(path: &Path) -> io::Result<()> {
    let target = zipped(path);
    let mut part = OsString::from(&target);
    part.push(".part");
    let part = PathBuf::from(part);
    let written = write(path, &part).and_then(|()| fs::rename(&part, &target));
    if written.is_err() {
        let _ = fs::remove_file(&part); // The first error is the one to tell.
    }
    written?;
    // Both names until the new one is on disk: after a power cut one of them is whole.
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    fs::remove_file(path)
}

fn write(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    let to = File::options().create(true).write(true).truncate(true).mode(0o640).open(to)?;
    let mut encoder = GzEncoder::new(BufWriter::new(to), Compression::fast());
    io::copy(&mut from, &mut encoder)?;
    let to = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    to.sync_all()
}
