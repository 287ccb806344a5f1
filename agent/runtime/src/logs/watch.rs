//! Being told when something happens in a folder: one inotify descriptor and one thread for all followers of the process.
//!
//! The kernel gives a user 128 inotify descriptors (`fs.inotify.max_user_instances`), and a host may run more containers whose
//! logs are followed; watches of one descriptor there are thousands of.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::sync::Notify;

/// Who wait for events, by watch descriptor. Two who watch one folder have one descriptor.
type Waiting = HashMap<i32, Vec<Arc<Notify>>>;

struct Hub {
    fd: OwnedFd,
    waiting: Mutex<Waiting>,
}

/// The hub of this process, once somebody watches; its thread lives as long as the process.
static HUB: Mutex<Option<Arc<Hub>>> = Mutex::new(None);

/// A watch on one folder. Dropping it ends it.
pub(super) struct Watch {
    hub: Arc<Hub>,
    descriptor: i32,
    notify: Arc<Notify>,
}

impl Watch {
    /// Watches a folder from now on.
    pub fn new(folder: &Path) -> io::Result<Watch> {
        let hub = hub()?;
        let notify = Arc::new(Notify::new());
        let mut waiting = hub.lock();
        // Under the lock: an event that comes at once finds its waiter.
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        let descriptor = inotify::add_watch(&hub.fd, folder, events)?;
        waiting.entry(descriptor).or_default().push(notify.clone());
        drop(waiting);
        Ok(Watch { hub, descriptor, notify })
    }

    /// Ends when something has happened since this was last awaited.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiting = self.hub.lock();
        let Some(list) = waiting.get_mut(&self.descriptor) else { return };
        list.retain(|other| !Arc::ptr_eq(other, &self.notify));
        if list.is_empty() {
            waiting.remove(&self.descriptor);
            // It fails when the folder is gone, and the watch with it.
            let _ = inotify::remove_watch(&self.hub.fd, self.descriptor);
        }
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that runs under the lock can leave the map half-changed.
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Hands events on until the process ends.
    fn run(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        loop {
            match reader.next() {
                // The queue ran over: anything may have happened.
                Ok(event) if event.wd() < 0 => self.lock().values().flatten().for_each(|waiter| waiter.notify_one()),
                Ok(event) => self.lock().get(&event.wd()).into_iter().flatten().for_each(|waiter| waiter.notify_one()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "logs cannot be followed any more");
                    return;
                }
            }
        }
    }
}

fn hub() -> io::Result<Arc<Hub>> {
    let mut known = HUB.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(hub) = &*known {
        return Ok(hub.clone());
    }
    let hub = Arc::new(Hub { fd: inotify::init(CreateFlags::CLOEXEC)?, waiting: Mutex::default() });
    let runs = hub.clone();
    std::thread::Builder::new().name("log-watch".into()).stack_size(64 * 1024).spawn(move || runs.run())?;
    *known = Some(hub.clone());
    Ok(hub)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_more_followers_than_inotify_descriptors_are_told_each_of_their_own_folder() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folders: Vec<_> = (0..300).map(|n| dir.path().join(n.to_string())).collect();
        folders.iter().for_each(|folder| std::fs::create_dir(folder).expect("folder"));
        let watches: Vec<Watch> = folders.iter().map(|folder| Watch::new(folder).expect("watched")).collect();
        let twice = Watch::new(&folders[7]).expect("watched");
        std::fs::write(folders[7].join("f"), "x").expect("file");
        let patience = std::time::Duration::from_secs(10);
        for watch in [&watches[7], &twice] {
            tokio::time::timeout(patience, watch.changed()).await.expect("told");
        }
        // Told in order: had another been told, it would have been before the last.
        std::fs::write(folders[299].join("f"), "x").expect("file");
        tokio::time::timeout(patience, watches[299].changed()).await.expect("told");
        let none = std::time::Duration::ZERO;
        assert!(tokio::time::timeout(none, watches[8].changed()).await.is_err(), "another's folder");
        drop(twice);
        std::fs::write(folders[7].join("g"), "x").expect("file");
        tokio::time::timeout(patience, watches[7].changed()).await.expect("the other watch of the folder goes on");
    }
}
