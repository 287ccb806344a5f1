//! The rules of the host's firewall that are ours, once for each family: what containers send to the outside leaves with the
//! host's address, and what the host passes on to them is what belongs to that. Whatever interface it comes in by: the table that
//! remembers what was masqueraded is the one to ask, and uplinks alone have programs of ours. Where a rule of the host's owner leads a
//! connection to a container (DNAT), it was not the one outside who named it.

use crate::{names::Names, report::Error};
use muster_model::net::{Subnet, Subnet6};
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
    run(&script(names, "ip", &outermost(subnets)), "set the masquerade rule")
}

/// As [`apply`], for IPv6.
///
/// # Errors
/// [`Error::Nft`].
pub fn apply6(names: &Names, subnets: &BTreeSet<Subnet6>) -> Result<(), Error> {
    run(&script(names, "ip6", &outermost6(subnets)), "set the masquerade rule of IPv6")
}

/// Takes our tables away, whether they are there or not.
///
/// # Errors
/// [`Error::Nft`].
pub fn remove(names: &Names) -> Result<(), Error> {
    run(&["ip", "ip6"].map(|family| script(names, family, &[])).concat(), "remove the masquerade rule")
}

/// `family`: nft's word for it, as of tables and of addresses.
fn script(names: &Names, family: &str, subnets: &[String]) -> String {
    let table = names.nft_table();
    let mut text = format!("add table {family} {table}\ndelete table {family} {table}\n");
    if subnets.is_empty() {
        return text;
    }
    let ours = names.wildcard();
    let version = if family == "ip6" { "ipv6" } else { "ipv4" };
    text.push_str(&format!(
        "table {family} {table} {{\n\
         \tset own {{ type {version}_addr; flags interval; elements = {{ {} }} }}\n\
         \tchain outbound {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\t{family} saddr @own {family} daddr != @own oifname != \"{ours}\" masquerade\n\
         \t}}\n\
         \tchain inbound {{\n\
         \t\ttype filter hook forward priority filter; policy accept;\n\
         \t\tct status dnat accept\n\
         \t\t{family} daddr @own oifname \"{ours}\" iifname != \"{ours}\" ct state new,invalid,untracked drop\n\
         \t}}\n}}\n",
        subnets.join(", "),
    ));
    text
}

/// Without those that lie inside of another: an interval set takes no overlaps.
fn outermost(subnets: &BTreeSet<Subnet>) -> Vec<String> {
    let inside = |s: &&Subnet| subnets.iter().any(|o| o.prefix() < s.prefix() && o.overlaps(**s));
    subnets.iter().filter(|s| !inside(s)).map(Subnet::to_string).collect()
}

fn outermost6(subnets: &BTreeSet<Subnet6>) -> Vec<String> {
    let inside = |s: &&Subnet6| subnets.iter().any(|o| o.prefix() < s.prefix() && o.overlaps(**s));
    subnets.iter().filter(|s| !inside(s)).map(Subnet6::to_string).collect()
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
    fn the_table_is_replaced_in_one_transaction_and_holds_one_rule_for_each_way() {
        let subnets = ["10.1.0.0/16", "10.1.3.0/24", "10.2.0.0/24"].map(|s| s.parse().expect("valid")).into();
        let text = script(&Names::new("h-1"), "ip", &outermost(&subnets));
        assert!(
            text.starts_with("add table ip muster_h_1\ndelete table ip muster_h_1\ntable ip muster_h_1 {"),
            "{text}"
        );
        assert!(text.contains("elements = { 10.1.0.0/16, 10.2.0.0/24 }"), "{text}");
        assert_eq!((text.matches("masquerade").count(), text.matches(" drop").count()), (1, 1));
    }

    #[test]
    fn the_rule_of_ipv6_is_the_same_in_a_table_of_its_own() {
        let text = script(&Names::new("h"), "ip6", &outermost6(&["fd00::/64".parse().expect("valid")].into()));
        assert!(text.contains("type ipv6_addr"), "{text}");
        assert!(text.contains("ip6 saddr @own ip6 daddr != @own oifname"), "{text}");
    }

    #[test]
    fn without_networks_that_lead_outside_there_is_no_table() {
        assert!(!script(&Names::new("h"), "ip", &[]).contains('{'));
    }
}
