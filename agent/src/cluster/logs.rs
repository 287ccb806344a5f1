//! Logs of services: every task's, gathered from the nodes they are on.

use super::member::Member;
use crate::directory::{Asker, Directory};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered, SelectAll},
};
use muster_calls::{Cluster, Error, Kind, Logs, Result, Stream, TaskLog, TaskQuery};
use muster_model::{
    ServiceId, TaskId, Timestamp,
    cluster::{Task, TaskState},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// How often a host without a control plane of its own asks which tasks a followed service has.
const POLL: Duration = Duration::from_secs(2);
/// So many reasons why tasks were not heard are told at the end.
const REASONS: usize = 16;

/// The lines of these tasks, as they come. Nodes that do not answer are said in a line of their own kind: an error at the
/// end of what the others had.
pub async fn of_tasks(
    directory: &Directory,
    tasks: Vec<Task>,
    options: &Logs,
    asker: &Asker,
) -> Result<Stream<TaskLog>> {
    let mut streams = Vec::new();
    let mut silent = Vec::new();
    for task in tasks.iter().filter(|task| has_log(task)) {
        match lines(directory, task, options, asker).await {
            Ok(Some(lines)) => streams.push(lines),
            Ok(None) => {}
            Err(e) => silent.push(unheard(task, &e)),
        }
    }
    let end = stream::iter(incomplete(&silent).map(Err));
    Ok(stream::select_all(streams).chain(end).boxed())
}

/// A container that starts at this moment is met once it runs: followed before, its log would end at once.
fn has_log(task: &Task) -> bool {
    task.node.is_some() && task.status.state >= TaskState::Running
}

fn unheard(task: &Task, why: &Error) -> String {
    let node = task.node.map(|n| n.to_string()).unwrap_or_default();
    format!("task {} on node {node}: {why}", task.id)
}

fn incomplete(silent: &[String]) -> Option<Error> {
    (!silent.is_empty()).then(|| Error::unavailable(format!("incomplete log stream: {}", silent.join("; "))))
}

async fn lines(directory: &Directory, task: &Task, options: &Logs, asker: &Asker) -> Result<Option<Stream<TaskLog>>> {
    let Some(node) = task.node else { return Ok(None) };
    let place = directory.node(node, asker)?;
    let name = super::spec::container_name(task);
    let log = match place.engine.container_logs(&name, options.clone()).await {
        Ok(log) => log,
        // An old task whose container was removed has no log any more.
        Err(e) if e.kind == Kind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let (service, task) = (task.service, task.id);
    Ok(Some(log.lines.map(move |l| l.map(|chunk| TaskLog { service, task, node, chunk })).boxed()))
}

/// The lines of a service's tasks: of `first` as `options` say, of each that starts later from its beginning, until the service
/// is removed. `now` says which tasks there are, each time they change. What of them cannot be heard is said at the end.
pub fn follow(
    member: Arc<Member>,
    asker: Asker,
    options: Logs,
    first: &[Task],
    now: Stream<Vec<Task>>,
) -> Stream<TaskLog> {
    let mut follower = Follower {
        member,
        asker,
        later: Logs { tail: None, since: Timestamp::ZERO, ..options.clone() },
        now: Some(now),
        met: Met::default(),
        opening: FuturesUnordered::new(),
        open: SelectAll::new(),
        silent: Vec::new(),
    };
    follower.meet(first, &options);
    stream::unfold(follower, async |mut follower| follower.next().await.map(|line| (line, follower))).boxed()
}

/// The tasks whose logs were asked for.
#[derive(Debug, Default)]
struct Met {
    seen: BTreeSet<TaskId>,
    /// Those of the last list.
    there: BTreeSet<TaskId>,
}

impl Met {
    fn is_new(&mut self, task: TaskId) -> bool {
        self.seen.insert(task)
    }

    /// Takes note of which tasks there are now. Those that were and are gone do not come back and are forgotten. One that never
    /// was in a list may come: this manager may be behind the one that said which there are at first.
    fn only_there(&mut self, now: BTreeSet<TaskId>) {
        self.seen.retain(|id| now.contains(id) || !self.there.contains(id));
        self.there = now;
    }
}

type Opened = (Task, Result<Option<Stream<TaskLog>>>);

struct Follower {
    member: Arc<Member>,
    asker: Asker,
    /// How tasks are read that start while it follows.
    later: Logs,
    /// Ends with the service.
    now: Option<Stream<Vec<Task>>>,
    met: Met,
    opening: FuturesUnordered<BoxFuture<'static, Opened>>,
    open: SelectAll<Stream<TaskLog>>,
    silent: Vec<String>,
}

impl Follower {
    /// Asks for the logs of those tasks that have one and were not met before.
    fn meet(&mut self, tasks: &[Task], options: &Logs) {
        for task in tasks.iter().filter(|task| has_log(task)) {
            if self.met.is_new(task.id) {
                let (member, asker, options, task) =
                    (self.member.clone(), self.asker.clone(), options.clone(), task.clone());
                let opening = async move {
                    let opened = lines(member.directory(), &task, &options, &asker).await;
                    (task, opened)
                };
                self.opening.push(opening.boxed());
            }
        }
    }

    fn unheard(&mut self, why: String) {
        if self.silent.len() < REASONS {
            self.silent.push(why);
        }
    }

    /// The next line; `None` once the service is gone and all was said.
    async fn next(&mut self) -> Option<Result<TaskLog>> {
        loop {
            let tasks = async {
                match &mut self.now {
                    Some(now) => now.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(line) = self.open.next() => match line {
                    Ok(line) => return Some(Ok(line)),
                    Err(e) => self.unheard(e.to_string()),
                },
                Some((task, opened)) = self.opening.next() => match opened {
                    Ok(Some(lines)) => self.open.push(lines),
                    Ok(None) => {}
                    Err(e) => self.unheard(unheard(&task, &e)),
                },
                tasks = tasks => match tasks {
                    Some(Ok(tasks)) => {
                        let later = self.later.clone();
                        self.meet(&tasks, &later);
                        self.met.only_there(tasks.iter().map(|t| t.id).collect());
                    }
                    Some(Err(e)) => {
                        self.unheard(e.to_string());
                        self.now = None;
                    }
                    None => self.now = None,
                },
            }
            if self.now.is_none() && self.open.is_empty() && self.opening.is_empty() {
                return incomplete(&std::mem::take(&mut self.silent)).map(Err);
            }
        }
    }
}

/// The tasks of a service each time something changes in this manager's state, until the service is removed.
pub fn tasks_here(controller: &muster_controller::Controller, service: ServiceId) -> Stream<Vec<Task>> {
    let there = move |published: &muster_controller::Published| -> Option<Vec<Task>> {
        published.state.service(service)?;
        Some(published.state.tasks_of_service(service).map(|t| (**t).clone()).collect())
    };
    // This manager may hear of the service only now, if another one made it.
    stream::unfold((controller.watch(), true, false), move |(mut changes, first, known)| async move {
        if !first {
            changes.changed().await.ok()?;
        }
        loop {
            let now = there(&changes.borrow_and_update());
            match now {
                Some(tasks) => return Some((Ok(tasks), (changes, false, true))),
                None if known => return None,
                None => changes.changed().await.ok()?,
            }
        }
    })
    .boxed()
}

/// The same on a host without a control plane of its own: `ask` is asked now and then. Managers that do not answer are asked
/// again.
pub fn tasks_elsewhere(ask: Arc<dyn Cluster>, service: ServiceId) -> Stream<Vec<Task>> {
    stream::unfold(ask, move |ask| async move {
        loop {
            tokio::time::sleep(POLL).await;
            match ask.service_inspect(&service.to_string()).await {
                Err(e) if e.kind == Kind::NotFound => return None,
                Err(_) => continue,
                Ok(_) => {}
            }
            if let Ok(tasks) = ask.task_list(TaskQuery { services: vec![service], ..Default::default() }).await {
                return Some((Ok(tasks), ask));
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_a_manager_hears_of_late_is_followed_once_and_one_that_is_gone_is_forgotten() {
        let (early, late) = (TaskId::from_u128(1), TaskId::from_u128(2));
        let mut met = Met::default();
        assert!(met.is_new(early) && met.is_new(late));
        met.only_there([early].into());
        met.only_there([early, late].into());
        assert!(!met.is_new(early) && !met.is_new(late), "lines would come twice");
        met.only_there([late].into());
        assert_eq!(met.seen, BTreeSet::from([late]));
    }
}
