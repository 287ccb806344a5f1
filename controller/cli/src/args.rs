//! The command line.

mod service;
mod words;

use clap::{Parser, Subcommand, ValueEnum};
use muster_model::{cluster::ClusterSpec, net::Subnet};
pub use service::{Create, LogArgs, Service, Update};
use std::time::Duration;
use words::duration;
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
    /// `json`, `table`, or a template such as '{{.Name}} {{.Status}}' or 'table {{.Name}}\t{{json .Status}}'.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Whole ids and texts.
    #[arg(long)]
    pub no_trunc: bool,
}

/// How what is known of things is shown.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Form {
    /// `json`: a line for each; or a template such as '{{.Name}}' or '{{json .Labels}}'.
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Found a cluster with this host as its first manager.
    #[command(
        after_help = "Examples:\n  muster init\n  muster init --advertise-addr 10.0.0.1 --default-addr-pool 10.64.0.0/12"
    )]
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
        #[command(flatten)]
        settings: Settings,
    },
    /// Make this host a member of a cluster.
    #[command(
        after_help = "Examples:\n  muster join --token TOKEN 10.0.0.1\n  muster join --token TOKEN --advertise-addr 10.0.0.2 10.0.0.1:2377 10.0.0.3:2377"
    )]
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
    #[command(
        after_help = "Examples:\n  muster join-token worker\n  muster join-token -q manager\n  muster join-token --rotate worker"
    )]
    JoinToken {
        /// Only the token.
        #[arg(short, long)]
        quiet: bool,
        /// Make a new one; the old one opens nothing any more.
        #[arg(long)]
        rotate: bool,
        role: RoleArg,
    },
    /// Settings of the whole cluster.
    #[command(subcommand)]
    Cluster(Cluster),
    /// Leave the cluster.
    #[command(after_help = "Examples:\n  muster leave\n  muster leave --force")]
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
    #[command(
        after_help = "Examples:\n  muster ps\n  muster ps -a --filter name=web --node host2\n  muster ps --format 'table {{.Names}}\\t{{.Status}}\\t{{.Node}}'"
    )]
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
    #[command(after_help = "Examples:\n  muster logs web.1.x\n  muster logs -f --since 10m host2/web.2.y")]
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
    #[command(after_help = "Example:\n  muster attach host2/shell")]
    Attach { container: String },
    /// Start stopped containers.
    #[command(after_help = "Example:\n  muster start host2/db")]
    Start {
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Stop containers, wherever they are.
    #[command(after_help = "Example:\n  muster stop -t 5 host2/db")]
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
    #[command(after_help = "Example:\n  muster restart host2/db host3/db")]
    Restart {
        #[arg(short = 't', long, value_name = "SECONDS", allow_negative_numbers = true)]
        time: Option<i64>,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Send containers a signal.
    #[command(after_help = "Example:\n  muster kill -s HUP host2/proxy")]
    Kill {
        #[arg(short, long, default_value = "KILL", value_name = "SIGNAL")]
        signal: String,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Remove containers.
    #[command(after_help = "Example:\n  muster rm -f host2/db")]
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
    #[command(
        after_help = "Examples:\n  muster inspect host2/web.2.y\n  muster inspect -f '{{.State.Pid}} {{json .Config.Env}}' host2/web.2.y"
    )]
    Inspect {
        #[command(flatten)]
        form: Form,
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Images of all hosts.
    #[command(after_help = "Examples:\n  muster images\n  muster images --format '{{.Repository}}:{{.Tag}} {{.Size}}'")]
    Images {
        #[command(flatten)]
        show: Show,
    },
    /// Pull an image onto every node that takes new work.
    #[command(after_help = "Examples:\n  muster pull nginx:1.27\n  muster pull --node host2 registry.example/app:3")]
    Pull {
        image: String,
        /// Only onto this one.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show a trace as a tree of spans, or list the recent ones.
    #[command(
        after_help = "Examples:\n  muster trace --name ServiceCreate\n  muster trace --name services/create -q\n  muster trace 0af7651916cd43dd8448eb211c80319c"
    )]
    Trace {
        /// 32 hexadecimal digits; without: the recent ones.
        id: Option<String>,
        /// Only traces that begin with a call of this name.
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// Ids only.
        #[arg(short, long)]
        quiet: bool,
        /// Of the list, or of a trace's spans: `json`, `table`, or a template such as '{{.Name}} {{.Duration}}'.
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
    },
    /// Clusters elsewhere, and the certificates for them.
    #[command(subcommand)]
    Context(Context),
    /// What this host is.
    #[command(after_help = "Examples:\n  muster info\n  muster info -f '{{.Name}} {{.NCPU}}'")]
    Info(Form),
    /// Version of this client and of the host.
    #[command(after_help = "Examples:\n  muster version\n  muster version -f '{{.Server.Version}}'")]
    Version(Form),
    /// A script for the shell's completion.
    #[command(after_help = "Example:\n  muster completion bash > /etc/bash_completion.d/muster")]
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
pub enum Cluster {
    /// The cluster and its settings, as JSON.
    #[command(after_help = "Example:\n  muster cluster inspect")]
    Inspect,
    /// Change settings; those that are not given stay as they are.
    #[command(after_help = "Example:\n  muster cluster update --node-timeout 2s")]
    Update {
        #[command(flatten)]
        settings: Settings,
    },
}

/// What can be set for a cluster.
#[derive(clap::Args, Debug, Default)]
pub struct Settings {
    /// A host that was silent for this long is lost, and its tasks run elsewhere. By default 5s.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub node_timeout: Option<Duration>,
    /// How long certificates of nodes are valid; they are renewed in time. By default 90days.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub cert_expiry: Option<Duration>,
    /// Tasks that have ended which are kept for each slot, for `service ps`. By default 5.
    #[arg(long, value_name = "N")]
    pub task_history_limit: Option<u32>,
}

impl Settings {
    /// These settings over others; `None`: none is given.
    pub fn over(&self, old: ClusterSpec) -> Option<ClusterSpec> {
        if self.node_timeout.is_none() && self.cert_expiry.is_none() && self.task_history_limit.is_none() {
            return None;
        }
        let mut spec = match self.node_timeout {
            Some(timeout) => old.with_node_timeout(timeout),
            None => old,
        };
        spec.certificate_lifetime = self.cert_expiry.unwrap_or(spec.certificate_lifetime);
        spec.task_history_limit = self.task_history_limit.unwrap_or(spec.task_history_limit);
        Some(spec)
    }
}

#[derive(Subcommand)]
pub enum Node {
    /// List nodes.
    #[command(
        after_help = "Examples:\n  muster node ls\n  muster node ls --filter role=manager --format '{{.Hostname}} {{.Status}}'"
    )]
    Ls {
        #[command(flatten)]
        show: Show,
        /// name=, id=, role= or label=.
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
    },
    /// All that is known of nodes, as JSON.
    #[command(
        after_help = "Examples:\n  muster node inspect host2\n  muster node inspect -f '{{.node.description.hostname}}' host2"
    )]
    Inspect {
        #[command(flatten)]
        form: Form,
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Change a node.
    #[command(
        after_help = "Examples:\n  muster node update --availability drain host2\n  muster node update --label-add disk=ssd host2"
    )]
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
    #[command(after_help = "Example:\n  muster node promote host2 host3")]
    Promote {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Make managers workers.
    #[command(after_help = "Example:\n  muster node demote host3")]
    Demote {
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Remove nodes that are down.
    #[command(after_help = "Examples:\n  muster node rm host3\n  muster node rm --force host3")]
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
    #[command(
        after_help = "Examples:\n  muster network create shop\n  muster network create --subnet 10.20.0.0/24 --internal back"
    )]
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
    #[command(after_help = "Examples:\n  muster network ls\n  muster network ls --format json")]
    Ls {
        #[command(flatten)]
        show: Show,
    },
    /// All that is known of networks, as JSON.
    #[command(after_help = "Example:\n  muster network inspect shop")]
    Inspect {
        #[command(flatten)]
        form: Form,
        #[arg(required = true)]
        networks: Vec<String>,
    },
    /// Remove networks.
    #[command(after_help = "Example:\n  muster network rm shop back")]
    Rm {
        #[arg(required = true)]
        networks: Vec<String>,
    },
}

