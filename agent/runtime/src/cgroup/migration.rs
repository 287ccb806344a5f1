//! Having the kernel ready to move processes between cgroups.

use super::Layout;
use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Moving a process into a cgroup waits for an RCU grace period, 10 to 20 ms, unless somebody did so some 20 ms before: the
/// kernel's `cgroup_threadgroup_rwsem` is a per-CPU lock whose readers (fork, exit) first have to notice that it has a writer
/// (kernel/cgroup/cgroup.c, kernel/rcu/sync.c). Each new container and each exec makes such moves, one after the other. This
/// makes one beforehand, of the daemon into the cgroup where it is, while the rest of a start is prepared.
#[derive(Debug)]
pub struct Migration {
    /// `cgroup.procs` of the cgroup that this process is in; `None` where it cannot be told.
    procs: Option<PathBuf>,
    busy: Arc<AtomicBool>,
}

impl Migration {
    pub fn new(layout: &Layout) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self { procs: own_procs(layout, &own).filter(|f| f.exists()), busy: Arc::default() }
    }

    /// A process will be moved soon. Returns at once.
    pub fn expect(&self) {
        let Some(procs) = &self.procs else { return };
        if self.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        let (procs, busy) = (procs.clone(), self.busy.clone());
        tokio::task::spawn_blocking(move || {
            // Refused: the moves that follow wait as they would have without this.
            let _ = fs::write(procs, "0");
            busy.store(false, Ordering::Release);
        });
    }
}

/// From `/proc/self/cgroup`, lines of `ID:CONTROLLERS:PATH` (cgroups(7)); the v2 hierarchy has no controllers there.
fn own_procs(layout: &Layout, own: &str) -> Option<PathBuf> {
    let mut found = own.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let root = match controllers {
            "" => layout.unified.as_ref(),
            names => names.split(',').find_map(|name| layout.v1.get(name)),
        }?;
        Some((!controllers.is_empty(), root.join(path.trim_start_matches('/')).join("cgroup.procs")))
    });
    // Any hierarchy takes the same lock; that of v2 has the least to do.
    let first = found.next()?;
    let all = std::iter::once(first).chain(found);
    all.min_by_key(|(v1, _)| *v1).map(|(_, procs)| procs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(unified: Option<&str>, v1: &[(&str, &str)]) -> Layout {
        let v1 = v1.iter().map(|(name, root)| ((*name).to_owned(), PathBuf::from(root))).collect();
        Layout { unified: unified.map(PathBuf::from), v1 }
    }

    #[test]
    fn the_own_cgroup_is_found_in_each_layout() {
        let hybrid = layout(Some("/c/unified"), &[("memory", "/c/memory")]);
        let own = "4:memory:/a/b\n0::/system.slice/musterd.service\n";
        let procs = own_procs(&hybrid, own).expect("found");
        assert_eq!(procs, PathBuf::from("/c/unified/system.slice/musterd.service/cgroup.procs"));
        let old = layout(None, &[("cpu", "/c/cpu"), ("memory", "/c/memory")]);
        let procs = own_procs(&old, "4:cpu,cpuacct:/\n5:memory:/x\n").expect("found");
        assert_eq!(procs, PathBuf::from("/c/cpu/cgroup.procs"));
        assert_eq!(own_procs(&Layout::default(), own), None);
    }
}
