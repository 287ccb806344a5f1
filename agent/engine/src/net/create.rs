//! Making a network: what may be asked for, checked field by field.

use super::{
    ipam::unique_local,
    networks::{
        BINDING_OPTION, ICC_OPTION, MASQUERADE_OPTION, MTU_OPTION, NAME_OPTION, NetworkRecord, Networks, PREDEFINED,
        parse_bool,
    },
    options::is_note,
    remote::{NULL_IPAM, is_interface, is_plugin},
};
use crate::{error, names};
use muster_calls::{Error, Result};
use muster_model::{
    engine::{Ipam, IpamConfig, NetworkCreate, Strings},
    net::{Subnet, Subnet6},
};
use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

impl Networks {
    /// Checks and makes a network. Blocks on the disk.
    ///
    /// # Errors
    /// `Conflict` for a used name, `Forbidden` for predefined names and overlapping subnets, `Invalid` and `Unimplemented`
    /// naming the field.
    pub fn create(&self, body: NetworkCreate) -> Result<Arc<NetworkRecord>> {
        let _making = self.making.lock().unwrap_or_else(|e| e.into_inner());
        self.add(self.draft(body)?).map_err(error::disk)
    }

    /// As [`Networks::create`], of a network that plugins are to make: its name and subnets are held until
    /// [`Networks::settle`] or [`Networks::abandon`]. Addresses of a plugin are still to be asked for.
    pub(super) fn reserve(&self, body: NetworkCreate) -> Result<NetworkRecord> {
        let _making = self.making.lock().unwrap_or_else(|e| e.into_inner());
        Ok(self.hold_pending(self.draft(body)?))
    }

    fn draft(&self, mut body: NetworkCreate) -> Result<NetworkRecord> {
        // Who gives an IPv6 subnet wants IPv6, unless he says that he does not.
        let subnet6 = || body.ipam.iter().flat_map(|ipam| &ipam.config).any(|c| c.subnet.contains(':'));
        body.enable_ipv6 = body.enable_ipv6.or_else(|| subnet6().then_some(true));
        check_name(&body.name)?;
        check_kind(&body)?;
        if self.all_and_pending().iter().any(|n| n.name == body.name) {
            return Err(Error::conflict(format!("network with name {} already exists", body.name)));
        }
        let ipam = body.ipam.clone().unwrap_or_default();
        let mut record = NetworkRecord {
            name: body.name,
            driver: if is_plugin(&body.driver) { body.driver.clone() } else { "bridge".to_owned() },
            internal: body.internal,
            attachable: body.attachable,
            labels: body.labels,
            options: if is_plugin(&body.driver) { body.options } else { check_options(body.options)? },
            ipam_driver: if ipam.driver == "default" { String::new() } else { ipam.driver.clone() },
            ipam_options: ipam.options.clone(),
            enable_ipv6: body.enable_ipv6 == Some(true),
            ..NetworkRecord::default()
        };
        if let Some(name) = record.given_device()
            && let Some(other) = self.all_and_pending().iter().find(|n| n.device().as_deref() == Some(name))
        {
            return Err(Error::conflict(format!("network option {NAME_OPTION}={name}: network {} has it", other.name)));
        }
        let (config, config6) = configs(ipam)?;
        if !record.ipam_driver.is_empty() {
            check_own_addresses(&record, &config, config6.is_some())?;
            return Ok(record);
        }
        if body.enable_ipv4 != Some(false) {
            self.choose_addresses(&mut record, config)?;
        } else if config != IpamConfig::default() {
            return Err(Error::invalid(format!(
                "invalid subnet {}: an IPv4 subnet needs a network with IPv4 (EnableIPv4, --ipv4)",
                config.subnet
            )));
        }
        match (record.enable_ipv6, config6) {
            (true, config) => self.choose_addresses6(&mut record, config.unwrap_or_default())?,
            (false, Some(config)) => {
                return Err(Error::invalid(format!(
                    "invalid subnet {}: an IPv6 subnet needs a network with IPv6 (EnableIPv6, --ipv6)",
                    config.subnet
                )));
            }
            (false, None) => {}
        }
        Ok(record)
    }

