//! Processes started in a running container.

use super::lenient::{is_zero, or_null};

document! {
    /// The body of `POST /containers/{id}/exec`.
    #[serde(rename_all = "PascalCase")]
    pub struct ExecConfig {
        pub user: String,
        pub privileged: bool,
        pub tty: bool,
        /// Height, width.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub console_size: Option<[u32; 2]>,
        pub attach_stdin: bool,
        pub attach_stdout: bool,
        pub attach_stderr: bool,
        /// docker-py writes it as `detachKeys`; Go does not look at the case of keys.
        #[serde(alias = "detachKeys")]
        pub detach_keys: String,
        #[serde(serialize_with = "or_null")]
        pub env: Vec<String>,
        pub working_dir: String,
        #[serde(serialize_with = "or_null")]
        pub cmd: Vec<String>,
    }

    /// What `GET /exec/{id}/json` tells.
    #[serde(rename_all = "PascalCase")]
    pub struct ExecInspect {
        #[serde(rename = "ID")]
        pub id: String,
        pub running: bool,
        /// `None` until it has ended.
        pub exit_code: Option<i64>,
        pub process_config: ProcessConfig,
        pub open_stdin: bool,
        pub open_stderr: bool,
        pub open_stdout: bool,
        pub can_remove: bool,
        #[serde(rename = "ContainerID")]
        pub container_id: String,
        pub detach_keys: String,
        pub pid: i64,
    }

    /// What an exec runs. API object `ProcessConfig`.
    #[serde(rename_all = "lowercase")]
    pub struct ProcessConfig {
        pub tty: bool,
        pub entrypoint: String,
        pub arguments: Vec<String>,
        pub privileged: bool,
        #[serde(skip_serializing_if = "is_zero")]
        pub user: String,
    }

    /// The body of `POST /exec/{id}/start`.
    #[serde(rename_all = "PascalCase")]
    pub struct ExecStartBody {
        pub detach: bool,
        pub tty: bool,
        /// Height, width.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub console_size: Option<[u32; 2]>,
    }
}
