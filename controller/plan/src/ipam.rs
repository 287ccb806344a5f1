//! Which addresses of which network are taken, and the next free one.
//!
//! Addresses are handed out in a circle, so that one that was freed comes back as late as possible: caches and
//! connections that still name it have time to go. A task holds its addresses until it has ended; a lost one, which may
//! still run on a host nobody reaches, until its object is gone.

use muster_model::{
    NetworkId,
    cluster::{Attachment, Network, Service, Task, TaskState},
    net::{Protocol, Subnet},
};
use muster_state::{Event, Object, State};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

#[derive(Debug, Default)]
pub(crate) struct Ipam {
    pools: BTreeMap<NetworkId, Pool>,
    /// What the plan in the making has taken, and networks it has made.
    taken: Vec<(NetworkId, u32)>,
    made: Option<NetworkId>,
    ports: BTreeSet<(Protocol, u16)>,
}

#[derive(Debug)]
struct Pool {
    subnet: Subnet,
    /// How often each address is held. Twice only where two tasks were given one in error.
    used: BTreeMap<u32, u32>,
    /// Where to look next.
    cursor: u32,
}

fn holds(task: &Task) -> bool {
    !task.status.state.is_terminal() || task.status.state == TaskState::Orphaned
}

impl Ipam {
    pub fn new(state: &State) -> Self {
        let mut ipam = Self::default();
        state.networks().for_each(|n| ipam.add_network(n));
        state.services().for_each(|s| ipam.hold_service(s));
        state.tasks().for_each(|t| ipam.hold_task(t));
        state.attachments().for_each(|a| ipam.hold_attachment(a));
        for pool in ipam.pools.values_mut() {
            // Which were given last is not known: behind the highest is as good a guess as any.
            pool.cursor = pool.used.keys().next_back().map_or(0, |last| last.wrapping_add(1));
        }
        ipam
    }

    pub fn observe(&mut self, event: &Event) {
        match &event.before {
            Some(Object::Service(s)) => s.endpoint.vips.iter().for_each(|(n, ip)| self.free(*n, *ip)),
            Some(Object::Task(t)) if holds(t) => t.addresses.iter().for_each(|a| self.free(a.network, a.ip)),
            Some(Object::Attachment(a)) => a.ip.iter().for_each(|ip| self.free(a.network, *ip)),
            Some(Object::Network(n)) if event.after.is_none() => {
                self.pools.remove(&n.id);
            }
            _ => {}
        }
        match &event.after {
            Some(Object::Network(n)) => self.add_network(n),
            Some(Object::Service(s)) => self.hold_service(s),
            Some(Object::Task(t)) => self.hold_task(t),
            Some(Object::Attachment(a)) => self.hold_attachment(a),
            _ => {}
        }
    }

    fn add_network(&mut self, network: &Network) {
        self.pools.entry(network.id).or_insert_with(|| Pool {
            subnet: network.subnet,
            used: BTreeMap::from([(network.gateway.into(), 1)]),
            cursor: 0,
        });
    }

    /// The ingress network of the plan in the making.
    pub fn make_network(&mut self, network: &Network) {
        self.add_network(network);
        self.made = Some(network.id);
    }

    pub fn made_ingress(&self) -> Option<NetworkId> {
        self.made
    }

    /// Takes a port for the plan in the making. Those that are taken for good are an index of the state.
    pub fn take_port(&mut self, protocol: Protocol, port: u16) {
        self.ports.insert((protocol, port));
    }

    pub fn port_taken(&self, protocol: Protocol, port: u16) -> bool {
        self.ports.contains(&(protocol, port))
    }

    fn hold_service(&mut self, service: &Service) {
        service.endpoint.vips.iter().for_each(|(n, ip)| self.hold(*n, *ip));
    }

    fn hold_task(&mut self, task: &Task) {
        if holds(task) {
            task.addresses.iter().for_each(|a| self.hold(a.network, a.ip));
        }
    }

    fn hold_attachment(&mut self, attachment: &Attachment) {
        attachment.ip.iter().for_each(|ip| self.hold(attachment.network, *ip));
    }

    fn hold(&mut self, network: NetworkId, ip: Ipv4Addr) {
        if let Some(pool) = self.pools.get_mut(&network) {
            *pool.used.entry(ip.into()).or_default() += 1;
        }
    }

    fn free(&mut self, network: NetworkId, ip: Ipv4Addr) {
        if let Some(pool) = self.pools.get_mut(&network)
            && let Some(count) = pool.used.get_mut(&ip.into())
        {
            *count -= 1;
            if *count == 0 {
                pool.used.remove(&ip.into());
            }
        }
    }

