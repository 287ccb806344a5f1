//! `/swarm`: founding, joining, leaving, tokens.

use super::{
    docs::{InitDoc, JoinDoc},
    member_of,
    parse::{refuse_rest, says_nothing},
    show,
    words::{duration, given, nanos, token_read},
};
use crate::{
    call::Call,
    fault::{Fault, Outcome},
    reply,
};
use http::StatusCode;
use muster_calls::{Cluster, Error, InitCluster, JoinCluster, Kind};
use muster_model::{cluster::ClusterSpec, spec::Invalid};
use serde_json::Value;
use std::sync::Arc;

/// What stock clients send for "the default address".
const DEFAULT_LISTEN: &str = "0.0.0.0:2377";

/// The UDP port of overlays' packets (VXLAN, RFC 7348), which cannot be another.
pub(super) const DATA_PATH_PORT: u32 = 4789;

pub(crate) async fn inspect(call: Call) -> Outcome {
    let cluster = member_of(&call.api).await?;
    let tokens = cluster.join_tokens().await?;
    Ok(reply::ok(&show::cluster(&cluster.cluster().await?, Some(tokens))))
}

/// The control plane of a host that is no member yet.
async fn outsider(call: &Call) -> Result<Arc<dyn Cluster>, Fault> {
    let cluster = call.api.cluster.as_ref().ok_or_else(|| Fault::unsupported("swarm mode on this endpoint"))?;
    if cluster.membership().await?.member.is_some() {
        return Err(Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.",
        ));
    }
    Ok(Arc::clone(cluster))
}

pub(crate) async fn init(mut call: Call) -> Outcome {
    let doc: InitDoc = call.document().await?;
    let mut init = init_of(doc)?;
    // Founding anew is for a manager that has lost the others: it is a member. Without a cluster there is nothing to go on
    // with, and as in Docker it is an init like any other.
    if let Some(cluster) = &call.api.cluster {
        init.force_new_cluster &= cluster.membership().await?.member.is_some();
    }
    let cluster = match (&call.api.cluster, init.force_new_cluster) {
        (Some(cluster), true) => Arc::clone(cluster),
        _ => outsider(&call).await?,
    };
    Ok(reply::ok(&cluster.init(init).await?))
}

fn init_of(doc: InitDoc) -> Result<InitCluster, Error> {
    refuse_rest("", &doc.rest)?;
    refuse_availability(&doc.availability)?;
    if !matches!(doc.data_path_port, 0 | DATA_PATH_PORT) {
        let port = doc.data_path_port;
        return Err(Error::unimplemented(format_args!("DataPathPort {port} (overlays use {DATA_PATH_PORT})")));
    }
    let (spec, rest) = settings(&doc.spec, &ClusterSpec::default())?;
    refuse_spec(&rest)?;
    let pool = match doc.default_addr_pool.as_slice() {
        [] => None,
        [pool] => Some(
            pool.parse()
                .map_err(|e: muster_model::net::SubnetParseError| Invalid::new("DefaultAddrPool", e.to_string()))?,
        ),
        _ => return Err(Error::unimplemented("more than one DefaultAddrPool")),
    };
    let prefix = match doc.subnet_size {
        0 => None,
        n => Some(
            u8::try_from(n)
                .ok()
                .filter(|n| (8..=29).contains(n))
                .ok_or_else(|| Invalid::new("SubnetSize", "expected 8 to 29"))?,
        ),
    };
    Ok(InitCluster {
        advertise_addr: given(doc.advertise_addr),
        listen_addr: given(doc.listen_addr).filter(|a| a != DEFAULT_LISTEN),
        force_new_cluster: doc.force_new_cluster,
        address_pool: pool,
        subnet_prefix: prefix,
        spec: (spec != ClusterSpec::default()).then_some(spec),
    })
}

fn refuse_availability(text: &str) -> Result<(), Error> {
    match text {
        "" | "active" => Ok(()),
        other => Err(Error::unimplemented(format_args!(
            "Availability {other:?} from the start (update the node afterwards)"
        ))),
    }
}

