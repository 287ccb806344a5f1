//! What the engine wants of a data plane: [`Network`], and the answer of a host that has none: [`NoNetwork`].

use async_trait::async_trait;
use muster_model::{
    net::{Mac, Protocol, Scope},
    view::{Network4, Network6},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

/// Everything a data plane must know of one container's network: a declaration, not a list of steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// 64 hexadecimal digits.
    pub container_id: String,
    /// The container's name, for people.
    pub container_name: String,
    /// A file that holds the network namespace (a bind mount of its `/proc/PID/ns/net`). Loopback is up in it.
    pub netns: PathBuf,
    /// One per network, in the order of the interfaces. Of each family one has the default route, unless all that have
    /// the family are internal or packets leave through a network of a plugin.
    pub endpoints: Vec<Endpoint>,
    /// On networks of plugins: interfaces that are not the data plane's to make or to look at.
    pub foreign: Vec<Foreign>,
    /// Host ports that lead into the container. The engine holds a bound socket on each while the container runs, so that
    /// nobody else gets it; packets are for the data plane to bring.
    pub published: Vec<Published>,
    pub dns: Dns,
}

/// One interface of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Unique for ever: 64 hexadecimal digits (Docker's `EndpointID`).
    pub key: String,
    pub scope: Scope,
    pub network_id: String,
    pub network_name: String,
    /// Nothing leaves this network, whatever routes say.
    pub internal: bool,
    /// Its containers do not reach each other directly.
    pub isolated: bool,
    /// What leaves it keeps the container's address.
    pub routed: bool,
    /// Bytes.
    pub mtu: u32,
    /// Its address, and the network's half that it is in; the gateway is there for internal networks too (Docker shows it).
    pub v4: Option<(Ipv4Addr, Network4)>,
    /// The same of IPv6. One of the two there is.
    pub v6: Option<(Ipv6Addr, Network6)>,
    pub mac: Mac,
    /// `eth0`, `eth1`, ...
    pub ifname: String,
    pub default_route: bool,
    /// As `default_route`, of IPv6: the first network may have the one and lack the other.
    pub default_route6: bool,
    /// What the container is called on this network: names and aliases, resolvable by its neighbours. Empty on networks
    /// without names (Docker's default bridge).
    pub names: Vec<String>,
}

/// What a container is called on a network that the data plane does not carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    pub scope: Scope,
    pub ip: Ipv4Addr,
    pub ip6: Option<Ipv6Addr>,
    pub names: Vec<String>,
}

/// A host port that leads to a container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub protocol: Protocol,
    /// `0.0.0.0` for every address of the host.
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub container_port: u16,
    /// Index into [`Sandbox::endpoints`]: the one that the packets are sent to.
    pub endpoint: usize,
}

/// A name that one container has for another (`--link`), besides what that is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    pub alias: String,
    /// What the other is called on the network.
    pub target: String,
    /// The one network that it is meant on; `None`: every network of the container.
    pub scope: Option<Scope>,
}

/// The device that the host has for a bridge network: it has the network's gateway addresses, and no container hangs on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Up to 15 bytes.
    pub name: String,
    pub v4: Option<Network4>,
    pub v6: Option<Network6>,
    /// Bytes.
    pub mtu: u32,
}

/// Why a [`Gateway`] is not there. The texts are shown to the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoGateway {
    /// Somebody else's, which is left alone.
    #[error("a device of this name is there already")]
    Taken,
    #[error("{0}")]
    Failed(String),
}

/// How the container resolves names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Whether its `/etc/resolv.conf` points to 127.0.0.11: the data plane must answer there.
    pub embedded: bool,
    /// Asked for what is no name of a network; empty: the host's.
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
    /// Answered to this container alone, before what others are called.
    pub links: Vec<Linked>,
}

/// A data plane's refusal; the text is shown to the user.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NetworkError(pub String);

/// What connects containers. Object safe; called from many tasks at once for different containers, one after the other for
/// one container.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Makes the container's network as the sandbox says. Called before its command runs; again with a changed sandbox when
    /// networks are connected or disconnected live; again with the same one for each running container after the
    /// daemon's restart. So: bring about the difference, and be no error when there is none.
    async fn attach(&self, sandbox: &Sandbox) -> Result<(), NetworkError>;

    /// Forgets the container. One that is not known is no error. The namespace goes away right after.
    async fn detach(&self, container_id: &str) -> Result<(), NetworkError>;

    /// A network of this host was removed: what is kept of it for its next container can go.
    async fn forget(&self, network: Scope);

    /// Makes the host's gateway devices these. Answers with those that could not be made, by name, and why.
    async fn set_gateways(&self, gateways: Vec<Gateway>) -> BTreeMap<String, NoGateway> {
        gateways.into_iter().map(|g| (g.name, NoGateway::Failed("there is no data plane".to_owned()))).collect()
    }

    /// Whether it answers DNS at 127.0.0.11 in the containers.
    fn provides_dns(&self) -> bool;

    /// Whether the host's own connections to 127.0.0.1 reach the ports that are published there.
    fn serves_host(&self) -> bool {
        false
    }

    /// Whether it can do anything at all; `info` and refusals tell the user.
    fn is_present(&self) -> bool {
        true
    }

    /// How many packets it has dropped, by reason; reasons that never were may be there with 0.
    async fn dropped(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}

/// Loopback only: for engines without a data plane. Containers get a namespace of their own; addresses are handed out and
/// shown, and lead nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNetwork;

#[async_trait]
impl Network for NoNetwork {
    async fn attach(&self, _: &Sandbox) -> Result<(), NetworkError> {
        Ok(())
    }
    async fn detach(&self, _: &str) -> Result<(), NetworkError> {
        Ok(())
    }
    async fn forget(&self, _: Scope) {}
    fn provides_dns(&self) -> bool {
        false
    }
    fn is_present(&self) -> bool {
        false
    }
}
