//! A generation's list of contents: which files it has, how long, with which checksum.
//!
//! It is checked before sled sees a byte, so that damaged files are a message here and not a panic there. Lines of text,
//! for whoever looks at it in need; the last line is the checksum of those before.

use crate::disk;
use crate::error::Error;
use crate::generation::Kind;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const NAME: &str = "MANIFEST";

/// What a generation says of itself: names and values, in order. Names are words, and neither `keys` nor `file`; values are
/// text without a line break.
pub type About = Vec<(&'static str, String)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) about: Vec<(String, String)>,
    pub(crate) keys: u64,
    files: Vec<Listed>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    /// Relative to the database's folder.
    name: String,
    length: u64,
    crc: u32,
}

impl Manifest {
    /// Lists the files below `dir/db` as they are now.
    pub(crate) fn take(dir: &Path, about: &About, keys: u64) -> Result<Self, Error> {
        debug_assert!(about.iter().all(|(name, value)| is_line(name, value)), "{about:?}");
        let about = about.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Ok(Self { about, keys, files: listed(dir)? })
    }

    pub(crate) fn write(&self, dir: &Path, kind: Kind) -> Result<(), Error> {
        disk::replace_file(&dir.join(NAME), dir, self.to_text(kind).as_bytes())
    }

    fn to_text(&self, kind: Kind) -> String {
        let mut text = format!("{} {}\n", kind.name, kind.format);
        // Writing to a String cannot fail.
        for (name, value) in &self.about {
            let _ = writeln!(text, "{name} {value}");
        }
        let _ = writeln!(text, "keys {}", self.keys);
        for file in &self.files {
            let _ = writeln!(text, "file {} {:08x} {}", file.length, file.crc, file.name);
        }
        let _ = writeln!(text, "crc {:08x}", crc32c::crc32c(text.as_bytes()));
        text
    }

    /// Reads the manifest of the generation in `dir`.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not what was written; [`Error::Format`].
    pub(crate) fn read(dir: &Path, kind: Kind) -> Result<Self, Error> {
        let path = dir.join(NAME);
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Error::damaged(&path, 0, "no text"))?;
        let body = text.len().checked_sub("crc 00000000\n".len()).and_then(|at| text.split_at_checked(at));
        let Some((body, last)) = body else { return Err(Error::damaged(&path, 0, "too short")) };
        if last != format!("crc {:08x}\n", crc32c::crc32c(body.as_bytes())) {
            return Err(Error::damaged(&path, 0, "wrong checksum"));
        }
        let heading = body.lines().next().and_then(|l| l.strip_prefix(kind.name)?.strip_prefix(' ')?.parse().ok());
        match heading {
            Some(found) if found == kind.format => {}
            Some(found) => return Err(Error::Format { path, found, known: kind.format }),
            None => return Err(Error::damaged(&path, 0, format!("no {}", kind.name))),
        }
        parse(body).ok_or_else(|| Error::damaged(&path, 0, "a line is not understood"))
    }

    /// Compares the files below `dir/db` with the list.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the first file that differs.
    pub(crate) fn verify(&self, dir: &Path) -> Result<(), Error> {
        let db = dir.join("db");
        let now = listed(dir)?;
        for listed in &self.files {
            let path = db.join(&listed.name);
            match now.iter().find(|file| file.name == listed.name) {
                None => return Err(Error::damaged(&path, 0, "missing")),
                Some(file) if file.length != listed.length => {
                    let what = format!("{} bytes long instead of {}", file.length, listed.length);
                    return Err(Error::damaged(&path, file.length.min(listed.length), what));
                }
                Some(file) if file.crc != listed.crc => return Err(Error::damaged(&path, 0, "wrong checksum")),
                Some(_) => {}
            }
        }
        match now.iter().find(|file| !self.files.iter().any(|listed| listed.name == file.name)) {
            Some(extra) => Err(Error::damaged(&db.join(&extra.name), 0, "not part of the generation")),
            None => Ok(()),
        }
    }
}

fn is_line(name: &str, value: &str) -> bool {
    let word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
    word && !["keys", "file"].contains(&name) && !value.contains('\n')
}

fn parse(body: &str) -> Option<Manifest> {
    let mut lines = body.lines().skip(1).map(|line| line.split_once(' '));
    let mut about = Vec::new();
    let keys = loop {
        match lines.next()?? {
            ("keys", keys) => break keys.parse().ok()?,
            (name, value) => about.push((name.to_owned(), value.to_owned())),
        }
    };
    let files = lines.map(|line| line.filter(|(name, _)| *name == "file").and_then(|(_, rest)| parse_file(rest)));
    Some(Manifest { about, keys, files: files.collect::<Option<_>>()? })
}

fn parse_file(rest: &str) -> Option<Listed> {
    let mut parts = rest.splitn(3, ' ');
    let length = parts.next()?.parse().ok()?;
    let crc = u32::from_str_radix(parts.next()?, 16).ok()?;
    Some(Listed { name: parts.next()?.to_owned(), length, crc })
}

/// The files below `dir/db` as they are, by name.
fn listed(dir: &Path) -> Result<Vec<Listed>, Error> {
    let mut files = Vec::new();
    walk(&dir.join("db"), "", &mut files)?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn walk(dir: &Path, prefix: &str, out: &mut Vec<Listed>) -> Result<(), Error> {
    for entry in disk::list(dir)? {
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(|n| format!("{prefix}{n}")) else {
            return Err(Error::damaged(&path, 0, "a file name that sled does not use"));
        };
        let kind = entry.file_type().map_err(|e| Error::io("look at", &path, e))?;
        if kind.is_dir() {
            walk(&path, &format!("{name}/"), out)?;
        } else {
            let (length, crc) = disk::checksum(&path)?;
            out.push(Listed { name, length, crc });
        }
    }
    Ok(())
}
