//! What clients and dockerd really send, read and written again.

use super::*;
use serde_json::{Value, json};

/// What the CLI sends for `docker run --rm busybox sh -c ...`, zero values and nulls included.
fn run_body() -> Value {
    json!({"Hostname":"","User":"","AttachStdout":true,"Env":null,"Cmd":["sh","-c","echo out"],"Image":"busybox:e2e",
        "Volumes":{},"Entrypoint":null,"OnBuild":null,"Labels":{},"Unknown":{"x":1},
        "HostConfig":{"Binds":null,"LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}],"81/tcp":null},
            "RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":true,"ConsoleSize":[0,0],"Dns":[],
            "Memory":67108864,"NanoCpus":500000000,"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,
            "Ulimits":[{"Name":"nofile","Hard":2048,"Soft":1024}],"BlkioDeviceReadIOps":[{"Path":"/dev/sda","Rate":9}],
            "MaskedPaths":null,"ReadonlyPaths":[]},
        "NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":null,"Links":null,"Aliases":["a"],"GwPriority":0}}}})
}

#[test]
fn a_create_body_of_the_stock_client_is_read() {
    let body: ContainerCreateBody = serde_json::from_value(run_body()).expect("reads");
    assert_eq!(body.config.cmd.0, ["sh", "-c", "echo out"]);
    assert_eq!(body.config.entrypoint, None);
    let host = &body.host_config;
    assert_eq!((host.resources.memory, host.resources.nano_cpus), (67_108_864, 500_000_000));
    assert_eq!(host.resources.memory_swappiness, Some(-1));
    assert_eq!(host.resources.ulimits[0].soft, 1024);
    assert_eq!(host.resources.blkio_device_read_iops[0].rate, 9);
    assert_eq!(host.port_bindings["81/tcp"], None);
    assert_eq!((&host.masked_paths, &host.readonly_paths), (&None, &Some(vec![])));
    let endpoint = body.networking_config.endpoints_config["default"].as_ref().expect("given");
    assert_eq!(endpoint.aliases, ["a"]);
}

#[test]
fn a_create_body_survives_being_written_and_read_again() {
    let body: ContainerCreateBody = serde_json::from_value(run_body()).expect("reads");
    let text = serde_json::to_string(&body).expect("writes");
    assert_eq!(serde_json::from_str::<ContainerCreateBody>(&text).expect("reads again"), body);
}

