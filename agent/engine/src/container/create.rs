//! Making a container: from a request to a record and a root file system. Nothing runs yet.

use super::{Begin, Handle, check, mounts, spawn};
use crate::{
    clock,
    engine::{LocalEngine, Shared},
    error, names,
    record::{ClusterPlace, Durability, Mounted, Phase, Place, Record},
    volume::image_root,
};
use muster_calls::{Error, Kind, Result};
use muster_model::{
    engine::{ContainerConfig, ContainerCreateBody, ContainerCreated, EndpointSettings, HealthConfig, HostConfig},
    net::{Mac, Scope, Subnet},
};
use std::{net::Ipv4Addr, sync::Arc};

/// An endpoint of a cluster's task: the cluster gave out its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    pub scope: Scope,
    pub network_name: String,
    /// The network's id as text, shown in documents.
    pub network_id: String,
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    pub internal: bool,
    /// Bytes.
    pub mtu: u32,
    pub ip: Ipv4Addr,
    pub mac: Mac,
    /// Further names of the container on this network.
    pub aliases: Vec<String>,
}

impl LocalEngine {
    /// Makes a container for a task of the cluster: as `container_create`, but on these endpoints and on no network of
    /// this host. Without endpoints the body's `NetworkMode` decides, `none` where it names no network.
    ///
    /// # Errors
    /// As `container_create`.
    pub async fn create_with_endpoints(
        &self,
        name: Option<String>,
        mut body: ContainerCreateBody,
        endpoints: Vec<EndpointSpec>,
    ) -> Result<String> {
        let places: Vec<Place> = endpoints.into_iter().map(place_of).collect();
        if let Some(first) = places.first() {
            body.host_config.network_mode.clone_from(&first.network);
        } else if matches!(body.host_config.network_mode.as_str(), "" | "default") {
            body.host_config.network_mode = "none".to_owned();
        }
        body.networking_config = Default::default();
        let shared = self.shared.clone();
        self.shared.finish(async move { shared.create(name, body, Some(places)).await }).await.map(|created| created.id)
    }
}

impl LocalEngine {
    /// Puts a container on a network of the cluster, live if it runs; `network_disconnect` takes it off again.
    ///
    /// # Errors
    /// As `network_connect`.
    pub async fn connect_endpoint(&self, container: &str, endpoint: EndpointSpec) -> Result<()> {
        let place = Box::new(place_of(endpoint));
        self.shared.find(container)?.ask(|reply| super::Command::Connect { place, reply }).await
    }
}

fn place_of(spec: EndpointSpec) -> Place {
    Place {
        cluster: Some(cluster_place(&spec)),
        network: spec.network_name,
        network_id: spec.network_id,
        wanted_ip: Some(spec.ip),
        wanted_mac: Some(spec.mac),
        aliases: spec.aliases,
        ..Place::default()
    }
}

pub(crate) fn cluster_place(spec: &EndpointSpec) -> ClusterPlace {
    ClusterPlace {
        scope: spec.scope,
        subnet: spec.subnet,
        gateway: spec.gateway,
        internal: spec.internal,
        mtu: spec.mtu,
    }
}

/// Docker's words for a name that cannot be.
pub(super) fn bad_name(name: &str) -> Error {
    Error::invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"))
}

impl Shared {
    /// Makes a container. `places` are those of a cluster's task; `None`: networks of this host, as the body says.
    pub(crate) async fn create(
        self: &Arc<Self>,
        name: Option<String>,
        body: ContainerCreateBody,
        places: Option<Vec<Place>>,
    ) -> Result<ContainerCreated> {
        if body.config.image.is_empty() {
            return Err(Error::invalid("no image specified: config.Image cannot be empty"));
        }
        let image = self.config.images.resolve(&body.config.image).map_err(|e| no_such_image(&body.config.image, e))?;
        self.create_from(name, body, places, image).await.map_err(|e| match e.kind {
            // Only for a missing image: clients pull the image when they hear it.
            Kind::NotFound => Error::invalid(e.message),
            _ => e,
        })
    }

