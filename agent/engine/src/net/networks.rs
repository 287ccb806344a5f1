//! The networks of this host: what they are, who is on them, which addresses are taken.

use super::{
    gateways::DEFAULT_DEVICE,
    ipam::{self, Ipam, Range},
    remote::Pool,
};
use crate::{
    clock,
    config::EngineConfig,
    error::{self, OpenError},
    names,
    record::{Durability, durable},
};
use muster_calls::{Error, Result};
use muster_model::{
    Timestamp,
    engine::Strings,
    net::{Subnet, Subnet6},
    view::Network6,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

/// The networks that every host has.
pub(crate) const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];
pub(super) const MTU_OPTION: &str = "com.docker.network.driver.mtu";
pub(super) const ICC_OPTION: &str = "com.docker.network.bridge.enable_icc";
pub(super) const MASQUERADE_OPTION: &str = "com.docker.network.bridge.enable_ip_masquerade";
pub(super) const NAME_OPTION: &str = "com.docker.network.bridge.name";
pub(super) const BINDING_OPTION: &str = "com.docker.network.bridge.host_binding_ipv4";

/// A network of this host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NetworkRecord {
    pub id: String,
    pub name: String,
    pub created: Timestamp,
    /// `bridge`, `host` or `null`; else a plugin.
    pub driver: String,
    /// Number of its [`muster_model::net::Scope`]; never used twice on this host.
    pub scope: u32,
    pub subnet: Option<Subnet>,
    pub gateway: Option<Ipv4Addr>,
    pub ip_range: Option<Subnet>,
    /// Addresses that are not given out, by name.
    pub auxiliary: Strings,
    pub internal: bool,
    pub attachable: bool,
    pub labels: Strings,
    pub options: Strings,
    pub ipam_options: Option<Strings>,
    /// Who gives addresses: empty is the engine.
    pub ipam_driver: String,
    /// What an address plugin gave, by family.
    pub pool: Option<Pool>,
    pub pool6: Option<Pool>,
    /// Plugins may know it, and nobody else does: it was being made or removed.
    pub unsettled: bool,
    /// The subnet was chosen by a user: only then may containers ask for an address (as in Docker).
    pub subnet_given: bool,
    /// IPv6 besides IPv4. The fields below are as their namesakes above.
    pub enable_ipv6: bool,
    pub subnet6: Option<Subnet6>,
    pub gateway6: Option<Ipv6Addr>,
    pub ip_range6: Option<Subnet6>,
    pub auxiliary6: Strings,
    pub subnet6_given: bool,
}

impl NetworkRecord {
    pub fn is_predefined(&self) -> bool {
        PREDEFINED.contains(&self.name.as_str())
    }

    /// Whether a plugin drives it.
    pub fn is_remote(&self) -> bool {
        super::remote::is_plugin(&self.driver)
    }

    /// Whether plugins have a part in each endpoint.
    pub(super) fn asks_plugins(&self) -> bool {
        self.is_remote() || !self.ipam_driver.is_empty()
    }

    /// Whether its containers are kept from each other.
    pub(super) fn is_isolated(&self) -> bool {
        self.options.get(ICC_OPTION).is_some_and(|v| parse_bool(v) == Some(false))
    }

    /// Whether what leaves it keeps its containers' addresses.
    pub(super) fn is_routed(&self) -> bool {
        self.options.get(MASQUERADE_OPTION).is_some_and(|v| parse_bool(v) == Some(false))
    }

    pub(super) fn v6(&self) -> Option<Network6> {
        Some(Network6 { subnet: self.subnet6?, gateway: self.gateway6? })
    }

    pub(super) fn range(&self) -> Option<Range> {
        Some(Range { subnet: self.subnet?, gateway: self.gateway?, ip_range: self.ip_range })
    }
}

/// All networks of one engine.
#[derive(Debug)]
pub(crate) struct Networks {
    folder: PathBuf,
    pools: Vec<(Subnet, u8)>,
    inner: Mutex<Inner>,
    /// Held from the choice of name and subnet until they are entered. Taken before `inner`, on threads that may block.
    pub(super) making: Mutex<()>,
    /// Held while the network for ways out is looked for and made.
    pub(super) making_way_out: tokio::sync::Mutex<()>,
    /// Held while the data plane is told of gateway devices.
    pub(super) naming: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub by_id: BTreeMap<String, Arc<NetworkRecord>>,
    pub ipam: Ipam,
    /// Containers with an interface on a network, by network id.
    pub users: BTreeMap<String, BTreeSet<String>>,
    /// Being made or removed by plugins: they hold a name and subnets, and nobody sees them.
    pub pending: BTreeMap<String, Arc<NetworkRecord>>,
    /// Left half-made or half-removed by the daemon before.
    unsettled: Vec<NetworkRecord>,
    next_scope: u32,
}

