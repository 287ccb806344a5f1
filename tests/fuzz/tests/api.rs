//! What clients of the Docker API send: whole requests with their queries, filters, documents and hijacked streams, thrown at
//! the face with an engine in memory behind it.

#[path = "../../../agent/docker-api/tests/fake/mod.rs"]
mod fake;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use muster_docker_api::{Access, Api, Settings, serve_connection};
use muster_fuzz::{Counting, Target, fuzz, repair_http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static MEMORY: Counting = Counting;

/// How long an answer that may be endless (events, logs, attach) is read.
const MOMENT: Duration = Duration::from_millis(20);
/// Most bytes read of one answer.
const ENOUGH: u64 = 1 << 20;

const WORDS: &[&str] = &[
    "GET ",
    "POST ",
    "DELETE ",
    "PUT ",
    "HEAD ",
    "/v1.50",
    "/v1.24",
    "/v99.9",
    "/containers/",
    "/json",
    "/images/",
    "?all=1",
    "&filters=",
    "%7B%22label%22%3A%5B%22a%22%5D%7D",
    "null",
    "true",
    "{}",
    "[]",
    "\"HostConfig\":{}",
    "\"Image\":\"busybox:e2e\"",
    "\"Cmd\":[\"cat\"]",
    "\"PortBindings\":{\"80/tcp\":[{\"HostPort\":\"8080\"}]}",
    "\"ExposedPorts\":{\"80/tcp\":{}}",
    "\"Mounts\":[{\"Type\":\"bind\"}]",
    "\"Binds\":[\"/a:/b:ro\"]",
    "\"Ulimits\":[{\"Name\":\"nofile\",\"Soft\":1,\"Hard\":2}]",
    "\"Memory\":",
    "\"NanoCpus\":",
    "\"RestartPolicy\":{\"Name\":\"always\"}",
    "\"NetworkingConfig\":{\"EndpointsConfig\":{}}",
    "\"TaskTemplate\":{\"ContainerSpec\":{}}",
    "\"Mode\":{\"Replicated\":{\"Replicas\":1}}",
    "\"EndpointSpec\":{\"Ports\":[]}",
    "\"UpdateConfig\":{\"Delay\":1}",
    "\"IPAM\":{\"Config\":[{\"Subnet\":\"10.0.0.0/8\"}]}",
    "\"Tty\":true",
    "Transfer-Encoding: chunked\n",
    "Upgrade: tcp\n",
    "Connection: Upgrade\n",
    "X-Registry-Auth: e30=\n",
    "Content-Type: application/json\n",
    "\n\n",
    "%00",
    "%ff",
    "\\ud800",
];

#[test]
fn every_request_gets_an_answer_or_the_connection_ends() {
    let target =
        Target { name: "request", runs: 4_000, words: WORDS, repair: Some(repair_http), most_memory: 64 << 20 };
    // How many answers were good, and how many were refusals: a run that only meets the door would find nothing.
    let (good, refused) = (Cell::new(0_u32), Cell::new(0_u32));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    fuzz(&target, |input| {
        let answer = runtime.block_on(ask(input));
        if answer.is_empty() {
            return;
        }
        assert!(answer.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answer[..answer.len().min(80)]));
        let count = if answer.get(9).is_some_and(|digit| matches!(digit, b'1' | b'2')) { &good } else { &refused };
        count.set(count.get() + 1);
        assert_frames(&answer);
    });
    assert!(good.get() > 100 && refused.get() > 100, "{} good answers, {} refusals", good.get(), refused.get());
}

/// Sends bytes to a face of its own and reads what it answers.
async fn ask(input: &[u8]) -> Vec<u8> {
    let engine = fake::engine(&fake::Fake::new());
    let cluster = fake::cluster::FakeCluster::outside();
    let init = muster_calls::InitCluster::default();
    cluster.init(init).await.expect("the fake becomes a cluster");
    let api = Arc::new(Api::new(
        engine,
        Some(cluster),
        &Settings { server_version: "0.1.0".into(), continue_trace: |_, _| {} },
    ));
    let (client, server) = tokio::io::duplex(ENOUGH as usize);
    // In this task, so that a panic of a handler is this check's.
    let serving = serve_connection(server, api, Access::default(), CancellationToken::new());
    let talking = async move {
        let (from, mut to) = tokio::io::split(client);
        let mut from = from.take(ENOUGH);
        // A server that answers early need not read the rest.
        let _ = to.write_all(input).await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(MOMENT, from.read_to_end(&mut answer)).await.is_ok();
        if !ended {
            // A stream: it may wait for the end of what is typed.
            let _ = to.shutdown().await;
            let _ = tokio::time::timeout(MOMENT, from.read_to_end(&mut answer)).await;
        }
        answer
    };
    tokio::select! {
        biased;
        answer = talking => answer,
        () = async { serving.await; std::future::pending().await } => Vec::new(),
    }
}

/// A multiplexed answer is made of whole frames, but for its last.
fn assert_frames(answer: &[u8]) {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return };
    let (head, mut rest) = (&answer[..end], &answer[end + 4..]);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let hijacked = head.starts_with("http/1.1 101") && head.contains("multiplexed-stream");
    while hijacked && rest.len() >= 8 {
        assert!(rest[0] <= 3 && rest[1..4] == [0, 0, 0], "a frame begins with {:?}", &rest[..8]);
        let length = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        rest = rest.get(8 + length..).unwrap_or_default();
    }
}