/// The settings that there are, read out of a swarm's spec: what it does not say stays as it is. Answers with the rest of it,
/// too.
///
/// # Errors
/// `Invalid`, naming the field.
fn settings(spec: &Value, now: &ClusterSpec) -> Result<(ClusterSpec, Value), Error> {
    let (mut next, mut rest) = (now.clone(), spec.clone());
    let mut take = |part: &str, field: &str| -> Result<Option<i64>, Error> {
        let value = rest.get_mut(part).and_then(Value::as_object_mut).and_then(|part| part.remove(field));
        let Some(value) = value.filter(|v| !v.is_null()) else { return Ok(None) };
        let number = value.as_i64();
        let wrong = || Invalid::new(format!("Spec.{part}.{field}"), format!("{value}: expected a whole number"));
        number.map(Some).ok_or_else(|| wrong().into())
    };
    // As everywhere in the API, no time is no word.
    if let Some(n) = take("Dispatcher", "HeartbeatPeriod")?.filter(|n| *n != 0 && *n != nanos(now.heartbeat_period)) {
        next = next.with_heartbeat_period(duration("Spec.Dispatcher.HeartbeatPeriod", n)?);
    }
    if let Some(n) = take("CAConfig", "NodeCertExpiry")?.filter(|n| *n != 0) {
        next.certificate_lifetime = duration("Spec.CAConfig.NodeCertExpiry", n)?;
    }
    if let Some(n) = take("Orchestration", "TaskHistoryRetentionLimit")? {
        let field = "Spec.Orchestration.TaskHistoryRetentionLimit";
        let wrong = || Invalid::new(field, format!("{n}: expected 0 to {}", u32::MAX));
        next.task_history_limit = u32::try_from(n).map_err(|_| wrong())?;
    }
    next.validate()?;
    Ok((next, rest))
}

fn refuse_spec(spec: &Value) -> Result<(), Error> {
    let Value::Object(parts) = spec else { return Ok(()) };
    for (part, value) in parts {
        if let Value::Object(fields) = value {
            refuse_rest(&format!("Spec.{part}."), &fields.clone().into_iter().collect())?;
        } else if !says_nothing(value) && (part != "Name" || value != "default") {
            return Err(Error::unimplemented(format_args!("Spec.{part}")));
        }
    }
    Ok(())
}

pub(crate) async fn join(mut call: Call) -> Outcome {
    let doc: JoinDoc = call.document().await?;
    refuse_rest("", &doc.rest)?;
    refuse_availability(&doc.availability)?;
    let join = JoinCluster {
        token: token_read(doc.join_token),
        managers: doc.remote_addrs,
        advertise_addr: given(doc.advertise_addr),
        listen_addr: given(doc.listen_addr).filter(|a| a != DEFAULT_LISTEN),
    };
    outsider(&call).await?.join(join).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn leave(call: Call) -> Outcome {
    let cluster = member_of(&call.api).await.map_err(|fault| match fault.status {
        StatusCode::SERVICE_UNAVAILABLE => Fault::new(fault.status, "This node is not part of a swarm"),
        _ => fault,
    })?;
    match cluster.leave(call.query.flag("force")).await {
        Ok(()) => Ok(reply::empty(StatusCode::OK)),
        // dockerd says "not now" where the traits say "the object's state forbids it".
        Err(e) if e.kind == Kind::Conflict => Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, e.message)),
        Err(e) => Err(e.into()),
    }
}

/// Changes the settings that there are and turns tokens over; any other that is changed is refused by its name.
pub(crate) async fn update(mut call: Call) -> Outcome {
    let spec: Value = call.document().await?;
    let version = super::version_of(&call, "swarm")?;
    if call.query.flag("rotateManagerUnlockKey") {
        return Err(Fault::unsupported("rotating the unlock key (auto-lock)"));
    }
    let cluster = member_of(&call.api).await?;
    let now = cluster.cluster().await?;
    if now.meta.version != version {
        return Err(Error::new(Kind::OutOfSequence, "rpc error: code = Unknown desc = update out of sequence").into());
    }
    let (next, rest) = settings(&spec, &now.spec)?;
    refuse_changes("Spec", &rest, &show::cluster_spec(&now.spec))?;
    if next != now.spec {
        cluster.cluster_update(version, next).await?;
    }
    let (worker, manager) = (call.query.flag("rotateWorkerToken"), call.query.flag("rotateManagerToken"));
    if worker || manager {
        cluster.rotate_join_tokens(worker, manager).await?;
    }
    Ok(reply::empty(StatusCode::OK))
}

