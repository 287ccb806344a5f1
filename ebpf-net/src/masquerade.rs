//! The one rule of the host's firewall that is ours: what containers send to the outside leaves with the host's address.

use crate::{names::Names, report::Error};
use muster_model::net::Subnet;
use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
};

/// Writes our table anew, in one transaction, in the namespace of the calling thread.
///
/// # Errors
/// [`Error::Nft`] when nft(8) is missing or refuses.
pub fn apply(names: &Names, subnets: &BTreeSet<Subnet>) -> Result<(), Error> {
    run(&script(names, subnets), "set the masquerade rule")
}

/// Takes our table away, whether it is there or not.
///
/// # Errors
/// [`Error::Nft`].
pub fn remove(names: &Names) -> Result<(), Error> {
    let table = names.nft_table();
    run(&format!("add table ip {table}\ndelete table ip {table}\n"), "remove the masquerade rule")
}

fn script(names: &Names, subnets: &BTreeSet<Subnet>) -> String {
    let table = names.nft_table();
    let mut text = format!("add table ip {table}\ndelete table ip {table}\n");
    if subnets.is_empty() {
        return text;
    }
    let list = merged(subnets).iter().map(Subnet::to_string).collect::<Vec<_>>().join(", ");
    text.push_str(&format!(
        "table ip {table} {{\n\
         \tset own {{ type ipv4_addr; flags interval; elements = {{ {list} }} }}\n\
         \tchain outbound {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip saddr @own ip daddr != @own oifname != \"{}\" masquerade\n\
         \t}}\n}}\n",
        names.wildcard()
    ));
    text
}

/// Without those that lie inside of another: an interval set takes no overlaps.
fn merged(subnets: &BTreeSet<Subnet>) -> Vec<Subnet> {
    let inside = |s: &&Subnet| subnets.iter().any(|o| o.prefix() < s.prefix() && o.overlaps(**s));
    subnets.iter().filter(|s| !inside(s)).copied().collect()
}

fn run(script: &str, doing: &'static str) -> Result<(), Error> {
    let failed = |why: String| Error::Nft { doing, why };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("cannot start nft (package nftables): {e}")))?;
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(script.as_bytes()));
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    written.map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_replaced_in_one_transaction_and_holds_one_rule() {
        let subnets = ["10.1.0.0/16", "10.1.3.0/24", "10.2.0.0/24"].map(|s| s.parse().expect("valid")).into();
        let text = script(&Names::new("h-1"), &subnets);
        assert!(
            text.starts_with("add table ip muster_h_1\ndelete table ip muster_h_1\ntable ip muster_h_1 {"),
            "{text}"
        );
        assert!(text.contains("elements = { 10.1.0.0/16, 10.2.0.0/24 }"), "{text}");
        assert_eq!(text.matches("masquerade").count(), 1);
    }

    #[test]
    fn without_networks_that_lead_outside_there_is_no_table() {
        assert!(!script(&Names::new("h"), &BTreeSet::new()).contains('{'));
    }
}
