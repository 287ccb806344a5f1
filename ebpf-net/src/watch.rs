//! Tells when the host's own addresses, its ways out or its interfaces change: published ports are answered at the addresses and on the
//! uplinks that the last sync found, so another one is due.

use crate::netlink::{RECEIVE_BYTES, messages};
use rtnetlink::{
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        route::RouteHeader,
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

/// `RTMGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE` (linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// A socket that hears of changes. Readable when there are any.
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Listens in the network namespace of the calling thread from now on.
    ///
    /// # Errors
    /// As socket(2) and bind(2).
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Takes everything that has come in, without waiting. True: something of it is what a sync looks at.
    ///
    /// # Errors
    /// As recv(2).
    pub fn changed(&mut self) -> io::Result<bool> {
        let mut changed = false;
        let mut bytes = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            bytes.clear();
            match self.socket.recv(&mut bytes, 0) {
                Ok(_) => {
                    changed |= messages(&bytes)
                        .any(|m| matches!(&m.payload, NetlinkPayload::InnerMessage(m) if concerns_the_host(m)));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // More came than the socket holds: something among it may have been of use.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// An address, a default route, or a new interface. Routes and interfaces of containers come and go all the time, by our own hand.
fn concerns_the_host(message: &RouteNetlinkMessage) -> bool {
    match message {
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => true,
        RouteNetlinkMessage::NewLink(l) => is_new(l) && !is_veth(l),
        RouteNetlinkMessage::NewRoute(r) | RouteNetlinkMessage::DelRoute(r) => {
            r.header.destination_prefix_length == 0 && r.header.table == RouteHeader::RT_TABLE_MAIN
        }
        _ => false,
    }
}

/// The kernel says of a new interface that everything of it has changed.
fn is_new(link: &LinkMessage) -> bool {
    link.header.change_mask == LinkFlags::from_bits_retain(u32::MAX)
}

/// One end of a pair: those of containers, ours and others'. Where such a thing is the host's way out, its address tells.
fn is_veth(link: &LinkMessage) -> bool {
    let pair = |i: &LinkInfo| matches!(i, LinkInfo::Kind(InfoKind::Veth));
    link.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkInfo(infos) if infos.iter().any(pair)))
}
