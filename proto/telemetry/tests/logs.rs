//! Container logs over OTLP, received by a real collector service.

use muster_telemetry::logs::{Exporter, Record};
use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    common::v1::any_value::Value,
};
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{Request, Response, Status};

struct Collector(mpsc::Sender<ExportLogsServiceRequest>);

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.0.send(request.into_inner()).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

fn lines() -> Vec<Record> {
    let line = |error: bool, body: &str| Record {
        time_ns: 1_700_000_000_000_000_001,
        error,
        body: body.to_owned(),
        attributes: vec![("log.iostream", if error { "stderr" } else { "stdout" }.to_owned())],
    };
    vec![line(false, "hello"), line(true, "oops")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_lines_with_their_container_and_a_missing_one_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let endpoint = format!("http://{}", listener.local_addr().expect("address"));
    let resource = vec![("container.name".to_owned(), "web".to_owned())];
    let (sender, mut received) = mpsc::channel(1);
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = tonic::transport::Server::builder().add_service(LogsServiceServer::new(Collector(sender)));
    let server = tokio::spawn(service.serve_with_incoming(incoming));
    let exporter = Exporter::new(&endpoint, false, resource.clone()).expect("an endpoint");
    exporter.send(lines()).await.expect("taken");
    let request = received.recv().await.expect("a request");
    let of = &request.resource_logs[0];
    let attributes = &of.resource.as_ref().expect("a resource").attributes;
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    };
    let name = attributes.iter().find(|a| a.key == "container.name").expect("named").value.clone();
    assert_eq!(text(name.and_then(|v| v.value)), "web");
    let records = &of.scope_logs[0].log_records;
    let bodies: Vec<_> = records.iter().map(|r| text(r.body.clone().and_then(|b| b.value))).collect();
    assert_eq!(bodies, ["hello", "oops"]);
    assert_eq!(records[0].time_unix_nano, 1_700_000_000_000_000_001);
    assert_eq!((records[0].severity_text.as_str(), records[1].severity_text.as_str()), ("INFO", "ERROR"));

    server.abort();
    let _ = server.await; // Aborted.
    let error =
        Exporter::new(&endpoint, false, resource).expect("an endpoint").send(lines()).await.expect_err("nobody there");
    assert!(!error.is_empty());
}
