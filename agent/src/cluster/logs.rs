//! Logs of services: every task's, gathered from the nodes they are on.

use crate::directory::{Asker, Directory};
use futures_util::{StreamExt as _, stream};
use muster_calls::{Error, Kind, Logs, Result, Stream, TaskLog};
use muster_model::cluster::{Task, TaskState};

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
    for task in tasks {
        let (Some(node), true) = (task.node, task.status.state >= TaskState::Starting) else { continue };
        match lines(directory, &task, node, options, asker).await {
            Ok(Some(lines)) => streams.push(lines),
            Ok(None) => {}
            Err(e) => silent.push(format!("task {} on node {node}: {e}", task.id)),
        }
    }
    let end = stream::iter(
        (!silent.is_empty()).then(|| Err(Error::unavailable(format!("incomplete log stream: {}", silent.join("; "))))),
    );
    Ok(stream::select_all(streams).chain(end).boxed())
}

async fn lines(
    directory: &Directory,
    task: &Task,
    node: muster_model::NodeId,
    options: &Logs,
    asker: &Asker,
) -> Result<Option<Stream<TaskLog>>> {
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
