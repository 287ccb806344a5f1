//! Founding, tokens, networks.

use crate::{
    args::{Cluster as Settings, Network, RoleArg, Show, pair},
    commands::undisturbed,
    connect::Host,
    render::{self, Row, cut},
    say,
};
use anyhow::Context as _;
use muster_calls::{Cluster as _, InitCluster};
use muster_model::spec::NetworkSpec;

pub async fn init(host: &Host, init: InitCluster) -> anyhow::Result<u8> {
    let cluster = host.cluster();
    let goes_on = init.force_new_cluster;
    let node = cluster.init(init).await?;
    let tokens = cluster.join_tokens().await?;
    let addr = cluster.membership().await?.member.map(|m| m.addr.to_string()).unwrap_or_default();
    match goes_on {
        true => say!("The cluster goes on: this node ({node}) is its only manager.\n"),
        false => say!("Cluster founded: this node ({node}) is its first manager.\n"),
    }
    say!("To add a worker, run on another host:\n\n    muster join --token {} {addr}\n", tokens.worker);
    say!("To add a manager: muster join-token manager");
    Ok(0)
}

pub async fn settings(host: &Host, command: Settings) -> anyhow::Result<u8> {
    let cluster = host.cluster();
    match command {
        Settings::Inspect => say!("{}", serde_json::to_string_pretty(&cluster.cluster().await?)?),
        Settings::Update { settings } => {
            undisturbed(async || {
                let now = cluster.cluster().await?;
                let spec = settings
                    .over(now.spec)
                    .context("nothing is to be changed: give --node-timeout, --cert-expiry or --task-history-limit")?;
                spec.validate()?;
                Ok(cluster.cluster_update(now.meta.version, spec).await?)
            })
            .await?;
            say!("Cluster updated.");
        }
    }
    Ok(0)
}

pub async fn join_token(host: &Host, role: RoleArg, rotate: bool, quiet: bool) -> anyhow::Result<u8> {
    let cluster = host.cluster();
    let manager = matches!(role, RoleArg::Manager);
    let tokens = match rotate {
        true => cluster.rotate_join_tokens(!manager, manager).await?,
        false => cluster.join_tokens().await?,
    };
    let token = if manager { tokens.manager } else { tokens.worker };
    if quiet {
        say!("{token}");
        return Ok(0);
    }
    let addr = cluster.membership().await?.member.map(|m| m.addr.to_string()).unwrap_or_default();
    let role = if manager { "manager" } else { "worker" };
    say!("To add a {role}, run on another host:\n\n    muster join --token {token} {addr}");
    Ok(0)
}

pub async fn network(host: &Host, command: Network) -> anyhow::Result<u8> {
    let cluster = host.cluster();
    match command {
        Network::Create { subnet, gateway, internal, label, name } => {
            let labels = label.iter().map(|l| pair(l)).collect();
            let made = cluster
                .network_create(NetworkSpec { name, labels, subnet, gateway, internal, attachable: true })
                .await?;
            say!("{}", made.id);
        }
        Network::Ls { show } => {
            let networks = cluster.network_list().await?;
            let row = |n: &muster_model::cluster::Network| -> Row {
                vec![
                    ("ID", cut(&n.id.to_string(), 12, show.no_trunc || show.quiet).replace('…', "")),
                    ("Name", n.spec.name.clone()),
                    ("Driver", "overlay".to_owned()),
                    ("Scope", "swarm".to_owned()),
                    ("Subnet", n.subnet.to_string()),
                    ("VNI", n.vni.to_string()),
                ]
                .into()
            };
            let rows = networks.iter().map(row).collect();
            render::list(
                &show,
                &[("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Subnet", "SUBNET"), ("VNI", "VNI")],
                rows,
            )?;
        }
        Network::Inspect { form, networks } => {
            let mut all = Vec::new();
            for name in &networks {
                all.push(serde_json::to_value(cluster.network_inspect(name).await?)?);
            }
            render::documents(form.format.as_deref(), all)?;
        }
        Network::Rm { networks } => {
            for name in &networks {
                cluster.network_remove(name).await?;
                say!("{name}");
            }
        }
    }
    Ok(0)
}

/// Operators' certificates that the cluster has given.
pub fn operators(show: &Show, cluster: &muster_model::cluster::Cluster) -> anyhow::Result<()> {
    let rows = cluster.operators.iter().map(|c| {
        let issued = if c.issued.is_zero() { "-".to_owned() } else { c.issued.to_rfc3339() };
        let name = if c.name.is_empty() { "-".to_owned() } else { c.name.clone() };
        let status = c.revoked.map_or("valid".to_owned(), |at| format!("revoked {}", at.to_rfc3339()));
        Row::from(vec![
            ("Serial", c.serial.to_string()),
            ("Name", name),
            ("Issued", seconds(&issued)),
            ("Ends", seconds(&c.not_after.to_rfc3339())),
            ("Status", status),
        ])
    });
    let columns =
        [("Serial", "SERIAL"), ("Name", "NAME"), ("Issued", "ISSUED"), ("Ends", "ENDS"), ("Status", "STATUS")];
    render::list(show, &columns, rows.collect())
}

/// A time to the second.
fn seconds(text: &str) -> String {
    text.split_once('.').map_or_else(|| text.to_owned(), |(whole, _)| format!("{whole}Z"))
}
