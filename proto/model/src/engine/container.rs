//! Containers: what a client asks for, and the short documents of lists and small calls.

use super::{
    Args, Health, HostConfig, Keys, Strings,
    host_config::{Resources, RestartPolicy},
    inspect::MountPoint,
    lenient::{is_zero, or_null},
    network::{EndpointSettings, NetworkingConfig},
};

document! {
    /// The portable part of a container's configuration; images carry one too. API object `ContainerConfig`.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerConfig {
        pub hostname: String,
        pub domainname: String,
        pub user: String,
        pub attach_stdin: bool,
        pub attach_stdout: bool,
        pub attach_stderr: bool,
        /// `80/tcp`.
        #[serde(skip_serializing_if = "is_zero")]
        pub exposed_ports: Keys,
        pub tty: bool,
        pub open_stdin: bool,
        /// Close stdin when the first client that was attached to it goes.
        pub stdin_once: bool,
        /// `NAME=value`; a bare `NAME` takes the variable away.
        #[serde(serialize_with = "or_null")]
        pub env: Vec<String>,
        #[serde(serialize_with = "or_null")]
        pub cmd: Args,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub healthcheck: Option<HealthConfig>,
        #[serde(skip_serializing_if = "is_zero")]
        pub args_escaped: bool,
        /// The name the container was created from.
        pub image: String,
        /// Paths that are anonymous volumes.
        #[serde(serialize_with = "or_null")]
        pub volumes: Keys,
        pub working_dir: String,
        /// `None`: the image's. `[""]` or an empty list: none.
        pub entrypoint: Option<Args>,
        #[serde(skip_serializing_if = "is_zero")]
        pub network_disabled: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub mac_address: String,
        #[serde(serialize_with = "or_null")]
        pub on_build: Vec<String>,
        pub labels: Strings,
        #[serde(skip_serializing_if = "is_zero")]
        pub stop_signal: String,
        /// Seconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub stop_timeout: Option<i64>,
        #[serde(skip_serializing_if = "is_zero")]
        pub shell: Args,
    }

    /// How a container's health is probed; zero means "as the image says". API object `HealthConfig`.
    #[serde(rename_all = "PascalCase")]
    pub struct HealthConfig {
        /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", text]`; empty: inherit.
        #[serde(skip_serializing_if = "is_zero")]
        pub test: Vec<String>,
        /// Nanoseconds, as all durations here.
        #[serde(skip_serializing_if = "is_zero")]
        pub interval: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub timeout: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub start_period: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub start_interval: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub retries: i64,
    }

    /// The body of `POST /containers/create`.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerCreateBody {
        flatten pub config: ContainerConfig,
        pub host_config: HostConfig,
        pub networking_config: NetworkingConfig,
    }

    /// API object `ContainerCreateResponse`.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerCreated {
        pub id: String,
        pub warnings: Vec<String>,
    }

    /// One line of `GET /containers/json`. API object `ContainerSummary`.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerSummary {
        pub id: String,
        /// With a leading slash.
        pub names: Vec<String>,
        pub image: String,
        #[serde(rename = "ImageID")]
        pub image_id: String,
        /// Path and arguments as one text.
        pub command: String,
        /// Seconds since the epoch.
        pub created: i64,
        /// Nanoseconds within that second, by which lists of many nodes are ordered; no field of Docker's, and shown to none of
        /// its clients.
        #[serde(skip_serializing_if = "is_zero")]
        pub created_nanos: u32,
        pub ports: Vec<Port>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_rw: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_root_fs: Option<i64>,
        pub labels: Strings,
        /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
        pub state: String,
        /// For people: `Up 2 seconds (healthy)`.
        pub status: String,
        pub host_config: SummaryHostConfig,
        pub network_settings: SummaryNetworkSettings,
        pub mounts: Vec<MountPoint>,
    }

    /// What lists tell of a container's `HostConfig`.
    #[serde(rename_all = "PascalCase")]
    pub struct SummaryHostConfig {
        pub network_mode: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub annotations: Strings,
    }

    /// What lists tell of a container's networks.
    #[serde(rename_all = "PascalCase")]
    pub struct SummaryNetworkSettings {
        pub networks: std::collections::BTreeMap<String, EndpointSettings>,
    }

    /// An exposed or published port. API object `Port`.
    #[serde(rename_all = "PascalCase")]
    pub struct Port {
        #[serde(rename = "IP", skip_serializing_if = "is_zero")]
        pub ip: String,
        pub private_port: u16,
        #[serde(skip_serializing_if = "is_zero")]
        pub public_port: u16,
        /// `tcp`, `udp` or `sctp`.
        #[serde(rename = "Type")]
        pub kind: String,
    }

    /// The body of `POST /containers/{id}/update`.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerUpdate {
        flatten pub resources: Resources,
        pub restart_policy: RestartPolicy,
    }

    /// API object `ContainerUpdateResponse`.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerUpdated {
        pub warnings: Vec<String>,
    }

    /// API object `ContainerWaitResponse`.
    #[serde(rename_all = "PascalCase")]
    pub struct WaitResult {
        pub status_code: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub error: Option<WaitError>,
    }

    /// API object `ContainerWaitExitError`.
    #[serde(rename_all = "PascalCase")]
    pub struct WaitError {
        pub message: String,
    }

    /// API object `ContainerTopResponse`.
    #[serde(rename_all = "PascalCase")]
    pub struct TopResult {
        pub titles: Vec<String>,
        pub processes: Vec<Vec<String>>,
    }

    /// A path that differs from the image. API object `FilesystemChange`.
    #[serde(rename_all = "PascalCase")]
    pub struct FilesystemChange {
        pub path: String,
        /// 0 changed, 1 added, 2 deleted.
        pub kind: u8,
    }

    /// The state of a container. API object `ContainerState`.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerState {
        /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
        pub status: String,
        pub running: bool,
        pub paused: bool,
        pub restarting: bool,
        #[serde(rename = "OOMKilled")]
        pub oom_killed: bool,
        pub dead: bool,
        pub pid: i64,
        pub exit_code: i64,
        pub error: String,
        pub started_at: super::Time,
        pub finished_at: super::Time,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub health: Option<Health>,
    }

    /// What `POST .../prune` answers; each kind of object fills its own list, the others stay `None`.
    #[serde(rename_all = "PascalCase")]
    pub struct PruneReport {
        #[serde(skip_serializing_if = "Option::is_none")]
        pub containers_deleted: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub images_deleted: Option<Vec<super::ImageDeleteItem>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub volumes_deleted: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub networks_deleted: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub caches_deleted: Option<Vec<String>>,
        /// Bytes.
        pub space_reclaimed: u64,
        /// What the user should know; no field of Docker's.
        #[serde(skip_serializing_if = "is_zero")]
        pub warnings: Vec<String>,
    }
}