    async fn create_from(
        self: &Arc<Self>,
        name: Option<String>,
        body: ContainerCreateBody,
        places: Option<Vec<Place>>,
        image: muster_image::Image,
    ) -> Result<ContainerCreated> {
        check::conflicts(&body.config, &body.host_config)?;
        let (mut host, networking) = (body.host_config, body.networking_config);
        let mut config = merge(body.config, image_config(&image)?);
        check::config(&config)?;
        if config.network_disabled {
            if !matches!(host.network_mode.as_str(), "" | "default" | "none") {
                return Err(Error::invalid("conflicting options: NetworkDisabled and a NetworkMode"));
            }
            host.network_mode = "none".to_owned();
        }
        let warnings = check::host(self, &mut host)?;
        let id = names::new_id();
        let own_name_space = host.uts_mode.is_empty() && host.network_mode != "host";
        if config.hostname.is_empty() {
            config.hostname = if own_name_space { names::short(&id).to_owned() } else { host_name() };
        }
        let places = match places {
            Some(places) => places,
            None => self.places(&mut host, networking.endpoints_config, &config.mac_address)?,
        };
        let mut mounted = mounts::resolve(&host, &config.volumes, self.mounts_of_others(&host)?)?;
        check::tmpfs(self, &mounted)?;
        for mount in mounted.iter_mut().filter(|m| m.kind == "image") {
            let found = self.config.images.resolve(&mount.image).map_err(|e| no_such_image(&mount.image, e))?;
            mount.image_id = found.id.to_string();
        }
        let (path, args) = command(&config)?;
        let mut record = Record {
            id,
            created: clock::now(),
            image: config.image.clone(),
            image_id: image.id.to_string(),
            path,
            args,
            config,
            host,
            mounts: mounted,
            places,
            ..Record::default()
        };
        record.state.phase = Phase::Created;
        record.name = self.take_name(name.as_deref(), &record.id)?;
        let made = self.make(record.clone(), &image).await;
        match made {
            Ok(handle) => {
                self.container_event(&handle.record(), "create", &[]);
                Ok(ContainerCreated { id: handle.id.clone(), warnings })
            }
            Err(e) => {
                // What was made is taken back; what cannot be is swept at the next start: there is no record of it.
                let _ = self.discard_container(&record, true).await;
                self.containers.remove(&record.id);
                Err(e)
            }
        }
    }

    /// Puts record, volumes and root file system on the disk. The record may come before the root: one without a root that was
    /// never started is swept at the next start of the daemon.
    async fn make(self: &Arc<Self>, mut record: Record, image: &muster_image::Image) -> Result<Arc<Handle>> {
        self.volumes.claim(&mut record).await?;
        for volume in record.mounts.iter().filter(|m| m.kind == "volume") {
            self.volumes.announce_created(&self.events, &volume.volume);
        }
        let folder = self.folder(&record.id);
        let make_folder = error::blocking(move || {
            std::fs::create_dir_all(&folder).map_err(|e| Error::internal(format!("create {}: {e}", folder.display())))
        });
        let write = async {
            make_folder.await?;
            self.write_record(&record, Durability::Power).await?;
            let all = self.config.data_dir.join("containers");
            error::blocking(move || crate::record::durable::flush_folder(&all).map_err(error::disk)).await
        };
        let (prepared, written) = tokio::join!(self.roots.prepare(image, &record.id), write);
        prepared?;
        written?;
        if !record.config.working_dir.is_empty() {
            // Before volumes are filled: theirs may be what it lies in.
            self.roots.make_folder(&record.id, &record.config.working_dir).await?;
        }
        self.prepare_images(&record).await?;
        self.fill_volumes(&record).await?;
        Ok(spawn(self, record, Begin::AtRest))
    }

    /// A layer of the container's own over each image that it mounts.
    async fn prepare_images(&self, record: &Record) -> Result<()> {
        for (index, mount) in record.mounts.iter().enumerate().filter(|(_, m)| m.kind == "image") {
            let image = self.config.images.resolve(&mount.image_id).map_err(|e| no_such_image(&mount.image, e))?;
            self.roots.prepare_image(&image, &image_root(&record.id, index)).await?;
        }
        Ok(())
    }

