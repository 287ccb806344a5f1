//! Links: names that a container has for others, in its `/etc/hosts`; on the default bridge their ports and variables in its
//! environment as well, as Docker has it from before there were networks with names.
//!
//! A link is written `CONTAINER:ALIAS`. Those of the default bridge are kept by the container's id, so that a rename changes
//! nothing; those of a place on another network are looked up each time, and mean nothing while nobody is called that.

use crate::{
    engine::Shared,
    error,
    net::parse_port,
    record::{Place, Record},
};
use muster_calls::{Error, Result};
use muster_model::engine::HostConfig;
use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex},
};

/// Held while a `hosts` file is read and written again.
static REWRITING: Mutex<()> = Mutex::new(());
/// Bytes of a `hosts` file that is rewritten: no honest one comes near.
const MAX_HOSTS: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link<'a> {
    target: &'a str,
    alias: &'a str,
}

impl<'a> Link<'a> {
    /// Reads `CONTAINER[:ALIAS]`, also as inspect shows it: `/CONTAINER:/OWNER/ALIAS`.
    fn parse(text: &'a str) -> Result<Self> {
        let (target, alias) = text.split_once(':').unwrap_or((text, text));
        let (target, alias) = (target.trim_start_matches('/'), alias.rsplit('/').next().unwrap_or(""));
        if target.is_empty() || alias.is_empty() || alias.contains(char::is_whitespace) || alias.contains(':') {
            return Err(Error::invalid(format!("bad format for links: {text}")));
        }
        Ok(Self { target, alias })
    }

    fn means(&self, record: &Record) -> bool {
        self.target == record.name || (self.target.len() >= 12 && record.id.starts_with(self.target))
    }
}

/// Checks the links of a host configuration whose network mode is settled.
///
/// # Errors
/// `Invalid`, in Docker's words: 404 would make clients pull an image.
pub(super) fn check(shared: &Shared, host: &mut HostConfig) -> Result<()> {
    let conflict = match host.network_mode.as_str() {
        _ if host.links.is_empty() => return Ok(()),
        "host" => Some("host type networking can't be used with links. This would result in undefined behavior"),
        mode if mode.starts_with("container:") => Some("container type network can't be used with links"),
        _ => None,
    };
    if let Some(conflict) = conflict {
        return Err(Error::invalid(format!("conflicting options: {conflict}")));
    }
    let default_bridge = on_default_bridge(host);
    let settled = |text: &String| {
        let Link { target, alias } = Link::parse(text)?;
        if !default_bridge {
            return Ok(format!("{target}:{alias}"));
        }
        let missing = |e: Error| Error::invalid(format!("could not get container for {target}: {}", e.message));
        Ok(format!("{}:{alias}", shared.find(target).map_err(missing)?.id))
    };
    host.links = host.links.iter().map(settled).collect::<Result<_>>()?;
    Ok(())
}

/// Checks the links of a place.
///
/// # Errors
/// `Invalid` for one that cannot be read.
pub(super) fn check_place(links: &[String]) -> Result<()> {
    links.iter().try_for_each(|text| Link::parse(text).map(|_| ()))
}

fn on_default_bridge(host: &HostConfig) -> bool {
    host.network_mode == "bridge"
}

/// Those of the record, with the place that they are bound to. What cannot be read was refused at create.
fn all(record: &Record) -> impl Iterator<Item = (Link<'_>, Option<&Place>)> {
    let of_host = record.host.links.iter().map(|text| (text, None));
    let of_places = record.places.iter().flat_map(|place| place.links.iter().map(move |text| (text, Some(place))));
    of_host.chain(of_places).filter_map(|(text, place)| Some((Link::parse(text).ok()?, place)))
}

/// Names for the name server: alias, what the other is called, and the place it is bound to. Those of the default bridge,
/// where nobody has names, are in the file alone.
pub(crate) fn named(record: &Record) -> impl Iterator<Item = (&str, &str, Option<&Place>)> {
    let default_bridge = on_default_bridge(&record.host);
    all(record).filter(move |(_, place)| place.is_some() || !default_bridge).map(|(link, place)| {
        // Of an id, the beginning is a name.
        let id = link.target.len() == 64 && crate::names::is_hex(link.target);
        (link.alias, if id { crate::names::short(link.target) } else { link.target }, place)
    })
}

