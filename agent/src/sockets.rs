//! The host's own sockets: bound where nobody else serves, with the mode and group that say who may use them.

use anyhow::{Context as _, bail};
use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};
use tokio::net::UnixListener;

/// Binds `path` with mode 0660 and `group`. A socket that a dead daemon left behind is replaced, a live one is not.
///
/// # Errors
/// When somebody answers at `path`, or it cannot be made.
pub fn bind(path: &Path, group: Option<&str>) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("{shown}: another daemon serves this socket"),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("remove {shown}"))?
        }
        Err(_) => {}
    }
    let parent = path.parent().with_context(|| format!("{shown} has no folder"))?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    // Between bind and chmod the mode must not be wider than it will be.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = listener.with_context(|| format!("bind {shown}"))?;
    if let Some(gid) = group_id(group)? {
        nix::unistd::chown(path, None, Some(gid)).with_context(|| format!("chown {shown}"))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).with_context(|| format!("chmod {shown}"))?;
    Ok(listener)
}

fn group_id(group: Option<&str>) -> anyhow::Result<Option<nix::unistd::Gid>> {
    let look = |name: &str| nix::unistd::Group::from_name(name).with_context(|| format!("look up group {name}"));
    match group {
        Some(name) => match look(name)? {
            Some(g) => Ok(Some(g.gid)),
            None => bail!("socket-group: there is no group {name:?}"),
        },
        None => Ok(look("docker")?.map(|g| g.gid)),
    }
}
