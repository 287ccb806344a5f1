//! Which namespaces a container gets.

use serde_json::{Value, json};

use super::error::Error;
use super::input::{NamespaceMode, Namespaces};

/// The `linux.namespaces` list.
pub(super) fn list(modes: &Namespaces) -> Result<Value, Error> {
    let all = [
        ("network", "NetworkMode", &modes.net),
        ("ipc", "IpcMode", &modes.ipc),
        ("pid", "PidMode", &modes.pid),
        ("uts", "UTSMode", &modes.uts),
        ("cgroup", "CgroupnsMode", &modes.cgroup),
    ];
    let mut list = vec![json!({"type": "mount"})];
    for (kind, field, mode) in all {
        match mode {
            NamespaceMode::New => list.push(json!({"type": kind})),
            NamespaceMode::Host => {}
            NamespaceMode::Path(path) if path.is_absolute() => list.push(json!({"type": kind, "path": path})),
            NamespaceMode::Path(path) => {
                return Err(Error::field(field, format!("{} is not an absolute path", path.display())));
            }
        }
    }
    Ok(Value::Array(list))
}
