//! What a controller is started with, and why it does not start.

use crate::SealKey;
use muster_controller_core::{NewCluster, Registration};
use muster_model::{ClusterId, NodeId};
use muster_mtls::Tls;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// One manager's seat.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// A folder of its own; created with mode 0700.
    pub data_dir: PathBuf,
    pub node_id: NodeId,
    pub cluster_id: ClusterId,
    /// Where the other managers and the agents reach this node.
    pub addr: SocketAddr,
    pub tls: Tls,
    pub timing: Timing,
    pub storage: Storage,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The unit of raft's clock.
    pub tick: Duration,
    /// A follower campaigns after this many to twice as many ticks without a leader, and a leader resigns when a majority
    /// was silent for so long: a follower's answers wait for its disk, so this has to be longer than the disk's worst
    /// stall (measured: 950 ms with other writers busy).
    pub election_ticks: u32,
    pub heartbeat_ticks: u32,
    /// A call waits so long for a leader to be known, and again for its entry to be committed.
    pub call_timeout: Duration,
}

impl Default for Timing {
    /// 100 ms ticks, elections after 1 to 2 s, calls give up after 10 s.
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            election_ticks: 10,
            heartbeat_ticks: 1,
            call_timeout: Duration::from_secs(10),
        }
    }
}

/// How the state rests on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// A checkpoint is written after so many entries, or so many bytes of them, whatever comes first.
    pub checkpoint_entries: u64,
    pub checkpoint_bytes: u64,
    /// Size of a segment of the log.
    pub segment_bytes: u64,
}

impl Default for Storage {
    /// 10,000 entries or 4 MiB: a restart replays at most twice that, in well under a second, and a manager that has worked for
    /// weeks holds no more of the log in memory.
    fn default() -> Self {
        Self { checkpoint_entries: 10_000, checkpoint_bytes: 4 << 20, segment_bytes: 16 << 20 }
    }
}

/// How a manager begins.
#[derive(Clone, Debug)]
pub enum Bootstrap {
    /// It founds a cluster: see [`crate::Founding`].
    New { cluster: Box<NewCluster>, first: Box<Registration>, seal_key: SealKey },
    /// It was given a manager's certificate and gets the state from the leader, which finds it by its registration.
    /// `managers`: where to answer before the state says so.
    Join { managers: Vec<(NodeId, SocketAddr)>, seal_key: SealKey },
    /// It was a manager before.
    Resume { managers: Vec<(NodeId, SocketAddr)> },
    /// The others are lost for good: it goes on from its own data as the only manager. Everything in its log counts as
    /// committed; the other managers become workers, and have to join anew with empty folders.
    ForceNew,
}

/// Why a controller did not start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", path.display())]
    DataDir {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot open the control plane's data")]
    Journal(#[from] muster_journal::Error),
    #[error("the checkpoint at index {index} cannot be restored")]
    Restore {
        index: u64,
        #[source]
        source: muster_state::RestoreError,
    },
    #[error("entry {index} of the log cannot be read")]
    Entry {
        index: u64,
        #[source]
        source: muster_consensus::DecodeError,
    },
    #[error("entry {index} of the log cannot be applied: {why}")]
    Apply { index: u64, why: String },
    #[error("the checkpoint's membership cannot be read")]
    Membership(#[source] muster_consensus::DecodeError),
    #[error("consensus does not start from what is on disk")]
    Consensus(#[from] muster_consensus::ConfigError),
    #[error("{} holds the data of a cluster already", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} holds no data of a manager", .0.display())]
    Nothing(PathBuf),
    #[error("data_dir belongs to cluster {found}, not to cluster {expected}")]
    OtherCluster { expected: ClusterId, found: ClusterId },
    #[error(transparent)]
    Seal(#[from] crate::seal::Error),
    #[error(transparent)]
    Mtls(#[from] muster_mtls::Error),
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
    #[error("the system gives no random bytes")]
    Random,
    #[error("the cluster could not be founded: {0}")]
    Founding(String),
}
