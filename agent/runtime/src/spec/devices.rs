//! Device nodes and the rules about them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::error::{Error, words};
use super::host::Host;
use super::input::{DeviceMapping, SpecInput};

/// Folders of `/dev` that are mounts of their own in a container, and the console, which is not the container's.
const NOT_HANDED_ON: &[&str] = &["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];

/// `linux.devices` and `linux.resources.devices`.
pub(super) fn lists(input: &SpecInput, host: &Host) -> Result<(Vec<Value>, Vec<Value>), Error> {
    if input.privileged {
        let mut nodes = Vec::new();
        walk(&host.dev, &host.dev, Path::new("/dev"), &mut nodes);
        return Ok((nodes, vec![json!({"allow": true, "access": "rwm"})]));
    }
    let mut nodes = Vec::new();
    let mut rules = default_rules();
    for mapping in &input.devices {
        for node in mapped(mapping)? {
            rules.push(json!({"allow": true, "type": node["type"], "major": node["major"], "minor": node["minor"],
                "access": mapping.permissions}));
            nodes.push(node);
        }
    }
    for rule in &input.device_cgroup_rules {
        rules.push(parse_rule(rule)?);
    }
    Ok((nodes, rules))
}

/// Everything is forbidden but null, zero, full, random, urandom, tty and console; the runtime adds ptmx, pts and mknod.
fn default_rules() -> Vec<Value> {
    let open = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1)];
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend(
        open.map(|(major, minor)| json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"})),
    );
    rules
}

fn mapped(mapping: &DeviceMapping) -> Result<Vec<Value>, Error> {
    let letters = &mapping.permissions;
    if letters.is_empty() || !letters.chars().all(|letter| "rwm".contains(letter)) {
        return Err(Error::field("Devices", format!("invalid permissions {letters:?}: letters of rwm")));
    }
    let failed = |source| Error::Device { path: mapping.host.display().to_string(), reason: words(&source) };
    let host = mapping.host.canonicalize().map_err(failed)?;
    let mut nodes = Vec::new();
    if fs::metadata(&host).map_err(failed)?.is_dir() {
        walk(&host, &host, &mapping.container, &mut nodes);
    } else {
        nodes.extend(node(&host, &mapping.container));
    }
    if nodes.is_empty() {
        return Err(Error::Device { path: mapping.host.display().to_string(), reason: "not a device node".into() });
    }
    Ok(nodes)
}

/// All device nodes below `dir`, placed below `to` as they lie below `from`.
fn walk(dir: &Path, from: &Path, to: &Path, nodes: &mut Vec<Value>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if NOT_HANDED_ON.contains(&name) {
            continue;
        }
        if meta.is_dir() {
            walk(&path, from, to, nodes);
        } else if let Ok(below) = path.strip_prefix(from) {
            nodes.extend(node(&path, &to.join(below)));
        }
    }
}

fn node(host: &Path, container: &Path) -> Option<Value> {
    let meta = fs::symlink_metadata(host).ok()?;
    let kind = if meta.file_type().is_char_device() {
        "c"
    } else if meta.file_type().is_block_device() {
        "b"
    } else {
        return None;
    };
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    Some(json!({"path": container, "type": kind, "major": major, "minor": minor,
        "fileMode": meta.mode() & 0o7777, "uid": meta.uid(), "gid": meta.gid()}))
}

/// Checks rules before they are stored.
pub(super) fn check_rules(rules: &[String]) -> Result<(), Error> {
    rules.iter().try_for_each(|rule| parse_rule(rule).map(drop))
}

/// A rule as `c 1:3 rwm`, `b 8:* r`, `a *:* rwm`.
fn parse_rule(rule: &str) -> Result<Value, Error> {
    let invalid = || Error::field("DeviceCgroupRules", format!("invalid rule {rule:?}: as \"c 1:3 rwm\""));
    let words: Vec<&str> = rule.split_whitespace().collect();
    let [kind @ ("a" | "b" | "c"), numbers, access] = words[..] else { return Err(invalid()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    if access.len() > 3 || !access.chars().all(|letter| "rwm".contains(letter)) {
        return Err(invalid());
    }
    let mut value = json!({"allow": true, "type": kind, "access": access});
    for (key, text) in [("major", major), ("minor", minor)] {
        if text != "*" {
            value[key] = json!(text.parse::<u32>().map_err(|_| invalid())?);
        }
    }
    Ok(value)
}

/// Device number of a block device given by path, for throttles and weights.
pub(super) fn block_number(path: &str) -> Result<(u32, u32), Error> {
    let meta = fs::metadata(path).map_err(|source| Error::Disk { path: path.to_owned(), reason: words(&source) })?;
    if !meta.file_type().is_block_device() {
        return Err(Error::Disk { path: path.to_owned(), reason: "not a block device".into() });
    }
    Ok((rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_docker_reads_them() {
        assert_eq!(
            parse_rule("c 1:* rw").expect("valid"),
            json!({"allow": true, "type": "c", "major": 1, "access": "rw"})
        );
        for bad in ["", "c 1:3", "d 1:3 r", "c 1 r", "c x:1 r", "c 1:3 rx", "c 1:3 r w"] {
            assert!(parse_rule(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_host_device_keeps_its_numbers_under_another_name() {
        let mapping =
            DeviceMapping { host: "/dev/null".into(), container: "/dev/nothing".into(), permissions: "rw".into() };
        let nodes = mapped(&mapping).expect("exists");
        assert_eq!((&nodes[0]["path"], &nodes[0]["major"]), (&json!("/dev/nothing"), &json!(1)));
        assert!(mapped(&DeviceMapping { host: "/etc/passwd".into(), ..mapping }).is_err());
    }
}
