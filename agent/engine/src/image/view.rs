//! What `docker cp` sees of a container: what its processes see while it runs; else its root, with its volumes and binds
//! mounted in a namespace of their own.

use crate::{
    container::{Command, RootLease},
    engine::Shared,
    error,
    record::Record,
    volume::{Apart, Borrowed},
};
use muster_calls::{Error, Result};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A container's files, to be read or written while this lives. What is first here goes first. Its fields are private so that
/// a closure which uses one of them takes the whole with it.
pub(super) struct View {
    root: File,
    record: Arc<Record>,
    _apart: Option<Apart>,
    _borrowed: Option<Borrowed>,
    _lease: RootLease,
}

impl View {
    /// A root as it is.
    pub fn plain(root: File, record: Arc<Record>, lease: RootLease) -> Self {
        Self { root, record, _apart: None, _borrowed: None, _lease: lease }
    }

    /// The container's root folder, open.
    pub fn root(&self) -> &File {
        &self.root
    }

    /// The container when this was made.
    pub fn record(&self) -> &Record {
        &self.record
    }
}

impl Shared {
    /// Opens a container's files.
    ///
    /// # Errors
    /// `NotFound`; what [`Borrowed`] and [`Apart`] say of mounts that cannot be had.
    pub(super) async fn view(self: &Arc<Self>, id: &str) -> Result<View> {
        let handle = self.find(id)?;
        let lease = handle.ask(Command::Lend).await?;
        let record = handle.record();
        if record.state.is_running() {
            let seen = PathBuf::from(format!("/proc/{}/root", record.state.pid));
            let root = open_root(&seen, &lease.path)
                .map_err(|e| Error::internal(format!("open the root of {}: {e}", record.id)))?;
            return Ok(View::plain(root, record, lease));
        }
        // To its end, also when whoever asked is gone: only what is mounted is unmounted.
        let (shared, of) = (self.clone(), record.clone());
        let borrowed = self.finish(async move { shared.borrow_mounts(&of).await }).await?;
        let (path, mounts) = (lease.path.clone(), borrowed.mounts.clone());
        let (root, apart) = error::blocking(move || Apart::assemble(path, mounts)).await?;
        Ok(View { root, record, _apart: Some(apart), _borrowed: Some(borrowed), _lease: lease })
    }
}

/// Opens the root that a process sees, if it is the one mounted at `mounted`. A process that has just ended has none, and its
/// pid may be another's already, whose root must not be touched: then the mounted one is taken, which is the same without
/// the container's mounts.
fn open_root(of_process: &Path, mounted: &Path) -> io::Result<File> {
    use std::os::unix::fs::MetadataExt;
    let own = File::open(mounted)?;
    let Ok(seen) = File::open(of_process) else { return Ok(own) };
    let (a, b) = (own.metadata()?, seen.metadata()?);
    Ok(if (a.dev(), a.ino()) == (b.dev(), b.ino()) { seen } else { own })
}
