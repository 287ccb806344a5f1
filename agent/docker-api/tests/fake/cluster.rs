//! A control plane in memory: one manager, services whose tasks run at once.

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use muster_calls::*;
use muster_model::{
    ClusterId, NetworkId, NodeId, ServiceId, TaskId, Timestamp,
    cluster::{
        self, Endpoint, Meta, Network, Node, NodeDescription, NodeState, NodeStatus, Service, Task, TaskAddress,
        TaskState, TaskStatus, Version,
    },
    net::Mac,
    spec::{Mode, NetworkSpec, NodeSpec, Role, ServiceSpec},
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

pub const NODE: NodeId = NodeId::from_u128(77);

#[derive(Default)]
struct State {
    member: bool,
    version: u64,
    services: Vec<Service>,
    networks: Vec<Network>,
    node_spec: Option<NodeSpec>,
    spec: cluster::ClusterSpec,
}

#[derive(Default)]
pub struct FakeCluster(Mutex<State>);

fn addr() -> SocketAddr {
    SocketAddr::from(([10, 99, 0, 1], 2377))
}

impl FakeCluster {
    pub fn outside() -> Arc<dyn Cluster> {
        Arc::new(Self::default())
    }

    fn state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.0.lock().expect("not poisoned");
        if state.member { Ok(state) } else { Err(Error::unavailable("not a member")) }
    }

    fn find(&self, name: &str) -> Result<Service> {
        let state = self.state()?;
        let found = state.services.iter().find(|s| s.spec.name == name || s.id.to_string().starts_with(name));
        found.cloned().ok_or_else(|| Error::not_found(format!("service {name} not found")))
    }

    fn tasks(&self) -> Result<Vec<Task>> {
        let state = self.state()?;
        let mut tasks = Vec::new();
        for service in &state.services {
            let Mode::Replicated { replicas } = service.spec.mode else { continue };
            tasks.extend((1..=replicas).map(|slot| {
                let mut task = task(service, slot);
                let place = |n: &Network| {
                    let ip = n.subnet.nth(u32::try_from(slot).ok()? + 10)?;
                    Some(TaskAddress { network: n.id, ip, mac: Mac::of(ip) })
                };
                task.addresses = networks_of(&state, service).filter_map(place).collect();
                task
            }));
        }
        Ok(tasks)
    }
}

/// The networks that a service's tasks are on.
fn networks_of<'s>(state: &'s State, service: &'s Service) -> impl Iterator<Item = &'s Network> {
    let on = &service.spec.task.networks;
    state.networks.iter().filter(move |n| on.iter().any(|a| a.target == n.spec.name || a.target == n.id.to_string()))
}

fn task(service: &Service, slot: u64) -> Task {
    Task {
        id: TaskId::from_u128(service.id.as_u128() * 1000 + u128::from(slot)),
        meta: service.meta,
        service: service.id,
        service_name: service.spec.name.clone(),
        slot,
        node: Some(NODE),
        spec: Arc::new(service.spec.task.clone()),
        spec_version: service.spec_version,
        desired: TaskState::Running,
        status: TaskStatus {
            state: TaskState::Running,
            at: Timestamp(1),
            message: "started".into(),
            ..Default::default()
        },
        addresses: Vec::new(),
        host_ports: Vec::new(),
        trace_parent: None,
    }
}

fn view(service: Service) -> ServiceView {
    let Mode::Replicated { replicas } = service.spec.mode else {
        return ServiceView { service, running_tasks: 1, desired_tasks: 1, completed_tasks: 0 };
    };
    ServiceView { service, running_tasks: replicas, desired_tasks: replicas, completed_tasks: 0 }
}

#[async_trait]
impl Cluster for FakeCluster {
    async fn membership(&self) -> Result<Membership> {
        let member = self.0.lock().expect("not poisoned").member.then(|| Member {
            cluster: ClusterId::from_u128(1),
            node: NODE,
            role: Role::Manager,
            addr: addr(),
            managers: vec![(NODE, addr())],
            control_available: true,
            nodes: 1,
            manager_count: 1,
            error: String::new(),
        });
        Ok(Membership { member })
    }