impl Networks {
    /// Reads the records and makes the predefined networks where they are missing. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: &Path, config: &EngineConfig) -> std::result::Result<Self, OpenError> {
        fs::create_dir_all(folder).map_err(OpenError::io("create", folder))?;
        let (inner, making, making_way_out, naming) = Default::default();
        let pools = config.address_pools.clone();
        let networks = Self { folder: folder.to_owned(), pools, inner, making, making_way_out, naming };
        for entry in fs::read_dir(folder).map_err(OpenError::io("read", folder))? {
            networks.read(&entry.map_err(OpenError::io("read", folder))?.path())?;
        }
        networks.make_predefined(config)?;
        Ok(networks)
    }

    fn read(&self, path: &Path) -> std::result::Result<(), OpenError> {
        if path.extension().is_none_or(|e| e != "json") {
            return Ok(durable::remove_file(path)?); // A temporary file: left half-written.
        }
        let Some(bytes) = durable::read(path)? else { return Ok(()) };
        match serde_json::from_slice::<NetworkRecord>(&bytes) {
            Ok(record) => self.lock().read(record),
            Err(e) => {
                tracing::error!(path = %path.display(), error = %e, "a network record cannot be read and is left alone")
            }
        }
        Ok(())
    }

    fn make_predefined(&self, config: &EngineConfig) -> std::result::Result<(), OpenError> {
        for (name, driver) in PREDEFINED.into_iter().zip(["bridge", "host", "null"]) {
            if let Ok(there) = self.find(name) {
                if driver == "bridge" && there.given_device().is_none() {
                    self.name_default(&there)?; // of a daemon before this one
                }
                continue;
            }
            let mut record =
                NetworkRecord { name: name.to_owned(), driver: driver.to_owned(), ..NetworkRecord::default() };
            if driver == "bridge" {
                let subnet = match config.bridge_subnet {
                    Some(subnet) => subnet,
                    None => self
                        .free_subnet()
                        .map_err(|e| OpenError::Config { field: "address_pools", reason: e.to_string() })?,
                };
                (record.subnet, record.gateway) = (Some(subnet), Some(subnet.gateway()));
                record.options = default_bridge_options(config.mtu);
            }
            self.add(record)?;
        }
        Ok(())
    }

    /// Gives the default network's device its name, where a user's network has not got it before. Blocks on the disk.
    fn name_default(&self, record: &NetworkRecord) -> std::result::Result<(), durable::Error> {
        let mut record = record.clone();
        let has_it = |n: &Arc<NetworkRecord>| n.given_device() == Some(DEFAULT_DEVICE);
        let device = if self.all().iter().any(has_it) { record.own_device() } else { DEFAULT_DEVICE.to_owned() };
        record.options.insert(NAME_OPTION.to_owned(), device);
        durable::write(&self.path(&record.id), &self.encode(&record)?, Durability::Power)?;
        self.replace(record);
        Ok(())
    }

    fn encode(&self, record: &NetworkRecord) -> std::result::Result<Vec<u8>, durable::Error> {
        serde_json::to_vec(record).map_err(|e| durable::Error::at("encode", &self.folder)(e.into()))
    }

    /// Puts a record in the place of the one before, if that is still there.
    pub(super) fn replace(&self, record: NetworkRecord) {
        if let Some(there) = self.lock().by_id.get_mut(&record.id) {
            *there = Arc::new(record);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Gives a network its id and number, writes it down and enters it. Blocks on the disk.
    pub(super) fn add(&self, mut record: NetworkRecord) -> std::result::Result<Arc<NetworkRecord>, durable::Error> {
        self.identify(&mut record);
        durable::write(&self.path(&record.id), &self.encode(&record)?, Durability::Power)?;
        let id = record.id.clone();
        let mut inner = self.lock();
        inner.enter(record);
        Ok(inner.by_id[&id].clone())
    }

    fn identify(&self, record: &mut NetworkRecord) {
        record.id = names::new_id();
        record.created = clock::now();
        record.scope = self.lock().take_scope();
    }

    /// Holds the name and the subnets of a network that plugins are about to make.
    pub(super) fn hold_pending(&self, mut record: NetworkRecord) -> NetworkRecord {
        self.identify(&mut record);
        self.lock().pending.insert(record.id.clone(), Arc::new(record.clone()));
        record
    }

    /// Lets go of what [`Networks::hold_pending`] held.
    pub(super) fn abandon(&self, id: &str) {
        self.lock().pending.remove(id);
    }

    /// Writes a record down.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn write(&self, record: &NetworkRecord) -> Result<()> {
        let path = self.path(&record.id);
        let bytes = serde_json::to_vec(record).map_err(|e| Error::internal(format!("network {}: {e}", record.name)))?;
        error::blocking(move || durable::write(&path, &bytes, Durability::Power).map_err(error::disk)).await
    }

    /// Enters a network that plugins have made, or have not removed.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn settle(&self, record: NetworkRecord) -> Result<Arc<NetworkRecord>> {
        let written = self.write(&record).await;
        let id = record.id.clone();
        let mut inner = self.lock();
        inner.pending.remove(&id);
        written?;
        inner.enter(record);
        Ok(inner.by_id[&id].clone())
    }

    /// Those that the daemon before left unsettled: whoever asks has them to settle.
    pub(super) fn take_unsettled(&self) -> Vec<NetworkRecord> {
        std::mem::take(&mut self.lock().unsettled)
    }

    /// Those that there are, and those that are being made.
    pub(super) fn all_and_pending(&self) -> Vec<Arc<NetworkRecord>> {
        let inner = self.lock();
        inner.by_id.values().chain(inner.pending.values()).cloned().collect()
    }

    /// Notes that a container is on a network.
    ///
    /// # Errors
    /// `NotFound` when it has been removed.
    pub(super) fn enter_user(&self, network: &NetworkRecord, container: &str) -> Result<()> {
        let mut inner = self.lock();
        if !inner.by_id.contains_key(&network.id) {
            return Err(Error::not_found(format!("network {} not found", network.name)));
        }
        inner.users.entry(network.id.clone()).or_default().insert(container.to_owned());
        Ok(())
    }

    /// Takes the addresses of a place from the engine's own pools. That of IPv4 is unspecified where the network has none.
    ///
    /// # Errors
    /// `Forbidden`, in Docker's words; nothing is taken then.
    pub(super) fn take_addresses(
        &self,
        network: &NetworkRecord,
        place: &crate::record::Place,
    ) -> Result<(Ipv4Addr, Option<(Ipv6Addr, Network6)>)> {
        let refused = |e: ipam::Error| Error::forbidden(e.to_string());
        if network.range().is_none() && network.v6().is_none() {
            return Err(Error::invalid(format!("network {} has no addresses", network.name)));
        }
        let mut inner = self.lock();
        let ip = match network.range() {
            Some(range) => inner.ipam.take(&network.id, range, place.wanted_ip).map_err(refused)?,
            None => Ipv4Addr::UNSPECIFIED,
        };
        let Some(net) = network.v6() else { return Ok((ip, None)) };
        match inner.ipam.take6(&network.id, net, network.ip_range6, place.wanted_ip6) {
            Ok(ip6) => Ok((ip, Some((ip6, net)))),
            Err(e) => {
                inner.ipam.give_back(&network.id, ip);
                Err(refused(e))
            }
        }
    }

    /// Gives addresses back.
    pub(super) fn give_back(&self, network: &str, ip: Ipv4Addr, ip6: Option<Ipv6Addr>) {
        let mut inner = self.lock();
        inner.ipam.give_back(network, ip);
        ip6.into_iter().for_each(|ip| inner.ipam.give_back6(network, ip));
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// A subnet of the pools that overlaps neither a network nor a route of this host.
    pub(super) fn free_subnet(&self) -> std::result::Result<Subnet, ipam::Error> {
        let mut used: Vec<Subnet> = self.all_and_pending().iter().filter_map(|n| n.subnet).collect();
        // Without /proc there are no routes to keep off.
        used.extend(ipam::parse_routes(&fs::read_to_string("/proc/net/route").unwrap_or_default()));
        ipam::free_subnet(&self.pools, &used)
    }

    /// Finds by name, full id, then by prefix of an id.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a prefix of several.
    pub fn find(&self, name: &str) -> Result<Arc<NetworkRecord>> {
        let inner = self.lock();
        let name = if name == "default" { "bridge" } else { name };
        if let Some(network) = inner.by_id.values().find(|n| n.name == name).or_else(|| inner.by_id.get(name)) {
            return Ok(network.clone());
        }
        let missing = || Error::not_found(format!("network {name} not found"));
        if !names::is_hex(name) {
            return Err(missing());
        }
        let mut fitting = inner.by_id.values().filter(|n| n.id.starts_with(name));
        match (fitting.next(), fitting.next()) {
            (Some(network), None) => Ok(network.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {name} is ambiguous ({} matches found on ID prefix)",
                fitting.count() + 2
            ))),
            (None, _) => Err(missing()),
        }
    }

    pub fn all(&self) -> Vec<Arc<NetworkRecord>> {
        self.lock().by_id.values().cloned().collect()
    }

    /// Containers with an interface on a network.
    pub fn users(&self, id: &str) -> BTreeSet<String> {
        self.lock().users.get(id).cloned().unwrap_or_default()
    }

    /// Removes a network that nobody is on.
    ///
    /// # Errors
    /// `Forbidden`, in Docker's words.
    pub async fn remove(&self, network: &NetworkRecord) -> Result<()> {
        self.take_out(network)?;
        let removed = self.erase(&network.id).await;
        self.abandon(&network.id);
        if removed.is_err() {
            self.lock().by_id.insert(network.id.clone(), Arc::new(network.clone()));
        }
        removed
    }

    /// Takes a network that nobody is on out of sight; its name and subnets are held until it is erased, settled or abandoned.
    ///
    /// # Errors
    /// `Forbidden`, in Docker's words; `NotFound` when somebody else has just done so.
    pub(super) fn take_out(&self, network: &NetworkRecord) -> Result<()> {
        if network.is_predefined() {
            return Err(Error::forbidden(format!("{} is a pre-defined network and cannot be removed", network.name)));
        }
        let mut inner = self.lock();
        if inner.users.get(&network.id).is_some_and(|u| !u.is_empty()) {
            return Err(Error::forbidden(format!(
                "error while removing network: network {} id {} has active endpoints",
                network.name, network.id
            )));
        }
        let there = inner.by_id.remove(&network.id);
        let there = there.ok_or_else(|| Error::not_found(format!("network {} not found", network.name)))?;
        inner.pending.insert(there.id.clone(), there);
        Ok(())
    }

    /// Removes the record of a network that is out of sight.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn erase(&self, id: &str) -> Result<()> {
        let (path, folder) = (self.path(id), self.folder.clone());
        error::blocking(move || {
            durable::remove_file(&path).and_then(|()| durable::flush_folder(&folder)).map_err(error::disk)
        })
        .await?;
        self.lock().ipam.forget(id);
        Ok(())
    }
}

