//! Logs that go elsewhere as well: each driver against a real receiver, and what happens when that is slow or away.

mod common;

use async_trait::async_trait;
use common::{Host, IMAGE, run, script, start, until};
use futures_util::StreamExt;
use muster_calls::{Engine, Logs, RemoveContainer};
use muster_engine::{ContainerLogs, EngineConfig, LocalEngine, LogLine, OtlpLogs, OtlpSender};
use muster_model::engine::ContainerCreateBody;
use std::{
    io::{BufRead, BufReader},
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

const FORCE: RemoveContainer = RemoveContainer { force: true, volumes: true };

fn logged(text: &str, driver: &str, options: &[(&str, &str)]) -> ContainerCreateBody {
    let mut body = script(text);
    body.host_config.log_config.kind = driver.to_owned();
    body.host_config.log_config.config = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    body
}

/// What `docker logs` prints.
async fn logs(engine: &LocalEngine, id: &str) -> String {
    let options = Logs { stdout: true, stderr: true, ..Logs::default() };
    let lines = engine.container_logs(id, options).await.expect("logs").lines;
    let lines: Vec<_> = lines.map(|l| String::from_utf8_lossy(&l.expect("line").data).into_owned()).collect().await;
    lines.concat()
}

fn datagrams(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("bound");
    socket.set_read_timeout(Some(common::PATIENCE)).expect("timeout");
    socket
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = vec![0; 65_536];
    let read = socket.recv(&mut buffer).expect("a datagram in time");
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn syslog_gets_each_line_over_a_socket_udp_and_tcp_and_logs_still_reads_it() {
    let host = Host::new();
    let engine = host.open().await;
    let path = host.dir.join("log.sock");
    let socket = datagrams(&path);
    let address = format!("unixgram://{}", path.display());
    let options = [("syslog-address", address.as_str()), ("syslog-format", "rfc5424"), ("tag", "{{.Name}}/x")];
    let outcome = run(&engine, Some("box"), logged("echo out; echo err >&2", "syslog", &options)).await;
    let both = [receive(&socket), receive(&socket)];
    assert!(both.iter().any(|m| m.starts_with("<30>1 ") && m.ends_with(" box/x - out")), "{both:?}");
    assert!(both.iter().any(|m| m.starts_with("<27>1 ") && m.ends_with(" box/x - err")), "{both:?}");
    let mut lines: Vec<String> = logs(&engine, &outcome.id).await.lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);

    let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
    udp.set_read_timeout(Some(common::PATIENCE)).expect("timeout");
    let address = format!("udp://{}", udp.local_addr().expect("address"));
    let options = [("syslog-address", address.as_str()), ("syslog-facility", "local7"), ("syslog-format", "rfc3164")];
    run(&engine, Some("far"), logged("echo over udp", "syslog", &options)).await;
    let mut buffer = [0; 4096];
    let read = udp.recv(&mut buffer).expect("a datagram in time");
    let message = String::from_utf8_lossy(&buffer[..read]).into_owned();
    assert!(message.starts_with("<190>") && message.contains(" test ") && message.ends_with(": over udp"), "{message}");

    let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = format!("tcp://{}", tcp.local_addr().expect("address"));
    let text = "echo one; printf 'two\\r<0>forged\\n'; echo three";
    run(&engine, Some("line"), logged(text, "syslog", &[("syslog-address", address.as_str())])).await;
    let (stream, _) = tcp.accept().expect("it connected");
    stream.set_read_timeout(Some(common::PATIENCE)).expect("timeout");
    let lines: Vec<String> = BufReader::new(stream).lines().take(3).map(|l| l.expect("line")).collect();
    assert!(lines[0].ends_with("]: one") && lines[1].ends_with("]: two#015<0>forged"), "{lines:?}");
    assert!(lines[2].ends_with("]: three"), "{lines:?}");
    host.finish(engine).await;
}

async fn open_with(host: &Host, change: impl FnOnce(&mut EngineConfig)) -> Arc<LocalEngine> {
    let mut config = host.config().await;
    change(&mut config);
    let engine = LocalEngine::open(config).await.expect("engine opens");
    if engine.image_inspect(IMAGE).await.is_err() {
        common::import(&*engine, IMAGE).await;
    }
    engine
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_gets_fields_that_name_the_container() {
    let host = Host::new();
    let path = host.dir.join("journal.sock");
    let socket = datagrams(&path);
    let engine = open_with(&host, |c| c.journal_socket = path.clone()).await;
    let mut body = logged("echo hello", "journald", &[("labels", "tier"), ("env", "MODE")]);
    body.config.labels.insert("tier".into(), "front".into());
    body.config.env.push("MODE=fast".into());
    let outcome = run(&engine, Some("web"), body).await;
    let fields = receive(&socket);
    let id = format!("CONTAINER_ID_FULL={}", outcome.id);
    for wanted in
        ["MESSAGE=hello", "PRIORITY=6", "CONTAINER_NAME=web", &id, "TIER=front", "MODE=fast", "IMAGE_NAME=busybox:test"]
    {
        assert!(fields.lines().any(|l| l == wanted), "{wanted}: {fields}");
    }
    assert_eq!(logs(&engine, &outcome.id).await, "hello\n");
    host.finish(engine).await;
}

/// A collector in the place of the one that `musterd` lends.
#[derive(Default)]
struct Collector {
    lines: Mutex<Vec<(ContainerLogs, LogLine)>>,
    away: AtomicBool,
    tries: AtomicUsize,
}

struct ToCollector(Arc<Collector>, ContainerLogs);

struct Lender(Arc<Collector>);

impl OtlpLogs for Lender {
    fn open(&self, logs: &ContainerLogs) -> Result<Box<dyn OtlpSender>, String> {
        Ok(Box::new(ToCollector(self.0.clone(), logs.clone())))
    }
}

#[async_trait]
impl OtlpSender for ToCollector {
    async fn send(&mut self, lines: Vec<LogLine>) -> Result<(), String> {
        self.0.tries.fetch_add(1, Ordering::SeqCst);
        if self.0.away.load(Ordering::SeqCst) {
            return Err("nobody there".into());
        }
        let mut all = self.0.lines.lock().expect("no panic under it");
        all.extend(lines.into_iter().map(|line| (self.1.clone(), line)));
        Ok(())
    }
}

impl Collector {
    fn texts(&self) -> Vec<String> {
        let lines = self.lines.lock().expect("no panic under it");
        lines.iter().map(|(_, line)| String::from_utf8_lossy(&line.text).into_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_holds_up_no_container_and_gets_every_line_later_once() {
    let host = Host::new();
    let collector = Arc::new(Collector { away: AtomicBool::new(true), ..Collector::default() });
    let configure = |c: &mut EngineConfig| {
        c.otlp = Some(Arc::new(Lender(collector.clone())));
        c.otlp_endpoint = Some("http://collector:4317".into());
    };
    let engine = open_with(&host, configure).await;
    let many = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done";
    let outcome = run(&engine, Some("many"), logged(many, "otlp", &[("tag", "t")])).await;
    assert_eq!(outcome.code, 0, "it does not wait");
    until("it was tried", || async { collector.tries.load(Ordering::SeqCst) > 0 }).await;
    // A restart of the daemon in between, with half of it to come from another start of the container.
    engine.shutdown().await;
    drop(engine);
    let engine = open_with(&host, configure).await;
    collector.away.store(false, Ordering::SeqCst);
    until("every line", || async { collector.texts().len() >= 2000 }).await;
    engine.container_start("many").await.expect("started");
    until("those of the next run too", || async { collector.texts().len() >= 4000 }).await;
    let texts = collector.texts();
    let wanted: Vec<String> = (0..2000).map(|i| format!("line {i}")).collect();
    assert_eq!((&texts[..2000], &texts[2000..]), (&wanted[..], &wanted[..]));
    let (of, line) = collector.lines.lock().expect("no panic under it")[0].clone();
    assert_eq!(of.endpoint, "http://collector:4317");
    let has = |key: &str, value: &str| of.resource.iter().any(|(k, v)| k == key && v == value);
    assert!(has("container.name", "many") && has("container.id", &outcome.id) && has("tag", "t"), "{of:?}");
    assert!(!line.stderr && line.time_ns > 0);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_lost_to_a_sink_while_no_daemon_is_there() {
    let host = Host::new();
    let collector = Arc::new(Collector::default());
    let configure = |c: &mut EngineConfig| c.otlp = Some(Arc::new(Lender(collector.clone())));
    let engine = open_with(&host, configure).await;
    let text = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); sleep 0.01; done";
    let id = start(&engine, "steady", logged(text, "otlp", &[("otlp-endpoint", "http://x:1")])).await;
    until("it began", || async { collector.texts().len() > 20 }).await;
    engine.shutdown().await;
    drop(engine);
    let sent = collector.texts().len();
    let log = host.dir.join("data/containers").join(&id).join(format!("{id}-json.log"));
    let grown = || async { std::fs::read_to_string(&log).expect("log").lines().count() > sent + 20 };
    until("it goes on without a daemon", grown).await;
    let engine = open_with(&host, configure).await;
    until("all of them", || async { collector.texts().last().is_some_and(|l| l == "299") }).await;
    let mut texts = collector.texts();
    texts.dedup();
    assert_eq!(texts, (0..300).map(|i| i.to_string()).collect::<Vec<_>>());
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_bounded_buffer_newer_lines_are_dropped_and_a_removal_does_not_wait_for_ever() {
    let host = Host::new();
    let collector = Arc::new(Collector { away: AtomicBool::new(true), ..Collector::default() });
    let configure = |c: &mut EngineConfig| c.otlp = Some(Arc::new(Lender(collector.clone())));
    let engine = open_with(&host, configure).await;
    let options = [("mode", "non-blocking"), ("max-buffer-size", "4k"), ("otlp-endpoint", "http://x:1")];
    let many = "i=0; while [ $i -lt 3000 ]; do echo a rather long line number $i; i=$((i+1)); done; sleep 300";
    start(&engine, "chatty", logged(many, "otlp", &options)).await;
    until("it was tried", || async { collector.tries.load(Ordering::SeqCst) > 0 }).await;
    let all = || async { logs(&engine, "chatty").await.lines().count() == 3000 };
    until("logs has them all", all).await;
    // One more try after everything was read.
    let tries = collector.tries.load(Ordering::SeqCst);
    until("tried again", || async { collector.tries.load(Ordering::SeqCst) > tries }).await;
    collector.away.store(false, Ordering::SeqCst);
    until("some arrive", || async { !collector.texts().is_empty() }).await;
    collector.away.store(true, Ordering::SeqCst);
    let got = collector.texts();
    assert!(got.len() < 3000 && got[0].ends_with("number 0"), "{} lines, first {:?}", got.len(), got[0]);
    let began = std::time::Instant::now();
    engine.container_remove("chatty", FORCE).await.expect("removed");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_removes_itself_has_its_last_lines_sent_first() {
    let host = Host::new();
    let collector = Arc::new(Collector::default());
    let engine = open_with(&host, |c| c.otlp = Some(Arc::new(Lender(collector.clone())))).await;
    let mut body = logged("echo last words", "otlp", &[("otlp-endpoint", "http://x:1"), ("cache-disabled", "true")]);
    body.host_config.auto_remove = true;
    run(&engine, None, body).await;
    assert_eq!(collector.texts(), ["last words"]);
    let hidden = logged("sleep 300", "otlp", &[("otlp-endpoint", "http://x:1"), ("cache-disabled", "true")]);
    start(&engine, "hidden", hidden).await;
    let refused = engine.container_logs("hidden", Logs { stdout: true, ..Logs::default() }).await;
    assert!(refused.map(drop).expect_err("hidden").message.contains("does not support reading"));
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_without_a_receiver_or_an_option_that_is_unknown_is_refused_at_create() {
    let host = Host::new();
    let engine = host.open().await;
    for (driver, options, named) in [
        ("otlp", &[][..], "otlp"),
        ("gelf", &[], "gelf"),
        ("nonesuch", &[], "nonesuch"),
        ("syslog", &[("syslog-format", "odd")], "odd"),
        ("json-file", &[("compress", "true")], "max-size"),
    ] {
        let body = logged("true", driver, options);
        let error = engine.container_create(None, String::new(), body).await.expect_err("refused");
        assert!(error.message.contains(named), "{error}");
    }
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_files_are_compressed_and_read_back_whole_also_by_a_follower() {
    let host = Host::new();
    let engine = host.open().await;
    let options = [("max-size", "20k"), ("max-file", "50"), ("compress", "true")];
    let text = "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.05; done";
    let body = logged(text, "json-file", &options);
    let id = engine.container_create(Some("zip".into()), String::new(), body).await.expect("created").id;
    let follow = Logs { stdout: true, stderr: true, follow: true, ..Logs::default() };
    engine.container_start(&id).await.expect("started");
    let lines = engine.container_logs(&id, follow).await.expect("logs").lines;
    let followed: Vec<_> = common::within(lines.map(|l| l.expect("line").data).collect()).await;
    let wanted: Vec<String> = (0..2000).map(|i| i.to_string()).collect();
    let mut followed: Vec<String> = followed.iter().map(|l| String::from_utf8_lossy(l).trim().to_owned()).collect();
    followed.dedup();
    assert_eq!(followed, wanted);
    let folder = host.dir.join("data/containers").join(&id);
    let files =
        || std::fs::read_dir(&folder).expect("folder").flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    until("all that was rotated is compressed", || async {
        let plain = files().filter(|n| n.contains("-json.log.") && !n.ends_with(".gz")).count();
        plain == 0 && files().filter(|n| n.ends_with(".gz")).count() > 2
    })
    .await;
    assert_eq!(logs(&engine, &id).await.lines().map(str::to_owned).collect::<Vec<_>>(), wanted);
    let tail = Logs { stdout: true, tail: Some(700), ..Logs::default() };
    let lines = engine.container_logs(&id, tail).await.expect("logs").lines;
    let lines: Vec<_> = lines.map(|l| l.expect("line").data).collect().await;
    assert_eq!((lines.len(), &lines[0][..]), (700, &b"1300\n"[..]), "the tail reaches into compressed files");
    host.finish(engine).await;
}
