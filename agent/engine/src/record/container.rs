//! A container's record: everything that must be known of it after the daemon has died.
//!
//! Secrets never get here: they reach a container as files of a tmpfs that somebody else fills.

use super::{Durability, FILE, RECENT, durable, folder::InFolder};
use muster_model::{
    AttachmentId, Timestamp,
    engine::{ContainerConfig, Health, HostConfig},
    net::{Mac, Protocol, Scope, Subnet},
    view::Network6,
};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

/// Version of the form of the file.
const VERSION: u32 = 1;

/// What a container is and how it fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    pub version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without the leading slash of Docker's documents.
    pub name: String,
    pub created: Timestamp,
    /// The image as the user wrote it.
    pub image: String,
    /// `sha256:...`
    pub image_id: String,
    pub path: String,
    pub args: Vec<String>,
    /// With the image's defaults merged in.
    pub config: ContainerConfig,
    pub host: HostConfig,
    pub mounts: Vec<Mounted>,
    /// In the order of the interfaces.
    pub places: Vec<Place>,
    /// Host ports held, while it runs.
    pub ports: Vec<PublishedPort>,
    pub state: State,
}

/// How far a container's life has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// Half-made: the next start of the daemon removes it.
    #[default]
    Creating,
    /// Never started.
    Created,
    /// Being started; the next start of the daemon asks the runtime whether it got so far.
    Starting,
    Running,
    /// Has ended and waits for its restart policy to start it again.
    Restarting,
    Exited,
    /// Being removed; the next start of the daemon goes on with it.
    Removing,
}

/// How a container fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub phase: Phase,
    pub paused: bool,
    /// Of its init in the host's pid namespace; 0 while it does not run.
    pub pid: u32,
    pub exit_code: i32,
    pub error: String,
    pub oom_killed: bool,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub restart_count: u32,
    /// Of the restart policy: how far it has backed off, and when it starts the container again (zero: at once).
    pub backoff: crate::container::Backoff,
    pub restart_at: Timestamp,
    /// As the probes have left it, so that a restart of the daemon does not make a sick container new.
    pub health: Option<Health>,
    /// A user's stop or kill ended it: `unless-stopped` heeds that.
    pub stopped_by_user: bool,
}

impl State {
    /// Its init exists and the user's command was let run.
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Docker's word.
    pub fn word(&self) -> &'static str {
        match self.phase {
            Phase::Running if self.paused => "paused",
            Phase::Running => "running",
            Phase::Restarting => "restarting",
            Phase::Creating | Phase::Created => "created",
            Phase::Starting if self.started_at.is_zero() => "created",
            Phase::Starting | Phase::Exited => "exited",
            Phase::Removing => "removing",
        }
    }
}

/// A mount of a container, resolved when it was created.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Mounted {
    /// `bind`, `volume`, `tmpfs` or `image`.
    pub kind: String,
    /// The volume's name.
    pub volume: String,
    /// The image's name, and its id (`sha256:...`) when the container was created.
    pub image: String,
    pub image_id: String,
    /// Path on the host; empty for tmpfs, and for volumes and images until they were mounted.
    pub source: PathBuf,
    pub destination: String,
    /// The options of a bind in Docker's short form (`z`, `ro`).
    pub mode: String,
    pub read_only: bool,
    pub propagation: String,
    pub non_recursive: bool,
    /// Read-only at the top: mounts below stay as they are.
    pub read_only_top: bool,
    /// A bind whose missing source is made.
    pub create_source: bool,
    /// A volume that is not filled from the image.
    pub no_copy: bool,
    pub subpath: String,
    /// Labels, driver and options of the volume, if it is made with the container.
    pub volume_labels: muster_model::engine::Strings,
    pub volume_driver: String,
    pub volume_options: muster_model::engine::Strings,
    /// A volume that goes with the container (`docker rm -v`, `--rm`).
    pub anonymous: bool,
    pub tmpfs_options: String,
    pub tmpfs_size: Option<u64>,
    pub tmpfs_mode: Option<u32>,
}

/// A container's place on one network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Place {
    pub network: String,
    /// Empty until the network was looked up: at start.
    pub network_id: String,
    pub wanted_ip: Option<Ipv4Addr>,
    pub wanted_ip6: Option<Ipv6Addr>,
    pub wanted_mac: Option<Mac>,
    pub aliases: Vec<String>,
    /// `CONTAINER:ALIAS`: what this container calls others on the network.
    pub links: Vec<String>,
    pub driver_opts: muster_model::engine::Strings,
    pub gw_priority: i64,
    /// On a network that spans hosts: whose addresses the cluster gave out.
    pub cluster: Option<ClusterPlace>,
    /// The cluster is asked for an address at each start: a container of no service on a network of the cluster.
    pub spanning: bool,
    /// On the network that is the way out of containers whose networks of plugins have none. Nobody asked for it, and it is
    /// there while the container runs.
    pub way_out: bool,
    /// What the cluster knows that place by, while the container holds it.
    pub attachment: Option<AttachmentId>,
    /// While it runs.
    pub got: Option<Got>,
}

/// What the cluster says of one of its networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ClusterPlace {
    pub scope: Scope,
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    pub internal: bool,
    pub mtu: u32,
}

/// What a place got when the container was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Got {
    pub endpoint_id: String,
    /// Unspecified where there is none: on a network with IPv6 alone.
    pub ip: Ipv4Addr,
    pub mac: Mac,
    /// Unspecified where there is none: there, and on some networks of plugins.
    pub gateway: Ipv4Addr,
    pub prefix: u8,
    pub ifname: String,
    /// On a network with IPv6.
    pub v6: Option<(Ipv6Addr, Network6)>,
    /// On a network of a plugin, once its endpoint has joined.
    pub joined: Option<crate::net::Joined>,
}

