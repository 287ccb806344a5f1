//! A small blocking rtnetlink client: one socket, one request at a time, in the namespace of the thread that opened it.
//!
//! Messages are those of `netlink-packet-route`; the asynchronous half of `rtnetlink` is not used, because a socket per
//! namespace on a short-lived thread needs no runtime.

use muster_model::net::{Mac, Subnet, Subnet6};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
        NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage},
        link::{
            InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType,
            LinkMessage,
        },
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An interface, as far as we look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub alias: String,
    pub mac: Option<Mac>,
    pub mtu: u32,
    /// Its frames have an Ethernet header.
    pub ethernet: bool,
}

/// One end of a veth pair to be made.
pub struct VethEnd<'a> {
    pub name: &'a str,
    pub mac: Mac,
    /// The namespace to be born in; `None`: the socket's own.
    pub netns: Option<libc::c_int>,
}

/// A route to be made: `to` through `ifindex`, by a gateway or directly.
pub struct Route {
    pub to: Subnet,
    pub ifindex: u32,
    pub gateway: Option<Ipv4Addr>,
    pub source: Option<Ipv4Addr>,
}

/// A route to an IPv6 network, as [`Route`].
pub struct Route6 {
    pub to: Subnet6,
    pub ifindex: u32,
    pub gateway: Option<Ipv6Addr>,
    pub source: Option<Ipv6Addr>,
}

const DUMP_TRIES: usize = 5;
/// The kernel fills its messages up to this size at most (`NLMSG_GOODSIZE` grows to the reader's buffer, 32 KiB).
pub(crate) const RECEIVE_BYTES: usize = 64 << 10;

pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// # Errors
    /// As socket(2) and bind(2).
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Every interface of the namespace.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut ask = LinkMessage::default();
        ask.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let replies = self.dump(RouteNetlinkMessage::GetLink(ask))?;
        Ok(replies
            .into_iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewLink(l) = m { Some(link_of(l)) } else { None })
            .collect())
    }

    /// Every IPv4 address of the namespace, with the index of its interface.
    pub fn addresses(&mut self) -> io::Result<Vec<(u32, Ipv4Addr)>> {
        let mut ask = AddressMessage::default();
        ask.header.family = AddressFamily::Inet;
        let replies = self.dump(RouteNetlinkMessage::GetAddress(ask))?;
        Ok(replies.into_iter().filter_map(address_of).collect())
    }

    /// Every IPv6 address of the namespace.
    pub fn addresses6(&mut self) -> io::Result<Vec<Ipv6Addr>> {
        let mut ask = AddressMessage::default();
        ask.header.family = AddressFamily::Inet6;
        let replies = self.dump(RouteNetlinkMessage::GetAddress(ask))?;
        Ok(replies.into_iter().filter_map(address6_of).collect())
    }

    /// The interfaces that IPv6 leaves through by default.
    pub fn default_routes6(&mut self) -> io::Result<Vec<u32>> {
        let mut ask = RouteMessage::default();
        ask.header.address_family = AddressFamily::Inet6;
        let replies = self.dump(RouteNetlinkMessage::GetRoute(ask))?;
        Ok(replies.into_iter().filter_map(default_route6_of).collect())
    }

    /// IPv4 unicast routes of the main table that name one interface: where to, and its index.
    pub fn routes(&mut self) -> io::Result<Vec<(Subnet, u32)>> {
        let mut ask = RouteMessage::default();
        ask.header.address_family = AddressFamily::Inet;
        let replies = self.dump(RouteNetlinkMessage::GetRoute(ask))?;
        Ok(replies.into_iter().filter_map(route_of).collect())
    }

    /// Makes a veth pair, both ends down.
    pub fn add_veth(&mut self, near: &VethEnd<'_>, far: &VethEnd<'_>, mtu: u32) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = end_attributes(far, mtu);
        let mut link = LinkMessage::default();
        link.attributes = end_attributes(near, mtu);
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.act(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes an interface of a kind that needs no more to be said.
    pub fn add_link(&mut self, name: &str, kind: InfoKind) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes =
            vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])];
        self.act(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub fn delete_link(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.act(RouteNetlinkMessage::DelLink(link), 0)
    }

    /// Changes an interface: flags that are `on` are set, and what else is given.
    pub fn set_link(&mut self, index: u32, on: LinkFlags, attributes: Vec<LinkAttribute>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = on;
        link.header.change_mask = on;
        link.attributes = attributes;
        self.act(RouteNetlinkMessage::SetLink(link), 0)
    }

    pub fn add_address(&mut self, index: u32, ip: Ipv4Addr, subnet: Subnet) -> io::Result<()> {
        let mut address = AddressMessage::default();
        address.header.family = AddressFamily::Inet;
        address.header.prefix_len = subnet.prefix();
        address.header.index = index;
        address.attributes = vec![AddressAttribute::Local(IpAddr::V4(ip)), AddressAttribute::Address(IpAddr::V4(ip))];
        if subnet.prefix() < 31 {
            address.attributes.push(AddressAttribute::Broadcast(subnet.broadcast()));
        }
        self.act(RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// An address that nobody else has: it is usable at once.
    pub fn add_address6(&mut self, index: u32, ip: Ipv6Addr, subnet: Subnet6) -> io::Result<()> {
        let mut address = AddressMessage::default();
        address.header.family = AddressFamily::Inet6;
        address.header.prefix_len = subnet.prefix();
        address.header.index = index;
        address.attributes =
            vec![AddressAttribute::Address(IpAddr::V6(ip)), AddressAttribute::Flags(AddressFlags::Nodad)];
        self.act(RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub fn set_route6(&mut self, route: &Route6) -> io::Result<()> {
        self.act(RouteNetlinkMessage::NewRoute(route6_message(route)), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a route; that it is not there is no error.
    pub fn delete_route6(&mut self, route: &Route6) -> io::Result<()> {
        match self.act(RouteNetlinkMessage::DelRoute(route6_message(route)), 0) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
            done => done,
        }
    }

    pub fn set_route(&mut self, route: &Route) -> io::Result<()> {
        self.act(RouteNetlinkMessage::NewRoute(route_message(route)), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a route; that it is not there is no error.
    pub fn delete_route(&mut self, route: &Route) -> io::Result<()> {
        match self.act(RouteNetlinkMessage::DelRoute(route_message(route)), 0) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) => Ok(()),
            done => done,
        }
    }

    /// A neighbour that is never asked for and never forgotten.
    pub fn set_neighbour(&mut self, ifindex: u32, ip: IpAddr, mac: Mac) -> io::Result<()> {
        let mut neighbour = NeighbourMessage::default();
        let (family, ip) = match ip {
            IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
            IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
        };
        neighbour.header.family = family;
        neighbour.header.ifindex = ifindex;
        neighbour.header.state = NeighbourState::Permanent;
        neighbour.attributes =
            vec![NeighbourAttribute::Destination(ip), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
        self.act(RouteNetlinkMessage::NewNeighbour(neighbour), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// One request with an acknowledgement.
    fn act(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive(&mut |_| {}).map(drop)
    }

    /// A whole list. One that was changed while it was read (`NLM_F_DUMP_INTR`) is read again.
    fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        for _ in 0..DUMP_TRIES {
            found.clear();
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            if self.receive(&mut |m| found.push(m))? {
                return Ok(found);
            }
        }
        Ok(found) // changing all the time: what is missing is seen by the next sync
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads until the request of the current sequence number is answered. False: the list changed while it was read.
    fn receive(&mut self, found: &mut dyn FnMut(RouteNetlinkMessage)) -> io::Result<bool> {
        let mut whole = true;
        loop {
            let mut bytes = Vec::with_capacity(RECEIVE_BYTES);
            self.socket.recv(&mut bytes, 0)?;
            for message in messages(&bytes).filter(|m| m.header.sequence_number == self.sequence) {
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(whole),
                    NetlinkPayload::Error(e) => return e.code.map_or(Ok(whole), |_| Err(e.to_io())),
                    NetlinkPayload::InnerMessage(m) => found(m),
                    _ => {}
                }
            }
        }
    }
}

/// The messages of one datagram. Those that this library cannot decode are passed over: they carry nothing that we look at.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    let mut rest = datagram;
    let next = move || {
        let length = u32::from_ne_bytes(*rest.first_chunk::<4>()?) as usize;
        let one = rest.get(..length).filter(|o| o.len() >= 16)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage::<RouteNetlinkMessage>::deserialize(one).ok())
    };
    std::iter::from_fn(next).flatten()
}

fn end_attributes(end: &VethEnd<'_>, mtu: u32) -> Vec<LinkAttribute> {
    let mut attributes = vec![
        LinkAttribute::IfName(end.name.to_owned()),
        LinkAttribute::Address(end.mac.0.to_vec()),
        LinkAttribute::Mtu(mtu),
    ];
    attributes.extend(end.netns.map(LinkAttribute::NetNsFd));
    attributes
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: route.to.prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    if route.to.prefix() > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(route.to.addr())));
    }
    message.attributes.push(RouteAttribute::Oif(route.ifindex));
    message.attributes.extend(route.gateway.map(|g| RouteAttribute::Gateway(RouteAddress::Inet(g))));
    message.attributes.extend(route.source.map(|s| RouteAttribute::PrefSource(RouteAddress::Inet(s))));
    message
}

fn route6_message(route: &Route6) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet6,
        destination_prefix_length: route.to.prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    if route.to.prefix() > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(route.to.addr())));
    }
    message.attributes.push(RouteAttribute::Oif(route.ifindex));
    message.attributes.extend(route.gateway.map(|g| RouteAttribute::Gateway(RouteAddress::Inet6(g))));
    message.attributes.extend(route.source.map(|s| RouteAttribute::PrefSource(RouteAddress::Inet6(s))));
    message
}

