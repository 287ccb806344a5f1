//! Capabilities: Docker's defaults, and the arithmetic of `--cap-add`, `--cap-drop` and `--privileged`.

use std::collections::BTreeSet;

use super::error::Error;

/// All capabilities of Linux 5.9 and later, by number (capabilities(7), linux/capability.h).
pub const ALL: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has unless told otherwise.
pub const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The capabilities whose bits are set in a mask.
pub(super) fn from_mask(mask: u64) -> BTreeSet<String> {
    let set = ALL.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1);
    set.map(|(_, name)| (*name).to_owned()).collect()
}

/// The capabilities of a container, and warnings for those that were asked for by name and this host cannot give.
pub(super) fn resolve(
    add: &[String],
    drop: &[String],
    privileged: bool,
    available: &BTreeSet<String>,
) -> Result<(BTreeSet<String>, Vec<String>), Error> {
    let (add, drop) = (normal("CapAdd", add)?, normal("CapDrop", drop)?);
    let named = |list: &[String]| -> BTreeSet<String> { list.iter().filter(|name| *name != "ALL").cloned().collect() };
    let has_all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let owned = |list: &[&str]| -> BTreeSet<String> { list.iter().map(|name| (*name).to_owned()).collect() };
    let wanted = if privileged {
        owned(ALL)
    } else if has_all(&add) {
        &owned(ALL) - &named(&drop)
    } else if has_all(&drop) {
        named(&add)
    } else {
        &(&owned(DEFAULT) - &named(&drop)) | &named(&add)
    };
    let missing = named(&add).difference(available).filter(|name| wanted.contains(*name)).cloned().collect::<Vec<_>>();
    let warnings = missing.iter().map(|name| format!("CapAdd: this host cannot give {name}; left out")).collect();
    Ok((&wanted & available, warnings))
}

fn normal(field: &'static str, names: &[String]) -> Result<Vec<String>, Error> {
    let one = |name: &String| {
        let upper = name.trim().to_ascii_uppercase();
        let full = if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        match full == "ALL" || ALL.contains(&full.as_str()) {
            true => Ok(full),
            false => Err(Error::Capability { field, name: full }),
        }
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(add: &[&str], drop: &[&str]) -> BTreeSet<String> {
        let list = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        resolve(&list(add), &list(drop), false, &from_mask(u64::MAX)).expect("known names").0
    }

    #[test]
    fn adding_and_dropping_all_work_as_in_docker() {
        assert_eq!(of(&[], &[]).len(), 14);
        assert_eq!(of(&["net_admin"], &["ALL"]), BTreeSet::from(["CAP_NET_ADMIN".to_string()]));
        assert_eq!(of(&["ALL"], &["CAP_SYS_ADMIN"]).len(), ALL.len() - 1);
        assert!(!of(&[], &["mknod"]).contains("CAP_MKNOD"));
    }

    #[test]
    fn what_the_host_lacks_is_left_out_with_a_warning_only_when_named() {
        let without = from_mask(!(1 << 24));
        let (all, quiet) = resolve(&["ALL".into()], &[], false, &without).expect("known");
        assert!(!all.contains("CAP_SYS_RESOURCE") && quiet.is_empty());
        let (_, warned) = resolve(&["SYS_RESOURCE".into()], &[], false, &without).expect("known");
        assert_eq!(warned.len(), 1);
        assert!(resolve(&["NO_SUCH".into()], &[], false, &without).is_err());
    }
}
