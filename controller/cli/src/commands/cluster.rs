//! Founding, tokens, networks.

use crate::{
    args::{Network, RoleArg, pair},
    connect::Host,
    render::{self, Row, cut},
};
use muster_calls::{Cluster as _, InitCluster};
use muster_model::spec::NetworkSpec;

pub async fn init(host: &Host, init: InitCluster) -> anyhow::Result<u8> {
    let cluster = host.cluster();
    let goes_on = init.force_new_cluster;
    let node = cluster.init(init).await?;
    let tokens = cluster.join_tokens().await?;
    let addr = cluster.membership().await?.member.map(|m| m.addr.to_string()).unwrap_or_default();
    match goes_on {
        true => println!("The cluster goes on: this node ({node}) is its only manager.\n"),
        false => println!("Cluster founded: this node ({node}) is its first manager.\n"),
    }
    println!("To add a worker, run on another host:\n\n    muster join --token {} {addr}\n", tokens.worker);
    println!("To add a manager: muster join-token manager");
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
        println!("{token}");
        return Ok(0);
    }
    let addr = cluster.membership().await?.member.map(|m| m.addr.to_string()).unwrap_or_default();
    let role = if manager { "manager" } else { "worker" };
    println!("To add a {role}, run on another host:\n\n    muster join --token {token} {addr}");
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
            println!("{}", made.id);
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
            };
            let rows = networks.iter().map(row).collect();
            render::list(
                &show,
                &[("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Subnet", "SUBNET"), ("VNI", "VNI")],
                rows,
            )?;
        }
        Network::Inspect { networks } => {
            let mut all = Vec::new();
            for name in &networks {
                all.push(cluster.network_inspect(name).await?);
            }
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
        Network::Rm { networks } => {
            for name in &networks {
                cluster.network_remove(name).await?;
                println!("{name}");
            }
        }
    }
    Ok(0)
}

/// Operators' certificates that the cluster has given.
pub fn operators(cluster: &muster_model::cluster::Cluster) {
    println!("{:<42}{:<22}{:<22}{:<22}STATUS", "SERIAL", "NAME", "ISSUED", "ENDS");
    for c in &cluster.operators {
        let name = if c.name.is_empty() { "-" } else { &c.name };
        let issued = if c.issued.is_zero() { "-".to_owned() } else { c.issued.to_rfc3339() };
        let status = c.revoked.map_or("valid".to_owned(), |at| format!("revoked {}", at.to_rfc3339()));
        println!(
            "{:<42}{name:<22}{:<22}{:<22}{status}",
            c.serial,
            seconds(&issued),
            seconds(&c.not_after.to_rfc3339())
        );
    }
}

/// A time to the second.
fn seconds(text: &str) -> String {
    text.split_once('.').map_or_else(|| text.to_owned(), |(whole, _)| format!("{whole}Z"))
}
