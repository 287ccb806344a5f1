//! The kernel's maps: opened from their pins, read back, and made equal to a [`MapImage`] by the difference.

use crate::{
    counters::Reason,
    image::MapImage,
    layout::{
        Addr, Addr6, Backend, BackendKey, Endpoint, EndpointKey, EndpointKey6, Iface, Iface6, MemberKey, Namespace,
        Published, Published6, PublishedKey, PublishedKey6, Settings,
    },
    report::Error,
};
use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
};
use std::{collections::BTreeMap, path::Path};

/// Handles on the maps of one instance.
pub struct Tables {
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, u64>,
    ifaces: HashMap<MapData, u32, Iface>,
    endpoints: HashMap<MapData, EndpointKey, Endpoint>,
    backends: HashMap<MapData, BackendKey, Backend>,
    published: HashMap<MapData, PublishedKey, Published>,
    networks: HashMap<MapData, u32, u32>,
    members: HashMap<MapData, MemberKey, u32>,
    subnets: LpmTrie<MapData, Addr, u32>,
    vteps: HashMap<MapData, Addr, u32>,
    host_addrs: HashMap<MapData, Addr, u32>,
    namespaces: HashMap<MapData, u64, Namespace>,
    ifaces6: HashMap<MapData, u32, Iface6>,
    endpoints6: HashMap<MapData, EndpointKey6, Endpoint>,
    subnets6: LpmTrie<MapData, Addr6, u32>,
    published6: HashMap<MapData, PublishedKey6, Published6>,
    host_addrs6: HashMap<MapData, Addr6, u32>,
    /// What the maps hold; nobody else writes them.
    held: MapImage,
}

/// How many entries a write touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub put: usize,
    pub deleted: usize,
}

impl Tables {
    /// Opens the maps pinned in `dir` and reads what they hold.
    ///
    /// # Errors
    /// [`Error::Bpf`] naming the map.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let mut tables = Self {
            settings: typed(dir, "config_map")?,
            counters: typed(dir, "counts")?,
            ifaces: typed(dir, "ifaces")?,
            endpoints: typed(dir, "endpoints")?,
            backends: typed(dir, "backends")?,
            published: typed(dir, "published")?,
            networks: typed(dir, "networks")?,
            members: typed(dir, "members")?,
            subnets: typed(dir, "subnets")?,
            vteps: typed(dir, "vteps")?,
            host_addrs: typed(dir, "host_addrs")?,
            namespaces: typed(dir, "namespaces")?,
            ifaces6: typed(dir, "ifaces6")?,
            endpoints6: typed(dir, "endpoints6")?,
            subnets6: typed(dir, "subnets6")?,
            published6: typed(dir, "published6")?,
            host_addrs6: typed(dir, "host_addrs6")?,
            held: MapImage::default(),
        };
        tables.read_back()?;
        Ok(tables)
    }

    /// Learns what the maps hold. After an error in the middle of a write this makes the next difference right again.
    ///
    /// # Errors
    /// [`Error::Bpf`].
    pub fn read_back(&mut self) -> Result<(), Error> {
        self.held = MapImage {
            settings: self.settings.get(&0, 0).map_err(|e| bpf("read", "config_map", &e))?,
            ifaces: hash_entries("ifaces", &self.ifaces)?,
            endpoints: hash_entries("endpoints", &self.endpoints)?,
            backends: hash_entries("backends", &self.backends)?,
            published: hash_entries("published", &self.published)?,
            networks: hash_entries("networks", &self.networks)?,
            members: hash_entries("members", &self.members)?,
            subnets: trie_entries("subnets", &self.subnets)?,
            vteps: hash_entries("vteps", &self.vteps)?,
            host_addrs: hash_entries("host_addrs", &self.host_addrs)?,
            namespaces: hash_entries("namespaces", &self.namespaces)?,
            ifaces6: hash_entries("ifaces6", &self.ifaces6)?,
            endpoints6: hash_entries("endpoints6", &self.endpoints6)?,
            subnets6: trie_entries("subnets6", &self.subnets6)?,
            published6: hash_entries("published6", &self.published6)?,
            host_addrs6: hash_entries("host_addrs6", &self.host_addrs6)?,
        };
        Ok(())
    }

    /// Makes the maps equal to `image`: what others lead to is written first and deleted last.
    ///
    /// # Errors
    /// [`Error::Bpf`] naming the map; [`Tables::read_back`] was done then, so that the next write starts from the truth.
    pub fn write(&mut self, image: &MapImage) -> Result<Written, Error> {
        let done = self.write_difference(image);
        match &done {
            Ok(_) => self.held = image.clone(),
            Err(_) => self.read_back()?,
        }
        done
    }

    fn write_difference(&mut self, new: &MapImage) -> Result<Written, Error> {
        let old = &self.held;
        let mut w = Written::default();
        put(&mut self.backends, "backends", &old.backends, &new.backends, &mut w)?;
        put(&mut self.networks, "networks", &old.networks, &new.networks, &mut w)?;
        put(&mut self.vteps, "vteps", &old.vteps, &new.vteps, &mut w)?;
        put(&mut self.host_addrs, "host_addrs", &old.host_addrs, &new.host_addrs, &mut w)?;
        put(&mut self.subnets, "subnets", &old.subnets, &new.subnets, &mut w)?;
        if old.settings != new.settings {
            self.settings.set(0, new.settings, 0).map_err(|e| bpf("write", "config_map", &e))?;
            w.put += 1;
        }
        put(&mut self.ifaces, "ifaces", &old.ifaces, &new.ifaces, &mut w)?;
        put(&mut self.host_addrs6, "host_addrs6", &old.host_addrs6, &new.host_addrs6, &mut w)?;
        put(&mut self.subnets6, "subnets6", &old.subnets6, &new.subnets6, &mut w)?;
        put(&mut self.ifaces6, "ifaces6", &old.ifaces6, &new.ifaces6, &mut w)?;
        put(&mut self.endpoints6, "endpoints6", &old.endpoints6, &new.endpoints6, &mut w)?;
        put(&mut self.endpoints, "endpoints", &old.endpoints, &new.endpoints, &mut w)?;
        put(&mut self.members, "members", &old.members, &new.members, &mut w)?;
        put(&mut self.published, "published", &old.published, &new.published, &mut w)?;
        put(&mut self.published6, "published6", &old.published6, &new.published6, &mut w)?;
        put(&mut self.namespaces, "namespaces", &old.namespaces, &new.namespaces, &mut w)?;

        delete(&mut self.namespaces, "namespaces", &old.namespaces, &new.namespaces, &mut w)?;
        delete(&mut self.published6, "published6", &old.published6, &new.published6, &mut w)?;
        delete(&mut self.members, "members", &old.members, &new.members, &mut w)?;
        delete(&mut self.published, "published", &old.published, &new.published, &mut w)?;
        delete(&mut self.endpoints, "endpoints", &old.endpoints, &new.endpoints, &mut w)?;
        delete(&mut self.endpoints6, "endpoints6", &old.endpoints6, &new.endpoints6, &mut w)?;
        delete(&mut self.ifaces6, "ifaces6", &old.ifaces6, &new.ifaces6, &mut w)?;
        delete(&mut self.subnets6, "subnets6", &old.subnets6, &new.subnets6, &mut w)?;
        delete(&mut self.host_addrs6, "host_addrs6", &old.host_addrs6, &new.host_addrs6, &mut w)?;
        delete(&mut self.ifaces, "ifaces", &old.ifaces, &new.ifaces, &mut w)?;
        delete(&mut self.subnets, "subnets", &old.subnets, &new.subnets, &mut w)?;
        delete(&mut self.host_addrs, "host_addrs", &old.host_addrs, &new.host_addrs, &mut w)?;
        delete(&mut self.vteps, "vteps", &old.vteps, &new.vteps, &mut w)?;
        delete(&mut self.networks, "networks", &old.networks, &new.networks, &mut w)?;
        delete(&mut self.backends, "backends", &old.backends, &new.backends, &mut w)?;
        Ok(w)
    }

    /// Sums of all processors since the maps were made.
    ///
    /// # Errors
    /// [`Error::Bpf`].
    pub fn counters(&self) -> Result<Vec<(Reason, u64)>, Error> {
        let sum = |reason: &Reason| {
            let values = self.counters.get(&(*reason as u32), 0).map_err(|e| bpf("read", "counters", &e))?;
            Ok((*reason, values.iter().sum()))
        };
        Reason::ALL.iter().map(sum).collect()
    }
}