    /// Holds what an address plugin gave to a network that is being made; to one of the engine's own it must not overlap
    /// another.
    pub(super) fn hold_leased(&self, record: &NetworkRecord) -> Result<()> {
        let _making = self.making.lock().unwrap_or_else(|e| e.into_inner());
        if !record.is_remote() {
            record.subnet.map_or(Ok(()), |s| self.check_overlap(holds_hosts(s)?).map(drop))?;
            record.subnet6.map_or(Ok(()), |s| self.check_overlap6(holds_hosts6(s)?).map(drop))?;
        }
        self.lock().pending.insert(record.id.clone(), Arc::new(record.clone()));
        Ok(())
    }

    fn choose_addresses6(&self, record: &mut NetworkRecord, config: IpamConfig) -> Result<()> {
        let subnet = match config.subnet.as_str() {
            "" => self.free_subnet6(),
            text => {
                record.subnet6_given = true;
                holds_hosts6(self.check_overlap6(parse_subnet6(text)?)?)?
            }
        };
        let inside = |field: &str, text: &str| -> Result<Ipv6Addr> {
            let ip = text
                .parse::<Ipv6Addr>()
                .map_err(|_| Error::invalid(format!("invalid {field} {text}: expected an IPv6 address")))?;
            let good = subnet.contains(ip).then_some(ip);
            good.ok_or_else(|| Error::invalid(format!("invalid {field} {ip}: it should be inside of subnet {subnet}")))
        };
        record.gateway6 =
            Some(if config.gateway.is_empty() { subnet.gateway() } else { inside("gateway", &config.gateway)? });
        if !config.ip_range.is_empty() {
            let range = parse_subnet6(&config.ip_range)?;
            inside("ip-range", &range.addr().to_string())?;
            if range.prefix() < subnet.prefix() {
                return Err(Error::invalid(format!(
                    "invalid ip-range {range}: it should be inside of subnet {subnet}"
                )));
            }
            record.ip_range6 = Some(range);
        }
        for (name, ip) in &config.auxiliary_addresses {
            inside(&format!("auxiliary address {name}"), ip)?;
        }
        record.auxiliary6 = config.auxiliary_addresses;
        record.subnet6 = Some(subnet);
        Ok(())
    }

    fn check_overlap6(&self, subnet: Subnet6) -> Result<Subnet6> {
        match self.all_and_pending().iter().find(|n| n.subnet6.is_some_and(|s| s.overlaps(subnet))) {
            Some(other) => Err(Error::forbidden(format!(
                "invalid pool request: Pool overlaps with other one on this address space (subnet {subnet}, network {})",
                other.name
            ))),
            None => Ok(subnet),
        }
    }

    /// Drawn anew until it is nobody else's: at the first time, but for an accident once in the life of the universe.
    fn free_subnet6(&self) -> Subnet6 {
        loop {
            let random = names::new_id().get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok());
            let subnet = unique_local(random.unwrap_or_default());
            if self.check_overlap6(subnet).is_ok() {
                return subnet;
            }
        }
    }

    fn choose_addresses(&self, record: &mut NetworkRecord, config: IpamConfig) -> Result<()> {
        let subnet = match config.subnet.as_str() {
            "" => self.free_subnet().map_err(|e| Error::internal(format!("could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network: {e}")))?,
            text => {
                record.subnet_given = true;
                holds_hosts(self.check_overlap(parse_subnet(text)?)?)?
            }
        };
        let inside = |field: &str, text: &str| -> Result<Ipv4Addr> {
            let ip = text
                .parse::<Ipv4Addr>()
                .map_err(|_| Error::invalid(format!("invalid {field} {text}: expected an IPv4 address")))?;
            subnet
                .contains(ip)
                .then_some(ip)
                .ok_or_else(|| Error::invalid(format!("invalid {field} {ip}: it should be inside of subnet {subnet}")))
        };
        record.gateway =
            Some(if config.gateway.is_empty() { subnet.gateway() } else { inside("gateway", &config.gateway)? });
        if !config.ip_range.is_empty() {
            let range = parse_subnet(&config.ip_range)?;
            inside("ip-range", &range.addr().to_string())?;
            inside("ip-range", &range.broadcast().to_string())?;
            record.ip_range = Some(range);
        }
        for (name, ip) in &config.auxiliary_addresses {
            inside(&format!("auxiliary address {name}"), ip)?;
        }
        record.auxiliary = config.auxiliary_addresses;
        record.subnet = Some(subnet);
        Ok(())
    }

    fn check_overlap(&self, subnet: Subnet) -> Result<Subnet> {
        match self.all_and_pending().iter().find(|n| n.subnet.is_some_and(|s| s.overlaps(subnet))) {
            Some(other) => Err(Error::forbidden(format!(
                "invalid pool request: Pool overlaps with other one on this address space (subnet {subnet}, network {})",
                other.name
            ))),
            None => Ok(subnet),
        }
    }
}

