//! Registry credentials of services: sealed before they are proposed, so that log, checkpoints and snapshots hold them so;
//! opened for the node that runs a task and nobody else; in views only said to be there.

use crate::SealKey;
use muster_calls::{Error, Result};
use muster_controller_core::Call;
use muster_model::{
    ClusterId,
    assignment::{Assignment, AssignmentUpdate},
    cluster::{Service, Task},
    spec::{AuthForm, RegistryAuth, ServiceSpec, TaskSpec},
};
use muster_state::State;
use std::sync::Arc;

/// What seals and opens them.
#[derive(Clone, Debug)]
pub(crate) struct Sealer {
    key: SealKey,
    cluster: ClusterId,
}

impl Sealer {
    pub(crate) fn new(key: SealKey, cluster: ClusterId) -> Self {
        Self { key, cluster }
    }

    /// Makes the credentials of a spec that a client sent fit to be kept. `current`: the service that it is to update.
    ///
    /// # Errors
    /// `Invalid` for credentials in a form that is no client's; `Internal` when they cannot be sealed.
    pub(crate) fn seal_spec(&self, spec: &mut ServiceSpec, current: Option<&Service>) -> Result<()> {
        let Some(sent) = &spec.task.container.registry_auth else { return Ok(()) };
        let kept = current.and_then(|s| s.spec.task.container.registry_auth.as_ref());
        let previous = || current?.previous_spec.as_ref()?.task.container.registry_auth.as_ref();
        let sealed = match sent.form() {
            AuthForm::Given(plain) => Some(self.seal_anew(plain, kept)?),
            AuthForm::Own if current.is_some() => kept.map(|kept| self.resealed(kept)).transpose()?,
            AuthForm::Previous if current.is_some() => previous().map(|kept| self.resealed(kept)).transpose()?,
            AuthForm::Own | AuthForm::Previous | AuthForm::Sealed(_) => {
                return Err(Error::invalid(
                    "invalid TaskTemplate.ContainerSpec.RegistryAuth: expected credentials as X-Registry-Auth has them",
                ));
            }
        };
        spec.task.container.registry_auth = sealed;
        Ok(())
    }

    /// The calls that seal what an earlier build kept unsealed, in services and in their tasks.
    ///
    /// # Errors
    /// `Internal` when something cannot be sealed.
    pub(crate) fn unsealed(&self, state: &State) -> Result<Vec<Call>> {
        let mut calls = Vec::new();
        for service in state.services() {
            let previous = service.previous_spec.iter().map(|p| &p.task);
            let tasks = state.tasks_of_service(service.id).map(|t| &*t.spec);
            let mut seals: Vec<(RegistryAuth, RegistryAuth)> = Vec::new();
            for spec in tasks.chain(previous).chain([&service.spec.task]) {
                if let Some(kept) = &spec.container.registry_auth
                    && let AuthForm::Given(plain) = kept.form()
                    && !seals.iter().any(|(from, _)| from == kept)
                {
                    seals.push((kept.clone(), self.seal(plain)?));
                }
            }
            if !seals.is_empty() {
                calls.push(Call::SealCredentials { service: service.id, seals });
            }
        }
        Ok(calls)
    }

    /// The same credentials keep their seal: a service whose spec did not change replaces no task.
    fn seal_anew(&self, plain: &str, kept: Option<&RegistryAuth>) -> Result<RegistryAuth> {
        match kept {
            Some(kept) if matches!(kept.form(), AuthForm::Sealed(_)) && self.open(kept).as_deref() == Some(plain) => {
                Ok(kept.clone())
            }
            _ => self.seal(plain),
        }
    }

    /// What was kept, sealed where an older version did not.
    fn resealed(&self, kept: &RegistryAuth) -> Result<RegistryAuth> {
        match kept.form() {
            AuthForm::Given(plain) => self.seal(plain),
            _ => Ok(kept.clone()),
        }
    }

    fn seal(&self, plain: &str) -> Result<RegistryAuth> {
        let sealed = self.key.seal(self.cluster, plain.as_bytes());
        let sealed = sealed.map_err(|e| Error::internal(format!("registry credentials cannot be sealed: {e}")))?;
        Ok(RegistryAuth::sealed(&to_hex(&sealed)))
    }