#[test]
fn a_field_of_the_wrong_type_is_an_error_wherever_it_stands() {
    for text in
        [r#"{"Cmd":5}"#, r#"{"Tty":"yes"}"#, r#"{"HostConfig":{"Memory":"1g"}}"#, r#"{"HostConfig":{"Binds":{}}}"#]
    {
        assert!(serde_json::from_str::<ContainerCreateBody>(text).is_err(), "{text}");
    }
    assert!(serde_json::from_str::<ContainerUpdate>(r#"{"Memory":"1g"}"#).is_err());
}

#[test]
fn empty_and_null_bodies_are_defaults() {
    for text in ["{}", r#"{"HostConfig":null,"NetworkingConfig":null,"Labels":null,"Tty":null,"Cmd":null}"#] {
        let body: ContainerCreateBody = serde_json::from_str(text).expect("reads");
        assert_eq!(body, ContainerCreateBody::default());
    }
}

#[test]
fn a_command_may_be_one_string() {
    let c: ContainerConfig = serde_json::from_str(r#"{"Cmd":"true","Entrypoint":[]}"#).expect("reads");
    assert_eq!((c.cmd.0, c.entrypoint), (vec!["true".to_owned()], Some(Args::default())));
}

#[test]
fn sets_are_maps_to_empty_objects() {
    let c: ContainerConfig = serde_json::from_str(r#"{"ExposedPorts":{"80/tcp":{},"53/udp":null}}"#).expect("reads");
    assert_eq!(serde_json::to_value(&c.exposed_ports).expect("writes"), json!({"80/tcp":{},"53/udp":{}}));
}

#[test]
fn a_created_answer_has_an_empty_list_of_warnings() {
    let made = ContainerCreated { id: "abc".into(), warnings: vec![] };
    assert_eq!(serde_json::to_string(&made).expect("writes"), r#"{"Id":"abc","Warnings":[]}"#);
}

#[test]
fn a_wait_result_shows_its_error_only_when_there_is_one() {
    let ok = serde_json::to_string(&WaitResult { status_code: 3, error: None }).expect("writes");
    assert_eq!(ok, r#"{"StatusCode":3}"#);
}

#[test]
fn times_that_never_were_are_gos_zero_time() {
    let state = serde_json::to_value(ContainerState::default()).expect("writes");
    assert_eq!(state["FinishedAt"], "0001-01-01T00:00:00Z");
    assert!(state.get("Health").is_none());
    assert_eq!(state["OOMKilled"], false);
}

#[test]
fn progress_lines_are_those_of_dockerd() {
    let text = |l: &ProgressLine| serde_json::to_value(l).expect("writes");
    assert_eq!(
        text(&ProgressLine::about("32b6", "Preparing", 0, 0)),
        json!({"status":"Preparing","progressDetail":{},"id":"32b6"})
    );
    assert_eq!(text(&ProgressLine::error("no")), json!({"errorDetail":{"message":"no"},"error":"no"}));
    assert_eq!(text(&ProgressLine::stream("x\n")), json!({"stream":"x\n"}));
}

#[test]
fn credentials_are_read_from_lower_case_names() {
    let auth: AuthConfig =
        serde_json::from_str(r#"{"username":"a","password":"b","serveraddress":"r:1"}"#).expect("reads");
    assert_eq!((auth.username.as_str(), auth.serveraddress.as_str()), ("a", "r:1"));
}

#[test]
fn filters_are_read_in_both_forms() {
    let new = Filters::parse(r#"{"label":{"a=b":true},"dangling":{"true":true}}"#).expect("reads");
    let old = Filters::parse(r#"{"label":["a=b"],"dangling":["true"]}"#).expect("reads");
    assert_eq!(new, old);
    assert_eq!(new.flag("dangling"), Ok(Some(true)));
    assert_eq!(Filters::parse(&new.to_json()), Ok(new));
    assert_eq!(Filters::parse(""), Ok(Filters::default()));
    assert_eq!(Filters::parse("null"), Ok(Filters::default()));
}

#[test]
fn filters_that_cannot_be_used_are_refused_as_dockerd_does() {
    for bad in ["bogus", "[]", "{\"a\":1}", "{\"a\":{\"b\":3}}", "{"] {
        assert_eq!(Filters::parse(bad).expect_err(bad).to_string(), "invalid filter");
    }
    let filters = Filters::parse(r#"{"bogus":["x"]}"#).expect("reads");
    assert_eq!(filters.allow(&["label"]).expect_err("refused").to_string(), "invalid filter 'bogus'");
    let filters = Filters::parse(r#"{"dangling":["maybe"]}"#).expect("reads");
    assert_eq!(filters.flag("dangling").expect_err("refused").to_string(), "invalid filter 'dangling=maybe'");
}

#[test]
fn labels_are_matched_by_name_and_by_value() {
    let labels = Strings::from([("a".into(), "b".into())]);
    let filter = |text: &str| Filters::parse(text).expect("reads");
    assert!(filter(r#"{"label":["a"]}"#).matches_labels("label", &labels));
    assert!(filter(r#"{"label":["a=b"]}"#).matches_labels("label", &labels));
    assert!(!filter(r#"{"label":["a","a=c"]}"#).matches_labels("label", &labels));
    assert!(!filter(r#"{"label!":["a"]}"#).excludes_labels("label!", &labels));
}

#[test]
fn an_inspected_container_has_the_fields_of_dockerd() {
    let shown = serde_json::to_value(ContainerInspect::default()).expect("writes");
    let keys = |v: &Value| v.as_object().expect("an object").keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&shown),
        "AppArmorProfile Args Config Created Driver ExecIDs GraphDriver HostConfig HostnamePath HostsPath Id Image LogPath \
         MountLabel Mounts Name NetworkSettings Path Platform ProcessLabel ResolvConfPath RestartCount State"
    );
    assert_eq!(
        keys(&shown["NetworkSettings"]),
        "Bridge EndpointID Gateway GlobalIPv6Address GlobalIPv6PrefixLen HairpinMode IPAddress IPPrefixLen IPv6Gateway \
         LinkLocalIPv6Address LinkLocalIPv6PrefixLen MacAddress Networks Ports SandboxID SandboxKey SecondaryIPAddresses \
         SecondaryIPv6Addresses"
    );
}

#[test]
fn broken_and_odd_documents_are_errors_or_values_never_panics() {
    let text = run_body().to_string();
    let odd = [b'{', b'}', b'"', b'[', b']', b',', b':', b'n', b'0', b'-', b'e', 0xff, 0];
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    for _ in 0..5_000 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            match next(3) {
                0 => bytes[at] = odd[next(odd.len())],
                1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        if let Ok(body) = serde_json::from_slice::<ContainerCreateBody>(&bytes) {
            let again = serde_json::to_vec(&body).expect("writes what it read");
            assert_eq!(serde_json::from_slice::<ContainerCreateBody>(&again).expect("reads what it wrote"), body);
        }
        if let Ok(text) = std::str::from_utf8(&bytes)
            && let Ok(filters) = Filters::parse(text)
        {
            assert_eq!(Filters::parse(&filters.to_json()), Ok(filters));
        }
    }
}
