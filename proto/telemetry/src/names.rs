//! The catalogue of metric names: dotted, lower case, unit in UCUM, attributes with few values.

/// One instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    pub what: &'static str,
}

macro_rules! catalogue {
    ($($id:ident = $name:literal, $unit:literal, $what:literal;)*) => {
        $(pub const $id: Metric = Metric { name: $name, unit: $unit, what: $what };)*
        /// Every metric there is.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

catalogue! {
    CONTAINER_COUNT = "muster.container.count", "{container}", "Containers of this host, by state.";
    NODE_COUNT = "muster.node.count", "{node}", "Nodes in the cluster, by state; said by the leader.";
    TASK_COUNT = "muster.task.count", "{task}", "Tasks in the cluster, by observed state; said by the leader.";
    RAFT_TERM = "muster.raft.term", "{term}", "Term of consensus.";
    RAFT_COMMIT_INDEX = "muster.raft.commit.index", "{entry}", "Index of the last entry that this manager has applied.";
    RAFT_LEADER = "muster.raft.leader", "1", "1 on the leader, 0 elsewhere.";
    NET_DROP = "muster.net.drop", "{packet}", "Packets dropped by the data plane, by reason.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_well_formed() {
        let names: BTreeSet<_> = ALL.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), ALL.len());
        for m in ALL {
            assert!(
                m.name.starts_with("muster.")
                    && m.name.bytes().all(|c| c.is_ascii_lowercase() || matches!(c, b'.' | b'_')),
                "{}",
                m.name
            );
        }
    }
}
