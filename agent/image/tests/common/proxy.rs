//! A TCP connection that breaks: each one is cut after a number of bytes from the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub struct Proxy {
    pub address: String,
    /// Bytes that reached the client.
    pub bytes: Arc<AtomicU64>,
    /// Requests that asked for a range.
    pub ranges: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(upstream: String, cut_after: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket").to_string();
        let (bytes, ranges) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let (passed, asked) = (bytes.clone(), ranges.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(client, upstream.clone(), cut_after, passed.clone(), asked.clone()));
            }
        });
        Self { address, bytes, ranges, task }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    mut client: TcpStream,
    upstream: String,
    mut left: usize,
    bytes: Arc<AtomicU64>,
    ranges: Arc<AtomicUsize>,
) {
    let Ok(mut server) = TcpStream::connect(&upstream).await else { return };
    let (mut up, mut down) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(read @ 1..) = read else { return };
                if String::from_utf8_lossy(&up[..read]).to_lowercase().contains("range: bytes=") {
                    ranges.fetch_add(1, Ordering::Relaxed);
                }
                if server.write_all(&up[..read]).await.is_err() { return }
            }
            read = server.read(&mut down) => {
                let Ok(read @ 1..) = read else { return };
                let pass = read.min(left);
                left -= pass;
                bytes.fetch_add(pass as u64, Ordering::Relaxed);
                if client.write_all(&down[..pass]).await.is_err() || left == 0 { return }
            }
        }
    }
}
