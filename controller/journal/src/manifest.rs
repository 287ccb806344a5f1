//! A generation's list of contents: which files it has, how long, with which checksum.
//!
//! It is checked before sled sees a byte, so that damaged files are a message here and not a panic there. Lines of text,
//! for whoever looks at it in need; the last line is the checksum of those before.

use crate::checkpoint::Meta;
use crate::disk;
use crate::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const NAME: &str = "MANIFEST";
const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) meta: Meta,
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
    pub(crate) fn take(dir: &Path, meta: Meta, keys: u64) -> Result<Self, Error> {
        let mut files = Vec::new();
        walk(&dir.join("db"), "", &mut files)?;
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { meta, keys, files })
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), Error> {
        disk::replace_file(&dir.join(NAME), dir, self.to_text().as_bytes())
    }

    fn to_text(&self) -> String {
        let mut text = format!("muster checkpoint {FORMAT}\n");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "position {} {}", self.meta.index, self.meta.term);
        let _ = writeln!(text, "membership {}", to_hex(&self.meta.membership));
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
    /// [`Error::Damaged`] when it is not what was written.
    pub(crate) fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(NAME);
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Error::damaged(&path, 0, "no text"))?;
        let body = text.len().checked_sub("crc 00000000\n".len()).and_then(|at| text.split_at_checked(at));
        let Some((body, last)) = body else { return Err(Error::damaged(&path, 0, "too short")) };
        if last != format!("crc {:08x}\n", crc32c::crc32c(body.as_bytes())) {
            return Err(Error::damaged(&path, 0, "wrong checksum"));
        }
        if let Some(found) = body.lines().next().and_then(|l| l.strip_prefix("muster checkpoint ")?.parse().ok())
            && found != FORMAT
        {
            return Err(Error::Format { path, found, known: FORMAT });
        }
        parse(body).ok_or_else(|| Error::damaged(&path, 0, "a line is not understood"))
    }

    /// Compares the files below `dir/db` with the list.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the first file that differs.
    pub(crate) fn verify(&self, dir: &Path) -> Result<(), Error> {
        let db = dir.join("db");
        let now = Self::take(dir, self.meta.clone(), self.keys)?;
        for listed in &self.files {
            let path = db.join(&listed.name);
            match now.files.iter().find(|file| file.name == listed.name) {
                None => return Err(Error::damaged(&path, 0, "missing")),
                Some(file) if file.length != listed.length => {
                    let what = format!("{} bytes long instead of {}", file.length, listed.length);
                    return Err(Error::damaged(&path, file.length.min(listed.length), what));
                }
                Some(file) if file.crc != listed.crc => return Err(Error::damaged(&path, 0, "wrong checksum")),
                Some(_) => {}
            }
        }
        match now.files.iter().find(|file| !self.files.iter().any(|listed| listed.name == file.name)) {
            Some(extra) => Err(Error::damaged(&db.join(&extra.name), 0, "not part of the checkpoint")),
            None => Ok(()),
        }
    }
}

fn parse(body: &str) -> Option<Manifest> {
    let mut lines = body.lines().skip(1);
    let (index, term) = lines.next()?.strip_prefix("position ")?.split_once(' ')?;
    let membership = from_hex(lines.next()?.strip_prefix("membership ")?)?;
    let keys = lines.next()?.strip_prefix("keys ")?.parse().ok()?;
    let files = lines.map(parse_file).collect::<Option<_>>()?;
    Some(Manifest { meta: Meta { index: index.parse().ok()?, term: term.parse().ok()?, membership }, keys, files })
}

fn parse_file(line: &str) -> Option<Listed> {
    let mut parts = line.strip_prefix("file ")?.splitn(3, ' ');
    let length = parts.next()?.parse().ok()?;
    let crc = u32::from_str_radix(parts.next()?, 16).ok()?;
    Some(Listed { name: parts.next()?.to_owned(), length, crc })
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

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
