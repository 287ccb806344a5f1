//! Specs as stock clients send them, and what comes back.

use super::{docs::ServiceSpecDoc, parse, show};
use muster_model::cluster::{TaskState, TaskStatus};
use muster_model::spec::{EndpointMode, Mode, PublishMode, RestartCondition, ServiceSpec, UpdateOrder};
use serde_json::{Value, json};
use std::time::Duration;

fn read(doc: Value) -> Result<ServiceSpec, muster_calls::Error> {
    parse::service_spec(serde_json::from_value::<ServiceSpecDoc>(doc).expect("is a document"))
}

fn web() -> Value {
    json!({"Name":"web","Labels":{"k":"v"},"TaskTemplate":{"ContainerSpec":{"Image":"busybox:e2e","Args":["sleep","500"],"Env":["E=1"],"Init":false,
        "StopGracePeriod":1000000000,"DNSConfig":{},"Isolation":"default","Mounts":[{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":4096,"Mode":448}}],
        "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":2000000000}},
        "Resources":{"Limits":{"MemoryBytes":67108864,"NanoCPUs":500000000},"Reservations":{}},
        "RestartPolicy":{"Condition":"on-failure","Delay":0,"MaxAttempts":3},
        "Placement":{"Constraints":["node.labels.zone==a"],"Preferences":[{"Spread":{"SpreadDescriptor":"node.labels.rack"}}]},
        "Networks":[{"Target":"shop","Aliases":["w"]}],"ForceUpdate":0,"Runtime":"container"},
        "Mode":{"Replicated":{"Replicas":2}},
        "UpdateConfig":{"Parallelism":2,"Delay":5,"FailureAction":"rollback","Monitor":2000000000,"MaxFailureRatio":0.25,"Order":"start-first"},
        "EndpointSpec":{"Mode":"vip","Ports":[{"Protocol":"tcp","TargetPort":80,"PublishedPort":18201,"PublishMode":"host"}]}})
}

#[test]
fn a_whole_service_is_read() {
    let spec = read(web()).expect("taken");
    assert_eq!(spec.mode, Mode::Replicated { replicas: 2 });
    assert_eq!(spec.task.restart.condition, RestartCondition::OnFailure);
    assert_eq!((spec.task.restart.delay, spec.task.restart.max_attempts), (Duration::ZERO, 3));
    assert_eq!(spec.task.placement.spread_over, ["node.labels.rack"]);
    assert_eq!(spec.task.container.stop_grace_period, Some(Duration::from_secs(1)));
    assert_eq!((spec.update.order, spec.update.max_failure_ppm), (UpdateOrder::StartFirst, 250_000));
    assert_eq!(spec.rollback.parallelism, 1);
    assert_eq!((spec.endpoint.mode, spec.endpoint.ports[0].mode), (EndpointMode::Vip, PublishMode::Host));
}

#[test]
fn what_is_shown_can_be_sent_back_and_means_the_same() {
    let small = json!({"Name":"s","TaskTemplate":{"ContainerSpec":{"Image":"x"}}});
    let global = json!({"Name":"g","TaskTemplate":{"ContainerSpec":{"Image":"x"}},"Mode":{"Global":{}},"EndpointSpec":{"Mode":"dnsrr"}});
    let beside = json!({"Name":"b","TaskTemplate":{"ContainerSpec":{"Image":"x"}},"Networks":[{"Target":"lan"}]});
    for doc in [web(), small, global, beside] {
        let spec = read(doc).expect("taken");
        let shown = serde_json::to_value(show::service_spec(&spec)).expect("shows");
        assert_eq!(read(shown.clone()).expect("taken again"), spec, "{shown}");
    }
}

#[test]
fn networks_are_shown_where_they_were_given() {
    let given = |doc| serde_json::to_value(show::service_spec(&read(doc).expect("taken"))).expect("shows");
    let task = json!({"ContainerSpec":{"Image":"x"}});
    let shown = given(json!({"Name":"b","TaskTemplate":task,"Networks":[{"Target":"lan"}]}));
    assert_eq!((&shown["Networks"], &shown["TaskTemplate"]["Networks"]), (&json!([{"Target":"lan"}]), &Value::Null));
    let task = json!({"ContainerSpec":{"Image":"x"},"Networks":[{"Target":"lan"}]});
    let shown = given(json!({"Name":"b","TaskTemplate":task}));
    assert_eq!((&shown["TaskTemplate"]["Networks"], &shown["Networks"]), (&json!([{"Target":"lan"}]), &Value::Null));
}

#[test]
fn a_node_may_have_a_name_besides_its_host_name() {
    let read = |doc| super::parse::node_spec(serde_json::from_value(doc).expect("a document"));
    let named = json!({"Name":"rack-7","Role":"worker","Availability":"active"});
    assert_eq!(read(named).expect("taken").name, "rack-7");
    let refused = read(json!({"Name":"a\nb","Role":"worker","Availability":"active"})).expect_err("control character");
    assert!(format!("{refused:?}").contains("Name"), "{refused:?}");
}

#[test]
fn modes_may_be_written_in_lower_case() {
    let mut doc = web();
    put(&mut doc, "/Mode", json!({"replicated": {"Replicas": 7}}));
    assert_eq!(read(doc).expect("taken").mode, Mode::Replicated { replicas: 7 });
}

#[test]
fn swarmkits_defaults_stand_where_nothing_is_given() {
    let spec = read(json!({"Name":"s","TaskTemplate":{"ContainerSpec":{"Image":"x"}}})).expect("taken");
    assert_eq!(spec.mode, Mode::Replicated { replicas: 1 });
    assert_eq!(spec.task.restart.delay, Duration::from_secs(5));
    assert_eq!((spec.update.parallelism, spec.update.monitor), (1, Duration::from_secs(5)));
}

#[test]
fn every_field_that_cannot_be_honoured_is_refused_by_its_name() {
    let cases = [
        ("/TaskTemplate/ContainerSpec/Secrets", json!([{"SecretID":"x"}]), "TaskTemplate.ContainerSpec.Secrets"),
        ("/TaskTemplate/ContainerSpec/Configs", json!([{"ConfigID":"x"}]), "TaskTemplate.ContainerSpec.Configs"),
        (
            "/TaskTemplate/ContainerSpec/Privileges",
            json!({"NoNewPrivileges":true}),
            "TaskTemplate.ContainerSpec.Privileges",
        ),
        ("/TaskTemplate/ContainerSpec/OomScoreAdj", json!(5), "TaskTemplate.ContainerSpec.OomScoreAdj"),
        ("/TaskTemplate/ContainerSpec/Isolation", json!("hyperv"), "Isolation"),
        ("/TaskTemplate/ContainerSpec/Mounts", json!([{"Type":"npipe","Target":"/x"}]), "Mounts.Type"),
        (
            "/TaskTemplate/ContainerSpec/Mounts",
            json!([{"Type":"bind","Source":"/a","Target":"/x","BindOptions":{"NonRecursive":true}}]),
            "Mounts.BindOptions.NonRecursive",
        ),
        (
            "/TaskTemplate/ContainerSpec/Mounts",
            json!([{"Type":"volume","Source":"a","Target":"/x","VolumeOptions":{"NoCopy":true}}]),
            "Mounts.VolumeOptions.NoCopy",
        ),
        (
            "/TaskTemplate/Resources/Reservations/GenericResources",
            json!([{}]),
            "TaskTemplate.Resources.Reservations.GenericResources",
        ),
        ("/TaskTemplate/PluginSpec", json!({"Name":"x"}), "TaskTemplate.PluginSpec"),
        ("/TaskTemplate/Networks", json!([{"Target":"n","DriverOpts":{"a":"b"}}]), "TaskTemplate.Networks.DriverOpts"),
        ("/TaskTemplate/Runtime", json!("plugin"), "TaskTemplate.Runtime"),
        ("/Mode", json!({"GlobalJob":{}}), "Mode.GlobalJob"),
        ("/Mode", json!({"ReplicatedJob":{"MaxConcurrent":1}}), "Mode.ReplicatedJob"),
        ("/EndpointSpec/Ports", json!([{"Name":"http","TargetPort":80}]), "EndpointSpec.Ports.Name"),
        ("/Surprise", json!({"a":[1]}), "Surprise"),
    ];
    for (pointer, value, named) in cases {
        let mut doc = web();
        put(&mut doc, pointer, value);
        let e = read(doc).expect_err(named);
        assert_eq!(e.kind, muster_calls::Kind::Unimplemented, "{pointer}");
        assert!(e.message.contains(named), "{pointer}: {}", e.message);
    }
}

#[test]
fn wrong_values_name_the_field_and_what_is_accepted() {
    let cases = [
        ("/TaskTemplate/RestartPolicy/Condition", json!("sometimes"), "TaskTemplate.RestartPolicy.Condition"),
        ("/TaskTemplate/RestartPolicy/Delay", json!(-1), "TaskTemplate.RestartPolicy.Delay"),
        ("/UpdateConfig/Order", json!("x"), "UpdateConfig.Order"),
        ("/UpdateConfig/MaxFailureRatio", json!(1.5), "UpdateConfig.MaxFailureRatio"),
        ("/EndpointSpec/Mode", json!("x"), "EndpointSpec.Mode"),
        ("/TaskTemplate/Resources/Limits/MemoryBytes", json!(-5), "TaskTemplate.Resources.Limits.MemoryBytes"),
        ("/Name", json!("-"), "Name"),
    ];
    for (pointer, value, named) in cases {
        let mut doc = web();
        put(&mut doc, pointer, value);
        let e = read(doc).expect_err(named);
        assert_eq!(e.kind, muster_calls::Kind::Invalid, "{pointer}");
        assert!(e.message.contains(named), "{pointer}: {}", e.message);
    }
}

#[test]
fn a_task_that_waits_for_a_node_says_why_where_clients_look() {
    let mut task = muster_model::cluster::Task {
        id: muster_model::TaskId::from_u128(1),
        meta: muster_model::cluster::Meta::default(),
        service: muster_model::ServiceId::from_u128(2),
        service_name: "web".into(),
        slot: 1,
        node: None,
        spec: std::sync::Arc::default(),
        spec_version: muster_model::cluster::Version(1),
        desired: TaskState::Running,
        status: TaskStatus {
            state: TaskState::Pending,
            message: "no suitable node (x)".into(),
            ..TaskStatus::default()
        },
        addresses: Vec::new(),
        host_ports: Vec::new(),
        trace_parent: None,
    };
    let err = |task: &muster_model::cluster::Task| {
        serde_json::to_value(show::task(task, &Default::default(), &show::Networks::new())).expect("shows")["Status"]["Err"].clone()
    };
    assert_eq!(err(&task), "no suitable node (x)");
    (task.status.state, task.status.message) = (TaskState::Running, "started".into());
    assert_eq!(err(&task), Value::Null);
}

#[test]
fn zero_values_of_unknown_fields_say_nothing() {
    let mut doc = web();
    put(&mut doc, "/TaskTemplate/ContainerSpec/Secrets", Value::Null);
    put(&mut doc, "/TaskTemplate/ContainerSpec/Privileges", json!({"CredentialSpec":null,"NoNewPrivileges":false}));
    put(&mut doc, "/TaskTemplate/Placement/Platforms", json!([]));
    assert!(read(doc).is_ok());
}

#[test]
fn the_platforms_of_an_image_are_read() {
    let mut doc = web();
    put(&mut doc, "/TaskTemplate/Placement/Platforms", json!([{"Architecture":"amd64","OS":"linux"}]));
    let platforms = read(doc).expect("valid").task.placement.platforms;
    assert!(platforms[0].suits("linux", "x86_64") && !platforms[0].suits("linux", "arm64"), "{platforms:?}");
}

/// Sets the value at a JSON pointer, making the last key if need be.
fn put(doc: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    doc.pointer_mut(parent).expect("the parent is there")[key] = value;
}
