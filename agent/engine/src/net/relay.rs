//! Clients over IPv6 of containers that have IPv4 only: what connects to a published port at an IPv6 address of the host is
//! accepted here and passed on to the port's IPv4 side, byte by byte, as Docker's proxy does it. The container takes the host
//! for the client. TCP only. What is passed on ends with the daemon or with the container, whichever is first.

use nix::sys::socket::{Shutdown, shutdown};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};

/// Connections of one port at a time, of two files each; more wait in the kernel's queue. There is no bound over all ports: the unit
/// allows the daemon a million files.
const MOST: usize = 512;
/// Bytes in memory of each direction of a connection.
const BUFFER: usize = 16 << 10;
/// How long nobody is accepted after the host refused to (too many open files).
const PAUSE: Duration = Duration::from_millis(100);

/// Passes on connections until it is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    listener: Arc<tokio::net::TcpListener>,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        // The task ends in a moment, and the socket with it. The port is to be free now, for the next container.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Read); // it can fail only if nobody listens any more
    }
}

impl Relay {
    /// Takes over a listening socket, whose connections go to this host's own `port` at 127.0.0.1.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn start(listener: TcpListener, port: u16) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = Arc::new(tokio::net::TcpListener::from_std(listener)?);
        let task = tokio::spawn(serve(Arc::clone(&listener), port));
        Ok(Self { listener, task })
    }
}

/// Whether this host speaks IPv6 now.
pub(super) fn host_has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

async fn serve(listener: Arc<tokio::net::TcpListener>, port: u16) {
    // Those under way end with this task.
    let mut passing = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = passing.join_next() => {}
            accepted = listener.accept(), if passing.len() < MOST => match accepted {
                Ok((client, _)) => drop(passing.spawn(pass(client, port))),
                Err(e) => {
                    tracing::debug!(port, error = %e, "a connection over IPv6 was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Both directions, each half closed as its sender closes it. Where the container refuses, the client is hung up on.
async fn pass(mut client: TcpStream, port: u16) -> io::Result<()> {
    let mut container = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    client.set_nodelay(true)?;
    container.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut container, BUFFER, BUFFER).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn relayed() -> (tokio::net::TcpListener, SocketAddr, Relay) {
        let inner = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let outer = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("IPv6 on this machine");
        let at = outer.local_addr().expect("bound");
        let relay = Relay::start(outer, inner.local_addr().expect("bound").port()).expect("starts");
        (inner, at, relay)
    }

    #[tokio::test]
    async fn what_is_sent_arrives_whole_both_ways_and_half_closed() {
        let (inner, at, _relay) = relayed().await;
        let sent: Vec<u8> = (0..1 << 20).map(|n: u32| n as u8).collect();
        let (mut reader, mut writer) = TcpStream::connect(at).await.expect("accepted").into_split();
        let (mut server, _) = inner.accept().await.expect("passed on");
        let echo = async {
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.expect("the client's end is heard");
            server.write_all(&heard).await.expect("answered");
            server.shutdown().await.expect("closed");
        };
        let ask = async {
            writer.write_all(&sent).await.expect("sent");
            writer.shutdown().await.expect("half closed");
        };
        let mut answer = Vec::new();
        let (read, ..) = tokio::join!(reader.read_to_end(&mut answer), echo, ask);
        read.expect("answered");
        assert!(answer == sent);
    }

    #[tokio::test]
    async fn with_the_relay_its_connections_end_and_the_port_is_free() {
        let (inner, at, relay) = relayed().await;
        let mut client = TcpStream::connect(at).await.expect("accepted");
        let (_server, _) = inner.accept().await.expect("passed on");
        drop(relay);
        let next = TcpListener::bind(at).expect("free at once");
        assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0, "hung up on");
        drop(next);
        assert!(TcpStream::connect(at).await.is_err(), "nobody listens");
    }

    #[tokio::test]
    async fn a_container_that_refuses_is_a_client_hung_up_on() {
        let (inner, at, _relay) = relayed().await;
        drop(inner);
        let mut client = TcpStream::connect(at).await.expect("accepted");
        assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0);
    }
}
