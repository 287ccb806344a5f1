//! Tar archives of file trees, read and written so that nothing ever leaves its root.
//!
//! [`unpack_into`] writes an archive into a folder of a root, [`pack`] reads one out, [`stat`] describes a path, [`mount_point`] makes one. All
//! take the root as an open folder and resolve every path inside of it in the kernel (`openat2` with
//! `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`, Linux 5.6): symbolic links, `..`, absolute names and hard links can at
//! most reach what is under the root, also while somebody else (a running container) changes the tree.
//!
//! Layers use the same code with [`Whiteouts::Overlay`]. Everything here blocks: call it from a blocking thread.

pub(crate) mod extract;
mod metadata;
pub(crate) mod pack;
mod point;
pub(crate) mod reader;
mod remove;
pub(crate) mod resolve;
mod stat;
pub(crate) mod writer;

use std::io::Read;
use std::path::PathBuf;

pub use extract::{Unpacked, unpack_into};
pub use pack::{PackOptions, pack};
pub use point::{mount_point, resolved};
pub use remove::remove_tree;
pub use stat::{PathStat, stat};

/// The plain bytes of an archive that may be compressed: gzip, zstd, xz and bzip2 are recognised by their first bytes.
/// Reading fails beyond `limit` bytes.
///
/// # Errors
/// [`crate::Error::Io`] when the first bytes cannot be read.
pub fn decompress<'a, R: Read + Send + 'a>(reader: R, limit: u64) -> crate::Result<Box<dyn Read + Send + 'a>> {
    crate::compression::decoder(reader, limit)
}

/// Most folders within each other that are packed, compared, replaced or unpacked by one name. No real tree comes near;
/// the walks are recursive and hold a descriptor for each.
pub const MAX_DEPTH: usize = 256;

/// What happens to OCI whiteout names (OCI image-spec, layer.md, "Whiteouts").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whiteouts {
    /// `.wh.x` is a file like any other: for `docker cp`.
    #[default]
    Literal,
    /// `.wh.x` in the archive is a character device 0/0 named `x` in the tree, `.wh..wh..opq` the extended attribute
    /// `trusted.overlay.opaque=y`: for the layers of overlayfs.
    Overlay,
}

/// How to unpack.
#[derive(Clone, Debug)]
pub struct UnpackOptions {
    /// What whiteout names mean.
    pub whiteouts: Whiteouts,
    /// Everything gets this owner (uid, gid) instead of the archive's.
    pub owner: Option<(u32, u32)>,
    /// Refuse to replace a folder by something else, or something else by a folder.
    pub keep_kinds: bool,
    /// Most bytes of file content.
    pub max_bytes: u64,
    /// Most entries.
    pub max_entries: u64,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        let whiteouts = Whiteouts::Literal;
        Self { whiteouts, owner: None, keep_kinds: false, max_bytes: u64::MAX, max_entries: u64::MAX }
    }
}

/// An archive that could not be unpacked or packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path does not exist.
    #[error("no such file or directory: {}", .0.display())]
    NotFound(PathBuf),
    /// A folder is needed there.
    #[error("not a directory: {}", .0.display())]
    NotADirectory(PathBuf),
    /// An entry would replace a folder by something else or the other way round.
    #[error("cannot overwrite {} with {}", if *.is_dir { "directory" } else { "non-directory" }, path.display())]
    KindDiffers {
        /// The entry.
        path: PathBuf,
        /// Whether a folder is there now.
        is_dir: bool,
    },
    /// An entry names something outside of the root.
    #[error("entry {} leaves its root: {reason}", path.display())]
    Escapes {
        /// The entry.
        path: PathBuf,
        /// How.
        reason: &'static str,
    },
    /// The archive breaks the format.
    #[error("malformed archive: {0}")]
    Malformed(String),
    /// The archive uses something that is not supported.
    #[error("{what} of entry {} is not supported", path.display())]
    Unsupported {
        /// The entry.
        path: PathBuf,
        /// What.
        what: String,
    },
    /// The archive holds more than is allowed.
    #[error("archive holds more than the limit of {limit} {what}")]
    TooLarge {
        /// `bytes`, `entries` or `levels of folders`.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// The archive cannot be read or written.
    #[error("archive stream")]
    Stream(#[source] std::io::Error),
    /// The file system refused.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On which path, as seen from the root.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Results of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Marks a name that hides one of a lower layer.
pub(crate) const WHITEOUT: &str = ".wh.";
/// Marks a folder that hides all of a lower layer's.
pub(crate) const OPAQUE: &str = ".wh..wh..opq";
/// Marks aufs's own names.
pub(crate) const WHITEOUT_META: &str = ".wh..wh.";
/// The attribute by which overlayfs marks such a folder (kernel, filesystems/overlayfs.rst).
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

impl Error {
    /// More than [`MAX_DEPTH`] folders within each other.
    fn too_deep() -> Self {
        Self::TooLarge { what: "levels of folders", limit: MAX_DEPTH as u64 }
    }
}

/// Adds what was tried on which path to a system error.
trait At<T> {
    fn at(self, act: &'static str, path: &[u8]) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, act: &'static str, path: &[u8]) -> Result<T> {
        self.map_err(|source| Error::Io { act, path: shown(path), source: source.into() })
    }
}

/// A path of an archive for an error text.
fn shown(path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(path))
}
