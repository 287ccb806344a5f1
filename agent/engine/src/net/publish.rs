//! Which host ports a container asks for.

use muster_calls::{Error, Result};
use muster_model::{
    engine::{ContainerConfig, HostConfig, PortBinding},
    net::Protocol,
};
use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

/// A port that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_ip: IpAddr,
    /// No address was named: it is to be answered at every one, of either family.
    pub any_family: bool,
    /// `0..=0`: any.
    pub host_ports: RangeInclusive<u16>,
}

/// Reads a container port as `80/tcp`; no protocol is TCP.
///
/// # Errors
/// `Invalid` for what is no port, `Unimplemented` for SCTP.
pub(crate) fn parse_port(text: &str) -> Result<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|p| *p != 0)
        .ok_or_else(|| Error::invalid(format!("invalid port specification: \"{text}\"")))?;
    match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => Ok((port, Protocol::Tcp)),
        "udp" => Ok((port, Protocol::Udp)),
        "sctp" => Err(Error::unimplemented("SCTP ports")),
        other => Err(Error::invalid(format!("invalid proto: {other} in port {text}"))),
    }
}

/// What a configuration publishes; `default_ip` is the address of bindings that name none.
///
/// # Errors
/// Those of the texts in it.
pub(super) fn wanted(config: &ContainerConfig, host: &HostConfig, default_ip: Ipv4Addr) -> Result<Vec<Wanted>> {
    let mut all = Vec::new();
    for (port, bindings) in &host.port_bindings {
        let any = [PortBinding::default()];
        let bindings = bindings.as_deref().filter(|b| !b.is_empty()).unwrap_or(&any);
        for binding in bindings {
            all.push(one(port, binding, default_ip)?);
        }
    }
    if host.publish_all_ports {
        for port in config.exposed_ports.iter().filter(|p| !host.port_bindings.contains_key(*p)) {
            all.push(one(port, &PortBinding::default(), default_ip)?);
        }
    }
    Ok(all)
}

fn one(port: &str, binding: &PortBinding, default_ip: Ipv4Addr) -> Result<Wanted> {
    let (container_port, protocol) = parse_port(port)?;
    let host_ip = match binding.host_ip.as_str() {
        "" => IpAddr::V4(default_ip),
        text => text.parse::<IpAddr>().map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?,
    };
    let any_family = binding.host_ip.is_empty() && default_ip.is_unspecified();
    Ok(Wanted { protocol, container_port, host_ip, any_family, host_ports: parse_range(&binding.host_port)? })
}

fn parse_range(text: &str) -> Result<RangeInclusive<u16>> {
    let bad = || Error::invalid(format!("invalid port specification: \"{text}\""));
    let number = |t: &str| t.parse::<u16>().map_err(|_| bad());
    match text.split_once('-') {
        _ if text.is_empty() => Ok(0..=0),
        None => number(text).map(|p| p..=p),
        Some((first, last)) => {
            let range = number(first)?..=number(last)?;
            if range.is_empty() || *range.start() == 0 { Err(bad()) } else { Ok(range) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(port: &str, ip: &str, host_port: &str) -> Result<Vec<Wanted>> {
        let mut host = HostConfig::default();
        let binding = PortBinding { host_ip: ip.into(), host_port: host_port.into() };
        host.port_bindings.insert(port.into(), Some(vec![binding]));
        wanted(&ContainerConfig::default(), &host, Ipv4Addr::UNSPECIFIED)
    }

    #[test]
    fn bindings_name_an_address_a_port_a_range_or_nothing() {
        let of = |port, ip, host_port| published(port, ip, host_port).expect("valid").remove(0).host_ports;
        assert_eq!(of("80/tcp", "127.0.0.1", "8080"), 8080..=8080);
        assert_eq!(of("80", "", ""), 0..=0);
        assert_eq!(of("80/udp", "", "8000-8010"), 8000..=8010);
        for bad in
            [("80/tcp", "x", "1"), ("80/tcp", "", "99999"), ("0/tcp", "", "1"), ("80/x", "", "1"), ("80", "", "9-8")]
        {
            assert!(published(bad.0, bad.1, bad.2).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn publish_all_takes_the_exposed_ports_that_have_no_binding() {
        let config =
            ContainerConfig { exposed_ports: ["80/tcp", "53/udp"].into_iter().collect(), ..ContainerConfig::default() };
        let mut host = HostConfig { publish_all_ports: true, ..HostConfig::default() };
        host.port_bindings
            .insert("80/tcp".into(), Some(vec![PortBinding { host_port: "8080".into(), ..PortBinding::default() }]));
        let ports: Vec<_> = wanted(&config, &host, Ipv4Addr::UNSPECIFIED)
            .expect("valid")
            .iter()
            .map(|w| w.host_ports.clone())
            .collect();
        assert_eq!(ports, [8080..=8080, 0..=0]);
    }
}