/// Ranges that no interface can have addresses of, by the names of IANA's special-purpose registries (RFC 6890).
const NO_HOSTS: &[(&str, Ipv4Addr, u8)] = &[
    ("unspecified", Ipv4Addr::UNSPECIFIED, 8),
    ("loopback", Ipv4Addr::new(127, 0, 0, 0), 8),
    ("multicast", Ipv4Addr::new(224, 0, 0, 0), 4),
    ("broadcast", Ipv4Addr::BROADCAST, 32),
];

/// As [`NO_HOSTS`]. Docker takes `fe80::/64` and nothing else that is link-local, and it is every interface's already.
const NO_HOSTS6: &[(&str, Ipv6Addr, u8)] = &[
    ("unspecified", Ipv6Addr::UNSPECIFIED, 128),
    ("loopback", Ipv6Addr::LOCALHOST, 128),
    ("IPv4-mapped", Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    ("link-local", Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    ("multicast", Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// # Errors
/// `Invalid` for a subnet with addresses that no host can have.
pub(super) fn holds_hosts(subnet: Subnet) -> Result<Subnet> {
    let bad = NO_HOSTS.iter().find(|(_, ip, prefix)| Subnet::containing(*ip, *prefix).overlaps(subnet));
    bad.map_or(Ok(subnet), |(what, ip, prefix)| Err(no_hosts(subnet, what, format_args!("{ip}/{prefix}"))))
}

/// # Errors
/// As [`holds_hosts`].
pub(super) fn holds_hosts6(subnet: Subnet6) -> Result<Subnet6> {
    let bad = NO_HOSTS6.iter().find(|(_, ip, prefix)| Subnet6::containing(*ip, *prefix).overlaps(subnet));
    bad.map_or(Ok(subnet), |(what, ip, prefix)| Err(no_hosts(subnet, what, format_args!("{ip}/{prefix}"))))
}

fn no_hosts(subnet: impl Display, what: &str, range: impl Display) -> Error {
    Error::invalid(format!("invalid subnet {subnet}: it has {what} addresses ({range}), which no container can have"))
}

fn check_name(name: &str) -> Result<()> {
    if PREDEFINED.contains(&name) || name == "default" {
        return Err(Error::forbidden(format!("operation is not permitted on predefined {name} network ")));
    }
    // As dockerd: any text but a blank one. "container:NAME" would be read as something else by `run --network`.
    let blank = name.trim().is_empty();
    if blank || name.len() > 255 || name.chars().any(char::is_control) || name.starts_with("container:") {
        return Err(Error::invalid(format!(
            "invalid network name {name:?}: expected up to 255 characters, not all blank, without control characters and not beginning with container:"
        )));
    }
    Ok(())
}

fn check_kind(body: &NetworkCreate) -> Result<()> {
    match body.driver.as_str() {
        "" | "bridge" | "default" => {}
        one @ ("host" | "null") => {
            return Err(Error::forbidden(format!("only one instance of \"{one}\" network is allowed")));
        }
        "overlay" => {
            return Err(Error::unavailable(
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            ));
        }
        known @ ("macvlan" | "ipvlan") => return Err(Error::unimplemented(format!("network driver {known}"))),
        // A plugin, which has said that it is there.
        _ => {}
    }
    if !matches!(body.scope.as_str(), "" | "local") {
        return Err(Error::invalid(format!(
            "invalid scope {:?} for a network of driver bridge: expected local",
            body.scope
        )));
    }
    let without_v4 = body.enable_ipv4 == Some(false);
    if without_v4 && body.enable_ipv6 != Some(true) {
        return Err(Error::invalid("IPv4 or IPv6 must be enabled (EnableIPv4, EnableIPv6)"));
    }
    let own_addresses = body.ipam.as_ref().is_some_and(|i| !matches!(i.driver.as_str(), "" | "default"));
    let refused = [
        (without_v4 && is_plugin(&body.driver), "a network of a plugin without IPv4 (EnableIPv4)"),
        (without_v4 && own_addresses, "an IPAM driver for a network without IPv4 (EnableIPv4)"),
        (body.ingress, "an ingress network of driver bridge (Ingress)"),
        (body.config_only, "a configuration-only network (ConfigOnly)"),
        (
            body.config_from.as_ref().is_some_and(|c| !c.network.is_empty()),
            "a network configured from another (ConfigFrom)",
        ),
    ];
    refused.into_iter().find(|(set, _)| *set).map_or(Ok(()), |(_, what)| Err(Error::unimplemented(what)))
}

/// What is asked for of addresses that a driver of their own gives.
fn check_own_addresses(record: &NetworkRecord, four: &IpamConfig, six: bool) -> Result<()> {
    if six && !record.enable_ipv6 {
        return Err(Error::invalid("an IPv6 subnet needs a network with IPv6 (EnableIPv6, --ipv6)"));
    }
    let null = record.ipam_driver == NULL_IPAM;
    if null && !record.is_remote() {
        return Err(Error::invalid("IPAM driver null: a bridge network needs addresses"));
    }
    if null && (*four != IpamConfig::default() || record.enable_ipv6) {
        return Err(Error::invalid("IPAM driver null gives no addresses: it takes no IPAM.Config and no IPv6"));
    }
    Ok(())
}

fn check_options(options: Strings) -> Result<Strings> {
    for (key, value) in &options {
        let bad =
            |wanted: &str| Err(Error::invalid(format!("invalid network option {key}={value}: expected {wanted}")));
        match key.as_str() {
            MTU_OPTION if value.parse::<u32>().is_ok_and(|mtu| (68..=65_535).contains(&mtu)) => {}
            MTU_OPTION => return bad("68 to 65535"),
            BINDING_OPTION if value.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()) => {}
            BINDING_OPTION => return bad("an IPv4 address"),
            ICC_OPTION | MASQUERADE_OPTION if parse_bool(value).is_none() => return bad("true or false"),
            ICC_OPTION | MASQUERADE_OPTION => {}
            NAME_OPTION if !is_interface(value) => return bad("1 to 15 visible characters without / and :"),
            NAME_OPTION => {}
            note if is_note(note) => {}
            _ => return Err(Error::unimplemented(format!("network option {key}={value}"))),
        }
    }
    Ok(options)
}

/// What is asked for of IPv4 (everything may be left open) and of IPv6.
pub(super) fn configs(ipam: Ipam) -> Result<(IpamConfig, Option<IpamConfig>)> {
    let is_v6 = |c: &IpamConfig| [&c.subnet, &c.ip_range, &c.gateway].into_iter().any(|t| t.contains(':'));
    let (mut six, mut four): (Vec<_>, Vec<_>) = ipam.config.into_iter().partition(is_v6);
    if six.len() > 1 || four.len() > 1 {
        return Err(Error::unimplemented("more than one subnet of one family on one network (IPAM.Config)"));
    }
    Ok((four.pop().unwrap_or_default(), six.pop()))
}

fn parse_subnet6(text: &str) -> Result<Subnet6> {
    let strict = text.parse::<Subnet6>();
    let loose = text.split_once('/').and_then(|(ip, p)| Some(Subnet6::containing(ip.parse().ok()?, p.parse().ok()?)));
    match (strict, loose) {
        (Ok(subnet), _) => Ok(subnet),
        (Err(_), Some(meant)) => Err(Error::invalid(format!("invalid subnet {text}: it should be {meant}"))),
        (Err(e), None) => Err(Error::invalid(e.to_string())),
    }
}

fn parse_subnet(text: &str) -> Result<Subnet> {
    let strict = text.parse::<Subnet>();
    let loose = text.split_once('/').and_then(|(ip, p)| Some(Subnet::containing(ip.parse().ok()?, p.parse().ok()?)));
    match (strict, loose) {
        (Ok(subnet), _) => Ok(subnet),
        (Err(_), Some(meant)) => Err(Error::invalid(format!("invalid subnet {text}: it should be {meant}"))),
        (Err(e), None) => Err(Error::invalid(e.to_string())),
    }
}