#[derive(Subcommand)]
pub enum Context {
    /// Get a certificate for the cluster of the host that is asked, and keep it under a name.
    #[command(
        after_help = "Examples:\n  muster context create prod\n  muster context create --addr manager.example:2377 prod"
    )]
    Create {
        /// Where the cluster is reached from here; default: this host's address.
        #[arg(long, value_name = "HOST:PORT")]
        addr: Option<String>,
        name: String,
    },
    /// List contexts, and the operators' certificates that the cluster of the host that is asked has given.
    #[command(
        after_help = "Examples:\n  muster context ls\n  muster context ls -q\n  muster context ls --issued --format json"
    )]
    Ls {
        /// Only the certificates.
        #[arg(long)]
        issued: bool,
        /// Names only; of certificates their serials.
        #[arg(short, long)]
        quiet: bool,
        /// Of the contexts, or of the certificates where these are asked for: `json`, `table`, or a template such as
        /// '{{.Name}} {{.Address}}'.
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
    },
    /// Call operators' certificates back before they end: the one of a serial, or all of a name. Every node refuses them at once.
    #[command(after_help = "Examples:\n  muster context revoke prod\n  muster context revoke 5f3a9c")]
    Revoke {
        #[arg(value_name = "NAME|SERIAL")]
        name: String,
    },
    /// Make a context the default. `default` is this host's own socket.
    #[command(after_help = "Examples:\n  muster context use prod\n  muster context use default")]
    Use { name: String },
    /// Write a context as text, to be taken elsewhere. It holds a private key.
    #[command(after_help = "Example:\n  muster context export prod > prod.pem")]
    Export { name: String },
    /// Read a context that was exported, from standard input.
    #[command(after_help = "Example:\n  muster context import prod < prod.pem")]
    Import { name: String },
    /// Forget contexts.
    #[command(after_help = "Example:\n  muster context rm prod")]
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

    /// Ends of commands, with the words that lead there.
    fn leaves(command: &clap::Command, path: String, out: &mut Vec<(String, clap::Command)>) {
        let mut below = command.get_subcommands().peekable();
        if below.peek().is_none() {
            out.push((path, command.clone()));
            return;
        }
        below.for_each(|c| leaves(c, format!("{path} {}", c.get_name()), out));
    }

    /// As a shell does, as far as examples need it: single quotes; what follows `;`, `<` and `>` is not the command's.
    fn shell_words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let (mut quoted, mut any) = (false, false);
        for c in line.chars() {
            match c {
                '\'' => (quoted, any) = (!quoted, true),
                '<' | '>' | ';' if !quoted => break,
                ' ' if !quoted => {
                    if any {
                        words.push(String::new());
                    }
                    any = false;
                }
                c => {
                    any = true;
                    words.last_mut().expect("there is one").push(c);
                }
            }
        }
        words.retain(|w| !w.is_empty());
        words
    }

    #[test]
    fn every_command_shows_examples_and_takes_them() {
        use clap::CommandFactory as _;
        let mut all = Vec::new();
        leaves(&Args::command(), "muster".to_owned(), &mut all);
        assert!(all.len() > 40, "{}", all.len());
        for (path, command) in all {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<_> = help.lines().map(str::trim).filter(|l| l.starts_with("muster")).collect();
            assert!(!examples.is_empty() && help.starts_with("Example"), "{path} has no example");
            for example in examples {
                assert!(example.starts_with(&path), "{path}: {example}");
                if let Err(e) = Args::try_parse_from(shell_words(example)) {
                    panic!("{path}: {example}: {e}");
                }
            }
        }
    }
}
