//! Sealing what an earlier build kept unsealed: in a service's specs and in its tasks' at once, so that no task counts as
//! made from another spec and is replaced for it.

use crate::{
    Reply,
    pending::{Answer, Decision},
};
use muster_model::{
    ServiceId,
    cluster::{Service, Task},
    spec::{RegistryAuth, TaskSpec},
};
use muster_state::{Change, Expect, Group, Key, State};
use std::sync::Arc;

type Seals = [(RegistryAuth, RegistryAuth)];

/// The change after which the service and its tasks hold none of the credentials that `seals` replaces.
pub(crate) fn seal(state: &State, id: ServiceId, seals: &Seals) -> Decision {
    let mut group = Group::default();
    if let Some(old) = state.service(id)
        && let Some(new) = sealed_service(old, seals)
    {
        group.expects.push(Expect::version(Key::Service(id), old.meta.version));
        group.changes.push(Change::put(new));
    }
    // Tasks of one spec go on sharing it.
    let mut shared: Vec<(Arc<TaskSpec>, Arc<TaskSpec>)> = Vec::new();
    for old in state.tasks_of_service(id) {
        let Some(auth) = replaced(&old.spec, seals) else { continue };
        let known = shared.iter().find(|(from, _)| Arc::ptr_eq(from, &old.spec) || from == &old.spec);
        let spec = known.map(|(_, to)| to.clone()).unwrap_or_else(|| {
            let mut to = old.spec.clone();
            Arc::make_mut(&mut to).container.registry_auth = Some(auth.clone());
            shared.push((old.spec.clone(), to.clone()));
            to
        });
        group.expects.push(Expect::version(Key::Task(old.id), old.meta.version));
        group.changes.push(Change::put(Task { spec, ..Task::clone(old) }));
    }
    match group.changes.is_empty() {
        true => Decision::Nothing(Reply::Done),
        false => Decision::Propose(Box::new(group), Answer::Plain(Reply::Done)),
    }
}

fn sealed_service(old: &Service, seals: &Seals) -> Option<Service> {
    let current = replaced(&old.spec.task, seals);
    let previous = old.previous_spec.as_ref().and_then(|p| replaced(&p.task, seals));
    if current.is_none() && previous.is_none() {
        return None;
    }
    let mut new = old.clone();
    if let Some(auth) = current {
        new.spec.task.container.registry_auth = Some(auth.clone());
    }
    if let (Some(auth), Some(spec)) = (previous, &mut new.previous_spec) {
        Arc::make_mut(spec).task.container.registry_auth = Some(auth.clone());
    }
    Some(new)
}

/// What takes the place of a spec's credentials, if they are to be replaced.
fn replaced<'a>(spec: &TaskSpec, seals: &'a Seals) -> Option<&'a RegistryAuth> {
    let kept = spec.container.registry_auth.as_ref()?;
    seals.iter().find(|(from, _)| from == kept).map(|(_, to)| to)
}