impl Got {
    /// The address of IPv4, where there is one.
    pub fn v4(&self) -> Option<Ipv4Addr> {
        Some(self.ip).filter(|ip| !ip.is_unspecified())
    }
}

/// Of an interface that is still to be seen.
pub(crate) const NO_MAC: Mac = Mac([0; 6]);

impl Default for Got {
    fn default() -> Self {
        let (ip, gateway) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
        let (endpoint_id, ifname) = Default::default();
        Self { endpoint_id, ip, mac: NO_MAC, gateway, prefix: 0, ifname, v6: None, joined: None }
    }
}

/// A host port that leads to the container while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishedPort {
    pub protocol: Protocol,
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub container_port: u16,
}

/// A record that could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    File(#[from] durable::Error),
    #[error("{}: {source}", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{}: written by a newer version (form {found}, known up to {VERSION})", path.display())]
    Newer { path: PathBuf, found: u32 },
}

impl Record {
    /// Writes the record into the container's folder.
    ///
    /// # Errors
    /// Those of the disk; the old record stays then.
    pub fn write(&self, folder: &Path, durability: Durability) -> Result<(), durable::Error> {
        let (path, recent) = (folder.join(FILE), folder.join(RECENT));
        let versioned = Self { version: VERSION, ..self.clone() };
        let bytes = serde_json::to_vec(&versioned).map_err(|e| durable::Error::at("encode", &path)(e.into()))?;
        match durability {
            Durability::Process => durable::write(&recent, &bytes, durability),
            // Who dies half-way finds the older state, which is whole.
            Durability::Power => durable::supersede(&path, &bytes, &recent),
        }
    }

    fn read_file(path: &Path) -> Result<Option<Self>, ReadError> {
        let Some(bytes) = durable::read(path)? else { return Ok(None) };
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(record) if record.version > VERSION => {
                Err(ReadError::Newer { path: path.to_owned(), found: record.version })
            }
            Ok(record) => Ok(Some(record)),
            Err(source) => Err(ReadError::Json { path: path.to_owned(), source }),
        }
    }
}

impl InFolder for Record {
    const KIND: u8 = b'c';

    fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|record: &Self| record.version <= VERSION)
    }

    fn read(folder: &Path) -> Result<Option<Self>, ReadError> {
        if !folder.join(FILE).try_exists().map_err(durable::Error::at("look for", folder))? {
            return Ok(None);
        }
        match Self::read_file(&folder.join(RECENT)) {
            Ok(Some(recent)) => return Ok(Some(recent)),
            Ok(None) => {}
            Err(error @ ReadError::Json { .. }) => {
                tracing::info!(%error, "the last state of a container did not survive; the one before it is taken");
            }
            Err(error) => return Err(error),
        }
        Self::read_file(&folder.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let mut record = Record { id: "ab".repeat(32), name: "web".into(), ..Record::default() };
        record.config.cmd = ["sleep", "1"].into_iter().collect();
        record.config.entrypoint = Some(Vec::new().into());
        record.host.resources.memory_swappiness = Some(3);
        record.host.port_bindings.insert("80/tcp".into(), None);
        record.places.push(Place {
            network: "bridge".into(),
            got: Some(Got {
                endpoint_id: "e".into(),
                ip: Ipv4Addr::new(172, 17, 0, 2),
                mac: Mac::of(Ipv4Addr::new(172, 17, 0, 2)),
                gateway: Ipv4Addr::new(172, 17, 0, 1),
                prefix: 16,
                ifname: "eth0".into(),
                ..Got::default()
            }),
            ..Place::default()
        });
        record
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let dir = tempfile::tempdir().expect("temp dir");
        let record = sample();
        record.write(dir.path(), Durability::Power).expect("written");
        let read = Record::read(dir.path()).expect("readable").expect("there");
        assert_eq!(read, Record { version: VERSION, ..record });
    }

    #[test]
    fn what_was_not_flushed_is_newer_and_hides_nothing_where_it_is_damaged() {
        let dir = tempfile::tempdir().expect("temp dir");
        let named = |name: &str| Record { name: name.into(), ..sample() };
        let read = || Record::read(dir.path()).expect("readable").map(|r| r.name);
        named("early").write(dir.path(), Durability::Process).expect("written");
        assert_eq!(read(), None, "nothing that was promised");
        named("flushed").write(dir.path(), Durability::Power).expect("written");
        assert_eq!(read().as_deref(), Some("flushed"));
        named("recent").write(dir.path(), Durability::Process).expect("written");
        assert_eq!(read().as_deref(), Some("recent"));
        std::fs::write(dir.path().join(RECENT), "").expect("as a power cut leaves it");
        assert_eq!(read().as_deref(), Some("flushed"));
        named("again").write(dir.path(), Durability::Power).expect("written");
        assert!(!dir.path().join(RECENT).exists());
    }

    #[test]
    fn a_record_of_a_newer_form_is_refused_and_not_misread() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join(FILE), r#"{"version":99}"#).expect("written");
        assert!(matches!(Record::read(dir.path()), Err(ReadError::Newer { found: 99, .. })));
        std::fs::write(dir.path().join(FILE), "{").expect("written");
        assert!(matches!(Record::read(dir.path()), Err(ReadError::Json { .. })));
    }
}
