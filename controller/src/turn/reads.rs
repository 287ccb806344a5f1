//! Reads that see every write acknowledged before them: the leader proves that it still leads, once for all that wait.

use super::Turn;
use muster_consensus::{PeerId, Read};
use muster_controller_core::CallError;
use muster_model::NodeId;
use muster_state::State;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

/// The state at a confirmed moment, and what only a leader knows.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) state: State,
    pub(crate) leader: NodeId,
    /// Managers that answer.
    pub(crate) active: BTreeSet<PeerId>,
}

type Reply = oneshot::Sender<Result<View, CallError>>;

#[derive(Default)]
pub(super) struct Reads {
    /// Not yet asked of consensus.
    waiting: Vec<Reply>,
    /// Asked, by consensus' number.
    asked: BTreeMap<u64, Vec<Reply>>,
    /// Confirmed, to be answered once the state includes the index.
    confirmed: Vec<(u64, Vec<Reply>)>,
}

impl Reads {
    pub(super) fn ask(&mut self, reply: Reply) {
        self.waiting.push(reply);
    }

    pub(super) fn confirmed(&mut self, read: Read) {
        // One confirmation covers all that were asked before it.
        let later = self.asked.split_off(&(read.id + 1));
        let covered = std::mem::replace(&mut self.asked, later);
        self.confirmed.extend(covered.into_values().map(|replies| (read.index, replies)));
    }

    /// The leadership is lost, and with it all open reads.
    pub(super) fn lost(&mut self, why: CallError) {
        let asked = std::mem::take(&mut self.asked).into_values();
        let confirmed = std::mem::take(&mut self.confirmed).into_iter().map(|(_, replies)| replies);
        for reply in asked.chain(confirmed).flatten().chain(self.waiting.drain(..)) {
            // The caller may have given up.
            let _ = reply.send(Err(why.clone()));
        }
    }
}

impl Turn {
    pub(super) fn begin_reads(&mut self) {
        if self.reads.waiting.is_empty() {
            return;
        }
        if self.office.is_none() {
            if self.role() != muster_consensus::Role::Leader {
                let why = self.not_leader();
                for reply in self.reads.waiting.drain(..) {
                    let _ = reply.send(Err(why.clone()));
                }
            }
            // Else it leads in a moment.
            return;
        }
        // A caller that gave up needs no proof.
        self.reads.waiting.retain(|reply| !reply.is_closed());
        if let Ok(id) = self.consensus.read_index() {
            let replies = std::mem::take(&mut self.reads.waiting);
            self.reads.asked.insert(id, replies);
        }
    }

    pub(super) fn answer_reads(&mut self) {
        if self.reads.confirmed.is_empty() {
            return;
        }
        let applied = self.consensus.applied().index;
        let due: Vec<_> = self.reads.confirmed.extract_if(.., |(index, _)| *index <= applied).collect();
        if due.is_empty() {
            return;
        }
        let me = self.me.raft_id();
        let active = self.progress.iter().filter(|(_, (_, active))| *active).map(|(id, _)| *id).chain([me]).collect();
        let view = View { state: self.manager.state().snapshot(), leader: self.me, active };
        for reply in due.into_iter().flat_map(|(_, replies)| replies) {
            // The caller may have given up.
            let _ = reply.send(Ok(view.clone()));
        }
    }
}
