//! Sockets that live in a container's network namespace and are used from ours.

use anyhow::{Context as _, anyhow};
use nix::sched::{CloneFlags, setns};
use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::Path,
};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Binds 127.0.0.11 on free ports, UDP and TCP. Blocks; works on a thread of its own, because setns(2) moves the thread.
pub fn open_in(netns: &Path) -> anyhow::Result<(UdpSocket, TcpListener)> {
    let ns = File::open(netns).with_context(|| format!("network namespace {}", netns.display()))?;
    let thread = std::thread::Builder::new().name("dns-sockets".to_owned());
    let opened = thread.spawn(move || -> anyhow::Result<_> {
        setns(&ns, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
        let udp = UdpSocket::bind((ADDRESS, 0)).context("bind 127.0.0.11, UDP")?;
        let tcp = TcpListener::bind((ADDRESS, 0)).context("bind 127.0.0.11, TCP")?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok((udp, tcp))
    })?;
    opened.join().map_err(|_| anyhow!("the thread that opens DNS sockets ended"))?
}
