//! A type for every id, so that a `NodeId` is no `TaskId`.
//!
//! Cluster objects carry 128-bit random ids, written as 25 characters of `0-9a-z` as SwarmKit writes them (25 digits in
//! base 36 hold 129 bits). Containers carry Docker's 64 hexadecimal digits. Who needs a new id is handed the random bits:
//! this crate draws none.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, marker::PhantomData, str::FromStr};

/// Why a text is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind} id: expected 25 characters of 0-9 and a-z")]
pub struct IdParseError {
    pub kind: &'static str,
    pub text: String,
}

/// What an [`Id`] names. Sealed by use: the kinds below are all there are.
pub trait Kind: Copy + Ord + std::hash::Hash + fmt::Debug + Default + Send + Sync + 'static {
    const NAME: &'static str;
}

/// A 128-bit id of one kind of object. `Id(0)` is never handed out and stands for "none" on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id<K>(u128, PhantomData<K>);

impl<K: Kind> Id<K> {
    pub const LEN: usize = 25;

    /// An id of these random bits.
    pub const fn from_u128(bits: u128) -> Self {
        Self(bits, PhantomData)
    }

    pub const fn as_u128(self) -> u128 {
        self.0
    }

    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The first 12 characters, for tables made for people.
    pub fn short(self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl<K: Kind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = [b'0'; 25];
        let mut rest = self.0;
        for slot in out.iter_mut().rev() {
            *slot = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
            rest /= 36;
        }
        f.pad(std::str::from_utf8(&out).expect("base 36 is ASCII"))
    }
}

impl<K: Kind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", K::NAME)
    }
}

impl<K: Kind> FromStr for Id<K> {
    type Err = IdParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || IdParseError { kind: K::NAME, text: text.chars().take(80).collect() };
        if text.len() != Self::LEN {
            return Err(refuse());
        }
        let mut bits: u128 = 0;
        for c in text.bytes() {
            let digit = match c {
                b'0'..=b'9' => c - b'0',
                b'a'..=b'z' => c - b'a' + 10,
                _ => return Err(refuse()),
            };
            bits = bits.checked_mul(36).and_then(|b| b.checked_add(digit.into())).ok_or_else(refuse)?;
        }
        Ok(Self::from_u128(bits))
    }
}

impl<K: Kind> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $alias:ident, $name:literal;)*) => {$(
        #[doc(hidden)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $kind;
        impl Kind for $kind {
            const NAME: &'static str = $name;
        }
        $(#[$doc])*
        pub type $alias = Id<$kind>;
    )*};
}

kinds! {
    /// One cluster: made by `muster init`, carried by every certificate.
    ClusterKind, ClusterId, "cluster";
    /// One host, for as long as it is a member.
    NodeKind, NodeId, "node";
    /// One service.
    ServiceKind, ServiceId, "service";
    /// One attempt to fill a slot.
    TaskKind, TaskId, "task";
    /// One cluster network.
    NetworkKind, NetworkId, "network";
    /// One container's place on a cluster network; drawn by its host.
    AttachmentKind, AttachmentId, "attachment";
    /// One secret.
    SecretKind, SecretId, "secret";
    /// One config.
    ConfigKind, ConfigId, "config";
}

impl NodeId {
    /// The raft id of a manager: the low 64 bits of its node id, never zero (raft reserves it).
    pub const fn raft_id(self) -> u64 {
        let low = self.as_u128() as u64;
        if low == 0 { 1 } else { low }
    }
}

/// Docker's container id: 64 hexadecimal digits, lower case. Made by the engine of one host.
pub type ContainerId = String;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_are_25_characters() {
        for bits in [0, 1, 35, 36, u128::MAX, 0x1234_5678_9abc_def0_1122_3344_5566_7788] {
            let id = NodeId::from_u128(bits);
            let text = id.to_string();
            assert_eq!(text.len(), 25);
            assert_eq!(text.parse::<NodeId>().expect("own text parses"), id);
        }
    }

    #[test]
    fn what_is_no_id_is_refused_by_name() {
        for bad in ["", "abc", "ABCDEFGHIJKLMNOPQRSTUVWXY", "zzzzzzzzzzzzzzzzzzzzzzzzz", "ééééééééééééé"] {
            let e = bad.parse::<TaskId>().expect_err("refused");
            assert_eq!(e.kind, "task");
        }
    }
}
