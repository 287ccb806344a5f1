//! From what a client asks for (`Binds`, `Mounts`, `Tmpfs`, `Volumes`, `VolumesFrom`) to a container's list of mounts. Pure, but
//! for looking whether the source of a `--mount type=bind` exists.

use crate::{names, record::Mounted, volume};
use muster_calls::{Error, Result};
use muster_model::engine::{BindOptions, HostConfig, Keys, Mount};
use std::path::{Component, Path, PathBuf};

/// All mounts of a new container, volumes still without a source; anonymous ones have their name already. `from` are the mounts
/// of the containers of `VolumesFrom`, in order.
///
/// # Errors
/// `Invalid`, in Docker's words, for what cannot be mounted.
pub(super) fn resolve(host: &HostConfig, image_volumes: &Keys, from: Vec<Mounted>) -> Result<Vec<Mounted>> {
    let mut all: Vec<Mounted> = Vec::new();
    for mount in from {
        replace(&mut all, mount);
    }
    let mut own: Vec<Mounted> = Vec::new();
    let binds = host.binds.iter().map(|text| short_form(text, &host.volume_driver));
    let mounts = host.mounts.iter().map(long_form);
    let tmpfs = host.tmpfs.iter().map(|(path, options)| tmpfs_form(path, options));
    for mount in binds.chain(mounts).chain(tmpfs) {
        let mount = mount?;
        if own.iter().any(|m| m.destination == mount.destination) {
            return Err(Error::invalid(format!("Duplicate mount point: {}", mount.destination)));
        }
        own.push(mount);
    }
    own.into_iter().for_each(|mount| replace(&mut all, mount));
    for path in image_volumes.iter() {
        // Docker takes a relative path as one below the root.
        let destination = clean(&format!("/{path}"))
            .ok_or_else(|| Error::invalid(format!("invalid volume path {path:?}: the root cannot be a volume")))?;
        if !all.iter().any(|m| m.destination == destination) {
            all.push(Mounted { volume_driver: host.volume_driver.clone(), ..anonymous(destination) });
        }
    }
    Ok(all)
}

fn replace(all: &mut Vec<Mounted>, mount: Mounted) {
    all.retain(|m| m.destination != mount.destination);
    all.push(mount);
}

fn anonymous(destination: String) -> Mounted {
    Mounted { kind: "volume".into(), volume: names::new_id(), destination, anonymous: true, ..Mounted::default() }
}

/// An absolute path without `.`, `..` and trailing slashes; `None` for a relative one and for the root.
fn clean(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.starts_with('/').then(|| Path::new(path))?.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    (!parts.is_empty()).then(|| format!("/{}", parts.join("/")))
}

/// `source:target[:options]` of `-v`.
fn short_form(text: &str, driver: &str) -> Result<Mounted> {
    let bad = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let mut parts = text.split(':');
    let (source, target, options) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(target), None, ..) => ("", target, ""),
        (Some(source), Some(target), options, None) if !source.is_empty() => {
            (source, target, options.unwrap_or_default())
        }
        _ => return Err(bad()),
    };
    let kind = if source.starts_with('/') { "bind" } else { "volume" };
    let bad_target = |why: String| {
        Error::invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{kind}\": {why}"
        ))
    };
    if !target.starts_with('/') {
        return Err(bad_target(format!("invalid mount path: '{target}' mount path must be absolute")));
    }
    let destination =
        clean(target).ok_or_else(|| bad_target("invalid specification: destination can't be '/'".into()))?;
    let mut mount = match source {
        "" => Mounted { volume_driver: driver.to_owned(), ..anonymous(destination) },
        path if path.starts_with('/') => Mounted {
            kind: "bind".into(),
            source: PathBuf::from(path),
            destination,
            propagation: "rprivate".into(),
            create_source: true,
            ..Mounted::default()
        },
        name => Mounted {
            kind: "volume".into(),
            volume: volume_name(name)?,
            volume_driver: driver.to_owned(),
            destination,
            mode: "z".into(),
            ..Mounted::default()
        },
    };
    let mut seen: Vec<&str> = Vec::new();
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let class = class_of(option);
        if seen.contains(&class) || apply(&mut mount, option).is_none() {
            return Err(Error::invalid(format!("invalid mode: {options}")));
        }
        seen.push(class);
    }
    if !options.is_empty() {
        mount.mode = options.to_owned();
    }
    Ok(mount)
}

/// Of each class one option can be given.
fn class_of(option: &str) -> &str {
    match option {
        "ro" | "readonly" | "rw" => "access",
        "z" | "Z" => "label",
        "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => "propagation",
        "consistent" | "cached" | "delegated" => "consistency",
        other => other,
    }
}