    /// What a client once gave; `None` when it cannot be had any more.
    fn open(&self, kept: &RegistryAuth) -> Option<String> {
        match kept.form() {
            AuthForm::Given(plain) => Some(plain.to_owned()),
            AuthForm::Sealed(text) => {
                let plain = self.key.open(self.cluster, &from_hex(text)?).ok()?;
                String::from_utf8(plain).ok()
            }
            AuthForm::Own | AuthForm::Previous => None,
        }
    }

    /// Opens the credentials of the tasks that a node is told of.
    pub(crate) fn open_tasks(&self, update: &mut AssignmentUpdate) {
        let open = |item: &mut Assignment| {
            if let Assignment::Task(task) = item {
                self.open_task(task);
            }
        };
        match update {
            AssignmentUpdate::Whole(set) => set.items.values_mut().for_each(open),
            AssignmentUpdate::Delta { put, .. } => put.iter_mut().for_each(open),
        }
    }

    fn open_task(&self, task: &mut Arc<Task>) {
        let Some(kept) = &task.spec.container.registry_auth else { return };
        let opened = self.open(kept).and_then(|plain| RegistryAuth::given(&plain).ok());
        if opened.is_none() {
            tracing::warn!(task.id = %task.id, "the registry credentials of a task do not open: its node pulls without");
        }
        container_of(task).registry_auth = opened;
    }
}

fn container_of(task: &mut Arc<Task>) -> &mut muster_model::spec::ContainerSpec {
    &mut Arc::make_mut(&mut Arc::make_mut(task).spec).container
}

/// A service as views show it.
pub(crate) fn hidden_service(service: &Service) -> Service {
    let mut shown = service.clone();
    hide(&mut shown.spec.task, RegistryAuth::own);
    if let Some(previous) = shown.previous_spec.as_mut().filter(|p| p.task.container.registry_auth.is_some()) {
        hide(&mut Arc::make_mut(previous).task, RegistryAuth::previous);
    }
    shown
}

fn hide(task: &mut TaskSpec, mark: fn() -> RegistryAuth) {
    if let Some(auth) = &mut task.container.registry_auth {
        *auth = mark();
    }
}

