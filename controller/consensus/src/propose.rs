//! What a leader is asked for: entries, changes of the membership, proofs of leadership, its office.

use crate::convert::change_to_raft;
use crate::machine::Consensus;
use crate::ready::{ProposeError, Token};
use crate::types::{Change, PeerId};
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb;

impl Consensus {
    /// Appends a proposal to the leader's log. It is not committed, and may never be: see [`Token::outcome`].
    ///
    /// # Errors
    /// [`ProposeError`]; nothing is in the log then.
    pub fn propose(&mut self, data: impl Into<Bytes>) -> Result<Token, ProposeError> {
        let data = data.into();
        self.check_leader()?;
        if data.is_empty() {
            return Err(ProposeError::Empty);
        }
        self.append(eraftpb::Entry { data, ..Default::default() })
    }

    /// Appends a change of the set of managers; one at a time. `context` travels with it to every node.
    ///
    /// # Errors
    /// [`ProposeError`]; nothing is in the log then.
    pub fn propose_membership(&mut self, change: Change, context: impl Into<Bytes>) -> Result<Token, ProposeError> {
        self.check_leader()?;
        self.check_change(change)?;
        let mut entry = eraftpb::Entry { context: context.into(), ..Default::default() };
        entry.set_entry_type(eraftpb::EntryType::EntryConfChange);
        entry.data = change_to_raft(change).write_to_bytes().map_err(|_| ProposeError::ZeroPeer)?.into();
        self.append(entry)
    }

    fn append(&mut self, entry: eraftpb::Entry) -> Result<Token, ProposeError> {
        let mut message = eraftpb::Message { from: self.config.id, ..Default::default() };
        message.set_msg_type(eraftpb::MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        self.raw.raft.step(message).map_err(|_| ProposeError::Overloaded)?;
        self.settle();
        Ok(Token { index: self.raw.raft.raft_log.last_index(), term: self.raw.raft.term })
    }

    fn check_leader(&self) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        match self.raw.raft.lead_transferee {
            Some(to) => Err(ProposeError::Transferring { to }),
            None => Ok(()),
        }
    }

    fn check_change(&self, change: Change) -> Result<(), ProposeError> {
        let (id, now) = (change.peer(), self.membership());
        if id == 0 {
            return Err(ProposeError::ZeroPeer);
        }
        if self.raw.raft.has_pending_conf() {
            return Err(ProposeError::ChangePending);
        }
        match change {
            Change::AddVoter(_) if now.is_voter(id) => return Err(ProposeError::NoChange(id)),
            Change::AddLearner(_) if now.is_learner(id) => return Err(ProposeError::NoChange(id)),
            Change::Remove(_) if !now.contains(id) => return Err(ProposeError::NotMember(id)),
            Change::AddVoter(_) => return Ok(()),
            Change::AddLearner(_) | Change::Remove(_) => {}
        }
        if now.voters() == [id] {
            return Err(ProposeError::LastVoter(id));
        }
        if id == self.config.id {
            return Err(ProposeError::RemovesLeader);
        }
        Ok(())
    }

    /// Asks for proof that this node still leads. The answer comes as [`Ready::reads`] with the returned id, at the
    /// latest at the next heartbeats; never, when leadership is lost meanwhile.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], or [`ProposeError::NotReady`] in the first moments of a leadership.
    pub fn read_index(&mut self) -> Result<u64, ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        if !self.raw.raft.commit_to_current_term() {
            return Err(ProposeError::NotReady);
        }
        let id = self.next_read;
        self.next_read += 1;
        self.raw.read_index(id.to_le_bytes().to_vec());
        self.settle();
        Ok(id)
    }

    /// Starts to hand leadership to a voter. It has happened when a [`RoleChange`] says so; it is given up after one
    /// election timeout. Proposals are refused meanwhile.
    ///
    /// # Errors
    /// [`ProposeError`] when this node does not lead, or `to` has no vote or leads already.
    pub fn transfer_leader(&mut self, to: PeerId) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        if !self.membership().is_voter(to) {
            return Err(ProposeError::NotMember(to));
        }
        if to == self.config.id {
            return Err(ProposeError::NoChange(to));
        }
        self.raw.transfer_leader(to);
        self.settle();
        Ok(())
    }
}