fn apply(mount: &mut Mounted, option: &str) -> Option<()> {
    let bind = mount.kind == "bind";
    match option {
        "ro" | "readonly" => mount.read_only = true,
        "rw" | "z" | "Z" => {} // No SELinux here: nothing to relabel.
        "nocopy" if !bind => mount.no_copy = true,
        "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" if bind => {
            option.clone_into(&mut mount.propagation)
        }
        "consistent" | "cached" | "delegated" if bind => {} // Of Docker Desktop; without meaning on Linux, there as here.
        _ => return None,
    }
    Some(())
}

fn volume_name(name: &str) -> Result<String> {
    volume::check_name(name).map(|()| name.to_owned())
}

/// `--mount`.
fn long_form(mount: &Mount) -> Result<Mounted> {
    let kind = mount.kind.as_str();
    let bad = |why: String| Error::invalid(format!("invalid mount config for type \"{kind}\": {why}"));
    if mount.target.is_empty() {
        return Err(bad("field Target must not be empty".into()));
    }
    if !mount.target.starts_with('/') {
        return Err(bad(format!("invalid mount path: '{}' mount path must be absolute", mount.target)));
    }
    let destination =
        clean(&mount.target).ok_or_else(|| bad("invalid specification: destination can't be '/'".into()))?;
    let base = Mounted { kind: kind.to_owned(), destination, read_only: mount.read_only, ..Mounted::default() };
    let misplaced = [
        ("BindOptions", mount.bind_options.is_some(), "bind"),
        ("VolumeOptions", mount.volume_options.is_some(), "volume"),
        ("TmpfsOptions", mount.tmpfs_options.is_some(), "tmpfs"),
        ("ImageOptions", mount.image_options.is_some(), "image"),
    ];
    if let Some((field, ..)) = misplaced.iter().find(|(_, set, of)| *set && *of != kind) {
        return Err(bad(format!("field {field} must not be specified")));
    }
    match kind {
        "bind" => bind_form(mount, base, bad),
        "volume" => named_form(mount, base),
        "image" => image_form(mount, base, bad),
        "tmpfs" if !mount.source.is_empty() => Err(bad("field Source must not be specified".into())),
        "tmpfs" => Ok(tmpfs_of(mount, base)),
        "cluster" => Err(Error::unimplemented(format!("a mount of type {kind}"))),
        other => Err(Error::invalid(format!("invalid mount config for type \"{other}\": mount type unknown"))),
    }
}

fn bind_form(mount: &Mount, mut base: Mounted, bad: impl Fn(String) -> Error) -> Result<Mounted> {
    let options = mount.bind_options.clone().unwrap_or_default();
    if !mount.source.starts_with('/') {
        let why = if mount.source.is_empty() {
            "field Source must not be empty".to_owned()
        } else {
            format!("invalid mount path: '{}' mount path must be absolute", mount.source)
        };
        return Err(bad(why));
    }
    base.source = PathBuf::from(&mount.source);
    base.create_source = options.create_mountpoint;
    if !base.create_source && !base.source.exists() {
        return Err(bad(format!("bind source path does not exist: {}", mount.source)));
    }
    base.propagation = if options.propagation.is_empty() { "rprivate".into() } else { options.propagation.clone() };
    if !matches!(base.propagation.as_str(), "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave") {
        return Err(bad(format!("invalid propagation mode: {}", base.propagation)));
    }
    read_only_depth(mount, &options, &base.propagation).map_err(bad)?;
    base.read_only_top = options.read_only_non_recursive;
    base.non_recursive = options.non_recursive;
    Ok(base)
}

/// How deep "read-only" reaches: everywhere (the default, and by force), or the top only.
fn read_only_depth(mount: &Mount, options: &BindOptions, propagation: &str) -> std::result::Result<(), String> {
    let (forced, top) = (options.read_only_force_recursive, options.read_only_non_recursive);
    if forced && top {
        return Err("ReadOnlyForceRecursive and ReadOnlyNonRecursive exclude each other".into());
    }
    if (forced || top) && !mount.read_only {
        let field = if forced { "ReadOnlyForceRecursive" } else { "ReadOnlyNonRecursive" };
        return Err(format!("BindOptions.{field} needs ReadOnly"));
    }
    if forced && (options.non_recursive || propagation != "rprivate") {
        return Err("BindOptions.ReadOnlyForceRecursive needs a recursive mount of propagation rprivate".into());
    }
    Ok(())
}

/// A path inside of a volume or image; links in it are looked at when it is mounted.
fn checked_subpath(subpath: &str, what: &str) -> Result<()> {
    let climbs = Path::new(subpath).components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir));
    if climbs {
        let text = format!("invalid subpath {subpath:?}: it must be a relative path within the {what}");
        return Err(Error::invalid(text));
    }
    Ok(())
}

/// An image's files, with a writable layer of the container's own over them.
fn image_form(mount: &Mount, mut base: Mounted, bad: impl Fn(String) -> Error) -> Result<Mounted> {
    if mount.source.is_empty() {
        return Err(bad("field Source must not be empty".into()));
    }
    let options = mount.image_options.clone().unwrap_or_default();
    checked_subpath(&options.subpath, "image")?;
    (base.image, base.subpath) = (mount.source.clone(), options.subpath);
    Ok(base)
}

