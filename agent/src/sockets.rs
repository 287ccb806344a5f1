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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[tokio::test]
    async fn a_socket_is_for_root_and_its_group_only() {
        assert!(nix::unistd::geteuid().is_root(), "this test gives a socket to a group: run it as root");
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("s");
        let listener = bind(&path, Some("nogroup")).expect("bound");
        let meta = fs::metadata(&path).expect("there");
        let nogroup = nix::unistd::Group::from_name("nogroup").expect("looked up").expect("there").gid.as_raw();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o660, 0, nogroup));
        assert!(bind(&path, None).expect_err("served").to_string().contains("another daemon"));
        drop(listener);
        // What a dead daemon left is replaced; without a name the group is Docker's, where there is one.
        let _again = bind(&path, None).expect("bound anew");
        let docker = nix::unistd::Group::from_name("docker").expect("looked up").map_or(0, |g| g.gid.as_raw());
        assert_eq!(fs::metadata(&path).expect("there").gid(), docker);
        assert!(bind(&dir.path().join("t"), Some("nonesuch")).expect_err("no group").to_string().contains("nonesuch"));
    }
}
