//! The command line of services.

use super::{
    Form, Show,
    words::{bytes, cpus, duration, scale},
};
use clap::Subcommand;
use std::time::Duration;

#[derive(Subcommand)]
pub enum Service {
    /// Create a service and wait until its tasks run.
    #[command(
        after_help = "Examples:\n  muster service create --name web --replicas 3 --network shop --publish 8080:80 nginx\n  muster service create --name job --restart-condition none --constraint node.labels.disk==ssd busybox echo hello"
    )]
    Create(Box<Create>),
    /// List services.
    #[command(after_help = "Examples:\n  muster service ls\n  muster service ls --format '{{.Name}} {{.Replicas}}'")]
    Ls {
        #[command(flatten)]
        show: Show,
    },
    /// The tasks of services.
    #[command(
        after_help = "Examples:\n  muster service ps web\n  muster service ps --no-trunc --filter desired-state=running web"
    )]
    Ps {
        #[command(flatten)]
        show: Show,
        /// desired-state=running|shutdown|accepted, node=NAME.
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// All that is known of services, as JSON.
    #[command(
        after_help = "Examples:\n  muster service inspect web\n  muster service inspect -f '{{.service.spec.task.container.image}}' web"
    )]
    Inspect {
        #[command(flatten)]
        form: Form,
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// Change a service and wait until it is so.
    #[command(
        after_help = "Examples:\n  muster service update --image nginx:1.27 web\n  muster service update --replicas 5 --env-add MODE=fast --env-rm OLD web"
    )]
    Update(Box<Update>),
    /// Change how many tasks services have, and wait until so many run.
    #[command(after_help = "Example:\n  muster service scale web=5 worker=2")]
    Scale {
        #[arg(short, long)]
        detach: bool,
        #[arg(required = true, value_name = "SERVICE=N", value_parser = scale)]
        services: Vec<(String, u64)>,
    },
    /// Back to what it was before the last update.
    #[command(after_help = "Example:\n  muster service rollback web")]
    Rollback {
        #[arg(short, long)]
        detach: bool,
        service: String,
    },
    /// Remove services.
    #[command(after_help = "Example:\n  muster service rm web")]
    Rm {
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// What the tasks of a service logged.
    #[command(after_help = "Example:\n  muster service logs -f --tail 20 web")]
    Logs {
        #[command(flatten)]
        logs: LogArgs,
        service: String,
    },
}

#[derive(clap::Args)]
pub struct LogArgs {
    /// Go on with new lines.
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many lines.
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// The time before each line.
    #[arg(short, long)]
    pub timestamps: bool,
    /// Lines from this time on: RFC 3339, or how long ago (10m).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Lines before this time.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

#[derive(clap::Args)]
pub struct Create {
    /// Default: a name made from the image's.
    #[arg(long)]
    pub name: Option<String>,
    #[arg(long, value_name = "N")]
    pub replicas: Option<u64>,
    /// replicated or global.
    #[arg(long, default_value = "replicated", value_parser = ["replicated", "global"])]
    pub mode: String,
    #[arg(long, value_name = "NETWORK")]
    pub network: Vec<String>,
    /// [PUBLISHED:]TARGET[/udp], or mode=host,published=P,target=T,protocol=tcp.
    #[arg(short, long, value_name = "PORT")]
    pub publish: Vec<String>,
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    #[arg(long, value_name = "KEY=VALUE")]
    pub container_label: Vec<String>,
    #[arg(long, value_name = "EXPRESSION")]
    pub constraint: Vec<String>,
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    #[arg(short, long)]
    pub user: Option<String>,
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// type=volume|bind|tmpfs,source=S,target=T[,readonly]
    #[arg(long, value_name = "MOUNT")]
    pub mount: Vec<String>,
    #[arg(long, value_name = "CPUS", value_parser = cpus)]
    pub limit_cpu: Option<u64>,
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub limit_memory: Option<u64>,
    #[arg(long, value_name = "CPUS", value_parser = cpus)]
    pub reserve_cpu: Option<u64>,
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub reserve_memory: Option<u64>,
    #[arg(long, value_parser = ["none", "on-failure", "any"])]
    pub restart_condition: Option<String>,
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub restart_delay: Option<Duration>,
    #[arg(long, value_name = "N")]
    pub restart_max_attempts: Option<u64>,
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub stop_grace_period: Option<Duration>,
    #[arg(long, default_value = "vip", value_parser = ["vip", "dnsrr"])]
    pub endpoint_mode: String,
    #[arg(long)]
    pub read_only: bool,
    /// Do not wait for the tasks.
    #[arg(short, long)]
    pub detach: bool,
    #[arg(short, long)]
    pub quiet: bool,
    pub image: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}

#[derive(clap::Args)]
pub struct Update {
    #[arg(long)]
    pub image: Option<String>,
    #[arg(long, value_name = "N")]
    pub replicas: Option<u64>,
    #[arg(long, value_name = "NAME=VALUE")]
    pub env_add: Vec<String>,
    #[arg(long, value_name = "NAME")]
    pub env_rm: Vec<String>,
    #[arg(long, value_name = "KEY=VALUE")]
    pub label_add: Vec<String>,
    #[arg(long, value_name = "KEY")]
    pub label_rm: Vec<String>,
    #[arg(long, value_name = "EXPRESSION")]
    pub constraint_add: Vec<String>,
    #[arg(long, value_name = "EXPRESSION")]
    pub constraint_rm: Vec<String>,
    #[arg(long, value_name = "N")]
    pub update_parallelism: Option<u64>,
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub update_delay: Option<Duration>,
    /// Replace every task though nothing changed.
    #[arg(long)]
    pub force: bool,
    #[arg(short, long)]
    pub detach: bool,
    pub service: String,
}
