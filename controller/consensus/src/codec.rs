//! Entries and memberships as bytes for the journal and the checkpoints. Little endian, a version byte first.
//!
//! Bytes on the wire are the transport's business; these are for this node's own disk, behind a checksum.

use crate::types::{Change, Entry, EntryBody, Membership};
use bytes::Bytes;

const VERSION: u8 = 1;
const EMPTY: u8 = 0;
const NORMAL: u8 = 1;
const ADD_VOTER: u8 = 2;
const ADD_LEARNER: u8 = 3;
const REMOVE: u8 = 4;

/// Why bytes are no entry or membership.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{what}: version {found} is not known here (known: 1)")]
    Version { what: &'static str, found: u8 },
    #[error("{what}: ends too early")]
    Short { what: &'static str },
    #[error("entry: kind {0} is not known here")]
    Kind(u8),
    #[error("{what}: {count} bytes too many")]
    Trailing { what: &'static str, count: usize },
    #[error(transparent)]
    Membership(#[from] crate::MembershipError),
}

impl EntryBody {
    /// The body as bytes. Index and term are kept beside it, by the journal.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            EntryBody::Empty => vec![VERSION, EMPTY],
            EntryBody::Normal(data) => [&[VERSION, NORMAL], &data[..]].concat(),
            EntryBody::Membership { change, context } => {
                let kind = match change {
                    Change::AddVoter(_) => ADD_VOTER,
                    Change::AddLearner(_) => ADD_LEARNER,
                    Change::Remove(_) => REMOVE,
                };
                [&[VERSION, kind], &change.peer().to_le_bytes()[..], &context[..]].concat()
            }
        }
    }
}

impl Entry {
    /// An entry from its position and what [`EntryBody::to_bytes`] gave.
    ///
    /// # Errors
    /// [`DecodeError`]: a version or kind that this program does not know, or bytes that end too early.
    pub fn from_bytes(index: u64, term: u64, bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "entry";
        let (&[version, kind], rest) = bytes.split_first_chunk().ok_or(DecodeError::Short { what })?;
        if version != VERSION {
            return Err(DecodeError::Version { what, found: version });
        }
        let body = match kind {
            EMPTY if rest.is_empty() => EntryBody::Empty,
            EMPTY => return Err(DecodeError::Trailing { what, count: rest.len() }),
            NORMAL => EntryBody::Normal(Bytes::copy_from_slice(rest)),
            ADD_VOTER | ADD_LEARNER | REMOVE => {
                let (id, context) = rest.split_first_chunk().ok_or(DecodeError::Short { what })?;
                let id = u64::from_le_bytes(*id);
                let change = match kind {
                    ADD_VOTER => Change::AddVoter(id),
                    ADD_LEARNER => Change::AddLearner(id),
                    _ => Change::Remove(id),
                };
                EntryBody::Membership { change, context: Bytes::copy_from_slice(context) }
            }
            other => return Err(DecodeError::Kind(other)),
        };
        Ok(Entry { index, term, body })
    }
}

impl Membership {
    /// The membership as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.voters().len() as u8, self.learners().len() as u8];
        for id in self.voters().iter().chain(self.learners()) {
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    /// Reads what [`Membership::to_bytes`] gave.
    ///
    /// # Errors
    /// [`DecodeError`]: another version, bytes that end too early or too late, lists that are no membership.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "membership";
        let (&[version, voters, learners], rest) = bytes.split_first_chunk().ok_or(DecodeError::Short { what })?;
        if version != VERSION {
            return Err(DecodeError::Version { what, found: version });
        }
        let (ids, trailing) = rest.as_chunks::<8>();
        let total = usize::from(voters) + usize::from(learners);
        if ids.len() < total {
            return Err(DecodeError::Short { what });
        }
        let extra = (ids.len() - total) * 8 + trailing.len();
        if extra > 0 {
            return Err(DecodeError::Trailing { what, count: extra });
        }
        let ids: Vec<u64> = ids.iter().map(|id| u64::from_le_bytes(*id)).collect();
        let (voters, learners) = ids.split_at(voters.into());
        Ok(Membership::new(voters.to_vec(), learners.to_vec())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_entry_survives_the_disk() {
        let bodies = [
            EntryBody::Empty,
            EntryBody::Normal(Bytes::from_static(b"")),
            EntryBody::Normal(Bytes::from_static(b"hello")),
            EntryBody::Membership { change: Change::AddVoter(7), context: Bytes::from_static(b"addr") },
            EntryBody::Membership { change: Change::AddLearner(u64::MAX), context: Bytes::new() },
            EntryBody::Membership { change: Change::Remove(1), context: Bytes::new() },
        ];
        for body in bodies {
            let entry = Entry { index: 3, term: 2, body };
            assert_eq!(Entry::from_bytes(3, 2, &entry.body.to_bytes()), Ok(entry));
        }
    }

    #[test]
    fn a_membership_survives_the_disk_and_garbage_is_refused_by_name() {
        let m = Membership::new(vec![3, 1, 2], vec![9]).expect("valid");
        assert_eq!(Membership::from_bytes(&m.to_bytes()), Ok(m.clone()));
        assert_eq!(Membership::from_bytes(&[]), Err(DecodeError::Short { what: "membership" }));
        assert_eq!(Membership::from_bytes(&[9, 0, 0]), Err(DecodeError::Version { what: "membership", found: 9 }));
        let mut long = m.to_bytes();
        long.push(0);
        assert_eq!(Membership::from_bytes(&long), Err(DecodeError::Trailing { what: "membership", count: 1 }));
        assert!(matches!(Entry::from_bytes(1, 1, &[1, 77]), Err(DecodeError::Kind(77))));
        assert!(matches!(Entry::from_bytes(1, 1, &[1, 2, 0]), Err(DecodeError::Short { what: "entry" })));
    }
}
