//! What agents say of their tasks, on its way into the state.
//!
//! The newest report of each task waits while a proposal with earlier ones is in flight; everybody who reported is
//! answered when what he said is applied, or needs no applying.

use crate::Token;
use muster_model::{
    NodeId, TaskId,
    assignment::TaskReport,
    cluster::{TaskState, TaskStatus},
};
use muster_plan::Planner;
use muster_state::{Change, State};
use std::collections::BTreeMap;

/// Reports in one proposal; the rest joins the next.
const AT_ONCE: usize = 5_000;
/// The longest text of an agent that is stored per task.
const TEXT: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Reports {
    newest: BTreeMap<TaskId, TaskStatus>,
    waiting: Vec<Token>,
}

impl Reports {
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty() && self.waiting.is_empty()
    }

    /// Takes in what a node says of its tasks. `token` waits until [`Reports::take`].
    pub fn add(&mut self, state: &State, planner: &mut Planner, node: NodeId, token: Token, reports: Vec<TaskReport>) {
        for report in reports {
            self.add_one(state, planner, node, report);
        }
        self.waiting.push(token);
    }

    fn add_one(&mut self, state: &State, planner: &mut Planner, node: NodeId, report: TaskReport) {
        let Some(task) = state.task(report.task).filter(|t| t.node == Some(node)) else { return };
        let said = report.status.state;
        if !(TaskState::Accepted..=TaskState::Rejected).contains(&said) {
            return;
        }
        if task.status.state == TaskState::Orphaned {
            if said.is_terminal() {
                planner.confirm_gone(task);
            }
            return;
        }
        let status = bounded(report.status);
        if task.status == status {
            return;
        }
        let newer = |old: &TaskStatus| (old.state, old.at) <= (status.state, status.at) && !old.state.is_terminal();
        if self.newest.get(&report.task).is_none_or(newer) {
            self.newest.insert(report.task, status);
        }
    }

    /// What is to be proposed, and who waits for it: nobody while something is left, which may be his.
    pub fn take(&mut self) -> (Vec<Change>, Vec<Token>) {
        let rest = self.newest.keys().nth(AT_ONCE).copied().map(|first| self.newest.split_off(&first));
        let newest = std::mem::replace(&mut self.newest, rest.unwrap_or_default()).into_iter();
        let changes = newest.map(|(task, status)| Change::TaskStatus { task, status }).collect();
        let tokens = if self.newest.is_empty() { std::mem::take(&mut self.waiting) } else { Vec::new() };
        (changes, tokens)
    }

    /// Everybody who waits.
    pub fn drain_tokens(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.waiting)
    }

    /// A proposal failed: what it said is to be said again, unless something newer is known.
    pub fn again(&mut self, changes: Vec<Change>, tokens: Vec<Token>) {
        for change in changes {
            if let Change::TaskStatus { task, status } = change {
                self.newest.entry(task).or_insert(status);
            }
        }
        self.waiting.extend(tokens);
    }
}

/// An agent's words, cut where they are too long.
fn bounded(mut status: TaskStatus) -> TaskStatus {
    for text in [&mut status.message, &mut status.error, &mut status.container_id] {
        if text.len() > TEXT {
            let end = (0..=TEXT).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            text.truncate(end);
        }
    }
    status
}
