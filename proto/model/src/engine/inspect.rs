//! What `GET /containers/{id}/json` tells of a container.

use super::{
    ContainerConfig, HostConfig, PortMap, Strings, Time,
    container::ContainerState,
    lenient::{is_zero, or_null},
    network::EndpointSettings,
};
use std::collections::BTreeMap;

document! {
    /// Everything known of a container. API object `ContainerInspectResponse`.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerInspect {
        pub id: String,
        pub created: Time,
        pub path: String,
        pub args: Vec<String>,
        pub state: ContainerState,
        /// The image's id.
        pub image: String,
        pub resolv_conf_path: String,
        pub hostname_path: String,
        pub hosts_path: String,
        pub log_path: String,
        /// With a leading slash.
        pub name: String,
        pub restart_count: i64,
        pub driver: String,
        pub platform: String,
        pub mount_label: String,
        pub process_label: String,
        pub app_armor_profile: String,
        #[serde(rename = "ExecIDs", serialize_with = "or_null")]
        pub exec_ids: Vec<String>,
        pub host_config: HostConfig,
        pub graph_driver: GraphDriver,
        /// Only when asked for: bytes written by the container.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_rw: Option<i64>,
        /// Only when asked for: bytes of image and container together.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size_root_fs: Option<i64>,
        pub mounts: Vec<MountPoint>,
        pub config: ContainerConfig,
        pub network_settings: NetworkSettings,
        /// Only where the whole cluster is asked, as Docker's classic Swarm did.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub node: Option<ContainerNode>,
    }

    /// The node that a container is on.
    #[serde(rename_all = "PascalCase")]
    pub struct ContainerNode {
        #[serde(rename = "ID")]
        pub id: String,
        pub name: String,
        #[serde(rename = "IP")]
        pub ip: String,
        /// Where its API is reached: HOST:PORT.
        pub addr: String,
    }

    /// How healthy a container is. API object `Health`.
    #[serde(rename_all = "PascalCase")]
    pub struct Health {
        /// `none`, `starting`, `healthy` or `unhealthy`.
        pub status: String,
        pub failing_streak: i64,
        pub log: Vec<HealthcheckResult>,
    }

    /// One probe. API object `HealthcheckResult`.
    #[serde(rename_all = "PascalCase")]
    pub struct HealthcheckResult {
        pub start: Time,
        pub end: Time,
        pub exit_code: i64,
        pub output: String,
    }

    /// Where layers lie. API object `DriverData`.
    #[serde(rename_all = "PascalCase")]
    pub struct GraphDriver {
        pub name: String,
        #[serde(serialize_with = "or_null")]
        pub data: Strings,
    }

    /// A mount of a container as it is. API object `MountPoint`.
    #[serde(rename_all = "PascalCase")]
    pub struct MountPoint {
        #[serde(rename = "Type", skip_serializing_if = "is_zero")]
        pub kind: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub name: String,
        pub source: String,
        pub destination: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub driver: String,
        pub mode: String,
        #[serde(rename = "RW")]
        pub rw: bool,
        pub propagation: String,
    }

    /// The container's side of networking; the address fields at the top repeat the default bridge's.
    /// API object `NetworkSettings`.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkSettings {
        pub bridge: String,
        #[serde(rename = "SandboxID")]
        pub sandbox_id: String,
        pub sandbox_key: String,
        pub ports: PortMap,
        pub hairpin_mode: bool,
        #[serde(rename = "LinkLocalIPv6Address")]
        pub link_local_ipv6_address: String,
        #[serde(rename = "LinkLocalIPv6PrefixLen")]
        pub link_local_ipv6_prefix_len: i64,
        #[serde(rename = "SecondaryIPAddresses", serialize_with = "or_null")]
        pub secondary_ip_addresses: Vec<Address>,
        #[serde(rename = "SecondaryIPv6Addresses", serialize_with = "or_null")]
        pub secondary_ipv6_addresses: Vec<Address>,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        pub global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        pub global_ipv6_prefix_len: i64,
        #[serde(rename = "IPAddress")]
        pub ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        pub ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        pub ipv6_gateway: String,
        pub mac_address: String,
        pub networks: BTreeMap<String, EndpointSettings>,
    }

    /// An address and its prefix length. API object `Address`.
    #[serde(rename_all = "PascalCase")]
    pub struct Address {
        pub addr: String,
        pub prefix_len: i64,
    }
}
