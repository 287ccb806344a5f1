//! Volumes.

use super::{
    Strings, Time,
    lenient::{is_zero, or_null},
};

document! {
    /// The body of `POST /volumes/create`. API object `VolumeCreateOptions`.
    #[serde(rename_all = "PascalCase")]
    pub struct VolumeCreate {
        /// Empty: anonymous, 64 hexadecimal digits are made up.
        pub name: String,
        /// Empty: `local`.
        pub driver: String,
        pub driver_opts: Strings,
        pub labels: Strings,
        /// A CSI volume of the cluster; kept so that it can be refused by name.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub cluster_volume_spec: Option<serde_json::Value>,
    }

    /// A volume. API object `Volume`.
    #[serde(rename_all = "PascalCase")]
    pub struct Volume {
        pub name: String,
        pub driver: String,
        pub mountpoint: String,
        pub created_at: Time,
        #[serde(serialize_with = "or_null")]
        pub labels: Strings,
        #[serde(serialize_with = "or_null")]
        pub options: Strings,
        /// `local` or `global`.
        pub scope: String,
        /// Only in `system df`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub usage_data: Option<VolumeUsage>,
        #[serde(skip_serializing_if = "is_zero")]
        pub status: Strings,
    }

    /// How much of a volume is used and by how many; -1: not known.
    #[serde(rename_all = "PascalCase")]
    pub struct VolumeUsage {
        /// Bytes.
        pub size: i64,
        pub ref_count: i64,
    }

    /// API object `VolumeListResponse`.
    #[serde(rename_all = "PascalCase")]
    pub struct VolumeList {
        pub volumes: Vec<Volume>,
        #[serde(serialize_with = "or_null")]
        pub warnings: Vec<String>,
    }
}