    async fn init(&self, _: InitCluster) -> Result<NodeId> {
        self.0.lock().expect("not poisoned").member = true;
        Ok(NODE)
    }

    async fn join(&self, join: JoinCluster) -> Result<NodeId> {
        if join.token != "MSTR-1-m" {
            return Err(Error::invalid(format!("unknown token {}", join.token)));
        }
        self.0.lock().expect("not poisoned").member = true;
        Ok(NODE)
    }

    async fn leave(&self, force: bool) -> Result<()> {
        if !force {
            return Err(Error::conflict(
                "You are attempting to leave the swarm on a node that is participating as a manager.",
            ));
        }
        self.state()?.member = false;
        Ok(())
    }

    async fn cluster(&self) -> Result<cluster::Cluster> {
        let spec = self.state()?.spec.clone();
        Ok(cluster::Cluster {
            id: ClusterId::from_u128(1),
            meta: Meta::default(),
            spec,
            ca_cert_pem: "PEM".into(),
            ca_key_sealed: Vec::new(),
            worker_secret: String::new(),
            manager_secret: String::new(),
            address_pool: "10.0.0.0/8".parse().expect("a subnet"),
            subnet_prefix: 24,
            operators: Vec::new(),
        })
    }

    async fn cluster_update(&self, _: Version, spec: cluster::ClusterSpec) -> Result<()> {
        self.state()?.spec = spec;
        Ok(())
    }

    async fn join_tokens(&self) -> Result<JoinTokens> {
        Ok(JoinTokens { worker: "MSTR-1-w".into(), manager: "MSTR-1-m".into() })
    }

    async fn rotate_join_tokens(&self, _: bool, _: bool) -> Result<JoinTokens> {
        self.join_tokens().await
    }

    async fn node_list(&self) -> Result<Vec<NodeView>> {
        let spec = self.state()?.node_spec.clone();
        let node = Node {
            id: NODE,
            meta: Meta { version: Version(9), ..Meta::default() },
            spec: spec.unwrap_or_else(|| NodeSpec { role: Role::Manager, ..NodeSpec::default() }),
            role: Role::Manager,
            description: NodeDescription {
                hostname: "vm".into(),
                vtep: Some(std::net::Ipv4Addr::new(10, 99, 0, 1)),
                os: "linux".into(),
                arch: "x86_64".into(),
                ..Default::default()
            },
            status: NodeStatus { state: NodeState::Ready, ..Default::default() },
            manager_addr: Some(addr()),
        };
        Ok(vec![NodeView { node, leader: true, reachable: true }])
    }

    async fn node_inspect(&self, name: &str) -> Result<NodeView> {
        let mut nodes = self.node_list().await?;
        nodes.retain(|n| n.node.id.to_string().starts_with(name) || n.node.description.hostname == name);
        nodes.pop().ok_or_else(|| Error::not_found(format!("node {name} not found")))
    }

    async fn node_update(&self, _: NodeId, version: Version, spec: NodeSpec) -> Result<()> {
        if version != Version(9) {
            return Err(Error::new(Kind::OutOfSequence, "update out of sequence"));
        }
        self.state()?.node_spec = Some(spec);
        Ok(())
    }

    async fn node_remove(&self, name: &str, _: bool) -> Result<()> {
        Err(Error::conflict(format!("node {name} is not down and can't be removed")))
    }

    async fn service_create(&self, spec: ServiceSpec) -> Result<Made<ServiceId>> {
        let mut state = self.state()?;
        if state.services.iter().any(|s| s.spec.name == spec.name) {
            return Err(Error::conflict(format!(
                "name conflicts with an existing object: service {} already exists",
                spec.name
            )));
        }
        state.version += 1;
        let version = Version(state.version);
        let id = ServiceId::from_u128(1000 + u128::from(state.version));
        state.services.push(Service {
            id,
            meta: Meta { version, created_at: Timestamp(1), updated_at: Timestamp(1) },
            spec,
            previous_spec: None,
            spec_version: version,
            endpoint: Endpoint::default(),
            update_status: None,
            removing: false,
        });
        Ok(Made { id, warnings: Vec::new() })
    }

