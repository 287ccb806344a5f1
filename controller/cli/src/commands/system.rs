//! What this host is.

use crate::{args::Form, connect::Host, render, say};
use muster_calls::{Cluster as _, Engine as _, Membership};
use muster_model::engine::SystemInfo;
use muster_proto::Target;
use serde_json::json;

pub async fn info(host: &Host, form: &Form) -> anyhow::Result<u8> {
    let info = host.engine(Target::Here).info().await?;
    let membership = host.cluster().membership().await?;
    if form.format.is_some() {
        let mut all = serde_json::to_value(&info)?;
        all["Cluster"] = serde_json::to_value(&membership.member)?;
        render::documents(form.format.as_deref(), vec![all])?;
        return Ok(0);
    }
    say_host(&info);
    say_cluster(&membership);
    Ok(0)
}

fn say_host(info: &SystemInfo) {
    say!(
        "Host: {}\n  Kernel: {}\n  CPUs: {}\n  Memory: {} MiB\n  Containers: {} ({} running)\n  Images: {}",
        info.name,
        info.kernel_version,
        info.ncpu,
        info.mem_total >> 20,
        info.containers,
        info.containers_running,
        info.images
    );
    for [what, n] in info.driver_status.iter().filter(|[what, _]| what.starts_with("Dropped packets")) {
        say!("  {what}: {n}");
    }
}

fn say_cluster(membership: &Membership) {
    let Some(m) = &membership.member else {
        return say!("Cluster: none (muster init founds one, muster join makes this host a member)");
    };
    say!("Cluster: {}\n  Node: {}\n  Role: {}\n  Address: {}", m.cluster, m.node, m.role.as_str(), m.addr);
    let managers: Vec<_> = m.managers.iter().map(|(_, a)| a.to_string()).collect();
    say!("  Managers: {}", managers.join(", "));
    if !m.error.is_empty() {
        say!("  Error: {}", m.error);
    }
}

pub async fn version(host: &Host, form: &Form) -> anyhow::Result<u8> {
    let server = host.engine(Target::Here).version().await?;
    let client = env!("CARGO_PKG_VERSION");
    if form.format.is_some() {
        let all = json!({ "Client": { "Version": client }, "Server": server });
        render::documents(form.format.as_deref(), vec![all])?;
        return Ok(0);
    }
    say!("Client: muster {client}\nHost:   musterd {} (Docker API {})", server.version, server.api_version);
    Ok(0)
}