fn link_of(message: LinkMessage) -> Link {
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link =
        Link { index: message.header.index, name: String::new(), alias: String::new(), mac: None, mtu: 0, ethernet };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(bytes) => link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
            _ => {}
        }
    }
    link
}

fn address_of(message: RouteNetlinkMessage) -> Option<(u32, Ipv4Addr)> {
    let RouteNetlinkMessage::NewAddress(a) = message else { return None };
    let pick = |local| {
        a.attributes.iter().find_map(|x| match x {
            AddressAttribute::Local(IpAddr::V4(ip)) if local => Some(*ip),
            AddressAttribute::Address(IpAddr::V4(ip)) if !local => Some(*ip),
            _ => None,
        })
    };
    pick(true).or_else(|| pick(false)).map(|ip| (a.header.index, ip))
}

fn address6_of(message: RouteNetlinkMessage) -> Option<Ipv6Addr> {
    let RouteNetlinkMessage::NewAddress(a) = message else { return None };
    // The peer of a point-to-point address is in `Address`, the host's own then in `Local`.
    let own = a.attributes.iter().find_map(|x| match x {
        AddressAttribute::Local(IpAddr::V6(ip)) => Some(*ip),
        _ => None,
    });
    own.or_else(|| {
        a.attributes.iter().find_map(|x| match x {
            AddressAttribute::Address(IpAddr::V6(ip)) => Some(*ip),
            _ => None,
        })
    })
}

fn default_route6_of(message: RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewRoute(r) = message else { return None };
    let leads_out = r.header.table == RouteHeader::RT_TABLE_MAIN
        && r.header.kind == RouteType::Unicast
        && r.header.destination_prefix_length == 0;
    r.attributes.iter().find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None }).filter(|_| leads_out)
}

fn route_of(message: RouteNetlinkMessage) -> Option<(Subnet, u32)> {
    let RouteNetlinkMessage::NewRoute(r) = message else { return None };
    if r.header.table != RouteHeader::RT_TABLE_MAIN || r.header.kind != RouteType::Unicast {
        return None;
    }
    let to = r.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    });
    let oif = r.attributes.iter().find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None })?;
    Some((Subnet::new(to.unwrap_or(Ipv4Addr::UNSPECIFIED), r.header.destination_prefix_length)?, oif))
}
