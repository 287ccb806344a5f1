//! What is asked of a network plugin (libnetwork, "Remote Drivers"), and how its answers are read.

use super::NETWORK_DRIVER;
use crate::{
    net::publish::Wanted,
    plugin::{Plugins, Unanswered, Wait},
};
use muster_calls::{Error, Kind, Result};
use muster_model::net::{Mac, Protocol};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Options that Docker's drivers know (libnetwork, `netlabel`).
const GENERIC: &str = "com.docker.network.generic";
const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
const INTERNAL: &str = "com.docker.network.internal";
const PORT_MAP: &str = "com.docker.network.portmap";
const EXPOSED_PORTS: &str = "com.docker.network.endpoint.exposedports";
pub(super) const MAC_ADDRESS: &str = "com.docker.network.endpoint.macaddress";

/// One plugin that drives networks.
pub(super) struct Driver<'a> {
    plugins: &'a Plugins,
    name: &'a str,
}

/// An address with the length of its network's prefix.
pub(super) type Cidr<T> = (T, u8);

/// What a plugin says of a new endpoint, where it says more than it was told.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Interface {
    pub ip: Option<Cidr<Ipv4Addr>>,
    pub ip6: Option<Cidr<Ipv6Addr>>,
    pub mac: Option<Mac>,
}

/// What is to be put into the container.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Joining {
    /// The interface's name on the host; empty: there is none.
    pub source: String,
    pub prefix: String,
    pub gateway: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    pub routes: Vec<Route>,
    /// The container is to have no other way out (`DisableGatewayService`).
    pub closed: bool,
}

/// A route in the container: by a neighbour, or to what is on the link.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Route {
    pub to: Cidr<IpAddr>,
    pub by: Option<IpAddr>,
}

#[derive(Deserialize)]
struct Nothing {}

