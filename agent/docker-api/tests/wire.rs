//! The face byte by byte, as a client on a raw socket sees it.

mod fake;

use fake::{Server, cluster::FakeCluster};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{sync::atomic::Ordering, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{self, Message};

const LONG: Duration = Duration::from_secs(10);

struct Client {
    socket: UnixStream,
    buffer: Vec<u8>,
}

struct Answer {
    status: String,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn code(&self) -> u16 {
        self.status.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("a status line")
    }
    fn header(&self, name: &str) -> Option<&str> {
        let find = |line: &'_ str| -> bool { line.split(':').next().is_some_and(|n| n.eq_ignore_ascii_case(name)) };
        self.head.lines().find(|l| find(l)).and_then(|l| l.split_once(": ")).map(|(_, v)| v.trim_end())
    }
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }
    fn message(&self) -> String {
        self.json()["message"].as_str().expect("a message").to_owned()
    }
}

impl Client {
    async fn to(server: &Server) -> Self {
        Self { socket: UnixStream::connect(&server.socket).await.expect("connects"), buffer: Vec::new() }
    }

    async fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).await.expect("sends");
    }

    /// Reads until the buffer holds `end`; answers what is before it.
    async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                let rest = self.buffer.split_off(at + end.len());
                let mut before = std::mem::replace(&mut self.buffer, rest);
                before.truncate(at);
                return before;
            }
            assert_ne!(self.more().await, 0, "ended early: {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    async fn more(&mut self) -> usize {
        timeout(LONG, self.socket.read_buf(&mut self.buffer)).await.expect("in time").expect("reads")
    }

    async fn exactly(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n {
            assert_ne!(self.more().await, 0, "ended early");
        }
        let rest = self.buffer.split_off(n);
        std::mem::replace(&mut self.buffer, rest)
    }

    async fn rest(&mut self) -> Vec<u8> {
        while self.more().await != 0 {}
        std::mem::take(&mut self.buffer)
    }

    async fn head(&mut self) -> Answer {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await).expect("a head is text");
        let (status, head) = head.split_once("\r\n").unwrap_or((&head, ""));
        Answer { status: status.to_owned(), head: head.to_owned(), body: Vec::new() }
    }

    async fn chunk(&mut self) -> Vec<u8> {
        let size = String::from_utf8(self.until(b"\r\n").await).expect("a size");
        let size = usize::from_str_radix(&size, 16).expect("a size in hex");
        let mut chunk = self.exactly(size + 2).await;
        chunk.truncate(size);
        chunk
    }

    async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if let Some(n) = answer.header("content-length") {
            let n = n.parse().expect("a length");
            answer.body = self.exactly(n).await;
        } else if answer.header("transfer-encoding").is_some() {
            loop {
                match self.chunk().await {
                    last if last.is_empty() => break,
                    part => answer.body.extend(part),
                }
            }
        }
        answer
    }

    async fn ask(&mut self, line: &str, body: Option<Value>) -> Answer {
        self.send(&request(line, body)).await;
        self.answer().await
    }
}