impl Inner {
    /// Takes a record that was on the disk at the start.
    fn read(&mut self, record: NetworkRecord) {
        self.next_scope = self.next_scope.max(record.scope + 1);
        if record.unsettled {
            self.unsettled.push(record);
        } else {
            self.enter(record);
        }
    }

    fn enter(&mut self, record: NetworkRecord) {
        self.next_scope = self.next_scope.max(record.scope + 1);
        for ip in record.auxiliary.values().filter_map(|ip| ip.parse().ok()) {
            self.ipam.hold(&record.id, ip);
        }
        for ip in record.auxiliary6.values().filter_map(|ip| ip.parse().ok()) {
            self.ipam.hold6(&record.id, ip);
        }
        self.by_id.insert(record.id.clone(), Arc::new(record));
    }

    fn take_scope(&mut self) -> u32 {
        // 0 is nobody's, so that a forgotten number is no network.
        let scope = self.next_scope.max(1);
        self.next_scope = scope + 1;
        scope
    }
}

/// Go's `strconv.ParseBool`, which reads Docker's options.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn default_bridge_options(mtu: u32) -> Strings {
    [
        ("com.docker.network.bridge.default_bridge", "true".to_owned()),
        ("com.docker.network.bridge.enable_icc", "true".to_owned()),
        (MASQUERADE_OPTION, "true".to_owned()),
        (BINDING_OPTION, "0.0.0.0".to_owned()),
        (NAME_OPTION, DEFAULT_DEVICE.to_owned()),
        (MTU_OPTION, mtu.to_string()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect()
}
