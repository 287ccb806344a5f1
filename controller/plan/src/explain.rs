//! Why no node suits a task: filter by filter, with counts and names.

use muster_model::net::Protocol;
use std::{collections::BTreeMap, fmt};

/// The first filter that a node does not pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    NotReady,
    /// The leader, new in office, does not know yet whether it lives; it knows within the node timeout.
    Unheard,
    Paused,
    Drained,
    /// As the user wrote it.
    Constraint(String),
    /// The image is not there for its system and architecture.
    Platform,
    /// A feature of the engine that the task needs.
    Feature(String),
    /// Something that must be on the same node, as people call it.
    Elsewhere(String),
    /// Billionths of a CPU.
    Cpu {
        need: u64,
    },
    /// Bytes.
    Memory {
        need: u64,
    },
    HostPort {
        protocol: Protocol,
        port: u16,
    },
    MaxReplicas {
        limit: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("not ready"),
            Self::Unheard => f.write_str("not heard from yet"),
            Self::Paused => f.write_str("paused"),
            Self::Drained => f.write_str("drained"),
            Self::Constraint(text) => write!(f, "constraint {text} not met"),
            Self::Platform => f.write_str("the image is not for its platform"),
            Self::Feature(name) => write!(f, "the engine lacks {name}"),
            Self::Elsewhere(what) => write!(f, "{what} is not there"),
            Self::Cpu { need } => write!(f, "insufficient CPU, need {}", cpus(*need)),
            Self::Memory { need } => write!(f, "insufficient memory, need {}", bytes(*need)),
            Self::HostPort { protocol, port } => write!(f, "host port {port}/{protocol} in use"),
            Self::MaxReplicas { limit } => write!(f, "has {limit} of this service already, the most per node"),
        }
    }
}

/// All nodes by the reason for which each was passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    pub nodes: usize,
    /// Names of the nodes.
    pub reasons: BTreeMap<Reason, Vec<String>>,
}

/// How many names are said for each reason.
const NAMED: usize = 3;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no suitable node (the cluster has no nodes)");
        }
        f.write_str("no suitable node (")?;
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
        for (i, (reason, names)) in reasons.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(
                f,
                "{separator}{} of {}: {reason} [{}",
                names.len(),
                self.nodes,
                names[..names.len().min(NAMED)].join(", ")
            )?;
            f.write_str(if names.len() > NAMED { ", ...]" } else { "]" })?;
        }
        f.write_str(")")
    }
}

fn cpus(nano: u64) -> String {
    let text = format!("{:.3}", nano as f64 / 1e9);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn bytes(n: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if n >= 1 << shift && n.trailing_zeros() >= shift {
            return format!("{} {unit}", n >> shift);
        }
    }
    if n >= 1 << 20 { format!("{:.1} MiB", n as f64 / f64::from(1 << 20)) } else { format!("{n} B") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_group_comes_first_and_long_lists_are_cut() {
        let names = |n: usize| (1..=n).map(|i| format!("n{i}")).collect::<Vec<_>>();
        let reasons = BTreeMap::from([
            (Reason::NotReady, names(1)),
            (Reason::Memory { need: 512 << 20 }, names(5)),
            (Reason::Cpu { need: 1_500_000_000 }, names(2)),
        ]);
        let text = Explanation { nodes: 8, reasons }.to_string();
        assert_eq!(
            text,
            "no suitable node (5 of 8: insufficient memory, need 512 MiB [n1, n2, n3, ...]; \
             2 of 8: insufficient CPU, need 1.5 [n1, n2]; 1 of 8: not ready [n1])"
        );
    }
}
