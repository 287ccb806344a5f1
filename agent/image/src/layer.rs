//! From a layer blob to a folder that overlayfs can stack.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ahead::ahead;
use crate::archive::{self, UnpackOptions, Whiteouts};
use crate::compression::{LimitExceeded, decoder};
use crate::digest::Hashing;
use crate::error::At;
use crate::follow::{Broken, Follow};
use crate::manifest::Descriptor;
use crate::staging::Temporary;
use crate::store::{Inner, LayerMeta};
use crate::{Digest, Error, Result, Store};

/// Bytes of a blob from which on decompressing it is worth a thread.
const WORTH_A_THREAD: u64 = 1 << 20;

/// Unpacks the layer in `blob` into a new folder under `ingest/` and compares the uncompressed bytes with `diff_id`.
/// Blocks.
pub(crate) fn unpack(inner: &Inner, blob: &Path, digest: &Digest, diff_id: &Digest) -> Result<Temporary> {
    let file = File::open(blob).at("open", blob)?;
    let size = file.metadata().at("read", blob)?.len();
    unpack_from(inner, file, size, digest, diff_id)
}

/// For `examples/unpack.rs` alone: how long a layer in a file takes from its bytes to a folder, digest checked, nothing kept.
///
/// # Errors
/// As those of a pull whose layer is damaged.
#[doc(hidden)]
pub fn time_of_unpacking(store: &Store, blob: &Path, diff_id: &Digest) -> Result<Duration> {
    let began = Instant::now();
    let unpacked = unpack(&store.inner, blob, diff_id, diff_id)?;
    let took = began.elapsed();
    drop(unpacked);
    Ok(took)
}

/// The same of a blob that is still being fetched into `part`; `None` when it began anew or does not come.
pub(crate) fn unpack_as_it_comes(
    inner: &Inner,
    part: &Path,
    follow: &Arc<Follow>,
    blob: &Descriptor,
    diff_id: &Digest,
) -> Result<Option<Temporary>> {
    let open = File::options().create(true).truncate(false).read(true).write(true).open(part);
    let source = follow.reader(open.at("open", part)?);
    match unpack_from(inner, source, blob.size, &blob.digest, diff_id) {
        Err(error) if is_broken(&error) => Ok(None),
        other => other.map(Some),
    }
}

fn is_broken(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if inner.is_some_and(|inner| inner.is::<Broken>()) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// `size`: bytes of the source. Large ones are decompressed on a thread of their own.
fn unpack_from(
    inner: &Inner,
    source: impl Read + Send,
    size: u64,
    digest: &Digest,
    diff_id: &Digest,
) -> Result<Temporary> {
    let limit = inner.options.max_unpacked_bytes;
    let temporary = Temporary::new(inner.layout.ingest_path("layer"), inner.trash.clone());
    let unpacked = std::thread::scope(|scope| {
        let plain = decoder(source, limit)?;
        let plain: Box<dyn Read + '_> = if size < WORTH_A_THREAD {
            plain
        } else {
            Box::new(ahead(scope, plain).at("start a thread for", temporary.path())?)
        };
        let mut plain = Hashing::new(plain);
        let bytes = extract(inner, &temporary, &mut plain)?;
        let (_, found, _) = plain.finish();
        Ok((bytes, found))
    });
    let (size, found) = unpacked.map_err(|error| describe(error, digest, limit))?;
    if found != *diff_id {
        let reason = format!("it unpacks to {found}, the image config says {diff_id}");
        return Err(Error::CorruptBlob { digest: *digest, reason });
    }
    finish(&temporary, LayerMeta { diff_id: *diff_id, size })?;
    Ok(temporary)
}

/// Unpacks an uncompressed tar stream of ours into a new folder, returning it with the digest of what was read.
pub(crate) fn unpack_stream(inner: &Inner, plain: impl Read) -> Result<(Temporary, Digest)> {
    let mut plain = Hashing::new(plain);
    let temporary = Temporary::new(inner.layout.ingest_path("layer"), inner.trash.clone());
    let size = extract(inner, &temporary, &mut plain)?;
    let (_, diff_id, _) = plain.finish();
    finish(&temporary, LayerMeta { diff_id, size })?;
    Ok((temporary, diff_id))
}

fn extract(inner: &Inner, temporary: &Temporary, plain: impl Read) -> Result<u64> {
    let diff = temporary.path().join("diff");
    // Nobody but root may enter; what containers see of it is the mode of `diff`.
    let create = |path: &Path, mode| fs::DirBuilder::new().mode(mode).create(path).at("create", path);
    create(temporary.path(), 0o700)?;
    create(&diff, 0o755)?;
    let root = File::open(&diff).at("open", &diff)?;
    rustix::fs::fchmod(&root, rustix::fs::Mode::from_raw_mode(0o755)).at("change the mode of", &diff)?;
    let options = UnpackOptions {
        whiteouts: Whiteouts::Overlay,
        max_bytes: inner.options.max_unpacked_bytes,
        max_entries: inner.options.max_entries,
        ..UnpackOptions::default()
    };
    Ok(archive::unpack_into(root.as_fd(), Path::new("."), plain, &options)?.bytes)
}

fn finish(temporary: &Temporary, meta: LayerMeta) -> Result<()> {
    let path = temporary.path().join("layer.json");
    let json = serde_json::to_vec(&meta).map_err(std::io::Error::other).at("write", &path)?;
    fs::write(&path, json).at("write", &path)
}

/// Names the blob in errors that its bytes cause.
fn describe(error: Error, digest: &Digest, limit: u64) -> Error {
    match error {
        Error::Archive(archive::Error::Stream(source)) => {
            if source.get_ref().is_some_and(|inner| inner.is::<Broken>()) {
                return Error::Archive(archive::Error::Stream(source));
            }
            if source.get_ref().is_some_and(|inner| inner.is::<LimitExceeded>()) {
                return Error::TooLarge { what: format!("layer {digest}, unpacked,"), limit };
            }
            Error::CorruptBlob { digest: *digest, reason: source.to_string() }
        }
        Error::Archive(archive::Error::TooLarge { what, limit }) => {
            Error::TooLarge { what: format!("layer {digest}, by its {what},"), limit }
        }
        Error::Archive(archive::Error::Malformed(reason)) => Error::CorruptBlob { digest: *digest, reason },
        other => other,
    }
}