/// A task as views show it.
pub(crate) fn hidden_task(task: &Arc<Task>) -> Task {
    let mut shown = Task::clone(task);
    if shown.spec.container.registry_auth.is_some() {
        Arc::make_mut(&mut shown.spec).container.registry_auth = Some(RegistryAuth::own());
    }
    shown
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // Into a String it cannot fail.
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::spec::{EndpointSpec, Labels, Mode, UpdateConfig};

    const PLAIN: &str = "eyJwYXNzd29yZCI6InNlc2FtZSJ9";

    fn sealer() -> Sealer {
        Sealer::new(SealKey::generate().expect("random"), ClusterId::from_u128(1))
    }

    fn spec(auth: Option<RegistryAuth>) -> ServiceSpec {
        let mut task = TaskSpec::default();
        task.container.registry_auth = auth;
        ServiceSpec {
            name: "web".into(),
            labels: Labels::new(),
            mode: Mode::Replicated { replicas: 1 },
            task,
            endpoint: EndpointSpec::default(),
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
            networks_beside: false,
        }
    }

    fn service(auth: Option<RegistryAuth>) -> Service {
        Service {
            id: muster_model::ServiceId::from_u128(1),
            meta: Default::default(),
            spec: spec(auth),
            previous_spec: None,
            spec_version: Default::default(),
            endpoint: Default::default(),
            update_status: None,
            removing: false,
        }
    }

    fn sealed(of: &Sealer, auth: RegistryAuth, current: Option<&Service>) -> Result<Option<RegistryAuth>> {
        let mut spec = spec(Some(auth));
        of.seal_spec(&mut spec, current)?;
        Ok(spec.task.container.registry_auth)
    }

    #[test]
    fn what_is_given_is_kept_sealed_and_opens_again() {
        let sealer = sealer();
        let kept = sealed(&sealer, RegistryAuth::given(PLAIN).expect("base64"), None).expect("sealed").expect("there");
        assert!(matches!(kept.form(), AuthForm::Sealed(text) if !text.contains(PLAIN)));
        assert_eq!(sealer.open(&kept).as_deref(), Some(PLAIN));
        assert_eq!(Sealer::new(SealKey::generate().expect("random"), sealer.cluster).open(&kept), None);
    }

    #[test]
    fn an_update_keeps_what_a_view_showed_and_the_same_credentials_keep_their_seal() {
        let sealer = sealer();
        let given = || RegistryAuth::given(PLAIN).expect("base64");
        let kept = sealed(&sealer, given(), None).expect("sealed");
        let mut service = service(kept.clone());
        assert_eq!(sealed(&sealer, RegistryAuth::own(), Some(&service)).expect("kept"), kept);
        assert_eq!(sealed(&sealer, given(), Some(&service)).expect("the same"), kept);
        service.previous_spec = Some(Arc::new(spec(kept.clone())));
        service.spec.task.container.registry_auth = None;
        assert_eq!(sealed(&sealer, RegistryAuth::previous(), Some(&service)).expect("kept"), kept);
        assert_eq!(sealed(&sealer, RegistryAuth::own(), Some(&service)).expect("none"), None);
        let shown = hidden_service(&service);
        let previous = shown.previous_spec.expect("shown").task.container.registry_auth.clone();
        assert_eq!((shown.spec.task.container.registry_auth, previous), (None, Some(RegistryAuth::previous())));
    }

    #[test]
    fn what_an_older_version_kept_unsealed_is_read_and_sealed_with_the_next_update() {
        let sealer = sealer();
        let old = service(Some(RegistryAuth::given(PLAIN).expect("base64")));
        let kept = sealed(&sealer, RegistryAuth::own(), Some(&old)).expect("sealed").expect("there");
        assert!(matches!(kept.form(), AuthForm::Sealed(_)));
        assert_eq!(sealer.open(&kept).as_deref(), Some(PLAIN));
    }

    #[test]
    fn a_leader_seals_each_text_that_an_older_version_kept_once() {
        use muster_state::{Change, Entry, Group};
        let sealer = sealer();
        let given = RegistryAuth::given(PLAIN).expect("base64");
        let apply = |service: Service| {
            let group = Group { changes: vec![Change::put(service)], ..Group::default() };
            let mut state = State::default();
            state.apply(1, &Entry { groups: vec![group], ..Entry::default() }).expect("applied");
            sealer.unsealed(&state).expect("sealed")
        };
        let mut old = service(Some(given.clone()));
        old.previous_spec = Some(Arc::new(old.spec.clone()));
        let calls = apply(old);
        let [Call::SealCredentials { service: _, seals }] = &calls[..] else { panic!("{calls:?}") };
        let [(from, to)] = &seals[..] else { panic!("{seals:?}") };
        assert_eq!((from, sealer.open(to).as_deref()), (&given, Some(PLAIN)));
        assert!(matches!(to.form(), AuthForm::Sealed(_)));
        assert_eq!(apply(service(Some(to.clone()))), []);
        assert_eq!(apply(service(None)), []);
    }

    #[test]
    fn nobody_brings_sealed_credentials_of_another_service() {
        let sealer = sealer();
        let kept = sealed(&sealer, RegistryAuth::given(PLAIN).expect("base64"), None).expect("sealed").expect("there");
        for (sent, current) in
            [(kept, Some(&service(None))), (RegistryAuth::own(), None), (RegistryAuth::previous(), None)]
        {
            let e = sealed(&sealer, sent, current).expect_err("refused");
            assert_eq!(e.kind, muster_calls::Kind::Invalid, "{e}");
        }
    }

    #[test]
    fn hexadecimal_reads_back_and_nothing_else_does() {
        assert_eq!(from_hex(&to_hex(&[0, 255, 16])), Some(vec![0, 255, 16]));
        for bad in ["0", "0g", "é0"] {
            assert_eq!(from_hex(bad), None);
        }
    }
}