/// Go writes what is empty as `null`.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> std::result::Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Able {
    #[serde(default, deserialize_with = "or_default")]
    scope: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    #[serde(default)]
    interface: Option<Described>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Described {
    #[serde(deserialize_with = "or_default")]
    address: String,
    #[serde(rename = "AddressIPv6", deserialize_with = "or_default")]
    address6: String,
    #[serde(deserialize_with = "or_default")]
    mac_address: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Told {
    interface_name: Option<Named>,
    #[serde(deserialize_with = "or_default")]
    gateway: String,
    #[serde(rename = "GatewayIPv6", deserialize_with = "or_default")]
    gateway6: String,
    #[serde(deserialize_with = "or_default")]
    static_routes: Vec<StaticRoute>,
    #[serde(deserialize_with = "or_default")]
    disable_gateway_service: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Named {
    #[serde(deserialize_with = "or_default")]
    src_name: String,
    #[serde(deserialize_with = "or_default")]
    dst_prefix: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct StaticRoute {
    #[serde(deserialize_with = "or_default")]
    destination: String,
    /// 0: by `NextHop`; 1: on the link.
    #[serde(deserialize_with = "or_default")]
    route_type: i64,
    #[serde(deserialize_with = "or_default")]
    next_hop: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Operating {
    #[serde(default, deserialize_with = "or_default")]
    value: Map<String, Value>,
}

impl<'a> Driver<'a> {
    pub fn new(plugins: &'a Plugins, name: &'a str) -> Self {
        Self { plugins, name }
    }

    async fn ask<T: DeserializeOwned>(&self, method: &str, request: Value, wait: Wait) -> Result<T> {
        self.plugins.call(self.name, &format!("{NETWORK_DRIVER}.{method}"), &request, wait).await
    }

    fn bad(&self, method: &str, what: &str) -> Error {
        Error::internal(format!("plugin {}: {NETWORK_DRIVER}.{method}: {what}", self.name))
    }

    /// Asks what the plugin can do.
    ///
    /// # Errors
    /// `NotFound`, in Docker's words, when there is none; `Unimplemented` for one whose networks span hosts.
    pub async fn check(&self) -> Result<()> {
        let name = self.name;
        let found = self.plugins.find(name, NETWORK_DRIVER).await.map(drop);
        found.map_err(|e| match e.kind {
            Kind::NotFound | Kind::Invalid => {
                Error::not_found(format!("could not find plugin {name} in v1 plugin registry: plugin not found"))
            }
            _ => e,
        })?;
        let able: Able = self.ask("GetCapabilities", json!({}), Wait::Long).await?;
        match able.scope.as_str() {
            "local" => Ok(()),
            "global" => Err(Error::unimplemented(format!(
                "network driver {name}: its networks span hosts (capability Scope: global); only those of scope local"
            ))),
            other => Err(self.bad("GetCapabilities", &format!("scope {other:?}: expected local or global"))),
        }
    }

    /// Has a network made. `four` and `six` describe its address pools.
    pub async fn create_network(&self, network: &crate::net::NetworkRecord, four: Value, six: Value) -> Result<()> {
        let mut options = Map::new();
        options.insert(ENABLE_IPV6.to_owned(), network.enable_ipv6.into());
        options.insert(GENERIC.to_owned(), json!(network.options));
        if network.internal {
            options.insert(INTERNAL.to_owned(), true.into());
        }
        let request = json!({ "NetworkID": network.id, "Options": options, "IPv4Data": four, "IPv6Data": six });
        self.ask::<Nothing>("CreateNetwork", request, Wait::Long).await.map(drop)
    }

    pub async fn delete_network(&self, id: &str) -> Result<()> {
        self.ask::<Nothing>("DeleteNetwork", json!({ "NetworkID": id }), Wait::Short).await.map(drop)
    }

    /// Has an endpoint made with `given`; answers with what the plugin gave besides. `asked` is set when it may have heard.
    ///
    /// # Errors
    /// Also when the plugin changes what it was given.
    pub async fn create_endpoint(
        &self,
        of: &Endpoint<'_>,
        given: &Interface,
        options: Map<String, Value>,
        asked: &mut bool,
    ) -> Result<Interface> {
        const METHOD: &str = "CreateEndpoint";
        let text = |cidr: Option<String>| cidr.unwrap_or_default();
        let interface = json!({
            "Address": text(given.ip.map(|(ip, n)| format!("{ip}/{n}"))),
            "AddressIPv6": text(given.ip6.map(|(ip, n)| format!("{ip}/{n}"))),
            "MacAddress": text(given.mac.map(|m| m.to_string())),
        });
        let mut request = of.request();
        request["Interface"] = interface;
        request["Options"] = options.into();
        let method = format!("{NETWORK_DRIVER}.{METHOD}");
        let answered = self.plugins.try_call(self.name, &method, &request, Wait::Long).await;
        *asked = !matches!(answered, Err(Unanswered::Away(_)));
        let created: Created = answered?;
        let told = created.interface.unwrap_or_default();
        let read = Interface {
            ip: optional(&told.address, cidr).map_err(|e| self.bad(METHOD, &e))?,
            ip6: optional(&told.address6, cidr).map_err(|e| self.bad(METHOD, &e))?,
            mac: optional(&told.mac_address, mac).map_err(|e| self.bad(METHOD, &e))?,
        };
        let changed = [
            ("MacAddress", given.mac.is_some_and(|m| read.mac.is_some_and(|r| r != m))),
            ("Address", given.ip.is_some_and(|ip| read.ip.is_some_and(|r| r != ip))),
            ("AddressIPv6", given.ip6.is_some_and(|ip| read.ip6.is_some_and(|r| r != ip))),
        ];
        match changed.iter().find(|(_, changed)| *changed) {
            Some((field, _)) => Err(self.bad(METHOD, &format!("it changed {field}, which was given"))),
            None => {
                Ok(Interface { ip: given.ip.or(read.ip), ip6: given.ip6.or(read.ip6), mac: given.mac.or(read.mac) })
            }
        }
    }

    /// Has the endpoint ready for a namespace.
    pub async fn join(&self, of: &Endpoint<'_>, sandbox: &str, options: Map<String, Value>) -> Result<Joining> {
        const METHOD: &str = "Join";
        let mut request = of.request();
        request["SandboxKey"] = sandbox.into();
        request["Options"] = options.into();
        let told: Told = self.ask(METHOD, request, Wait::Long).await?;
        joining(told).map_err(|e| self.bad(METHOD, &e))
    }

    /// The hardware address, if the plugin says one.
    pub async fn mac(&self, of: &Endpoint<'_>) -> Option<Mac> {
        let told = self.ask::<Operating>("EndpointOperInfo", of.request(), Wait::Short).await.ok()?;
        mac(told.value.get(MAC_ADDRESS)?.as_str()?).ok()
    }

    /// Has ports published. False: the plugin knows no such thing.
    pub async fn publish(&self, of: &Endpoint<'_>, options: Map<String, Value>) -> Result<bool> {
        let mut request = of.request();
        request["Options"] = options.into();
        match self.ask::<Nothing>("ProgramExternalConnectivity", request, Wait::Long).await {
            Err(e) if e.kind == Kind::NotFound => Ok(false),
            other => other.map(|_| true),
        }
    }

    pub async fn unpublish(&self, of: &Endpoint<'_>) -> Result<()> {
        match self.ask::<Nothing>("RevokeExternalConnectivity", of.request(), Wait::Short).await {
            Err(e) if e.kind == Kind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    pub async fn leave(&self, of: &Endpoint<'_>) -> Result<()> {
        self.ask::<Nothing>("Leave", of.request(), Wait::Short).await.map(drop)
    }

    pub async fn delete_endpoint(&self, of: &Endpoint<'_>) -> Result<()> {
        self.ask::<Nothing>("DeleteEndpoint", of.request(), Wait::Short).await.map(drop)
    }
}

/// What a plugin calls an endpoint.
#[derive(Clone, Copy)]
pub(super) struct Endpoint<'a> {
    pub network: &'a str,
    pub id: &'a str,
}

impl Endpoint<'_> {
    fn request(&self) -> Value {
        json!({ "NetworkID": self.network, "EndpointID": self.id })
    }
}

/// Ports as plugins are told of them: numbers for protocols (IANA).
pub(super) fn port_options(exposed: &[(u16, Protocol)], wanted: &[Wanted]) -> Map<String, Value> {
    let number = |p: Protocol| match p {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let exposed: Vec<Value> =
        exposed.iter().map(|(port, protocol)| json!({ "Proto": number(*protocol), "Port": port })).collect();
    let mapped: Vec<Value> = wanted
        .iter()
        .map(|w| {
            json!({
                "Proto": number(w.protocol),
                "IP": "",
                "Port": w.container_port,
                "HostIP": if w.any_family { String::new() } else { w.host_ip.to_string() },
                "HostPort": w.host_ports.start(),
                "HostPortEnd": w.host_ports.end(),
            })
        })
        .collect();
    [(EXPOSED_PORTS.to_owned(), exposed.into()), (PORT_MAP.to_owned(), mapped.into())].into_iter().collect()
}

fn joining(told: Told) -> std::result::Result<Joining, String> {
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("{text:?} is no address"));
    let gateway = match optional(&told.gateway, address)? {
        Some(IpAddr::V6(ip)) => return Err(format!("Gateway {ip} is no IPv4 address")),
        Some(IpAddr::V4(ip)) => Some(ip),
        None => None,
    };
    let gateway6 = match optional(&told.gateway6, address)? {
        Some(IpAddr::V4(ip)) => return Err(format!("GatewayIPv6 {ip} is no IPv6 address")),
        Some(IpAddr::V6(ip)) => Some(ip),
        None => None,
    };
    let route = |r: StaticRoute| -> std::result::Result<Route, String> {
        let to = cidr::<IpAddr>(&r.destination)?;
        let by = match r.route_type {
            0 => Some(address(&r.next_hop).map_err(|e| format!("StaticRoutes, NextHop: {e}"))?),
            1 => None,
            other => return Err(format!("StaticRoutes, RouteType {other}: expected 0 or 1")),
        };
        if by.is_some_and(|by| by.is_ipv4() != to.0.is_ipv4()) {
            return Err(format!("StaticRoutes, {}: its NextHop is of the other family", r.destination));
        }
        Ok(Route { to, by })
    };
    let named = told.interface_name.unwrap_or_default();
    for (field, name) in [("SrcName", &named.src_name), ("DstPrefix", &named.dst_prefix)] {
        if !name.is_empty() && !is_interface(name) {
            return Err(format!("InterfaceName.{field} {name:?} is no name of an interface"));
        }
    }
    let routes = told.static_routes.into_iter().map(route).collect::<std::result::Result<_, _>>()?;
    let closed = told.disable_gateway_service;
    Ok(Joining { source: named.src_name, prefix: named.dst_prefix, gateway, gateway6, routes, closed })
}

/// What the kernel takes (`dev_valid_name`), and no path.
pub(in crate::net) fn is_interface(name: &str) -> bool {
    (1..16).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
}

fn optional<T>(
    text: &str,
    read: impl Fn(&str) -> std::result::Result<T, String>,
) -> std::result::Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { read(text).map(Some) }
}

/// `address/prefix`.
pub(super) fn cidr<T: std::str::FromStr + Into<IpAddr> + Copy>(text: &str) -> std::result::Result<Cidr<T>, String> {
    let parts = text.split_once('/').and_then(|(ip, n)| Some((ip.parse::<T>().ok()?, n.parse::<u8>().ok()?)));
    let fits = |ip: T, n: u8| n <= if ip.into().is_ipv4() { 32 } else { 128 };
    parts.filter(|(ip, n)| fits(*ip, *n)).ok_or_else(|| format!("{text:?} is no address with a prefix length"))
}

fn mac(text: &str) -> std::result::Result<Mac, String> {
    crate::container::parse_mac(text).ok_or_else(|| format!("{text:?} is no MAC address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> std::result::Result<Joining, String> {
        joining(serde_json::from_str(text).map_err(|e| e.to_string())?)
    }

    #[test]
    fn what_a_plugin_says_at_join_is_read_as_libnetwork_does() {
        let text = r#"{"InterfaceName":{"SrcName":"v1","DstName":"","DstPrefix":"eth"},"Gateway":"10.0.0.1",
            "StaticRoutes":[{"Destination":"10.1.0.0/16","RouteType":0,"NextHop":"10.0.0.9"},
                            {"Destination":"fd00::/64","RouteType":1,"NextHop":""}],"DisableGatewayService":true}"#;
        let read = read(text).expect("valid");
        assert_eq!((read.source.as_str(), read.prefix.as_str()), ("v1", "eth"));
        assert_eq!(read.gateway, Some(Ipv4Addr::new(10, 0, 0, 1)));
        let routes: Vec<_> = read.routes.iter().map(|r| (r.to.to_owned().1, r.by.is_some())).collect();
        assert_eq!(routes, [(16, true), (64, false)]);
        let empty =
            super::joining(serde_json::from_str(r#"{"InterfaceName":null,"StaticRoutes":null}"#).expect("JSON"));
        assert_eq!(empty.expect("nothing to do"), Joining::default());
    }

    #[test]
    fn garbage_is_refused_and_the_field_named() {
        for (text, named) in [
            (r#"{"Gateway":"nowhere"}"#, "nowhere"),
            (r#"{"Gateway":"fd00::1"}"#, "Gateway"),
            (r#"{"InterfaceName":{"SrcName":"../../x","DstPrefix":"eth"}}"#, "SrcName"),
            (r#"{"InterfaceName":{"SrcName":"x","DstPrefix":"a b"}}"#, "DstPrefix"),
            (r#"{"StaticRoutes":[{"Destination":"10.0.0.0/33","RouteType":1}]}"#, "10.0.0.0/33"),
            (r#"{"StaticRoutes":[{"Destination":"10.0.0.0/8","RouteType":7}]}"#, "RouteType"),
            (r#"{"StaticRoutes":[{"Destination":"10.0.0.0/8","RouteType":0,"NextHop":"fd00::1"}]}"#, "family"),
        ] {
            let refused = read(text).expect_err(text);
            assert!(refused.contains(named), "{refused}");
        }
    }
}