/// # Errors
/// `Unimplemented`, naming the first setting that is asked to be another than it is.
fn refuse_changes(path: &str, asked: &Value, now: &Value) -> Result<(), Error> {
    match (asked, now) {
        (Value::Object(asked), Value::Object(now)) => asked.iter().try_for_each(|(field, value)| {
            refuse_changes(&format!("{path}.{field}"), value, now.get(field).unwrap_or(&Value::Null))
        }),
        _ if asked == now || says_nothing(asked) => Ok(()),
        _ => Err(Error::unimplemented(format_args!("changing {path}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_stock_client_sends_to_init_is_taken() {
        let doc = json!({"ListenAddr":"0.0.0.0:2377","AdvertiseAddr":"10.99.0.1","DataPathAddr":"","DataPathPort":4789,"ForceNewCluster":false,
            "Spec":{"Labels":null,"Orchestration":{},"Raft":{"ElectionTick":0,"HeartbeatTick":0},"Dispatcher":{},"CAConfig":{},"TaskDefaults":{},
            "EncryptionConfig":{"AutoLockManagers":false}},"AutoLockManagers":false,"Availability":"","DefaultAddrPool":[],"SubnetSize":24});
        let init = init_of(serde_json::from_value(doc).expect("reads")).expect("taken");
        assert_eq!(
            (init.advertise_addr.as_deref(), init.listen_addr, init.subnet_prefix),
            (Some("10.99.0.1"), None, Some(24))
        );
    }

    #[test]
    fn what_init_cannot_honour_is_named() {
        for (doc, field) in [
            (json!({"AutoLockManagers":true}), "AutoLockManagers"),
            (json!({"DataPathPort":7777}), "DataPathPort"),
            (json!({"Spec":{"Raft":{"SnapshotInterval":5}}}), "Spec.Raft.SnapshotInterval"),
            (json!({"Availability":"drain"}), "Availability"),
            (json!({"DefaultAddrPool":["10.0.0.0/8","11.0.0.0/8"]}), "DefaultAddrPool"),
        ] {
            let e = init_of(serde_json::from_value(doc).expect("reads")).expect_err(field);
            assert!(e.message.contains(field), "{}", e.message);
        }
    }

    #[test]
    fn a_swarm_update_that_changes_nothing_passes_and_a_change_is_named() {
        let now = show::cluster_spec(&muster_model::cluster::ClusterSpec::default());
        assert!(refuse_changes("Spec", &now, &now).is_ok());
        let mut asked = now.clone();
        asked["Raft"]["SnapshotInterval"] = json!(9);
        let e = refuse_changes("Spec", &asked, &now).expect_err("changed");
        assert!(e.message.contains("Spec.Raft.SnapshotInterval"), "{}", e.message);
    }

    #[test]
    fn the_settings_that_there_are_are_read_out_of_a_swarms_spec() {
        let now = ClusterSpec::default();
        let asked = json!({"Dispatcher":{"HeartbeatPeriod":2_000_000_000},"CAConfig":{"NodeCertExpiry":3_600_000_000_000_i64},
            "Orchestration":{"TaskHistoryRetentionLimit":0}});
        let (next, rest) = settings(&asked, &now).expect("taken");
        assert_eq!((next.heartbeat_period.as_secs(), next.node_timeout.as_secs()), (2, 6));
        assert_eq!((next.certificate_lifetime.as_secs(), next.task_history_limit), (3600, 0));
        assert!(refuse_spec(&rest).is_ok(), "nothing else is said: {rest}");
        let own = now.clone().with_node_timeout(std::time::Duration::from_secs(30));
        assert_eq!(settings(&show::cluster_spec(&own), &own).expect("unchanged").0, own);
        for (asked, field) in [
            (json!({"Dispatcher":{"HeartbeatPeriod":1}}), "HeartbeatPeriod"),
            (json!({"Dispatcher":{"HeartbeatPeriod":-1}}), "HeartbeatPeriod"),
            (json!({"Dispatcher":{"HeartbeatPeriod":"5s"}}), "HeartbeatPeriod"),
            (json!({"CAConfig":{"NodeCertExpiry":i64::MAX}}), "NodeCertExpiry"),
            (json!({"Orchestration":{"TaskHistoryRetentionLimit":-1}}), "TaskHistoryRetentionLimit"),
        ] {
            let e = settings(&asked, &now).expect_err(field);
            assert!(e.message.contains(field), "{}", e.message);
        }
    }
}
