//! Networks and a container's place on them.

use super::{
    Strings, Time,
    lenient::{is_zero, or_null},
};
use std::collections::BTreeMap;

document! {
    /// The networks a new container joins, by name. API object `NetworkingConfig`.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkingConfig {
        pub endpoints_config: BTreeMap<String, Option<EndpointSettings>>,
    }

    /// A container's place on one network: what was asked for, then what it got. API object `EndpointSettings`.
    #[serde(rename_all = "PascalCase")]
    pub struct EndpointSettings {
        #[serde(rename = "IPAMConfig")]
        pub ipam_config: Option<EndpointIpamConfig>,
        #[serde(serialize_with = "or_null")]
        pub links: Vec<String>,
        #[serde(serialize_with = "or_null")]
        pub aliases: Vec<String>,
        pub mac_address: String,
        #[serde(serialize_with = "or_null")]
        pub driver_opts: Strings,
        pub gw_priority: i64,
        #[serde(rename = "NetworkID")]
        pub network_id: String,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub gateway: String,
        #[serde(rename = "IPAddress")]
        pub ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        pub ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        pub ipv6_gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        pub global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        pub global_ipv6_prefix_len: i64,
        #[serde(rename = "DNSNames", serialize_with = "or_null")]
        pub dns_names: Vec<String>,
    }

    /// Addresses asked for. API object `EndpointIPAMConfig`.
    #[serde(rename_all = "PascalCase")]
    pub struct EndpointIpamConfig {
        #[serde(rename = "IPv4Address", skip_serializing_if = "is_zero")]
        pub ipv4_address: String,
        #[serde(rename = "IPv6Address", skip_serializing_if = "is_zero")]
        pub ipv6_address: String,
        #[serde(rename = "LinkLocalIPs", skip_serializing_if = "is_zero")]
        pub link_local_ips: Vec<String>,
    }

    /// The body of `POST /networks/create`.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkCreate {
        pub name: String,
        pub driver: String,
        /// Empty, `local`, `swarm` or `global`.
        pub scope: String,
        #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
        pub enable_ipv4: Option<bool>,
        #[serde(rename = "EnableIPv6", skip_serializing_if = "Option::is_none")]
        pub enable_ipv6: Option<bool>,
        #[serde(rename = "IPAM")]
        pub ipam: Option<Ipam>,
        pub internal: bool,
        pub attachable: bool,
        pub ingress: bool,
        pub config_only: bool,
        pub config_from: Option<ConfigReference>,
        #[serde(serialize_with = "or_null")]
        pub options: Strings,
        #[serde(serialize_with = "or_null")]
        pub labels: Strings,
    }

    /// API object `NetworkCreateResponse`.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkCreated {
        pub id: String,
        pub warning: String,
    }

    /// How a network's addresses are managed. API object `IPAM`.
    #[serde(rename_all = "PascalCase")]
    pub struct Ipam {
        pub driver: String,
        pub options: Option<Strings>,
        #[serde(serialize_with = "or_null")]
        pub config: Vec<IpamConfig>,
    }

    /// One subnet of a network. API object `IPAMConfig`.
    #[serde(rename_all = "PascalCase")]
    pub struct IpamConfig {
        #[serde(skip_serializing_if = "is_zero")]
        pub subnet: String,
        #[serde(rename = "IPRange", skip_serializing_if = "is_zero")]
        pub ip_range: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub gateway: String,
        /// Name to address that is not given out.
        #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "is_zero")]
        pub auxiliary_addresses: Strings,
    }

    /// The network whose configuration is taken. API object `ConfigReference`.
    #[serde(rename_all = "PascalCase")]
    pub struct ConfigReference {
        pub network: String,
    }

    /// A network as it is. API object `Network`.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkResource {
        pub name: String,
        pub id: String,
        pub created: Time,
        /// `local`, `swarm` or `global`.
        pub scope: String,
        pub driver: String,
        #[serde(rename = "EnableIPv4")]
        pub enable_ipv4: bool,
        #[serde(rename = "EnableIPv6")]
        pub enable_ipv6: bool,
        #[serde(rename = "IPAM")]
        pub ipam: Ipam,
        pub internal: bool,
        pub attachable: bool,
        pub ingress: bool,
        pub config_from: ConfigReference,
        pub config_only: bool,
        /// Only in inspect: container id to its place.
        pub containers: BTreeMap<String, NetworkContainer>,
        pub options: Strings,
        pub labels: Strings,
        #[serde(skip_serializing_if = "is_zero")]
        pub peers: Vec<PeerInfo>,
        /// Only in a verbose inspect of a network of the cluster, by name.
        #[serde(skip_serializing_if = "is_zero")]
        pub services: BTreeMap<String, ServiceInfo>,
    }

    /// A service on a network, with the tasks that run. API object `ServiceInfo`.
    #[serde(rename_all = "PascalCase")]
    pub struct ServiceInfo {
        #[serde(rename = "VIP")]
        pub vip: String,
        pub ports: Vec<String>,
        #[serde(rename = "LocalLBIndex")]
        pub local_lb_index: i64,
        pub tasks: Vec<NetworkTask>,
    }

    /// A task on a network. API object `NetworkTaskInfo`.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkTask {
        pub name: String,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        #[serde(rename = "EndpointIP")]
        pub endpoint_ip: String,
        pub info: Strings,
    }

    /// A container on a network. API object `NetworkContainer`.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkContainer {
        pub name: String,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub mac_address: String,
        /// With prefix length.
        #[serde(rename = "IPv4Address")]
        pub ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        pub ipv6_address: String,
    }

    /// A host that takes part in an overlay. API object `PeerInfo`.
    #[serde(rename_all = "PascalCase")]
    pub struct PeerInfo {
        pub name: String,
        #[serde(rename = "IP")]
        pub ip: String,
    }

    /// The body of `POST /networks/{id}/connect`.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkConnect {
        pub container: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub endpoint_config: Option<EndpointSettings>,
    }

    /// The body of `POST /networks/{id}/disconnect`.
    #[serde(rename_all = "PascalCase")]
    pub struct NetworkDisconnect {
        pub container: String,
        pub force: bool,
    }
}
