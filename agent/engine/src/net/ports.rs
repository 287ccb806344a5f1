//! Published ports of this host: which one leads to whom, and a bound socket on each so that no other program takes it.

use super::relay::Relay;
use muster_model::net::Protocol;
use nix::sys::socket::{AddressFamily, SockType, SockaddrStorage};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    ops::RangeInclusive,
    os::fd::{AsRawFd, OwnedFd},
    sync::Mutex,
};

/// The host ports one binding may use: exactly one, or the first free of a range; `0..=0` lets the kernel choose.
pub type PortRange = RangeInclusive<u16>;

/// A port that cannot be had. The texts are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Bind for {addr} failed: port is already allocated")]
    Allocated { addr: SocketAddr },
    #[error("failed to bind host port {addr}/{protocol}: {}", words(source))]
    InUse {
        addr: SocketAddr,
        protocol: Protocol,
        #[source]
        source: io::Error,
    },
    #[error("Bind for {ip}:{first}-{last} failed: all ports are allocated")]
    Exhausted { ip: IpAddr, first: u16, last: u16 },
}

fn words(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        _ => source.to_string(),
    }
}

/// Keeps the port; read from by a relay only.
#[derive(Debug)]
enum Held {
    Tcp { listener: TcpListener },
    Udp { _socket: UdpSocket },
    Relay { _relay: Relay },
}

#[derive(Debug)]
struct Entry {
    owner: String,
    held: Held,
}

type Key = (Protocol, u16, IpAddr);

/// All published ports.
#[derive(Debug, Default)]
pub struct Ports {
    held: Mutex<BTreeMap<Key, Entry>>,
}

impl Ports {
    /// Takes a port for `owner` and answers with its number.
    ///
    /// # Errors
    /// [`Error`]: another container has it, or another program of the host.
    pub fn take(&self, owner: &str, protocol: Protocol, ip: IpAddr, range: PortRange) -> Result<u16, Error> {
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        let (first, last) = (*range.start(), *range.end());
        let mut refusal = Error::Exhausted { ip, first, last };
        for port in range {
            match Self::take_one(&mut held, owner, protocol, ip, port) {
                Ok(port) => return Ok(port),
                Err(e) if first == last => refusal = e,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    fn take_one(
        held: &mut BTreeMap<Key, Entry>,
        owner: &str,
        protocol: Protocol,
        ip: IpAddr,
        port: u16,
    ) -> Result<u16, Error> {
        let addr = SocketAddr::new(ip, port);
        if port != 0 && held.keys().any(|(p, n, other)| *p == protocol && *n == port && overlaps(*other, ip)) {
            return Err(Error::Allocated { addr });
        }
        let (socket, port) = bind(protocol, addr).map_err(|source| Error::InUse { addr, protocol, source })?;
        held.insert((protocol, port, ip), Entry { owner: owner.to_owned(), held: socket });
        Ok(port)
    }

    /// Has connections to a TCP port that is held at every IPv6 address passed on to the same port at 127.0.0.1.
    ///
    /// # Errors
    /// [`Error::InUse`] when they cannot be waited for; the port is given back then.
    pub fn relay(&self, port: u16) -> Result<(), Error> {
        let ip = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let key = (Protocol::Tcp, port, ip);
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        let Some(entry) = held.remove(&key) else { return Ok(()) };
        let (addr, protocol) = (SocketAddr::new(ip, port), Protocol::Tcp);
        let relayed = match entry.held {
            Held::Tcp { listener } => {
                let relay = Relay::start(listener, port).map_err(|source| Error::InUse { addr, protocol, source })?;
                Held::Relay { _relay: relay }
            }
            other => other,
        };
        held.insert(key, Entry { held: relayed, ..entry });
        Ok(())
    }

    /// Gives back one port.
    pub fn give_back(&self, protocol: Protocol, ip: IpAddr, port: u16) {
        self.held.lock().unwrap_or_else(|e| e.into_inner()).remove(&(protocol, port, ip));
    }

    /// Gives back every port of `owner`.
    pub fn release(&self, owner: &str) {
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        held.retain(|_, entry| entry.owner != owner);
    }
}

fn bind(protocol: Protocol, addr: SocketAddr) -> io::Result<(Held, u16)> {
    match protocol {
        Protocol::Tcp => {
            let listener = TcpListener::from(only_family(addr, SockType::Stream)?);
            let port = listener.local_addr()?.port();
            Ok((Held::Tcp { listener }, port))
        }
        Protocol::Udp => {
            let socket = UdpSocket::from(only_family(addr, SockType::Datagram)?);
            let port = socket.local_addr()?.port();
            Ok((Held::Udp { _socket: socket }, port))
        }
    }
}

/// A bound socket (listening, where there is such a thing) that leaves the other family's addresses alone: `::` would take
/// `0.0.0.0` with it.
fn only_family(addr: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    use nix::sys::socket::{Backlog, SockFlag, bind, listen, setsockopt, socket, sockopt};
    let family = if addr.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if addr.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    if kind == SockType::Stream {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    if kind == SockType::Stream {
        listen(&fd, Backlog::new(128)?)?;
    }
    Ok(fd)
}

/// Whether two host addresses cannot carry the same port.
fn overlaps(a: IpAddr, b: IpAddr) -> bool {
    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    #[test]
    fn a_port_is_one_owners_until_released() {
        let ports = Ports::default();
        let port = ports.take("a", Protocol::Tcp, LOCAL, 0..=0).expect("any");
        let text = ports.take("b", Protocol::Tcp, ANY, port..=port).expect_err("overlaps").to_string();
        assert_eq!(text, format!("Bind for 0.0.0.0:{port} failed: port is already allocated"));
        ports.take("b", Protocol::Udp, LOCAL, port..=port).expect("another protocol");
        assert!(TcpListener::bind((LOCAL, port)).is_err(), "the host sees it taken");
        ports.release("a");
        ports.take("b", Protocol::Tcp, LOCAL, port..=port).expect("free again");
    }

    #[test]
    fn a_range_gives_its_first_free_port_and_a_stranger_is_seen() {
        let ports = Ports::default();
        let stranger = TcpListener::bind((LOCAL, 0)).expect("any port");
        let taken = stranger.local_addr().expect("bound").port();
        let text = ports.take("a", Protocol::Tcp, LOCAL, taken..=taken).expect_err("taken").to_string();
        assert!(text.ends_with("address already in use"), "{text}");
        if let Some(end) = taken.checked_add(20) {
            let port = ports.take("a", Protocol::Tcp, LOCAL, taken..=end).expect("one of twenty");
            assert_ne!(port, taken);
        }
    }
}
