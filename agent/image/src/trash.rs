//! Lazy deletion: what is dropped is renamed into `trash/` and removed by one background thread.
//!
//! Creating files on ext4 right after a large removal is slow for half a minute, so nobody waits for one here.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::durable::{self, unique};
use crate::error::At;
use crate::{Error, Result, archive, mount};

/// The handle to the trash folder; the thread ends when the last handle is gone.
#[derive(Clone)]
pub(crate) struct Trash {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    /// One pending wake-up says all there is to say.
    wake: Mutex<Option<SyncSender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Trash {
    /// Starts the remover on `dir`, beginning with what an earlier process left there.
    pub(crate) fn start(dir: PathBuf) -> Result<Self> {
        let (wake, woken) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let (path, stopped) = (dir.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("image-trash".into())
            .spawn(move || remove_forever(&path, &woken, &stopped))
            .at("start a thread for", &dir)?;
        let trash = Inner { dir, stop, wake: Mutex::new(Some(wake)), thread: Mutex::new(Some(thread)) };
        let trash = Self { inner: Arc::new(trash) };
        trash.wake();
        Ok(trash)
    }

    /// Takes `path` out of sight at once; its space comes back later. A path that does not exist is fine.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        match fs::rename(path, self.inner.dir.join(unique())) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.at("discard", path)?,
        }
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        if let Some(wake) = &*self.inner.wake.lock().unwrap_or_else(PoisonError::into_inner) {
            // Full means that a wake-up is pending already.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.wake.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            tracing::error!("the remover of the image store panicked");
        }
    }
}

fn remove_forever(dir: &Path, woken: &Receiver<()>, stop: &AtomicBool) {
    while woken.recv().is_ok() {
        let paths = durable::entries(dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "trash of the image store not read");
            Vec::new()
        });
        for path in paths {
            match remove_tree(&path, stop) {
                Ok(()) => {}
                Err(Error::Closed) => return,
                Err(error) => tracing::warn!(%error, path = %path.display(), "trash of the image store not emptied"),
            }
        }
    }
}

/// Removes a file or a tree, asking `stop` before each name so that closing the store waits for no large one. What is
/// mounted on it or in it, by whatever mistake, is somebody's data and stays.
fn remove_tree(path: &Path, stop: &AtomicBool) -> Result<()> {
    if !fs::symlink_metadata(path).at("read", path)?.is_dir() {
        return fs::remove_file(path).at("remove", path);
    }
    if mount::is_mounted(path)? {
        return Err(std::io::Error::other("something is mounted there")).at("remove", path);
    }
    let removed = archive::remove_tree(path, &|| stop.load(Ordering::Relaxed))?;
    if removed { Ok(()) } else { Err(Error::Closed) }
}