/// A map that single entries are written to, whatever its kind in the kernel.
trait Table<K, V> {
    fn set(&mut self, key: &K, value: &V) -> Result<(), MapError>;
    fn unset(&mut self, key: &K) -> Result<(), MapError>;
}

impl<K: Pod, V: Pod> Table<K, V> for HashMap<MapData, K, V> {
    fn set(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.insert(key, value, 0)
    }
    fn unset(&mut self, key: &K) -> Result<(), MapError> {
        self.remove(key)
    }
}

impl<A: Pod> Table<(u32, A), u32> for LpmTrie<MapData, A, u32> {
    fn set(&mut self, key: &(u32, A), value: &u32) -> Result<(), MapError> {
        self.insert(&Key::new(key.0, key.1), value, 0)
    }
    fn unset(&mut self, key: &(u32, A)) -> Result<(), MapError> {
        self.remove(&Key::new(key.0, key.1))
    }
}

fn put<K: Ord, V: PartialEq>(
    table: &mut impl Table<K, V>,
    name: &str,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    written: &mut Written,
) -> Result<(), Error> {
    for (key, value) in new.iter().filter(|(k, v)| old.get(k) != Some(v)) {
        table.set(key, value).map_err(|e| bpf("write", name, &e))?;
        written.put += 1;
    }
    Ok(())
}

fn delete<K: Ord, V: PartialEq>(
    table: &mut impl Table<K, V>,
    name: &str,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    written: &mut Written,
) -> Result<(), Error> {
    for key in old.keys().filter(|k| !new.contains_key(k)) {
        match table.unset(key) {
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => {}
            done => done.map_err(|e| bpf("delete from", name, &e))?,
        }
        written.deleted += 1;
    }
    Ok(())
}

fn hash_entries<K: Pod + Ord, V: Pod>(name: &str, map: &HashMap<MapData, K, V>) -> Result<BTreeMap<K, V>, Error> {
    map.iter().collect::<Result<_, _>>().map_err(|e| bpf("read", name, &e))
}

fn trie_entries<A: Pod + Ord>(name: &str, map: &LpmTrie<MapData, A, u32>) -> Result<BTreeMap<(u32, A), u32>, Error> {
    let entries = map.iter().map(|e| e.map(|(k, v)| ((k.prefix_len(), k.data()), v)));
    entries.collect::<Result<_, _>>().map_err(|e| bpf("read", name, &e))
}

fn typed<T: TryFrom<Map, Error = MapError>>(dir: &Path, name: &str) -> Result<T, Error> {
    let open = || T::try_from(Map::from_map_data(MapData::from_pin(dir.join(name))?)?);
    open().map_err(|e| bpf("open", name, &e))
}

fn bpf(doing: &str, map: &str, error: &MapError) -> Error {
    Error::Bpf { doing: format!("{doing} map {map}"), why: crate::report::chain(error) }
}
