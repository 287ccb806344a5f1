//! The state hash: equal tables have equal hashes, computed as the tables change.
//!
//! Each object has a digest (SHA-256 of its encoding, cut to 128 bits); the state's hash is their sum modulo 2^128, so an
//! update costs one encoding and two additions, and the order of changes does not matter. It guards against faults, not
//! against attackers: a manager that lies can do worse.

use crate::Key;
use muster_model::{cluster::Task, spec::TaskSpec};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// The hash of a whole state.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateHash {
    pub high: u64,
    pub low: u64,
}

impl StateHash {
    fn bits(self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    fn of(bits: u128) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }

    pub(crate) fn add(&mut self, digest: u128) {
        *self = Self::of(self.bits().wrapping_add(digest));
    }

    pub(crate) fn sub(&mut self, digest: u128) {
        *self = Self::of(self.bits().wrapping_sub(digest));
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.high, self.low)
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The digest of one object under its key.
pub(crate) fn object(key: Key, value: &impl Serialize) -> u128 {
    of(&(key, value))
}

/// A task's digest; its spec, shared by many, was digested once.
pub(crate) fn task(task: &Task, spec: u128) -> u128 {
    let Task {
        id,
        meta,
        service,
        service_name,
        slot,
        node,
        spec: _,
        spec_version,
        desired,
        status,
        addresses,
        host_ports,
        trace_parent,
    } = task;
    let spec = [(spec >> 64) as u64, spec as u64];
    of(&(
        (id.as_u128().to_be_bytes(), meta, service.as_u128().to_be_bytes(), service_name, slot),
        (
            node.map(|n| n.as_u128().to_be_bytes()),
            spec,
            spec_version,
            desired,
            status,
            addresses,
            host_ports,
            trace_parent,
        ),
    ))
}

pub(crate) fn spec(spec: &TaskSpec) -> u128 {
    of(spec)
}

fn of(value: &impl Serialize) -> u128 {
    let mut bytes = Vec::with_capacity(512);
    rmp_serde::encode::write(&mut bytes, value)
        .expect("model types have string keys and known lengths: encoding to memory cannot fail");
    let hash = Sha256::digest(&bytes);
    let mut first = [0u8; 16];
    first.copy_from_slice(&hash[..16]);
    u128::from_be_bytes(first)
}
