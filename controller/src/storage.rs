//! From what is on disk to what the machines start with.

use crate::StartError;
use muster_consensus::{Entry, EntryBody, HardState, Membership, PeerId, SnapshotMeta, Start};
use muster_journal::{Checkpoints, Generation, Journal, Meta, Opened, Options, Position, Record, Recovered};
use muster_model::{NodeId, cluster::Node, spec::Role};
use muster_state::{Change, Group, State};
use std::{
    fs::DirBuilder,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

/// A manager's data, open.
pub(crate) struct Storage {
    pub(crate) journal: Journal,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) start: Start,
    pub(crate) state: State,
}

/// What the data folder is expected to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Begin {
    /// Empty: the first manager of a cluster, alone.
    New(PeerId),
    /// Empty or not.
    Join,
    /// Not empty.
    Resume,
    /// Not empty; this node becomes the only manager.
    ForceNew(NodeId, SocketAddr),
}

/// Opens the folder. Blocks.
pub(crate) fn open(dir: &Path, options: Options, begin: Begin) -> Result<Storage, StartError> {
    private_dir(dir)?;
    let log = dir.join("raft");
    let opened = muster_journal::open(&log, options)?;
    match begin {
        Begin::New(me) => {
            let opened = emptied(opened, &log, options)?;
            found(opened, me)
        }
        Begin::Resume | Begin::ForceNew(..) if opened.recovered.is_new() => Err(StartError::Nothing(dir.to_owned())),
        Begin::ForceNew(me, addr) => alone(recover(opened)?, me, addr),
        Begin::Join | Begin::Resume => recover(opened),
    }
}

fn private_dir(dir: &Path) -> Result<(), StartError> {
    let at = |source| StartError::DataDir { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at)?;
    // It was there: whoever made it may have been more generous.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(at)
}

/// A founding that was interrupted before its first entry leaves a log without any: that one is swept away.
fn emptied(opened: Opened, log: &Path, options: Options) -> Result<Opened, StartError> {
    if opened.recovered.is_new() {
        return Ok(opened);
    }
    let Storage { start, state, .. } = recover(opened)?;
    let said_something = start.entries.iter().any(|e| e.body != EntryBody::Empty);
    if said_something || state.index() > 0 {
        return Err(StartError::NotEmpty(log.to_owned()));
    }
    std::fs::remove_dir_all(log).map_err(|source| StartError::DataDir { path: log.to_owned(), source })?;
    Ok(muster_journal::open(log, options)?)
}

/// Makes the start of a new cluster durable, as if its empty state at index 1 had been received.
fn found(opened: Opened, me: PeerId) -> Result<Storage, StartError> {
    let Opened { mut journal, mut checkpoints, .. } = opened;
    let membership = Membership::new(vec![me], Vec::new()).expect("one voter who is not 0: raft ids never are");
    let start = Start::bootstrap(membership);
    let state = State::new();
    checkpoints.write(&meta_of(&start.snapshot), state.pairs())?;
    journal.reset(position_of(&start.snapshot), hard_to_disk(start.hard_state))?;
    Ok(Storage { journal, checkpoints, start, state })
}

fn recover(opened: Opened) -> Result<Storage, StartError> {
    let Opened { journal, checkpoints, recovered } = opened;
    let Recovered { checkpoint, hard_state, records, torn } = recovered;
    if let Some(torn) = torn {
        tracing::info!(?torn, "the log's last write was cut short");
    }
    let (snapshot, state) = match checkpoint {
        Some(generation) => restore(&generation)?,
        None => (SnapshotMeta::default(), State::new()),
    };
    let entries = records.into_iter().map(entry_from_disk).collect::<Result<_, _>>()?;
    let hard_state = HardState { term: hard_state.term, vote: hard_state.vote, commit: hard_state.commit };
    Ok(Storage { journal, checkpoints, start: Start { hard_state, snapshot, entries }, state })
}

/// Makes durable that everything in the log is committed and that `me` is the only manager.
fn alone(storage: Storage, me: NodeId, addr: SocketAddr) -> Result<Storage, StartError> {
    let Storage { mut journal, mut checkpoints, start, mut state } = storage;
    let mut index = start.snapshot.index;
    for entry in start.entries {
        index = entry.index;
        if let EntryBody::Normal(bytes) = entry.body {
            let why = |why: String| StartError::Apply { index, why };
            let entry = muster_state::Entry::decode(&bytes).map_err(|e| why(e.to_string()))?;
            state.apply(index, &entry).map_err(|e| why(e.to_string()))?;
        }
    }
    index += 1;
    let entry = only_manager(&state, me, addr);
    state.apply(index, &entry).map_err(|e| StartError::Apply { index, why: e.to_string() })?;
    let membership =
        Membership::new(vec![me.raft_id()], Vec::new()).expect("one voter who is not 0: raft ids never are");
    let term = start.hard_state.term + 1;
    let snapshot = SnapshotMeta { index, term, membership };
    let hard_state = HardState { term, vote: 0, commit: index };
    checkpoints.write(&meta_of(&snapshot), state.pairs())?;
    journal.reset(position_of(&snapshot), hard_to_disk(hard_state))?;
    tracing::warn!(index, term, "this node is the only manager from here on");
    Ok(Storage { journal, checkpoints, start: Start { hard_state, snapshot, entries: Vec::new() }, state })
}

fn only_manager(state: &State, me: NodeId, addr: SocketAddr) -> muster_state::Entry {
    let managers = state.nodes().filter(|n| n.id == me || n.spec.role == Role::Manager || n.manager_addr.is_some());
    let changes = managers.map(|old| {
        let mut node = Node::clone(old);
        let role = if node.id == me { Role::Manager } else { Role::Worker };
        (node.role, node.spec.role) = (role, role);
        node.manager_addr = (node.id == me).then_some(addr);
        Change::put(node)
    });
    let group = Group { changes: changes.collect(), ..Group::default() };
    muster_state::Entry { time: muster_mtls::now(), groups: vec![group], ..muster_state::Entry::default() }
}

fn restore(generation: &Generation) -> Result<(SnapshotMeta, State), StartError> {
    let meta = generation.meta();
    let membership = Membership::from_bytes(&meta.membership).map_err(StartError::Membership)?;
    let mut failed = None;
    let pairs = generation.pairs()?.map_while(|pair| pair.map_err(|e| failed = Some(e)).ok());
    let state = State::restore(pairs);
    if let Some(error) = failed {
        return Err(error.into());
    }
    let state = state.map_err(|source| StartError::Restore { index: meta.index, source })?;
    Ok((SnapshotMeta { index: meta.index, term: meta.term, membership }, state))
}

pub(crate) fn meta_of(snapshot: &SnapshotMeta) -> Meta {
    Meta { index: snapshot.index, term: snapshot.term, membership: snapshot.membership.to_bytes() }
}

pub(crate) fn position_of(snapshot: &SnapshotMeta) -> Position {
    Position { index: snapshot.index, term: snapshot.term }
}

pub(crate) fn hard_to_disk(hard: HardState) -> muster_journal::HardState {
    muster_journal::HardState { term: hard.term, vote: hard.vote, commit: hard.commit }
}

pub(crate) fn entry_to_disk(entry: &Entry) -> Record {
    Record { index: entry.index, term: entry.term, data: entry.body.to_bytes() }
}

fn entry_from_disk(record: Record) -> Result<Entry, StartError> {
    let index = record.index;
    Entry::from_bytes(index, record.term, &record.data).map_err(|source| StartError::Entry { index, source })
}