    fn take_name(&self, wanted: Option<&str>, id: &str) -> Result<String> {
        if let Some(name) = wanted.map(|n| n.strip_prefix('/').unwrap_or(n)).filter(|n| !n.is_empty()) {
            if !names::is_valid(name) {
                return Err(bad_name(name));
            }
            return self.containers.reserve(name, id).map(|()| name.to_owned());
        }
        for attempt in 0..10 {
            let name = names::invent(attempt);
            if self.containers.reserve(&name, id).is_ok() {
                return Ok(name);
            }
        }
        self.containers.reserve(id, id).map(|()| id.to_owned())
    }

    fn mounts_of_others(&self, host: &HostConfig) -> Result<Vec<Mounted>> {
        let mut all = Vec::new();
        for text in &host.volumes_from {
            let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
            if !matches!(mode, "rw" | "ro" | "z" | "Z") {
                return Err(Error::invalid(format!("invalid mode: {mode}")));
            }
            let other = self.find(name)?.record();
            let shared = other.mounts.iter().filter(|m| matches!(m.kind.as_str(), "bind" | "volume")).cloned();
            // They belong to the other container: `rm -v` of this one leaves them.
            all.extend(shared.map(|m| Mounted {
                read_only: m.read_only || mode == "ro",
                anonymous: false,
                mode: String::new(),
                ..m
            }));
        }
        Ok(all)
    }

    /// The networks a new container is on.
    fn places(
        &self,
        host: &mut HostConfig,
        mut endpoints: std::collections::BTreeMap<String, Option<EndpointSettings>>,
        mac: &str,
    ) -> Result<Vec<Place>> {
        let mode = host.network_mode.clone();
        if matches!(mode.as_str(), "host" | "none") || mode.starts_with("container:") {
            let strange = endpoints.keys().find(|name| **name != mode && *name != "default");
            return match strange {
                Some(name) => Err(Error::invalid(format!(
                    "conflicting options: cannot attach network {name:?} to a container of network mode {mode:?}"
                ))),
                None => Ok(Vec::new()),
            };
        }
        // Documents show the name the user gave; records go by the network's own.
        let (own, id) = match self.networks.find(&mode) {
            Ok(network) => (network.name.clone(), network.id.clone()),
            Err(_) => (mode.clone(), mode.clone()),
        };
        let settings = ["default", &mode, &own, &id].iter().find_map(|key| endpoints.remove(*key)).flatten();
        let mut settings = settings.unwrap_or_default();
        if settings.mac_address.is_empty() {
            mac.clone_into(&mut settings.mac_address);
        }
        let mut places = vec![self.place_later(&mode, settings)?];
        host.network_mode = own;
        for (name, settings) in endpoints {
            places.push(self.place_later(&name, settings.unwrap_or_default())?);
        }
        Ok(places)
    }
}

pub(crate) fn no_such_image(name: &str, e: muster_image::Error) -> Error {
    match e {
        muster_image::Error::NoSuchImage(_) => {
            // Docker shows the name with its tag.
            let full = muster_image::Reference::parse(name).map(|r| r.familiar()).unwrap_or_else(|_| name.to_owned());
            Error::not_found(format!("No such image: {full}"))
        }
        other => error::image(other),
    }
}

/// The image's configuration in the documents' type. Both are Docker's JSON.
pub(crate) fn image_config(image: &muster_image::Image) -> Result<ContainerConfig> {
    serde_json::to_value(&image.config.config)
        .and_then(serde_json::from_value)
        .map_err(|e| Error::internal(format!("the configuration of image {} cannot be read: {e}", image.id)))
}

