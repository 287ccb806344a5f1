//! Who a process runs as: names of the image's `/etc/passwd` and `/etc/group` to numbers.
//!
//! The files belong to strangers: they are opened with `openat2(RESOLVE_IN_ROOT)`, so that links in the image lead nowhere
//! else, and read up to a bound.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::error::Error;

/// Most bytes read of either file.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// Highest id, as Docker has it.
const MAX_ID: u32 = i32::MAX as u32;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    /// The primary group first (a process must not lose it by setgroups), then the others.
    pub additional_gids: Vec<u32>,
}

/// Resolves `name|uid[:group|gid]` and the supplementary groups asked for.
pub(super) fn resolve(rootfs: &Path, user: &str, group_add: &[String]) -> Result<User, Error> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let passwd = read(rootfs, "etc/passwd")?;
    let groups = read(rootfs, "etc/group")?;
    let entry = find_user(&passwd, if user.is_empty() { "0" } else { user });
    let uid = match (&entry, number(user)) {
        (Some(entry), _) => entry.uid,
        (None, _) if user.is_empty() => 0,
        (None, Some(uid)) => in_range(uid)?,
        (None, None) if is_integer(user) => return Err(Error::IdRange { highest: MAX_ID }),
        (None, None) => return Err(Error::NoUser { name: user.to_owned() }),
    };
    let gid = match group {
        Some(group) => find_group(&groups, group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut gids = vec![gid];
    if let (None, Some(entry)) = (group, &entry) {
        gids.extend(groups_of(&groups, entry.name));
    }
    for group in group_add {
        gids.push(find_group(&groups, group)?);
    }
    let mut additional_gids: Vec<u32> = Vec::new();
    for gid in gids {
        if !additional_gids.contains(&gid) {
            additional_gids.push(gid);
        }
    }
    Ok(User { uid, gid, additional_gids })
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// The entry by name, else by number (passwd(5)).
fn find_user<'a>(passwd: &'a str, wanted: &str) -> Option<Entry<'a>> {
    let entries = || {
        passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
            Some(Entry { name, uid: number(uid)?, gid: number(gid)? })
        })
    };
    let by_number = number(wanted);
    entries().find(|entry| entry.name == wanted).or_else(|| entries().find(|entry| Some(entry.uid) == by_number))
}

fn find_group(groups: &str, wanted: &str) -> Result<u32, Error> {
    match (group_entries(groups).find(|(name, _, _)| *name == wanted), number(wanted)) {
        (Some((_, gid, _)), _) => Ok(gid),
        (None, Some(gid)) => in_range(gid),
        (None, None) if is_integer(wanted) => Err(Error::IdRange { highest: MAX_ID }),
        (None, None) => Err(Error::NoGroup { name: wanted.to_owned() }),
    }
}

fn groups_of<'a>(groups: &'a str, user: &'a str) -> impl Iterator<Item = u32> + 'a {
    let member = move |members: &str| members.split(',').any(|member| member == user);
    group_entries(groups).filter(move |(_, _, members)| member(members)).map(|(_, gid, _)| gid)
}

/// Name, number and members of each line (group(5)).
fn group_entries(groups: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, number(fields.nth(1)?)?, fields.next().unwrap_or("")))
    })
}

fn number(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A number of any size and sign: no name, even where it is no id.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn in_range(id: u32) -> Result<u32, Error> {
    if id <= MAX_ID { Ok(id) } else { Err(Error::IdRange { highest: MAX_ID }) }
}

/// A file of the image; empty when it has none.
fn read(rootfs: &Path, name: &str) -> Result<String, Error> {
    let failed = |source: std::io::Error| Error::Io { field: "User", path: format!("/{name}"), source };
    let root_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, rootfs, root_flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    // Nonblocking: a FIFO in its place must not stop us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let opened = (0..16)
        .map(|_| openat2(&root, name, flags, Mode::empty(), resolve))
        // The kernel asks to try again when a rename elsewhere raced with the walk (openat2(2)).
        .find(|opened| !matches!(opened, Err(Errno::AGAIN)))
        .unwrap_or(Err(Errno::AGAIN));
    let file = match opened {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(failed(error.into())),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn rootfs() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(dir.path().join("etc")).expect("folder");
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\nbroken\n";
        fs::write(dir.path().join("etc/passwd"), passwd).expect("file");
        let group = "root:x:0:\nweb:x:34:\nssl:x:40:web,mail\nadm:x:4:root\n";
        fs::write(dir.path().join("etc/group"), group).expect("file");
        dir
    }

    fn user(dir: &Path, user: &str, add: &[&str]) -> Result<(u32, u32, Vec<u32>), Error> {
        let add: Vec<String> = add.iter().map(|name| name.to_string()).collect();
        resolve(dir, user, &add).map(|user| (user.uid, user.gid, user.additional_gids))
    }

    #[test]
    fn names_numbers_and_groups_resolve_as_in_docker() {
        let dir = rootfs();
        let of = |text: &str, add: &[&str]| user(dir.path(), text, add).expect("known");
        assert_eq!(of("", &[]), (0, 0, vec![0, 4]));
        assert_eq!(of("web", &[]), (33, 34, vec![34, 40]));
        assert_eq!(of("33", &["adm", "7"]), (33, 34, vec![34, 40, 4, 7]));
        assert_eq!(of("web:ssl", &[]), (33, 40, vec![40]));
        assert_eq!(of("1000:1001", &[]), (1000, 1001, vec![1001]));
        assert_eq!(of("1000", &[]), (1000, 0, vec![0]));
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        let dir = rootfs();
        assert!(matches!(user(dir.path(), "nobody", &[]), Err(Error::NoUser { name }) if name == "nobody"));
        assert!(matches!(user(dir.path(), "web:nogroup", &[]), Err(Error::NoGroup { name }) if name == "nogroup"));
        assert!(user(dir.path(), "4294967295", &[]).is_err());
    }

    #[test]
    fn a_link_in_the_image_does_not_lead_out_of_it() {
        let dir = rootfs();
        let outside = tempfile::tempdir().expect("temporary folder");
        fs::write(outside.path().join("passwd"), "evil:x:0:0::/:/bin/sh\n").expect("file");
        fs::remove_file(dir.path().join("etc/passwd")).expect("removed");
        symlink(outside.path().join("passwd"), dir.path().join("etc/passwd")).expect("link");
        assert!(matches!(user(dir.path(), "evil", &[]), Err(Error::NoUser { .. })));
    }
}
