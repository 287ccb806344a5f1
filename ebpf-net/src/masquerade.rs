//! The rules of the host's firewall that are ours: what containers send to the outside leaves with the host's address; and
//! of IPv6, where our own programs translate nothing, what comes to a published port goes to its container.

use crate::{names::Names, report::Error};
use muster_model::{
    net::{Subnet, Subnet6},
    view::PublishedKey6,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::Write,
    net::SocketAddrV6,
    process::{Command, Stdio},
};

/// Writes our table anew, in one transaction, in the namespace of the calling thread.
///
/// # Errors
/// [`Error::Nft`] when nft(8) is missing or refuses.
pub fn apply(names: &Names, subnets: &BTreeSet<Subnet>) -> Result<(), Error> {
    run(&script(names, subnets), "set the masquerade rule")
}

/// What the IPv6 table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules6 {
    /// Networks that lead outside.
    pub outbound: BTreeSet<Subnet6>,
    pub published: BTreeMap<PublishedKey6, SocketAddrV6>,
}

/// As [`apply`], for IPv6.
///
/// # Errors
/// [`Error::Nft`].
pub fn apply6(names: &Names, rules: &Rules6) -> Result<(), Error> {
    run(&script6(names, rules), "set the rules of IPv6")
}

/// Takes our tables away, whether they are there or not.
///
/// # Errors
/// [`Error::Nft`].
pub fn remove(names: &Names) -> Result<(), Error> {
    let table = names.nft_table();
    let gone = |family: &str| format!("add table {family} {table}\ndelete table {family} {table}\n");
    run(&(gone("ip") + &gone("ip6")), "remove the masquerade rule")
}

fn script6(names: &Names, rules: &Rules6) -> String {
    let (table, ours) = (names.nft_table(), names.wildcard());
    let mut text = format!("add table ip6 {table}\ndelete table ip6 {table}\n");
    if rules.outbound.is_empty() {
        return text;
    }
    let inside = |s: &&Subnet6| rules.outbound.iter().any(|o| o.prefix() < s.prefix() && o.overlaps(**s));
    let own: Vec<_> = rules.outbound.iter().filter(|s| !inside(s)).map(Subnet6::to_string).collect();
    let mut fronts = String::new();
    for (front, to) in &rules.published {
        let at = if front.host_ip.is_unspecified() {
            "fib daddr type local".to_owned()
        } else {
            format!("ip6 daddr {}", front.host_ip)
        };
        // Writing to a String does not fail.
        let _ = writeln!(fronts, "\t\t{at} {} dport {} dnat to {to}", front.protocol, front.port);
    }
    // A container that comes by the host's own address is answered by way of the host, where the translation is.
    let _ = write!(
        text,
        "table ip6 {table} {{\n\
         \tset own {{ type ipv6_addr; flags interval; elements = {{ {own} }} }}\n\
         \tchain outbound {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip6 saddr @own ip6 daddr != @own oifname != \"{ours}\" masquerade\n\
         \t\tct status dnat ip6 saddr @own oifname \"{ours}\" masquerade\n\
         \t}}\n\
         \tchain published {{\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n{fronts}\t}}\n\
         \tchain published_to_host {{\n\t\ttype nat hook output priority -100; policy accept;\n{fronts}\t}}\n\
         }}\n",
        own = own.join(", ")
    );
    text
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
    fn published_ports_of_ipv6_are_rules_of_their_own_table() {
        use muster_model::net::Protocol;
        let key = |port, host_ip: &str| PublishedKey6 {
            protocol: Protocol::Tcp,
            port,
            host_ip: host_ip.parse().expect("valid"),
        };
        let to: SocketAddrV6 = "[fd00::2]:80".parse().expect("valid");
        let rules = Rules6 {
            outbound: ["fd00::/64".parse().expect("valid")].into(),
            published: [(key(8080, "::"), to), (key(8081, "fd01::1"), to)].into(),
        };
        let text = script6(&Names::new("h-1"), &rules);
        assert!(text.contains("fib daddr type local tcp dport 8080 dnat to [fd00::2]:80"), "{text}");
        assert!(text.contains("ip6 daddr fd01::1 tcp dport 8081 dnat to [fd00::2]:80"), "{text}");
        assert!(!script6(&Names::new("h"), &Rules6::default()).contains('{'));
    }

    #[test]
    fn without_networks_that_lead_outside_there_is_no_table() {
        assert!(!script(&Names::new("h"), &BTreeSet::new()).contains('{'));
    }
}