    async fn service_list(&self) -> Result<Vec<ServiceView>> {
        let state = self.state()?;
        let shown = |service: &Service| {
            let mut service = service.clone();
            let vips = networks_of(&state, &service).filter_map(|n| Some((n.id, n.subnet.nth(2)?)));
            service.endpoint.vips = vips.collect();
            view(service)
        };
        Ok(state.services.iter().map(shown).collect())
    }

    async fn service_inspect(&self, name: &str) -> Result<ServiceView> {
        self.find(name).map(view)
    }

    async fn service_update(&self, id: ServiceId, version: Version, spec: ServiceSpec) -> Result<Made<ServiceId>> {
        let mut state = self.state()?;
        state.version += 1;
        let next = Version(state.version);
        let service =
            state.services.iter_mut().find(|s| s.id == id).ok_or_else(|| Error::not_found("no such service"))?;
        if service.meta.version != version {
            return Err(Error::new(Kind::OutOfSequence, "rpc error: code = Unknown desc = update out of sequence"));
        }
        service.previous_spec = Some(Arc::new(std::mem::replace(&mut service.spec, spec)));
        (service.meta.version, service.spec_version) = (next, next);
        Ok(Made { id, warnings: Vec::new() })
    }

    async fn service_rollback(&self, id: ServiceId, version: Version) -> Result<Made<ServiceId>> {
        let previous = self.find(&id.to_string())?.previous_spec;
        let previous = previous.ok_or_else(|| Error::invalid(format!("service {id} does not have a previous spec")))?;
        self.service_update(id, version, (*previous).clone()).await
    }

    async fn service_remove(&self, name: &str) -> Result<()> {
        let id = self.find(name)?.id;
        self.state()?.services.retain(|s| s.id != id);
        Ok(())
    }

    async fn service_logs(&self, name: &str, _: Logs) -> Result<Stream<TaskLog>> {
        let service = self.find(name)?;
        let tasks: Vec<Task> = self.tasks()?.into_iter().filter(|t| t.service == service.id).collect();
        let line = |task: Task| {
            let data = format!("line of {}\n", task.slot).into();
            let chunk = LogChunk { stream: StdStream::Stdout, time: Timestamp(1), data, attrs: Vec::new() };
            Ok(TaskLog { service: task.service, task: task.id, node: NODE, chunk })
        };
        Ok(stream::iter(tasks).map(line).boxed())
    }

    async fn task_list(&self, query: TaskQuery) -> Result<Vec<Task>> {
        let mut tasks = self.tasks()?;
        tasks.retain(|t| query.services.is_empty() || query.services.contains(&t.service));
        Ok(tasks)
    }

    async fn task_inspect(&self, id: &str) -> Result<Task> {
        let found = self.tasks()?.into_iter().find(|t| t.id.to_string().starts_with(id));
        found.ok_or_else(|| Error::not_found(format!("task {id} not found")))
    }

    async fn task_logs(&self, id: &str, _: Logs) -> Result<Stream<TaskLog>> {
        let task = self.task_inspect(id).await?;
        self.service_logs(&task.service_name, Logs::default()).await
    }

    async fn network_create(&self, spec: NetworkSpec) -> Result<Made<NetworkId>> {
        let mut state = self.state()?;
        state.version += 1;
        let id = NetworkId::from_u128(state.version.into());
        let subnet: muster_model::net::Subnet = "10.0.1.0/24".parse().expect("a subnet");
        state.networks.push(Network {
            id,
            meta: Meta::default(),
            spec,
            vni: 4097,
            subnet,
            gateway: subnet.gateway(),
            ingress: false,
        });
        Ok(Made { id, warnings: Vec::new() })
    }

    async fn network_list(&self) -> Result<Vec<Network>> {
        Ok(self.state()?.networks.clone())
    }

    async fn network_inspect(&self, name: &str) -> Result<Network> {
        let found = self.state()?.networks.iter().find(|n| n.spec.name == name || n.id.to_string() == name).cloned();
        found.ok_or_else(|| Error::not_found(format!("network {name} not found")))
    }

    async fn network_remove(&self, name: &str) -> Result<()> {
        let id = self.network_inspect(name).await?.id;
        self.state()?.networks.retain(|n| n.id != id);
        Ok(())
    }
}
