//! A registry of a few lines that does what it is told, good or bad.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use muster_image::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::TestImage;

/// What is answered to one path.
#[derive(Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Announced instead of the real length.
    pub length: Option<usize>,
    /// After so many bytes nothing comes any more, and the connection stays open.
    pub stall_after: Option<usize>,
}

impl Reply {
    pub fn ok(body: &[u8]) -> Self {
        Self { status: 200, body: body.to_vec(), ..Self::default() }
    }
}

type Handler = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

/// A request as it came: method, path with query, headers with their names in lower case, content.
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

pub struct Fake {
    pub address: String,
    pub seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Fake {
    /// Serves `handler`; what it does not know is 404.
    pub async fn start(handler: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket").to_string();
        let (handler, seen): (Arc<Handler>, _) = (Arc::new(handler), Arc::new(Mutex::new(Vec::new())));
        let log = seen.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, handler.clone(), log.clone()));
            }
        });
        Self { address, seen, task }
    }

    /// Serves one image as `x:1`, some paths answered otherwise.
    pub async fn image(image: &TestImage, other: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let routes = routes(image, "x", "1");
        Self::start(move |request| other(request).or_else(|| routes.get(&request.path).cloned())).await
    }
}

/// The paths of an image.
pub fn routes(image: &TestImage, repository: &str, tag: &str) -> HashMap<String, Reply> {
    let mut routes = HashMap::new();
    for blob in image.layers.iter().map(|layer| &layer.blob).chain([&image.config]) {
        routes.insert(format!("/v2/{repository}/blobs/{}", Digest::of(blob)), Reply::ok(blob));
    }
    for name in [tag.to_owned(), image.digest().to_string()] {
        routes.insert(format!("/v2/{repository}/manifests/{name}"), Reply::ok(&image.manifest));
    }
    routes.insert("/v2/".into(), Reply::ok(b"{}"));
    routes
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, handler: Arc<Handler>, log: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
        // A TLS greeting: not our language.
        if head[0] == 0x16 {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            return;
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let header = |line: &str| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned()));
    let headers: HashMap<String, String> = text.lines().filter_map(header).collect();
    let length = headers.get("content-length").and_then(|length| length.trim().parse().ok()).unwrap_or(0_usize);
    let mut body = vec![0; length];
    if stream.read_exact(&mut body).await.is_err() {
        return;
    }
    let request = Request { method, path, headers, body };
    log.lock().expect("no test panics while holding it").push(format!("{} {}", request.method, request.path));
    let reply =
        handler(&request).unwrap_or(Reply { status: 404, body: b"{\"errors\":[]}".to_vec(), ..Reply::default() });
    let mut answer = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    answer += &format!("Content-Length: {}\r\n", reply.length.unwrap_or(reply.body.len()));
    for (key, value) in &reply.headers {
        answer += &format!("{key}: {value}\r\n");
    }
    answer += "\r\n";
    if stream.write_all(answer.as_bytes()).await.is_err() || request.method == "HEAD" {
        return;
    }
    let body = &reply.body[..reply.stall_after.unwrap_or(reply.body.len())];
    let _ = stream.write_all(body).await;
    if reply.stall_after.is_some() {
        // Until the other side gives up.
        let _ = stream.read_u8().await;
    }
}