    /// The next free address, taken for the plan in the making.
    ///
    /// # Errors
    /// What there is none of, for people.
    pub fn take(&mut self, network: NetworkId) -> Result<Ipv4Addr, String> {
        let pool = self.pools.get_mut(&network).ok_or_else(|| format!("network {network} does not exist"))?;
        let ip = pool
            .next()
            .ok_or_else(|| format!("no free address in {}: all {} are in use", pool.subnet, pool.used.len()))?;
        *pool.used.entry(ip).or_default() += 1;
        pool.cursor = ip.wrapping_add(1);
        self.taken.push((network, ip));
        Ok(ip.into())
    }

    /// Takes an address that was asked for, for the plan in the making.
    ///
    /// # Errors
    /// Why it cannot be had, in Docker's words.
    pub fn take_this(&mut self, network: NetworkId, ip: Ipv4Addr) -> Result<(), String> {
        let pool = self.pools.get_mut(&network).ok_or_else(|| format!("network {network} does not exist"))?;
        if pool.used.contains_key(&ip.into()) {
            return Err("Address already in use".to_owned());
        }
        pool.used.insert(ip.into(), 1);
        self.taken.push((network, ip.into()));
        Ok(())
    }

    pub fn undo(&mut self) {
        while let Some((network, ip)) = self.taken.pop() {
            self.free(network, ip.into());
        }
        if let Some(network) = self.made.take() {
            self.pools.remove(&network);
        }
        self.ports.clear();
    }
}

impl Pool {
    fn next(&self) -> Option<u32> {
        let (first, last) = (u32::from(self.subnet.addr()) + 1, u32::from(self.subnet.broadcast()).saturating_sub(1));
        if first > last {
            return None;
        }
        let start = if (first..=last).contains(&self.cursor) { self.cursor } else { first };
        gap(&self.used, start, last).or_else(|| gap(&self.used, first, start.saturating_sub(1)))
    }
}

/// The first number of `from..=to` that is not a key.
fn gap(used: &BTreeMap<u32, u32>, from: u32, to: u32) -> Option<u32> {
    if from > to {
        return None;
    }
    let mut candidate = from;
    for taken in used.range(from..=to).map(|(k, _)| *k) {
        if taken != candidate {
            break;
        }
        candidate = candidate.checked_add(1)?;
    }
    (candidate <= to).then_some(candidate)
}

/// The first subnet of this prefix length within `pool` that overlaps none of `blocked`. `None`: there is none.
pub fn pick_subnet(pool: Subnet, prefix: u8, blocked: &[Subnet]) -> Option<Subnet> {
    if prefix < pool.prefix() || prefix > 30 {
        return None;
    }
    let end = u64::from(u32::from(pool.broadcast()));
    let step = 1u64 << (32 - u32::from(prefix));
    let mut at = u64::from(u32::from(pool.addr()));
    while at <= end {
        let candidate = Subnet::containing(Ipv4Addr::from(u32::try_from(at).ok()?), prefix);
        match blocked.iter().filter(|b| b.overlaps(candidate)).map(|b| u64::from(u32::from(b.broadcast()))).max() {
            None => return Some(candidate),
            Some(last) => at = (last.max(at) / step + 1) * step,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().expect("valid subnet")
    }

    #[test]
    fn a_subnet_is_picked_beside_what_is_blocked() {
        let pool = net("10.0.0.0/8");
        assert_eq!(pick_subnet(pool, 24, &[]), Some(net("10.0.0.0/24")));
        assert_eq!(pick_subnet(pool, 24, &[net("10.0.0.0/24"), net("10.0.1.128/25")]), Some(net("10.0.2.0/24")));
        assert_eq!(pick_subnet(pool, 24, &[net("10.0.0.0/9")]), Some(net("10.128.0.0/24")));
        assert_eq!(pick_subnet(pool, 24, &[net("0.0.0.0/0")]), None);
        assert_eq!(
            pick_subnet(net("255.255.255.0/24"), 25, &[net("255.255.255.0/25")]),
            Some(net("255.255.255.128/25"))
        );
        assert_eq!(pick_subnet(net("255.255.255.0/24"), 25, &[net("255.255.255.0/24")]), None);
        assert_eq!(pick_subnet(net("10.0.0.0/24"), 16, &[]), None);
    }

    #[test]
    fn addresses_go_in_a_circle_and_come_back_last() {
        let mut pool = Pool {
            subnet: net("10.0.0.0/29"),
            used: BTreeMap::from([(u32::from(net("10.0.0.0/29").gateway()), 1)]),
            cursor: 0,
        };
        let mut got = Vec::new();
        while let Some(ip) = pool.next() {
            pool.used.insert(ip, 1);
            pool.cursor = ip + 1;
            got.push(Ipv4Addr::from(ip).octets()[3]);
        }
        assert_eq!(got, [2, 3, 4, 5, 6]);
        pool.used.remove(&u32::from(Ipv4Addr::new(10, 0, 0, 4)));
        assert_eq!(pool.next(), Some(u32::from(Ipv4Addr::new(10, 0, 0, 4))));
    }
}