/// The user's configuration over the image's (moby: `runconfig.Merge`).
fn merge(mut user: ContainerConfig, image: ContainerConfig) -> ContainerConfig {
    for (own, theirs) in [
        (&mut user.user, image.user),
        (&mut user.working_dir, image.working_dir),
        (&mut user.stop_signal, image.stop_signal),
    ] {
        if own.is_empty() {
            *own = theirs;
        }
    }
    user.exposed_ports.extend(image.exposed_ports.0);
    user.volumes.extend(image.volumes.0);
    let name = |entry: &str| entry.split('=').next().unwrap_or(entry).to_owned();
    let mut env: Vec<String> = image.env.into_iter().filter(|e| !user.env.iter().any(|u| name(u) == name(e))).collect();
    // Docker shows the user's first.
    user.env.append(&mut env);
    for (key, value) in image.labels {
        user.labels.entry(key).or_insert(value);
    }
    // An entrypoint of the user's own has nothing to do with the image's command.
    if user.cmd.is_empty() && user.entrypoint.is_none() {
        user.cmd = image.cmd;
    }
    if user.entrypoint.is_none() {
        user.entrypoint = image.entrypoint;
    }
    user.stop_timeout = user.stop_timeout.or(image.stop_timeout);
    if user.shell.is_empty() {
        user.shell = image.shell;
    }
    user.healthcheck = merge_health(user.healthcheck, image.healthcheck);
    user
}

fn merge_health(user: Option<HealthConfig>, image: Option<HealthConfig>) -> Option<HealthConfig> {
    let (Some(mut own), Some(theirs)) = (user.clone(), image.clone()) else { return user.or(image) };
    if own.test.is_empty() {
        own.test = theirs.test;
    }
    for (own, theirs) in [
        (&mut own.interval, theirs.interval),
        (&mut own.timeout, theirs.timeout),
        (&mut own.start_period, theirs.start_period),
        (&mut own.start_interval, theirs.start_interval),
        (&mut own.retries, theirs.retries),
    ] {
        if *own == 0 {
            *own = theirs;
        }
    }
    Some(own)
}

/// Program and arguments.
fn command(config: &ContainerConfig) -> Result<(String, Vec<String>)> {
    let entrypoint = config.entrypoint.as_ref().map(|e| e.0.as_slice()).unwrap_or_default();
    let entrypoint = if entrypoint == [String::new()] { &[] } else { entrypoint };
    let mut words = entrypoint.iter().chain(config.cmd.iter()).cloned();
    match words.next() {
        Some(path) => Ok((path, words.collect())),
        None => Err(Error::invalid("no command specified")),
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> muster_model::engine::Args {
        list.iter().copied().collect()
    }

    #[test]
    fn the_user_wins_over_the_image_and_an_own_entrypoint_drops_the_images_command() {
        let image = ContainerConfig {
            env: vec!["PATH=/bin".into(), "A=image".into()],
            cmd: words(&["sh"]),
            entrypoint: Some(words(&["/entry"])),
            working_dir: "/w".into(),
            ..ContainerConfig::default()
        };
        let user = ContainerConfig { env: vec!["A=user".into(), "PATH".into()], ..ContainerConfig::default() };
        let merged = merge(user, image.clone());
        assert_eq!(merged.env, ["A=user", "PATH"]);
        assert_eq!(command(&merged).expect("command"), ("/entry".to_owned(), vec!["sh".to_owned()]));
        let own = ContainerConfig { entrypoint: Some(words(&[""])), cmd: words(&["ls"]), ..ContainerConfig::default() };
        assert_eq!(command(&merge(own, image.clone())).expect("command"), ("ls".to_owned(), vec![]));
        let bare = ContainerConfig { entrypoint: Some(words(&[])), ..ContainerConfig::default() };
        assert!(command(&merge(bare, image)).is_err());
    }

    #[test]
    fn a_health_check_inherits_what_it_does_not_say() {
        let user = HealthConfig { interval: 5, ..HealthConfig::default() };
        let image =
            HealthConfig { test: vec!["CMD".into(), "x".into()], interval: 9, retries: 2, ..HealthConfig::default() };
        let merged = merge_health(Some(user), Some(image)).expect("both");
        assert_eq!((merged.test.len(), merged.interval, merged.retries), (2, 5, 2));
    }
}