fn named_form(mount: &Mount, mut base: Mounted) -> Result<Mounted> {
    let options = mount.volume_options.clone().unwrap_or_default();
    let driver = options.driver_config.clone().unwrap_or_default();
    (base.volume_driver, base.volume_options) = (driver.name, driver.options);
    checked_subpath(&options.subpath, "volume")?;
    (base.no_copy, base.subpath, base.mode) = (options.no_copy, options.subpath, "z".to_owned());
    base.volume_labels = options.labels;
    if mount.source.is_empty() {
        (base.volume, base.anonymous) = (names::new_id(), true);
    } else {
        base.volume = volume_name(&mount.source)?;
    }
    Ok(base)
}

fn tmpfs_of(mount: &Mount, mut base: Mounted) -> Mounted {
    let options = mount.tmpfs_options.clone().unwrap_or_default();
    base.tmpfs_size = u64::try_from(options.size_bytes).ok().filter(|n| *n > 0);
    base.tmpfs_mode = Some(options.mode).filter(|m| *m != 0);
    let mut words: Vec<String> = options.options.iter().map(|pair| pair.join("=")).collect();
    if mount.read_only {
        words.push("ro".to_owned());
    }
    base.tmpfs_options = words.join(",");
    base
}

fn tmpfs_form(path: &str, options: &str) -> Result<Mounted> {
    let destination = clean(path)
        .ok_or_else(|| Error::invalid(format!("invalid mount path: '{path}' mount path must be absolute")))?;
    Ok(Mounted { kind: "tmpfs".into(), destination, tmpfs_options: options.to_owned(), ..Mounted::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_binds(binds: &[&str]) -> Result<Vec<Mounted>> {
        let host = HostConfig { binds: binds.iter().map(|b| (*b).to_owned()).collect(), ..HostConfig::default() };
        resolve(&host, &Keys::default(), Vec::new())
    }

    #[test]
    fn a_short_form_is_a_bind_a_named_or_an_anonymous_volume() {
        let mounts = of_binds(&["/host:/a/../b:ro,rshared", "vol:/v", "/x"]).expect("valid");
        assert_eq!(
            (mounts[0].destination.as_str(), mounts[0].read_only, mounts[0].propagation.as_str()),
            ("/b", true, "rshared")
        );
        assert_eq!((mounts[1].volume.as_str(), mounts[1].mode.as_str(), mounts[1].anonymous), ("vol", "z", false));
        assert!(mounts[2].anonymous && mounts[2].volume.len() == 64);
    }

    #[test]
    fn what_cannot_be_mounted_is_refused() {
        for bad in [
            &["a:b"][..],
            &["/a:/"],
            &["/a:/b:bogus"],
            &["/a:/b:ro:x"],
            &[":/b"],
            &["vol:/v:rshared"],
            &["a b:/v"],
            &["v:/x", "/h:/x"],
        ] {
            assert!(of_binds(bad).is_err(), "{bad:?}");
        }
        let missing =
            Mount { kind: "bind".into(), source: "/nonesuch".into(), target: "/b".into(), ..Mount::default() };
        let text = long_form(&missing).expect_err("missing").message;
        assert_eq!(text, "invalid mount config for type \"bind\": bind source path does not exist: /nonesuch");
    }

    #[test]
    fn how_deep_read_only_reaches_is_said_once_and_only_of_what_is_read_only() {
        let of = |read_only: bool, change: fn(&mut BindOptions)| {
            let mut options = BindOptions::default();
            change(&mut options);
            let mount = Mount {
                kind: "bind".into(),
                source: "/".into(),
                target: "/b".into(),
                read_only,
                bind_options: Some(options),
                ..Mount::default()
            };
            long_form(&mount)
        };
        assert!(of(true, |o| o.read_only_non_recursive = true).expect("valid").read_only_top);
        assert!(!of(true, |o| o.read_only_force_recursive = true).expect("valid").read_only_top);
        assert!(of(false, |o| o.read_only_non_recursive = true).is_err());
        assert!(of(true, |o| (o.read_only_force_recursive, o.read_only_non_recursive) = (true, true)).is_err());
        assert!(of(true, |o| (o.read_only_force_recursive, o.propagation) = (true, "rshared".into())).is_err());
    }

    #[test]
    fn a_volume_of_the_image_yields_to_what_the_user_mounts_there() {
        let image: Keys = ["/data", "/other"].into_iter().collect();
        let host = HostConfig { binds: vec!["mine:/data".into()], ..HostConfig::default() };
        let mounts = resolve(&host, &image, Vec::new()).expect("valid");
        assert_eq!(
            mounts.iter().map(|m| (m.destination.as_str(), m.anonymous)).collect::<Vec<_>>(),
            [("/data", false), ("/other", true)]
        );
    }
}
