//! The run folder: which path belongs to which process, and the small notes kept there.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::ProcessRef;
use crate::error::{Error, Result};

/// Note: path of the container's durable folder.
pub(super) const STATE_DIR: &str = "state";
/// Note: the container's cgroupsPath.
pub(super) const CGROUP: &str = "cgroup";
/// The exit record's file name, in the durable folder of a container and in the run folder of an exec.
pub(super) const EXIT: &str = "exit";
/// Longest id.
const MAX_ID: usize = 128;

/// The run folder.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Makes the folders that are missing, readable by root alone: sockets in them can attach to any container.
    pub fn make(root: &Path) -> Result<Folders> {
        let make = |path: &Path| {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("make folder", path))
        };
        make(root)?;
        let root = root.canonicalize().map_err(Error::io("resolve", root))?;
        make(&root.join("rt"))?;
        make(&root.join("c"))?;
        Ok(Folders { root })
    }

    /// State folder of the runtime binary.
    pub fn runtime_root(&self) -> PathBuf {
        self.root.join("rt")
    }

    /// Folder of a process. Call [`Folders::check`] on ids that come from outside first.
    pub fn of(&self, process: ProcessRef<'_>) -> PathBuf {
        let container = self.root.join("c").join(process.container());
        match process {
            ProcessRef::Container(_) => container,
            ProcessRef::Exec { exec, .. } => container.join("x").join(exec),
        }
    }

    /// Refuses ids that are no plain file names.
    pub fn check(&self, process: ProcessRef<'_>) -> Result<()> {
        check_id(process.container())?;
        check_id(process.id())
    }

    /// Makes the folder of a new process; its parents exist.
    pub fn create(&self, process: ProcessRef<'_>) -> Result<PathBuf> {
        let path = self.of(process);
        if let ProcessRef::Exec { container, .. } = process {
            let execs = self.of(ProcessRef::Container(container)).join("x");
            match DirBuilder::new().mode(0o700).create(&execs) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(Error::NotFound { id: container.to_owned() });
                }
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(Error::io("make folder", execs)(error));
                }
                _ => {}
            }
        }
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(Error::AlreadyExists { id: process.id().to_owned() })
            }
            Err(error) => Err(Error::io("make folder", path)(error)),
        }
    }

    /// Removes the folder of a process, if it is there.
    pub fn remove(&self, process: ProcessRef<'_>) -> Result<()> {
        let path = self.of(process);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Writes a note into a container's folder. No fsync: the folder does not outlive the kernel.
    pub fn write_note(&self, id: &str, name: &str, text: &str) -> Result<()> {
        let path = self.of(ProcessRef::Container(id)).join(name);
        // By a rename: a daemon killed in the middle leaves no note rather than an empty one.
        let new = path.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(Error::io("write", path))
    }

    /// Reads a note; `None` when it is not there.
    pub fn read_note(&self, id: &str, name: &str) -> Option<String> {
        fs::read_to_string(self.of(ProcessRef::Container(id)).join(name)).ok()
    }

    /// The exit record's path of a process; `None` for a container whose durable folder is not noted.
    pub fn exit_record(&self, process: ProcessRef<'_>) -> Option<PathBuf> {
        match process {
            ProcessRef::Container(id) => {
                self.read_note(id, STATE_DIR).map(PathBuf::from).filter(|d| d.is_absolute()).map(|d| d.join(EXIT))
            }
            exec => Some(self.of(exec).join(EXIT)),
        }
    }

    /// Ids of all containers that have a folder here or in the runtime's state.
    pub fn containers(&self) -> Vec<String> {
        let mut ids: Vec<String> =
            [self.root.join("c"), self.runtime_root()].iter().flat_map(|path| names(path)).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Ids of a container's execs.
    pub fn execs(&self, id: &str) -> Vec<String> {
        names(&self.of(ProcessRef::Container(id)).join("x"))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|id| check_id(id).is_ok()).collect()
}

fn check_id(id: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let good = !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(plain) && !id.starts_with('.');
    if good { Ok(()) } else { Err(Error::BadId { id: id.to_owned() }) }
}
