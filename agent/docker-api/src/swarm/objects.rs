//! The documents of Swarm that clients are answered: objects with what became of their specs. `show.rs` fills them in.

use super::docs::{EndpointSpecDoc, NodeSpecDoc, PortDoc, QuantityDoc, ServiceSpecDoc, TaskSpecDoc, document, is_zero};
use muster_model::engine::{Strings, Time};
use serde_json::Value;

document! {
    /// API object `ObjectVersion`.
    pub(crate) struct VersionDoc {
        pub index: u64,
    }

    /// API object `Service`.
    pub(crate) struct ServiceDoc {
        #[serde(rename = "ID")]
        pub id: String,
        pub version: VersionDoc,
        pub created_at: Time,
        pub updated_at: Time,
        pub spec: ServiceSpecDoc,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub previous_spec: Option<ServiceSpecDoc>,
        pub endpoint: EndpointDoc,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub update_status: Option<UpdateStatusDoc>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub service_status: Option<ServiceStatusDoc>,
    }

    /// What a service was given.
    pub(crate) struct EndpointDoc {
        pub spec: EndpointSpecDoc,
        #[serde(skip_serializing_if = "is_zero")]
        pub ports: Vec<PortDoc>,
        #[serde(rename = "VirtualIPs", skip_serializing_if = "is_zero")]
        pub virtual_ips: Vec<VirtualIpDoc>,
    }

    /// A service's address on one network, with prefix length.
    pub(crate) struct VirtualIpDoc {
        #[serde(rename = "NetworkID")]
        pub network_id: String,
        pub addr: String,
    }

    /// How an update fares.
    pub(crate) struct UpdateStatusDoc {
        pub state: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub started_at: Option<Time>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub completed_at: Option<Time>,
        pub message: String,
    }

    /// Only with `status=true`.
    pub(crate) struct ServiceStatusDoc {
        pub running_tasks: u64,
        pub desired_tasks: u64,
        pub completed_tasks: u64,
    }

    /// API object `Task`.
    pub(crate) struct TaskDoc {
        #[serde(rename = "ID")]
        pub id: String,
        pub version: VersionDoc,
        pub created_at: Time,
        pub updated_at: Time,
        pub labels: Strings,
        pub spec: TaskSpecDoc,
        #[serde(rename = "ServiceID")]
        pub service_id: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub slot: u64,
        #[serde(rename = "NodeID", skip_serializing_if = "is_zero")]
        pub node_id: String,
        pub status: TaskStatusDoc,
        pub desired_state: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub networks_attachments: Vec<TaskNetworkDoc>,
        pub volumes: Option<Vec<Value>>,
    }

    /// API object `TaskStatus`.
    pub(crate) struct TaskStatusDoc {
        pub timestamp: Time,
        pub state: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub message: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub err: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub container_status: Option<ContainerStatusDoc>,
        pub port_status: PortStatusDoc,
    }

    /// API object `ContainerStatus`.
    pub(crate) struct ContainerStatusDoc {
        #[serde(rename = "ContainerID")]
        pub container_id: String,
        #[serde(rename = "PID")]
        pub pid: u32,
        pub exit_code: i32,
    }

    /// API object `PortStatus`: host-mode ports.
    pub(crate) struct PortStatusDoc {
        #[serde(skip_serializing_if = "is_zero")]
        pub ports: Vec<PortDoc>,
    }

    /// API object `NetworkAttachment`.
    pub(crate) struct TaskNetworkDoc {
        pub network: TaskNetworkRefDoc,
        /// With prefix length.
        pub addresses: Vec<String>,
    }

    /// The network of an attachment, shortened to what clients read.
    pub(crate) struct TaskNetworkRefDoc {
        #[serde(rename = "ID")]
        pub id: String,
        pub spec: TaskNetworkSpecDoc,
    }

    /// Name and labels of a network.
    pub(crate) struct TaskNetworkSpecDoc {
        pub name: String,
        pub labels: Strings,
        pub scope: String,
    }

    /// API object `Node`.
    pub(crate) struct NodeDoc {
        #[serde(rename = "ID")]
        pub id: String,
        pub version: VersionDoc,
        pub created_at: Time,
        pub updated_at: Time,
        pub spec: NodeSpecDoc,
        pub description: NodeDescriptionDoc,
        pub status: NodeStatusDoc,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub manager_status: Option<ManagerStatusDoc>,
    }

    /// API object `NodeDescription`.
    pub(crate) struct NodeDescriptionDoc {
        pub hostname: String,
        pub platform: PlatformDoc,
        pub resources: QuantityDoc,
        pub engine: EngineDoc,
        #[serde(rename = "TLSInfo")]
        pub tls_info: TlsInfoDoc,
    }

    /// API object `Platform`.
    pub(crate) struct PlatformDoc {
        pub architecture: String,
        #[serde(rename = "OS")]
        pub os: String,
    }

    /// API object `EngineDescription`.
    pub(crate) struct EngineDoc {
        pub engine_version: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub labels: Strings,
    }

    /// API object `NodeStatus`.
    pub(crate) struct NodeStatusDoc {
        pub state: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub message: String,
        pub addr: String,
    }

    /// API object `ManagerStatus`.
    pub(crate) struct ManagerStatusDoc {
        #[serde(skip_serializing_if = "is_zero")]
        pub leader: bool,
        pub reachability: String,
        pub addr: String,
    }

    /// API objects `ClusterInfo` and, with tokens, `Swarm`.
    pub(crate) struct ClusterDoc {
        #[serde(rename = "ID")]
        pub id: String,
        pub version: VersionDoc,
        pub created_at: Time,
        pub updated_at: Time,
        pub spec: Value,
        #[serde(rename = "TLSInfo")]
        pub tls_info: TlsInfoDoc,
        pub root_rotation_in_progress: bool,
        pub default_addr_pool: Vec<String>,
        pub subnet_size: u32,
        pub data_path_port: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub join_tokens: Option<JoinTokensDoc>,
    }

    /// API object `TLSInfo`.
    pub(crate) struct TlsInfoDoc {
        pub trust_root: String,
        /// The subject's DER, in base64.
        #[serde(skip_serializing_if = "is_zero")]
        pub cert_issuer_subject: String,
        /// The `SubjectPublicKeyInfo`'s DER, in base64.
        #[serde(skip_serializing_if = "is_zero")]
        pub cert_issuer_public_key: String,
    }

    /// API object `JoinTokens`.
    pub(crate) struct JoinTokensDoc {
        pub worker: String,
        pub manager: String,
    }
}
