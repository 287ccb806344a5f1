//! Which cgroup hierarchies are mounted, and the directories of one container in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The hierarchies of this machine, read once from `/proc/self/mountinfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Mount point of the cgroup v2 hierarchy: `/sys/fs/cgroup` on a v2 machine, `/sys/fs/cgroup/unified` on a hybrid
    /// one, `None` on a pure v1 machine.
    pub unified: Option<PathBuf>,
    /// Mount point by v1 controller (`memory`, `cpu`, `name=systemd`, ...); empty on a v2 machine.
    pub v1: BTreeMap<String, PathBuf>,
}

const V1_NAMES: &[&str] = &[
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
    "name=systemd",
];

impl Layout {
    /// Reads this machine's layout.
    ///
    /// # Errors
    /// When `/proc/self/mountinfo` cannot be read.
    pub fn detect() -> std::io::Result<Layout> {
        Ok(Layout::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    /// Parses the text of a `mountinfo` file (proc_pid_mountinfo(5)).
    pub fn parse(mountinfo: &str) -> Layout {
        let mut layout = Layout::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            let (kind, super_options) = (right.next().unwrap_or(""), right.nth(1).unwrap_or(""));
            layout.add(kind, Path::new(point), super_options);
        }
        layout
    }

    fn add(&mut self, kind: &str, point: &Path, super_options: &str) {
        match kind {
            "cgroup2" if self.unified.is_none() => self.unified = Some(point.to_path_buf()),
            "cgroup" => {
                for name in super_options.split(',').filter(|name| V1_NAMES.contains(name)) {
                    self.v1.entry(name.to_owned()).or_insert_with(|| point.to_path_buf());
                }
            }
            _ => {}
        }
    }

    /// Whether controllers live in the v2 hierarchy (no v1 controller is mounted).
    pub fn is_v2(&self) -> bool {
        self.unified.is_some() && self.v1.is_empty()
    }

    /// The directories of the cgroup `path` (as in `cgroupsPath`: absolute, from the root of each hierarchy).
    pub fn paths(&self, path: &str) -> Paths {
        let relative = path.trim_start_matches('/');
        Paths {
            path: format!("/{relative}"),
            unified: self.unified.as_ref().map(|root| root.join(relative)),
            v1: self.v1.iter().map(|(name, root)| (name.clone(), root.join(relative))).collect(),
        }
    }
}

/// Directories of one cgroup in every hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// The `cgroupsPath`.
    pub path: String,
    /// Directory in the v2 hierarchy: the one that eBPF cgroup programs see, on hybrid machines too.
    pub unified: Option<PathBuf>,
    /// Directory by v1 controller.
    pub v1: BTreeMap<String, PathBuf>,
}

impl Paths {
    /// The directory that holds a controller's files, whichever version it lives in.
    pub fn controller(&self, name: &str) -> Option<&Path> {
        self.v1.get(name).or(if self.v1.is_empty() { self.unified.as_ref() } else { None }).map(PathBuf::as_path)
    }

    /// All directories, each once.
    pub fn all(&self) -> Vec<&Path> {
        let mut dirs: Vec<&Path> = self.unified.iter().chain(self.v1.values()).map(PathBuf::as_path).collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_machine_has_its_controllers_on_v1_and_a_unified_tree_beside_them() {
        let layout = Layout::parse(HYBRID);
        assert!(!layout.is_v2());
        let paths = layout.paths("/muster/a/b");
        assert_eq!(paths.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified/muster/a/b")));
        assert_eq!(paths.controller("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/muster/a/b")));
        assert_eq!(paths.controller("pids"), None);
        assert_eq!(paths.all().len(), 4);
    }

    #[test]
    fn a_v2_machine_has_everything_in_one_tree() {
        let layout =
            Layout::parse("31 23 0:27 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(layout.is_v2());
        assert_eq!(layout.paths("x").controller("memory"), Some(Path::new("/sys/fs/cgroup/x")));
    }
}