/// Where the other container is on a network that both are on.
fn address(record: &Record, other: &Record, place: Option<&Place>) -> Option<IpAddr> {
    let shared = |theirs: &&Place| {
        let fits = |ours: &Place| !ours.network_id.is_empty() && ours.network_id == theirs.network_id;
        match place {
            Some(ours) => fits(ours),
            None => !theirs.way_out && record.places.iter().any(fits),
        }
    };
    let got = other.places.iter().find(shared)?.got.as_ref()?;
    got.v4().map(IpAddr::V4).or(got.v6.map(|(ip, _)| IpAddr::V6(ip)))
}

fn line(record: &Record, link: Link<'_>, place: Option<&Place>, other: &Record) -> Option<String> {
    let ip = address(record, other, place)?;
    let mut names = vec![link.alias];
    for name in [other.config.hostname.as_str(), other.name.as_str()] {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    Some(format!("{ip}\t{}\n", names.join(" ")))
}

/// Lines for the `/etc/hosts` of a container that is being started.
pub(super) fn hosts(shared: &Shared, record: &Record) -> String {
    let lines =
        all(record).filter_map(|(link, place)| line(record, link, place, &shared.find(link.target).ok()?.record()));
    lines.collect()
}

/// On the default bridge the others must run, in Docker's words.
///
/// # Errors
/// `Conflict` naming the first that does not.
pub(super) fn require(shared: &Shared, record: &Record) -> Result<()> {
    if !on_default_bridge(&record.host) {
        return Ok(());
    }
    for link in record.host.links.iter().filter_map(|text| Link::parse(text).ok()) {
        let other = shared.find(link.target)?.record();
        if !other.state.is_running() {
            return Err(Error::conflict(format!(
                "Cannot link to a non running container: /{} AS /{}/{}",
                other.name, record.name, link.alias
            )));
        }
    }
    Ok(())
}

/// What the environment of a container on the default bridge has of its links.
pub(super) fn environment(shared: &Shared, record: &Record) -> Vec<String> {
    if !on_default_bridge(&record.host) {
        return Vec::new();
    }
    let links = record.host.links.iter().filter_map(|text| Link::parse(text).ok());
    let known = links.filter_map(|link| Some((link, shared.find(link.target).ok()?.record())));
    known.flat_map(|(link, other)| variables(record, link, &other)).collect()
}

fn variables(record: &Record, link: Link<'_>, other: &Record) -> Vec<String> {
    let Some(ip) = address(record, other, None) else { return Vec::new() };
    let prefix = link.alias.replace('-', "_").to_uppercase();
    let mut ports: Vec<_> = other.config.exposed_ports.iter().filter_map(|port| parse_port(port).ok()).collect();
    ports.sort();
    let mut all = Vec::new();
    if let Some((port, protocol)) = ports.first() {
        all.push(format!("{prefix}_PORT={protocol}://{ip}:{port}"));
    }
    for (port, protocol) in &ports {
        let upper = protocol.to_string().to_uppercase();
        let name = format!("{prefix}_PORT_{port}_{upper}");
        all.push(format!("{name}={protocol}://{ip}:{port}"));
        all.extend([format!("{name}_ADDR={ip}"), format!("{name}_PORT={port}"), format!("{name}_PROTO={protocol}")]);
    }
    all.push(format!("{prefix}_NAME=/{}/{}", record.name, link.alias));
    let theirs = other.config.env.iter().filter_map(|e| e.split_once('='));
    all.extend(theirs.filter(|(k, _)| !matches!(*k, "HOME" | "PATH")).map(|(k, v)| format!("{prefix}_ENV_{k}={v}")));
    all
}

/// As inspect shows them: `/OTHER:/OWNER/ALIAS` on the default bridge.
pub(super) fn shown(shared: &Shared, record: &Record) -> Vec<String> {
    if !on_default_bridge(&record.host) {
        return record.host.links.clone();
    }
    let links = record.host.links.iter().filter_map(|text| Link::parse(text).ok());
    let known = links.filter_map(|link| Some((link, shared.find(link.target).ok()?.record())));
    known.map(|(link, other)| format!("/{}:/{}/{}", other.name, record.name, link.alias)).collect()
}

/// A container has started, perhaps at another address: those that have a link to it learn of it. What cannot be written is
/// logged.
pub(super) async fn refresh(shared: &Shared, started: &Record) {
    for handle in shared.containers.all() {
        let record = handle.record();
        if record.id == started.id || !record.state.is_running() {
            continue;
        }
        let known = all(&record).filter(|(link, _)| link.means(started));
        let lines =
            known.filter_map(|(link, place)| Some((link.alias.to_owned(), line(&record, link, place, started)?)));
        rewrite(shared, &record, lines.collect()).await;
    }
}

/// A link is gone: a running container's file loses its line.
pub(super) async fn forget(shared: &Shared, record: &Record, alias: &str) {
    rewrite(shared, record, vec![(alias.to_owned(), String::new())]).await;
}

/// Takes the links of this name out of a record: clients write one into the host configuration and into a place. False: there
/// is none.
pub(super) fn remove(record: &mut Record, alias: &str) -> bool {
    let places = record.places.iter_mut().map(|place| &mut place.links);
    let mut found = false;
    for links in places.chain([&mut record.host.links]) {
        let before = links.len();
        links.retain(|text| !Link::parse(text).is_ok_and(|link| link.alias == alias));
        found |= links.len() != before;
    }
    found
}

/// A running container has joined a network with links: its file gets their lines.
pub(super) async fn joined(shared: &Shared, record: &Record, place: &Place) {
    let of_place = all(record).filter(|(_, of)| of.is_some_and(|of| of.network == place.network));
    let lines = of_place.filter_map(|(link, of)| {
        let other: Arc<Record> = shared.find(link.target).ok()?.record();
        Some((link.alias.to_owned(), line(record, link, of, &other)?))
    });
    rewrite(shared, record, lines.collect()).await;
}

async fn rewrite(shared: &Shared, record: &Record, lines: Vec<(String, String)>) {
    if lines.is_empty() {
        return;
    }
    let path = shared.folder(&record.id).join("hosts");
    let written = error::blocking(move || {
        replace(&path, &lines).map_err(|e| Error::internal(format!("write {}: {e}", path.display())))
    });
    if let Err(error) = written.await {
        tracing::warn!(container.id = %record.id, %error, "a linked container is not found at its new address");
    }
}

/// Replaces the lines of these aliases. In place: a running container sees the file through a bind mount of this very inode.
fn replace(path: &Path, lines: &[(String, String)]) -> std::io::Result<()> {
    let _rewriting = REWRITING.lock().unwrap_or_else(|e| e.into_inner());
    // The container may have written what it likes.
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_HOSTS + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_HOSTS {
        return Err(std::io::Error::other(format!("it has grown beyond {MAX_HOSTS} bytes and is left alone")));
    }
    fs::write(path, replaced(&text, lines))
}

fn replaced(text: &str, lines: &[(String, String)]) -> String {
    let of_alias = |line: &&str| {
        let first = line.split_whitespace().nth(1);
        !lines.iter().any(|(alias, _)| first == Some(alias))
    };
    let mut kept = String::new();
    for line in text.lines().filter(of_alias) {
        let _ = writeln!(kept, "{line}"); // Writing to a String does not fail.
    }
    lines.iter().for_each(|(_, line)| kept.push_str(line));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_clients_write_and_inspect_shows_them() {
        let read = |text: &'static str| Link::parse(text).map(|l| (l.target, l.alias)).ok();
        assert_eq!(read("db"), Some(("db", "db")));
        assert_eq!(read("db:store"), Some(("db", "store")));
        assert_eq!(read("/db:/web/store"), Some(("db", "store")));
        for bad in ["", ":", ":x", "db:", "db:a b", "db:a:b"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_new_address_takes_the_place_of_the_old_one() {
        let text = "127.0.0.1\tlocalhost\n10.0.0.2\tstore 0123 db\n10.0.0.9\tstored\n";
        let lines = [("store".to_owned(), "10.0.0.7\tstore 0123 db\n".to_owned())];
        assert_eq!(replaced(text, &lines), "127.0.0.1\tlocalhost\n10.0.0.9\tstored\n10.0.0.7\tstore 0123 db\n");
        let gone = [("store".to_owned(), String::new())];
        assert_eq!(replaced(text, &gone), "127.0.0.1\tlocalhost\n10.0.0.9\tstored\n");
    }

    #[test]
    fn a_link_is_removed_by_its_alias_and_known_to_the_name_server_where_there_are_names() {
        let id = "ab".repeat(32);
        let links = vec![format!("{id}:store"), "other:else".to_owned()];
        let mut record = Record { host: HostConfig { links, ..HostConfig::default() }, ..Record::default() };
        record.host.network_mode = "bridge".into();
        assert_eq!(named(&record).count(), 0);
        record.host.network_mode = "mine".into();
        assert_eq!(
            named(&record).map(|(a, t, _)| (a, t)).collect::<Vec<_>>(),
            [("store", &id[..12]), ("else", "other")]
        );
        record.places.push(Place { links: vec!["other:store".into()], ..Place::default() });
        assert!(remove(&mut record, "store") && !remove(&mut record, "store"));
        assert_eq!(record.places[0].links, Vec::<String>::new());
        assert_eq!(record.host.links, ["other:else"]);
    }
}
