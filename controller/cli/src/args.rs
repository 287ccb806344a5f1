//! The command line.

mod words;

use clap::{Parser, Subcommand, ValueEnum};
use muster_model::net::Subnet;
use std::time::Duration;
use words::{bytes, cpus, duration};
pub use words::{mount, pair, port};

/// Many Linux machines as one Docker.
#[derive(Parser)]
#[command(
    name = "muster",
    version,
    after_help = "Examples:
  muster init                                              found a cluster on this host
  muster join --token TOKEN 10.0.0.1                       make this host a member
  muster network create shop
  muster service create --name web --replicas 6 --network shop --publish 8080:80 nginx
  muster ps; muster logs web.1.x; muster exec -it web.1.x sh"
)]
pub struct Args {
    /// Host to ask: unix://PATH of its muster.sock.
    #[arg(short = 'H', long, global = true, env = "MUSTER_HOST", value_name = "unix://PATH")]
    pub host: Option<String>,
    /// Context to use: a cluster elsewhere and a certificate for it.
    #[arg(short = 'c', long, global = true, env = "MUSTER_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

/// How a list is shown.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Show {
    /// Ids only.
    #[arg(short, long)]
    pub quiet: bool,
    /// `json`, `table`, or a template such as '{{.Name}} {{.Status}}'.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Whole ids and texts.
    #[arg(long)]
    pub no_trunc: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Found a cluster with this host as its first manager.
    Init {
        /// Address that the other nodes reach this one at.
        #[arg(long, value_name = "IP[:PORT]")]
        advertise_addr: Option<String>,
        /// Where other nodes' calls are taken.
        #[arg(long, value_name = "IP[:PORT]")]
        listen_addr: Option<String>,
        /// What networks without a subnet of their own are cut from.
        #[arg(long, value_name = "SUBNET")]
        default_addr_pool: Option<Subnet>,
        /// Prefix length of those networks.
        #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(8..=29))]
        default_addr_pool_mask_length: Option<u8>,
        /// On a manager whose majority is lost for good: go on with its state, as the only manager. What was acknowledged by
        /// others and had not reached it is lost: choose the manager that was up to date last.
        #[arg(long)]
        force_new_cluster: bool,
    },
    /// Make this host a member of a cluster.
    Join {
        #[arg(long, env = "MUSTER_JOIN_TOKEN", hide_env_values = true)]
        token: String,
        #[arg(long, value_name = "IP[:PORT]")]
        advertise_addr: Option<String>,
        #[arg(long, value_name = "IP[:PORT]")]
        listen_addr: Option<String>,
        /// Managers to ask, in order.
        #[arg(required = true, value_name = "HOST[:PORT]")]
        managers: Vec<String>,
    },
    /// Show what a new host needs to join.
    JoinToken {
        /// Only the token.
        #[arg(short, long)]
        quiet: bool,
        /// Make a new one; the old one opens nothing any more.
        #[arg(long)]
        rotate: bool,
        role: RoleArg,
    },
    /// Leave the cluster.
    Leave {
        /// Also as a manager.
        #[arg(short, long)]
        force: bool,
    },
    /// Nodes.
    #[command(subcommand)]
    Node(Node),
    /// Services.
    #[command(subcommand)]
    Service(Service),
    /// Networks that span hosts.
    #[command(subcommand)]
    Network(Network),
    /// Containers of all hosts.
    Ps {
        #[command(flatten)]
        show: Show,
        /// Those that do not run, too.
        #[arg(short, long)]
        all: bool,
        /// KEY=VALUE, as `docker ps --filter`.
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
        /// Only this node's.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// What a container logged, wherever it is.
    Logs {
        #[command(flatten)]
        logs: LogArgs,
        container: String,
    },
    /// Run a command in a container, wherever it is.
    #[command(after_help = "Examples:\n  muster exec web.1.x cat /etc/hostname\n  muster exec -it host2/web.2.y sh")]
    Exec {
        #[arg(short, long)]
        interactive: bool,
        #[arg(short, long)]
        tty: bool,
        #[arg(short, long)]
        detach: bool,
        #[arg(short, long, value_name = "USER")]
        user: Option<String>,
        #[arg(short, long, value_name = "DIR")]
        workdir: Option<String>,
        #[arg(short, long, value_name = "NAME=VALUE")]
        env: Vec<String>,
        #[arg(long)]
        privileged: bool,
        container: String,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Attach to a container's own process, wherever it is.
    Attach { container: String },
    /// Start stopped containers.
    Start {
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Stop containers, wherever they are.
    Stop {
        /// Seconds until they are killed.
        #[arg(short = 't', long, value_name = "SECONDS", allow_negative_numbers = true)]
        time: Option<i64>,
        #[arg(short, long, value_name = "SIGNAL")]
        signal: Option<String>,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Restart containers.
    Restart {
        #[arg(short = 't', long, value_name = "SECONDS", allow_negative_numbers = true)]
        time: Option<i64>,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Send containers a signal.
    Kill {
        #[arg(short, long, default_value = "KILL", value_name = "SIGNAL")]
        signal: String,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Remove containers.
    Rm {
        #[arg(short, long)]
        force: bool,
        /// Their anonymous volumes, too.
        #[arg(short, long)]
        volumes: bool,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// All that is known of a container, as JSON.
    Inspect {
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Images of all hosts.
    Images {
        #[command(flatten)]
        show: Show,
    },
    /// Pull an image onto every node that takes new work.
    Pull {
        image: String,
        /// Only onto this one.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show a trace as a tree of spans, or list the recent ones.
    Trace {
        /// 32 hexadecimal digits; without: the recent ones.
        id: Option<String>,
        /// Only traces that begin with a call of this name.
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        #[arg(short, long)]
        quiet: bool,
    },
    /// Clusters elsewhere, and the certificates for them.
    #[command(subcommand)]
    Context(Context),
    /// What this host is.
    Info,
    /// Version of this client and of the host.
    Version,
    /// A script for the shell's completion.
    Completion { shell: clap_complete::Shell },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleArg {
    Worker,
    Manager,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum AvailabilityArg {
    Active,
    Pause,
    Drain,
}

#[derive(Subcommand)]
pub enum Node {
    /// List nodes.
    Ls {
        #[command(flatten)]
        show: Show,
        /// name=, id=, role= or label=.
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
    },
    /// All that is known of nodes, as JSON.
    Inspect {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Change a node.
    Update {
        #[arg(long)]
        availability: Option<AvailabilityArg>,
        #[arg(long, value_name = "KEY=VALUE")]
        label_add: Vec<String>,
        #[arg(long, value_name = "KEY")]
        label_rm: Vec<String>,
        node: String,
    },
    /// Make nodes managers.
    Promote {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Make managers workers.
    Demote {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Remove nodes that are down.
    Rm {
        #[arg(short, long)]
        force: bool,
        #[arg(required = true)]
        nodes: Vec<String>,
    },
}

#[derive(Subcommand)]
pub enum Network {
    /// Create a network.
    Create {
        #[arg(long, value_name = "SUBNET")]
        subnet: Option<Subnet>,
        #[arg(long, value_name = "IP")]
        gateway: Option<std::net::Ipv4Addr>,
        /// No way out.
        #[arg(long)]
        internal: bool,
        #[arg(long, value_name = "KEY=VALUE")]
        label: Vec<String>,
        name: String,
    },
    /// List networks.
    Ls {
        #[command(flatten)]
        show: Show,
    },
    /// All that is known of networks, as JSON.
    Inspect {
        #[arg(required = true)]
        networks: Vec<String>,
    },
    /// Remove networks.
    Rm {
        #[arg(required = true)]
        networks: Vec<String>,
    },
}

#[derive(Subcommand)]
pub enum Service {
    /// Create a service and wait until its tasks run.
    Create(Box<Create>),
    /// List services.
    Ls {
        #[command(flatten)]
        show: Show,
    },
    /// The tasks of services.
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
    Inspect {
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// Change a service and wait until it is so.
    Update(Box<Update>),
    /// Back to what it was before the last update.
    Rollback {
        #[arg(short, long)]
        detach: bool,
        service: String,
    },
    /// Remove services.
    Rm {
        #[arg(required = true)]
        services: Vec<String>,
    },
    /// What the tasks of a service logged.
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
#[command(
    after_help = "Example:\n  muster service create --name web --replicas 3 --network shop --publish 8080:80 nginx"
)]
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

#[derive(Subcommand)]
pub enum Context {
    /// Get a certificate for the cluster of the host that is asked, and keep it under a name.
    Create {
        /// Where the cluster is reached from here; default: this host's address.
        #[arg(long, value_name = "HOST:PORT")]
        addr: Option<String>,
        name: String,
    },
    /// List contexts, and the operators' certificates that the cluster of the host that is asked has given.
    Ls {
        /// Only the certificates.
        #[arg(long)]
        issued: bool,
    },
    /// Call operators' certificates back before they end: the one of a serial, or all of a name. Every node refuses them at once.
    Revoke {
        #[arg(value_name = "NAME|SERIAL")]
        name: String,
    },
    /// Make a context the default. `default` is this host's own socket.
    Use { name: String },
    /// Write a context as text, to be taken elsewhere. It holds a private key.
    Export { name: String },
    /// Read a context that was exported, from standard input.
    Import { name: String },
    /// Forget contexts.
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
