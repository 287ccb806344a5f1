//! The documents of Swarm that clients send: specs and requests, as the API spells them.
//!
//! Documents that are read keep every field they do not know in `rest`: `parse.rs` refuses those that say anything, so that
//! nothing a user asks for is dropped in silence. Words (`any`, `on-failure`) stay text here and are checked there, where
//! the field's name is known.

use muster_model::engine::{HealthConfig, Mount, Strings, Ulimit};
use serde_json::Value;
use std::collections::BTreeMap;

/// Fields that have no place in the document.
pub(crate) type Rest = BTreeMap<String, Value>;

/// For `skip_serializing_if`: the field is Go's zero value.
pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Documents that read `null` as "not given". `flatten` fields stand first.
macro_rules! document {
    ($($(#[$meta:meta])* pub(crate) struct $name:ident {
        $(flatten pub $flat:ident: $flat_type:ty,)*
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
    })*) => {$(
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        $(#[$meta])*
        pub(crate) struct $name {
            $(
                // No null_default here: serde swallows errors inside of a flattened option.
                #[serde(flatten)]
                pub $flat: $flat_type,
            )*
            $(
                $(#[$field_meta])*
                #[serde(deserialize_with = "muster_model::engine::null_default")]
                pub $field: $type,
            )*
        }
    )*};
}
pub(crate) use document;

document! {
    /// API object `ServiceSpec`.
    pub(crate) struct ServiceSpecDoc {
        flatten pub rest: Rest,
        pub name: String,
        pub labels: Strings,
        pub task_template: TaskSpecDoc,
        pub mode: ModeDoc,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub update_config: Option<UpdateConfigDoc>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub rollback_config: Option<UpdateConfigDoc>,
        /// Before 1.25 networks stood here.
        #[serde(skip_serializing_if = "is_zero")]
        pub networks: Vec<AttachmentDoc>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub endpoint_spec: Option<EndpointSpecDoc>,
    }

    /// API object `TaskSpec`.
    pub(crate) struct TaskSpecDoc {
        flatten pub rest: Rest,
        pub container_spec: ContainerSpecDoc,
        pub resources: ResourcesDoc,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub restart_policy: Option<RestartPolicyDoc>,
        pub placement: PlacementDoc,
        #[serde(skip_serializing_if = "is_zero")]
        pub networks: Vec<AttachmentDoc>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub log_driver: Option<DriverDoc>,
        pub force_update: u64,
        #[serde(skip_serializing_if = "is_zero")]
        pub runtime: String,
    }

    /// A driver and its options.
    pub(crate) struct DriverDoc {
        #[serde(skip_serializing_if = "is_zero")]
        pub name: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub options: Strings,
    }

    /// The container part of `TaskSpec`.
    pub(crate) struct ContainerSpecDoc {
        flatten pub rest: Rest,
        pub image: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub labels: Strings,
        #[serde(skip_serializing_if = "is_zero")]
        pub command: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub args: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub hostname: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub env: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub dir: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub user: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub groups: Vec<String>,
        #[serde(rename = "TTY", skip_serializing_if = "is_zero")]
        pub tty: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub open_stdin: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub read_only: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub mounts: Vec<Mount>,
        #[serde(skip_serializing_if = "is_zero")]
        pub stop_signal: String,
        /// Nanoseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub stop_grace_period: Option<i64>,
        /// The API text spells it `HealthCheck`, dockerd and its clients `Healthcheck`.
        #[serde(alias = "HealthCheck", skip_serializing_if = "Option::is_none")]
        pub healthcheck: Option<HealthConfig>,
        #[serde(skip_serializing_if = "is_zero")]
        pub hosts: Vec<String>,
        #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
        pub dns_config: Option<DnsConfigDoc>,
        #[serde(skip_serializing_if = "is_zero")]
        pub isolation: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub init: Option<bool>,
        #[serde(skip_serializing_if = "is_zero")]
        pub sysctls: Strings,
        #[serde(skip_serializing_if = "is_zero")]
        pub capability_add: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub capability_drop: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub ulimits: Vec<Ulimit>,
    }

    /// DNS settings of a container.
    pub(crate) struct DnsConfigDoc {
        #[serde(skip_serializing_if = "is_zero")]
        pub nameservers: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub search: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub options: Vec<String>,
    }

    /// API object `Resources` of a task.
    pub(crate) struct ResourcesDoc {
        flatten pub rest: Rest,
        pub limits: QuantityDoc,
        pub reservations: QuantityDoc,
    }

    /// API objects `Limit` and `ResourceObject`.
    pub(crate) struct QuantityDoc {
        flatten pub rest: Rest,
        #[serde(rename = "NanoCPUs", skip_serializing_if = "is_zero")]
        pub nano_cpus: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub memory_bytes: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub pids: i64,
    }

    /// When a task is replaced. Times are nanoseconds.
    pub(crate) struct RestartPolicyDoc {
        #[serde(skip_serializing_if = "is_zero")]
        pub condition: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub delay: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub max_attempts: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub window: Option<i64>,
    }

    /// Where tasks may run.
    pub(crate) struct PlacementDoc {
        flatten pub rest: Rest,
        #[serde(skip_serializing_if = "is_zero")]
        pub constraints: Vec<String>,
        #[serde(skip_serializing_if = "is_zero")]
        pub preferences: Vec<PreferenceDoc>,
        #[serde(skip_serializing_if = "is_zero")]
        pub max_replicas: u64,
        #[serde(skip_serializing_if = "is_zero")]
        pub platforms: Vec<super::objects::PlatformDoc>,
    }

    /// One placement preference.
    pub(crate) struct PreferenceDoc {
        pub spread: SpreadDoc,
    }

    /// Spread over the values of one attribute.
    pub(crate) struct SpreadDoc {
        pub spread_descriptor: String,
    }

    /// API object `NetworkAttachmentConfig`.
    pub(crate) struct AttachmentDoc {
        flatten pub rest: Rest,
        pub target: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub aliases: Vec<String>,
    }

    /// How many tasks: one of the two is given.
    pub(crate) struct ModeDoc {
        flatten pub rest: Rest,
        /// Go reads keys in any case, and docker-py writes these two in lower case.
        #[serde(alias = "replicated", skip_serializing_if = "Option::is_none")]
        pub replicated: Option<ReplicatedDoc>,
        #[serde(alias = "global", skip_serializing_if = "Option::is_none")]
        pub global: Option<GlobalDoc>,
    }

    /// So many.
    pub(crate) struct ReplicatedDoc {
        pub replicas: Option<u64>,
    }

    /// One on each node.
    pub(crate) struct GlobalDoc {}

    /// How an update or a rollback goes about it. Times are nanoseconds.
    pub(crate) struct UpdateConfigDoc {
        flatten pub rest: Rest,
        pub parallelism: u64,
        #[serde(skip_serializing_if = "is_zero")]
        pub delay: i64,
        #[serde(skip_serializing_if = "is_zero")]
        pub failure_action: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub monitor: i64,
        pub max_failure_ratio: f64,
        #[serde(skip_serializing_if = "is_zero")]
        pub order: String,
    }

    /// API object `EndpointSpec`.
    pub(crate) struct EndpointSpecDoc {
        flatten pub rest: Rest,
        #[serde(skip_serializing_if = "is_zero")]
        pub mode: String,
        #[serde(skip_serializing_if = "is_zero")]
        pub ports: Vec<PortDoc>,
    }

    /// API object `EndpointPortConfig`.
    pub(crate) struct PortDoc {
        flatten pub rest: Rest,
        #[serde(skip_serializing_if = "is_zero")]
        pub protocol: String,
        pub target_port: u16,
        #[serde(skip_serializing_if = "is_zero")]
        pub published_port: u16,
        #[serde(skip_serializing_if = "is_zero")]
        pub publish_mode: String,
    }

    /// API object `NodeSpec`.
    pub(crate) struct NodeSpecDoc {
        flatten pub rest: Rest,
        #[serde(skip_serializing_if = "is_zero")]
        pub name: String,
        pub labels: Strings,
        pub role: String,
        pub availability: String,
    }

    /// The body of `POST /swarm/init`.
    pub(crate) struct InitDoc {
        flatten pub rest: Rest,
        pub listen_addr: String,
        pub advertise_addr: String,
        pub default_addr_pool: Vec<String>,
        pub subnet_size: u32,
        pub data_path_port: u32,
        pub force_new_cluster: bool,
        pub availability: String,
        pub spec: Value,
    }

    /// The body of `POST /swarm/join`.
    pub(crate) struct JoinDoc {
        flatten pub rest: Rest,
        pub listen_addr: String,
        pub advertise_addr: String,
        pub remote_addrs: Vec<String>,
        pub join_token: String,
        pub availability: String,
    }
}