fn request(line: &str, body: Option<Value>) -> String {
    match body {
        None => format!("{line} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n"),
        Some(body) => {
            let body = body.to_string();
            format!(
                "{line} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        }
    }
}

async fn ask(server: &Server, line: &str, body: Option<Value>) -> Answer {
    Client::to(server).await.ask(line, body).await
}

/// Creates a container that runs these words; answers its id.
async fn create(server: &Server, words: &[&str]) -> String {
    let body = json!({"Image": fake::IMAGE, "Cmd": words, "OpenStdin": true});
    let answer = ask(server, "POST /v1.45/containers/create", Some(body)).await;
    assert_eq!(answer.code(), 201);
    answer.json()["Id"].as_str().expect("an id").to_owned()
}

async fn until_alive(server: &Server, wanted: usize) {
    let reached = async {
        while server.fake.alive.load(Ordering::SeqCst) != wanted {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, reached).await.expect("the engine's stream is dropped in time");
}

#[tokio::test]
async fn a_ping_tells_all_that_clients_ask_for() {
    let server = Server::start(None);
    let mut client = Client::to(&server).await;
    client.send("HEAD /_ping HTTP/1.1\r\nHost: d\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(head.status, "HTTP/1.1 200 OK");
    for (name, value) in [
        ("Api-Version", "1.50"),
        ("Ostype", "linux"),
        ("Docker-Experimental", "false"),
        ("Builder-Version", "1"),
        ("Swarm", "inactive"),
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
        ("Pragma", "no-cache"),
        ("Server", "Docker/0.1.0 (linux)"),
    ] {
        assert_eq!(head.header(name), Some(value), "{name}");
        assert!(head.head.contains(&format!("{name}: ")), "{name} is spelt as dockerd spells it");
    }
    // The connection is kept, and a HEAD has no body before the next answer.
    let answer = client.ask("GET /_ping", None).await;
    assert_eq!((answer.code(), answer.body.as_slice()), (200, &b"OK"[..]));
}

#[tokio::test]
async fn errors_are_dockerds() {
    let server = Server::start(None);
    let created = create(&server, &["sleep"]).await;
    let name = |path: &str| path.replace("{ID}", &created);
    let cases: &[(&str, Option<Value>, u16, &str)] = &[
        ("GET /nope", None, 404, "page not found"),
        ("PUT /info", None, 404, "page not found"),
        (
            "GET /v1.12/info",
            None,
            400,
            "client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
        ),
        ("GET /v9.99/info", None, 400, "client version 9.99 is too new. Maximum supported API version is 1.50"),
        ("GET /v1.45/containers/nonesuch/json", None, 404, "No such container: nonesuch"),
        (
            "GET /v1.45/containers/json?filters=%7B%22bogus%22%3A%7B%22x%22%3Atrue%7D%7D",
            None,
            400,
            "invalid filter 'bogus'",
        ),
        (
            "GET /v1.45/containers/json?filters=%7B%22status%22%3A%5B%22bogus%22%5D%7D",
            None,
            400,
            "invalid filter 'status=bogus'",
        ),
        ("GET /v1.45/containers/json?filters=nonsense", None, 400, "invalid filter"),
        (
            "POST /v1.45/containers/{ID}/start",
            Some(json!({"a": "b"})),
            400,
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ),
        ("POST /v1.45/containers/{ID}/wait?condition=foo", None, 400, "invalid condition: \"foo\""),
        ("GET /v1.45/containers/{ID}/logs", None, 400, "Bad parameters: you must choose at least one stream"),
        ("POST /v1.45/containers/create", None, 400, "invalid JSON: got EOF while reading request body"),
        ("POST /v1.45/containers/create", Some(json!({"Image": "none"})), 404, "No such image: none"),
        ("POST /v1.45/containers/{ID}/kill", None, 409, "cannot kill container: {ID}: container ID is not running"),
        (
            "POST /v1.45/images/q/push",
            None,
            400,
            "bad parameters and missing X-Registry-Auth: invalid X-Registry-Auth header: EOF",
        ),
        (
            "POST /v1.45/images/create?fromImage=r:5000/none&tag=1",
            None,
            404,
            "manifest for r:5000/none:1 not found: manifest unknown",
        ),
        ("POST /v1.45/build", None, 501, "build is not supported by muster yet"),
        ("GET /v1.45/images/search?term=x", None, 501, "searching the registry is not supported by muster yet"),
        ("POST /v1.45/containers/{ID}/pause", None, 501, "pause is not supported by muster yet"),
        (
            "GET /v1.45/services",
            None,
            503,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
        ),
        ("GET /v1.45/plugins/x/json", None, 404, "plugin \"x\" not found"),
    ];
    for (line, body, code, message) in cases {
        let answer = ask(&server, &name(line), body.clone()).await;
        assert_eq!((answer.code(), answer.message()), (*code, name(message)), "{line}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{line}");
    }
    assert_eq!(ask(&server, "OPTIONS /anything", None).await.code(), 200);
}

#[tokio::test]
async fn json_bodies_need_their_content_type_and_must_be_whole() {
    let server = Server::start(None);
    let mut client = Client::to(&server).await;
    client
        .send("POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}")
        .await;
    assert_eq!(
        client.answer().await.message(),
        "unsupported Content-Type header (text/plain): must be 'application/json'"
    );
    client.send("POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 5\r\n\r\n{\"a\":").await;
    assert_eq!(client.answer().await.message(), "invalid JSON: unexpected EOF");
}

#[tokio::test]
async fn every_path_of_the_api_is_known() {
    let server = Server::start(None);
    let paths = include_str!("paths.txt").lines().filter(|l| !l.is_empty());
    let mut client = Client::to(&server).await;
    for line in paths {
        let (method, path) = line.split_once(' ').expect("METHOD path");
        if method == "HEAD" || path.ends_with("/events") {
            continue;
        }
        let answer = client.ask(&format!("{method} /v1.50{}", path.replace("{}", "x")), None).await;
        let unknown = answer.code() == 404 && answer.message() == "page not found";
        assert!(!unknown, "{line} is not routed");
    }
}

#[tokio::test]
async fn a_wait_sends_its_head_before_the_container_starts() {
    let server = Server::start(None);
    let id = create(&server, &["exit", "3"]).await;
    let mut wait = Client::to(&server).await;
    wait.send(&request(&format!("POST /v1.45/containers/{id}/wait?condition=next-exit"), None)).await;
    let head = wait.head().await;
    assert_eq!((head.code(), head.header("transfer-encoding")), (200, Some("chunked")));
    assert_eq!(ask(&server, &format!("POST /v1.45/containers/{id}/start"), None).await.code(), 204);
    assert_eq!(wait.chunk().await, b"{\"StatusCode\":3}\n");
    assert!(wait.chunk().await.is_empty());
}

#[tokio::test]
async fn attach_upgrades_carries_stdin_and_outlives_the_clients_half_close() {
    let server = Server::start(None);
    let id = create(&server, &["cat"]).await;
    let mut attach = Client::to(&server).await;
    attach
        .send(&format!(
            "POST /v1.45/containers/{id}/attach?stdin=1&stdout=1&stderr=1&stream=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        ))
        .await;
    let head = attach.head().await;
    assert_eq!(head.status, "HTTP/1.1 101 UPGRADED");
    assert_eq!(head.header("content-type"), Some("application/vnd.docker.multiplexed-stream"));
    assert_eq!((head.header("connection"), head.header("upgrade")), (Some("Upgrade"), Some("tcp")));
    attach.send("hello\n").await;
    attach.socket.shutdown().await.expect("half-closes");
    assert_eq!(ask(&server, &format!("POST /v1.45/containers/{id}/start"), None).await.code(), 204);
    assert_eq!(attach.rest().await, b"\x01\x00\x00\x00\x00\x00\x00\x06hello\n");
}

#[tokio::test]
async fn attach_over_a_websocket_carries_messages_both_ways_and_ends_with_the_process() {
    let server = Server::start(None);
    let id = create(&server, &["cat"]).await;
    let socket = UnixStream::connect(&server.socket).await.expect("connects");
    let url = format!("ws://d/v1.45/containers/{id}/attach/ws?stdin=1&stdout=1&stderr=1&stream=1");
    let (mut attached, answer) = tokio_tungstenite::client_async(url, socket).await.expect("upgraded");
    assert_eq!(answer.status().as_u16(), 101);
    attached.send(Message::text("hello\n")).await.expect("sent");
    attached.send(Message::Ping("are you there".into())).await.expect("sent");
    assert_eq!(ask(&server, &format!("POST /v1.45/containers/{id}/start"), None).await.code(), 204);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.push(timeout(LONG, attached.next()).await.expect("in time").expect("more").expect("a message"));
    }
    assert!(seen.contains(&Message::binary(&b"hello\n"[..])), "without frames of its own: {seen:?}");
    assert!(seen.contains(&Message::Pong("are you there".into())), "{seen:?}");
    let other = format!("ws://d/v1.45/containers/{id}/attach/ws?stdout=1&stream=1");
    let socket = UnixStream::connect(&server.socket).await.expect("connects");
    let (mut watcher, _) = tokio_tungstenite::client_async(other, socket).await.expect("upgraded");
    watcher.close(None).await.expect("closes");
    while let Some(message) = timeout(LONG, watcher.next()).await.expect("the server closes as well") {
        message.expect("a close is answered before the connection ends");
    }
    for (path, code) in [(id.as_str(), 400), ("nonesuch", 400)] {
        let plain = ask(&server, &format!("GET /v1.45/containers/{path}/attach/ws"), None).await;
        assert_eq!(plain.code(), code);
        assert!(plain.message().contains("websocket"), "{}", plain.message());
    }
    let socket = UnixStream::connect(&server.socket).await.expect("connects");
    let missing = tokio_tungstenite::client_async("ws://d/v1.45/containers/none/attach/ws", socket).await;
    assert!(matches!(missing, Err(tungstenite::Error::Http(answer)) if answer.status().as_u16() == 404));
}

#[tokio::test]
async fn without_an_upgrade_the_same_bytes_follow_a_plain_200() {
    let server = Server::start(None);
    let id = create(&server, &["err", "no", "luck"]).await;
    let mut attach = Client::to(&server).await;
    attach.send(&request(&format!("POST /v1.41/containers/{id}/attach?stdout=1&stderr=1&stream=1"), None)).await;
    let head = attach.head().await;
    assert_eq!(head.status, "HTTP/1.1 200 OK");
    // Before 1.42 there was one content type for both forms.
    assert_eq!(head.header("content-type"), Some("application/vnd.docker.raw-stream"));
    assert_eq!(head.header("transfer-encoding"), None);
    ask(&server, &format!("POST /v1.41/containers/{id}/start"), None).await;
    assert_eq!(attach.rest().await, b"\x02\x00\x00\x00\x00\x00\x00\x08no luck\n");
}

#[tokio::test]
async fn exec_takes_what_follows_its_document_as_stdin() {
    let server = Server::start(None);
    let id = create(&server, &["sleep"]).await;
    let made =
        ask(&server, &format!("POST /v1.45/containers/{id}/exec"), Some(json!({"Cmd": ["cat"], "AttachStdin": true})))
            .await;
    assert_eq!(made.code(), 201);
    let exec = made.json()["Id"].as_str().expect("an id").to_owned();
    let mut start = Client::to(&server).await;
    let body = r#"{"Detach":false,"Tty":false}"#;
    // All in one write: head, document and stdin.
    start
        .send(&format!(
            "POST /v1.45/exec/{exec}/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}early",
            body.len()
        ))
        .await;
    assert_eq!(start.head().await.code(), 101);
    assert_eq!(start.exactly(13).await, b"\x01\x00\x00\x00\x00\x00\x00\x05early");
    start.socket.shutdown().await.expect("half-closes");
    assert!(start.rest().await.is_empty());
    let inspect = ask(&server, &format!("GET /v1.45/exec/{exec}/json"), None).await.json();
    assert_eq!((&inspect["Running"], &inspect["ExitCode"]), (&json!(false), &json!(0)));
}

#[tokio::test]
async fn an_exec_that_is_none_is_404_and_one_that_does_not_start_says_so_in_its_stream() {
    let server = Server::start(None);
    let missing = ask(&server, "POST /v1.45/exec/nope/start", Some(json!({"Detach": false}))).await;
    assert_eq!((missing.code(), missing.message()), (404, "No such exec instance: nope".into()));
    let id = create(&server, &["sleep"]).await;
    let made = ask(&server, &format!("POST /v1.45/containers/{id}/exec"), Some(json!({"Cmd": ["refuse"]}))).await;
    let exec = made.json()["Id"].as_str().expect("an id").to_owned();
    let mut start = Client::to(&server).await;
    start.send(&request(&format!("POST /v1.45/exec/{exec}/start"), Some(json!({"Tty": false})))).await;
    assert_eq!(start.head().await.code(), 200);
    assert_eq!(&start.rest().await[8..], b"exec failed: no such file: refuse\r\n");
}

#[tokio::test]
async fn a_hijack_after_other_requests_on_one_connection_works() {
    let server = Server::start(None);
    let id = create(&server, &["echo", "x"]).await;
    let mut client = Client::to(&server).await;
    assert_eq!(client.ask("GET /v1.45/version", None).await.json()["ApiVersion"], "1.50");
    client.send(&request(&format!("POST /v1.45/containers/{id}/attach?stdout=1&stream=1"), None)).await;
    assert_eq!(client.head().await.code(), 200);
    ask(&server, &format!("POST /v1.45/containers/{id}/start"), None).await;
    assert_eq!(client.rest().await, b"\x01\x00\x00\x00\x00\x00\x00\x02x\n");
}

#[tokio::test]
async fn logs_are_framed_with_time_and_details_inside() {
    let server = Server::start(None);
    let id = create(&server, &["echo", "hi"]).await;
    ask(&server, &format!("POST /v1.45/containers/{id}/start"), None).await;
    ask(&server, &format!("POST /v1.45/containers/{id}/wait"), None).await;
    let logs = ask(&server, &format!("GET /v1.45/containers/{id}/logs?stdout=1&timestamps=1&details=1"), None).await;
    assert_eq!(logs.header("content-type"), Some("application/vnd.docker.multiplexed-stream"));
    let line = b"1970-01-01T00:00:01.500000000Z k=v hi\n";
    assert_eq!((&logs.body[..8], &logs.body[8..]), (&[1, 0, 0, 0, 0, 0, 0, line.len() as u8][..], &line[..]));
}

#[tokio::test]
async fn events_send_head_and_first_event_at_once_and_a_client_that_goes_ends_them() {
    let server = Server::start(None);
    let mut client = Client::to(&server).await;
    client.send("GET /v1.45/events HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert_eq!(client.head().await.code(), 200);
    let event: Value = serde_json::from_slice(&client.chunk().await).expect("an event");
    assert_eq!(
        (&event["Type"], &event["Action"], &event["timeNano"]),
        (&json!("container"), &json!("start"), &json!(0))
    );
    until_alive(&server, 1).await;
    drop(client);
    until_alive(&server, 0).await;
}

#[tokio::test]
async fn a_client_that_goes_ends_its_logs_and_its_wait() {
    let server = Server::start(None);
    let id = create(&server, &["sleep"]).await;
    let (mut logs, mut wait) = (Client::to(&server).await, Client::to(&server).await);
    logs.send(&request(&format!("GET /v1.45/containers/{id}/logs?follow=1&stdout=1"), None)).await;
    wait.send(&request(&format!("POST /v1.45/containers/{id}/wait?condition=removed"), None)).await;
    assert_eq!((logs.head().await.code(), wait.head().await.code()), (200, 200));
    until_alive(&server, 2).await;
    drop((logs, wait));
    until_alive(&server, 0).await;
}

#[tokio::test]
async fn an_error_behind_the_first_progress_line_is_the_last_line() {
    let server = Server::start(None);
    let mut client = Client::to(&server).await;
    // {"username":"a"} in base64, without padding.
    client.send("POST /v1.45/images/create?fromImage=q&tag=1 HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\nX-Registry-Auth: eyJ1c2VybmFtZSI6ImEifQ\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.code(), 200);
    let text = String::from_utf8(answer.body).expect("text");
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(
        lines[0],
        json!({"status": "Pulling as \"a\"", "id": "q:1", "progressDetail": {"current": 1, "total": 2}})
    );
    assert_eq!(lines[1], json!({"errorDetail": {"message": "the disk is full"}, "error": "the disk is full"}));
}

#[tokio::test]
async fn tars_are_streamed_in_and_paths_are_described_in_a_header() {
    let server = Server::start(None);
    let mut client = Client::to(&server).await;
    client.send("HEAD /v1.45/containers/x/archive?path=%2Ftmp HTTP/1.1\r\nHost: d\r\n\r\n").await;
    let head = client.head().await;
    let stat = head.header("x-docker-container-path-stat").expect("a stat");
    assert_eq!(
        stat,
        "eyJsaW5rVGFyZ2V0IjoiIiwibW9kZSI6MjE0NzQ4NDE0MSwibXRpbWUiOiIwMDAxLTAxLTAxVDAwOjAwOjAwWiIsIm5hbWUiOiJ0bXAiLCJzaXplIjowfQ=="
    );
    client.send("PUT /v1.45/containers/x/archive?path=%2Ftmp HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.code(), 200);
    assert_eq!(*server.fake.uploaded.lock().expect("not poisoned"), b"abcde");
}

#[tokio::test]
async fn already_so_is_304_with_no_body() {
    let server = Server::start(None);
    let id = create(&server, &["sleep"]).await;
    let mut client = Client::to(&server).await;
    for (line, code) in [("start", 204), ("start", 304), ("kill", 204)] {
        let answer = client.ask(&format!("POST /v1.45/containers/{id}/{line}"), None).await;
        assert_eq!((answer.code(), answer.body.len()), (code, 0), "{line}");
    }
}

#[tokio::test]
async fn nodes_that_did_not_answer_are_named_beside_a_list() {
    let server = Server::start(None);
    let answer = ask(&server, "GET /v1.45/containers/json", None).await;
    assert_eq!((answer.code(), answer.json()), (200, json!([])));
    assert_eq!(answer.header("warning"), Some("199 muster \"node host2 did not answer: no answer within 2 s\""));
}

#[tokio::test]
async fn a_stale_update_of_a_node_is_out_of_sequence_and_a_refused_field_is_named() {
    let server = Server::start(Some(FakeCluster::outside()));
    assert_eq!(
        ask(&server, "POST /v1.45/swarm/init", Some(json!({"ListenAddr": "0.0.0.0:2377"}))).await.json(),
        json!(fake::cluster::NODE)
    );
    let spec = json!({"Role": "manager", "Availability": "drain", "Labels": {"a": "b"}});
    let stale = ask(&server, "POST /v1.45/nodes/vm/update?version=3", Some(spec.clone())).await;
    assert_eq!((stale.code(), stale.message()), (500, "update out of sequence".into()));
    assert_eq!(ask(&server, "POST /v1.45/nodes/vm/update?version=9", Some(spec)).await.code(), 200);
    let node = ask(&server, "GET /v1.45/nodes/vm", None).await.json();
    assert_eq!((&node["Spec"]["Availability"], &node["ManagerStatus"]["Leader"]), (&json!("drain"), &json!(true)));
    let secret =
        json!({"Name": "s", "TaskTemplate": {"ContainerSpec": {"Image": "x", "Secrets": [{"SecretID": "y"}]}}});
    let refused = ask(&server, "POST /v1.45/services/create", Some(secret)).await;
    assert_eq!(refused.code(), 501);
    assert_eq!(refused.message(), "TaskTemplate.ContainerSpec.Secrets is not supported by muster yet");
}

#[tokio::test]
async fn a_verbose_inspect_of_a_cluster_network_tells_its_services_and_peers() {
    let server = Server::start(Some(FakeCluster::outside()));
    ask(&server, "POST /v1.45/swarm/init", Some(json!({"ListenAddr": "0.0.0.0:2377"}))).await;
    let network = json!({"Name": "shop", "Driver": "overlay"});
    assert_eq!(ask(&server, "POST /v1.45/networks/create", Some(network)).await.code(), 201);
    let service = json!({
        "Name": "web",
        "Mode": {"Replicated": {"Replicas": 2}},
        "TaskTemplate": {"ContainerSpec": {"Image": "x"}, "Networks": [{"Target": "shop"}]},
    });
    assert_eq!(ask(&server, "POST /v1.45/services/create", Some(service)).await.code(), 201);
    let brief = ask(&server, "GET /v1.45/networks/shop", None).await.json();
    assert_eq!((&brief["Services"], &brief["Peers"]), (&Value::Null, &json!([{"Name": "vm", "IP": "10.99.0.1"}])));
    let verbose = ask(&server, "GET /v1.45/networks/shop?verbose=true", None).await.json();
    let web = &verbose["Services"]["web"];
    assert_eq!(web["VIP"], "10.0.1.2", "{verbose}");
    let tasks = web["Tasks"].as_array().expect("tasks");
    let told: Vec<_> = tasks.iter().map(|t| (t["EndpointIP"].clone(), t["Info"]["Host IP"].clone())).collect();
    assert_eq!(told, [(json!("10.0.1.11"), json!("10.99.0.1")), (json!("10.0.1.12"), json!("10.99.0.1"))]);
    assert!(tasks[0]["Name"].as_str().expect("a name").starts_with("web.1."), "{verbose}");
}

#[tokio::test]
async fn nonsense_on_the_wire_neither_hangs_nor_kills_the_server() {
    let server = Server::start(None);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let alphabet = b"GET POST/v1.45containers{}[]\":,%2Ffilters=json?&\r\n\x00\xff0123456789HTTP/1.1";
    for _ in 0..300 {
        let mut client = Client::to(&server).await;
        let noise: Vec<u8> = (0..next() % 400).map(|_| alphabet[(next() % alphabet.len() as u64) as usize]).collect();
        let framed =
            [b"POST /v1.45/containers/create?name=".as_slice(), &noise, b" HTTP/1.1\r\nHost: d\r\n\r\n"].concat();
        let bytes = if next() % 2 == 0 { noise } else { framed };
        // The server may close in the middle of it.
        let _ = client.socket.write_all(&bytes).await;
        let _ = client.socket.shutdown().await;
        let _ = timeout(LONG, client.socket.read_to_end(&mut client.buffer)).await.expect("the connection ends");
    }
    assert_eq!(ask(&server, "GET /_ping", None).await.code(), 200);
}

#[tokio::test]
async fn shutdown_ends_idle_and_streaming_connections_alike() {
    let mut server = Server::start(None);
    let mut idle = Client::to(&server).await;
    assert_eq!(idle.ask("GET /_ping", None).await.code(), 200);
    let mut events = Client::to(&server).await;
    events.send("GET /v1.45/events HTTP/1.1\r\nHost: d\r\n\r\n").await;
    events.head().await;
    timeout(LONG, server.stop()).await.expect("in time");
    assert_eq!(server.fake.alive.load(Ordering::SeqCst), 0);
    assert_eq!(idle.more().await, 0);
}
