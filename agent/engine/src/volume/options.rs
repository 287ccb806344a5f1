//! Options of the local driver: `type`, `device`, `o`, as `mount` has them, and the mount that they mean.
//!
//! `type=none,o=bind,device=/path` is a folder of the host, `type=tmpfs,device=tmpfs,o=size=1m` memory, `type=nfs,
//! o=addr=HOST,device=:/path` an NFS server's folder; whatever else the kernel has a file system for works alike.

use muster_calls::{Error, Result};
use muster_model::engine::Strings;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    net::{IpAddr, ToSocketAddrs},
    path::Path,
};

/// Checks the options of a new volume.
///
/// # Errors
/// `Invalid` naming the option; `Unimplemented` for `size` (it needs project quotas).
pub(super) fn check(options: &Strings) -> Result<()> {
    if options.is_empty() {
        return Ok(());
    }
    for key in options.keys() {
        match key.as_str() {
            "type" | "o" | "device" => {}
            "size" => return Err(Error::unimplemented("volume option size of driver local (project quotas)")),
            other => return Err(Error::invalid(format!("invalid option: {other:?}"))),
        }
    }
    for key in ["device", "type"] {
        if options.get(key).is_none_or(String::is_empty) {
            return Err(Error::invalid(format!("missing required option: {key:?}")));
        }
    }
    Ok(())
}

/// What is to be mounted.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    kind: String,
    device: String,
    flags: MsFlags,
    propagation: MsFlags,
    data: String,
}

/// Mounts a volume with options at `target`. Blocks: on the network, where the file system is there.
///
/// # Errors
/// `Internal`, in Docker's words with the kernel's reason.
pub(super) fn mount_at(options: &Strings, target: &Path) -> Result<()> {
    let wanted = parse(options)?;
    let failed = |e: nix::Error| {
        let Wanted { device, data, flags, kind, .. } = &wanted;
        let hint = match e {
            nix::Error::ENODEV => format!(" (this kernel has no file system {kind:?})"),
            _ => String::new(),
        };
        let target = target.display();
        Error::internal(format!(
            "error while mounting volume '{target}': failed to mount local volume: mount {device}:{target}, flags: {:#x}{}: {}{hint}",
            flags.bits(),
            if data.is_empty() { String::new() } else { format!(", data: {data}") },
            e.desc().to_lowercase()
        ))
    };
    let bind = wanted.flags.intersects(MsFlags::MS_BIND);
    let kind = Some(wanted.kind.as_str()).filter(|_| !bind);
    let data = Some(wanted.data.as_str()).filter(|data| !data.is_empty() && !bind);
    mount(Some(wanted.device.as_str()), target, kind, wanted.flags, data).map_err(failed)?;
    // mount(2): a bind takes no other flag at first, and a propagation only by itself.
    let rest = wanted.flags - (MsFlags::MS_BIND | MsFlags::MS_REC);
    let remade = if bind && !rest.is_empty() {
        mount(None::<&str>, target, None::<&str>, rest | MsFlags::MS_BIND | MsFlags::MS_REMOUNT, None::<&str>)
    } else {
        Ok(())
    };
    let shared = remade.and_then(|()| match wanted.propagation.is_empty() {
        true => Ok(()),
        false => mount(None::<&str>, target, None::<&str>, wanted.propagation, None::<&str>),
    });
    shared.map_err(failed).inspect_err(|_| unmount(target))
}

/// Takes a mount away; one that is in use goes with its last user.
pub(super) fn unmount(target: &Path) {
    // It fails where nothing is mounted, which is what is wanted.
    let _ = umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
}

fn parse(options: &Strings) -> Result<Wanted> {
    let text = |key: &str| options.get(key).cloned().unwrap_or_default();
    let (kind, device) = (text("type"), text("device"));
    let mut wanted =
        Wanted { kind, device, flags: MsFlags::empty(), propagation: MsFlags::empty(), data: String::new() };
    let mut data: Vec<String> = Vec::new();
    for word in text("o").split(',').map(str::trim).filter(|word| !word.is_empty() && *word != "defaults") {
        if let Some(flag) = propagation(word) {
            wanted.propagation = flag;
        } else if let Some((flag, on)) = flag(word) {
            wanted.flags.set(flag, on);
        } else {
            data.push(word.to_owned());
        }
    }
    if matches!(wanted.kind.as_str(), "nfs" | "nfs4" | "cifs") {
        resolve(&mut data)?;
    }
    wanted.data = data.join(",");
    Ok(wanted)
}

/// The kernel's network file systems take addresses, not names.
fn resolve(data: &mut [String]) -> Result<()> {
    for option in data {
        let Some(host) = option.strip_prefix("addr=").filter(|host| host.parse::<IpAddr>().is_err()) else { continue };
        let found = (host, 0).to_socket_addrs().ok().and_then(|mut all| all.next());
        let found =
            found.ok_or_else(|| Error::invalid(format!("error resolving passed in network volume address: {host}")))?;
        *option = format!("addr={}", found.ip());
    }
    Ok(())
}

/// Words of mount(8) that are flags of mount(2), and whether they set or clear it.
fn flag(word: &str) -> Option<(MsFlags, bool)> {
    Some(match word {
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND | MsFlags::MS_REC, true),
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "mand" => (MsFlags::MS_MANDLOCK, true),
        "nomand" => (MsFlags::MS_MANDLOCK, false),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MsFlags> {
    Some(match word {
        "private" => MsFlags::MS_PRIVATE,
        "rprivate" => MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        "shared" => MsFlags::MS_SHARED,
        "rshared" => MsFlags::MS_SHARED | MsFlags::MS_REC,
        "slave" => MsFlags::MS_SLAVE,
        "rslave" => MsFlags::MS_SLAVE | MsFlags::MS_REC,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        "runbindable" => MsFlags::MS_UNBINDABLE | MsFlags::MS_REC,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Strings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn options_are_checked_by_name() {
        assert!(check(&of(&[])).is_ok());
        assert!(check(&of(&[("type", "tmpfs"), ("device", "tmpfs")])).is_ok());
        assert_eq!(check(&of(&[("bogus", "1")])).expect_err("unknown").message, "invalid option: \"bogus\"");
        assert!(check(&of(&[("type", "nfs")])).expect_err("device").message.contains("device"));
        assert!(check(&of(&[("size", "1g")])).expect_err("quota").message.contains("size"));
    }

    #[test]
    fn words_of_mount_are_told_from_data_of_the_file_system() {
        let wanted =
            parse(&of(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,ro,nosuid,rw,uid=7")])).expect("valid");
        assert_eq!((wanted.data.as_str(), wanted.flags), ("size=1m,uid=7", MsFlags::MS_NOSUID));
        let bind = parse(&of(&[("type", "none"), ("device", "/x"), ("o", "bind,rshared")])).expect("valid");
        assert_eq!((bind.flags, bind.propagation), (MsFlags::MS_BIND, MsFlags::MS_SHARED | MsFlags::MS_REC));
        let nfs = of(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=10.0.0.1,rw")]);
        assert_eq!(parse(&nfs).expect("valid").data, "addr=10.0.0.1");
    }
}
