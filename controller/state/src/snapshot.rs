//! A state as key-value pairs, for a checkpoint or the wire, and back.
//!
//! Keys sort in the order in which restoring needs them, so a store that keeps keys sorted may hold the pairs. Every state
//! with the same content gives the same pairs.

use crate::{
    Key, Object, State, StateHash,
    record::{SharedSpec, SpecKey, TaskRecord},
};
use muster_model::{
    Timestamp,
    cluster::{Attachment, Cluster, Network, Node, Service, Task},
    spec::TaskSpec,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, sync::Arc};

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

const FORMAT: u32 = 1;
const HEAD: u8 = 0;
const CLUSTER: u8 = 1;
const NODE: u8 = 2;
const SERVICE: u8 = 3;
const NETWORK: u8 = 4;
const SPEC: u8 = 16;
const TASK: u8 = 17;
const ATTACHMENT: u8 = 18;

/// Why pairs are no state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the record {key} does not decode")]
    Malformed {
        key: String,
        #[source]
        source: rmp_serde::decode::Error,
    },
    #[error("a record of the unknown kind {0}: written by a newer version?")]
    UnknownKind(u8),
    #[error("the snapshot has format {found}; this build reads up to {FORMAT}")]
    TooNew { found: u32 },
    #[error("the snapshot does not begin with its head record")]
    NoHead,
    #[error("{0} comes before the spec it refers to: records must come in the order of their keys")]
    NoSpec(Key),
    #[error("the snapshot is not whole: its hash is {found}, expected {expected}")]
    Hash { expected: StateHash, found: StateHash },
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    index: u64,
    time: Timestamp,
    hash: StateHash,
}

impl State {
    /// The state as pairs, in the order of their keys. Encodes one at a time as it is asked; call it on a
    /// [`State::snapshot`] and off the thread that applies.
    pub fn pairs(&self) -> impl Iterator<Item = Pair> + '_ {
        let head = Head { format: FORMAT, index: self.index, time: self.time, hash: self.hash };
        std::iter::once(pair(HEAD, &[], &head))
            .chain(self.cluster().map(|c| pair(CLUSTER, &[], &**c)))
            .chain(self.nodes().map(|o| pair(NODE, &o.id.as_u128().to_be_bytes(), &**o)))
            .chain(self.services().map(|o| pair(SERVICE, &o.id.as_u128().to_be_bytes(), &**o)))
            .chain(self.networks().map(|o| pair(NETWORK, &o.id.as_u128().to_be_bytes(), &**o)))
            .chain(self.specs.iter().map(|((service, version), row)| {
                let mut key = service.as_u128().to_be_bytes().to_vec();
                key.extend(version.0.to_be_bytes());
                pair(SPEC, &key, &SharedSpec { service: *service, version: *version, spec: row.spec.clone() })
            }))
            .chain(self.tasks().map(|t| pair(TASK, &t.id.as_u128().to_be_bytes(), &self.task_record(t))))
            .chain(self.attachments().map(|o| pair(ATTACHMENT, &o.id.as_u128().to_be_bytes(), &**o)))
    }

    fn task_record(&self, task: &Task) -> TaskRecord {
        let listed = self.specs.get(&(task.service, task.spec_version));
        TaskRecord::new(task, listed.is_none_or(|row| !Arc::ptr_eq(&row.spec, &task.spec)))
    }

    /// The state that [`State::pairs`] was called on. Pairs must come in the order of their keys.
    ///
    /// # Errors
    /// [`RestoreError`]: a record that does not decode, or not all of them.
    pub fn restore(pairs: impl IntoIterator<Item = Pair>) -> Result<Self, RestoreError> {
        let mut pairs = pairs.into_iter();
        let (key, value) = pairs.next().ok_or(RestoreError::NoHead)?;
        if key != [HEAD] {
            return Err(RestoreError::NoHead);
        }
        let head: Head = read(&key, &value)?;
        if head.format > FORMAT {
            return Err(RestoreError::TooNew { found: head.format });
        }
        let mut state = Self { index: head.index, time: head.time, ..Self::default() };
        let mut specs = BTreeMap::new();
        for (key, value) in pairs {
            state.restore_one(&key, &value, &mut specs)?;
        }
        if state.hash != head.hash {
            return Err(RestoreError::Hash { expected: head.hash, found: state.hash });
        }
        state.history.push_back((state.index, state.hash));
        Ok(state)
    }

    fn restore_one(
        &mut self,
        key: &[u8],
        value: &[u8],
        specs: &mut BTreeMap<SpecKey, Arc<TaskSpec>>,
    ) -> Result<(), RestoreError> {
        let object = match key.first().copied() {
            Some(CLUSTER) => read::<Cluster>(key, value)?.into(),
            Some(NODE) => read::<Node>(key, value)?.into(),
            Some(SERVICE) => read::<Service>(key, value)?.into(),
            Some(NETWORK) => read::<Network>(key, value)?.into(),
            Some(SPEC) => {
                let shared: SharedSpec = read(key, value)?;
                specs.insert((shared.service, shared.version), shared.spec);
                return Ok(());
            }
            Some(TASK) => {
                let record: TaskRecord = read(key, value)?;
                let id = record.id();
                Object::from(record.into_task(specs).ok_or(RestoreError::NoSpec(Key::Task(id)))?)
            }
            Some(ATTACHMENT) => read::<Attachment>(key, value)?.into(),
            other => return Err(RestoreError::UnknownKind(other.unwrap_or(u8::MAX))),
        };
        self.insert(object);
        Ok(())
    }
}

fn pair(kind: u8, id: &[u8], value: &impl Serialize) -> Pair {
    let mut key = Vec::with_capacity(1 + id.len());
    key.push(kind);
    key.extend_from_slice(id);
    let value = rmp_serde::to_vec_named(value)
        .expect("model types have string keys and known lengths: encoding to memory cannot fail");
    (key, value)
}

fn read<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, RestoreError> {
    rmp_serde::from_slice(value).map_err(|source| RestoreError::Malformed { key: hex(key), source })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(32).map(|b| format!("{b:02x}")).collect()
}
