//! What a new container asks of its node, read from the request: in the words of Docker's classic Swarm and in our own.
//!
//! | in the request | means |
//! |---|---|
//! | name `NODE/NAME` | on that node, as NAME |
//! | environment `constraint:node==NODE`, `constraint:KEY==VALUE` | node; engine label KEY; `!=` for any other, `==~` and `!=~` where it can be |
//! | environment `affinity:container==X` | where X is; `!=` anywhere else |
//! | label `com.docker.swarm.constraints`, `com.docker.swarm.affinities` | the same as a JSON list of texts without the prefix |
//! | label `muster.node` | on that node |
//! | keys `node.labels.K`, `engine.labels.K`, `node.role`, ... | as in the constraints of services |
//! | `--network container:X`, `--pid`, `--ipc`, `--volumes-from`, `--link` on the default bridge | where X is |
//! | a named volume, a network of one host | where it is, if it is anywhere |
//! | `-m`, `--memory-reservation`, `--cpus`, `-p HOST:...` | room that must be free there |
//!
//! Constraints of the environment move into the labels, as classic Swarm moved them: the process does not see them.

use muster_calls::{Error, Result, SurveyQuery};
use muster_model::{
    NodeId,
    engine::{ContainerCreateBody, Mount, Strings},
    net::Protocol,
    spec::Constraint,
};
use std::collections::BTreeSet;

const CONSTRAINTS: &str = "com.docker.swarm.constraints";
const AFFINITIES: &str = "com.docker.swarm.affinities";
const NODE: &str = "muster.node";
/// Compose's, on a container that takes another's place: that one's id or a name of it.
pub(super) const REPLACES: &str = "com.docker.compose.replace";

/// What was read out of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Without the node's name.
    pub name: Option<String>,
    pub constraints: Vec<String>,
    pub preferred: Vec<String>,
    pub containers: Vec<Neighbour>,
    pub volumes: BTreeSet<String>,
    pub networks: BTreeSet<String>,
    pub image: String,
    pub nano_cpus: u64,
    pub memory_bytes: u64,
    pub ports: Vec<(Protocol, u16)>,
}

/// A container whose node matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub name: String,
    /// On its node; else on any other.
    pub beside: bool,
    /// Else: where it can be.
    pub must: bool,
}

/// `NODE/NAME` in two. No name of an object has a slash in it.
pub fn split_node(name: &str) -> (Option<&str>, &str) {
    match name.strip_prefix('/').unwrap_or(name).split_once('/') {
        Some((node, rest)) => (Some(node), rest),
        None => (None, name.strip_prefix('/').unwrap_or(name)),
    }
}

/// That a node is the one called so: its id or hostname.
pub fn on_node(node: &str) -> String {
    match node.parse::<NodeId>() {
        Ok(id) => format!("node.id=={id}"),
        Err(_) => format!("node.hostname=={node}"),
    }
}

/// The networks that every host has by itself.
pub fn is_predefined(network: &str) -> bool {
    matches!(network, "" | "default" | "bridge" | "host" | "none") || network.starts_with("container:")
}

impl Demand {
    /// Reads a request and takes out of it what is not for the engine.
    ///
    /// # Errors
    /// `Invalid` for what is no constraint; `Unimplemented` for affinities that Muster does not have.
    pub fn take(name: Option<String>, platform: &str, body: &mut ContainerCreateBody) -> Result<Self> {
        let mut demand = Self { image: body.config.image.clone(), ..Self::default() };
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            demand.name = Some(demand.unqualified(&name));
        }
        demand.take_words(&mut body.config.env, &mut body.config.labels)?;
        if let Some(arch) = platform.split('/').nth(1).filter(|a| !a.is_empty()) {
            demand.constraints.push(format!("node.platform.arch=={arch}"));
        }
        demand.take_neighbours(body);
        demand.take_volumes(body);
        demand.take_networks(body);
        let host = &body.host_config;
        demand.nano_cpus = host.resources.reserved_nano_cpus();
        demand.memory_bytes = host.resources.reserved_memory_bytes();
        let protocol = |port: &str| if port.ends_with("/udp") { Protocol::Udp } else { Protocol::Tcp };
        demand.ports = host.fixed_ports().map(|(port, published)| (protocol(port), published)).collect();
        if let Some(replaced) = body.config.labels.get(REPLACES) {
            // It is made while the other still has the ports, and started when that has been stopped.
            demand.ports.clear();
            demand.containers.push(Neighbour { name: replaced.clone(), beside: true, must: false });
        }
        Ok(demand)
    }

    /// What the nodes are to be asked.
    pub fn query(&self) -> SurveyQuery {
        let containers = self.containers.iter().map(|c| c.name.clone()).chain(self.name.clone());
        SurveyQuery {
            containers: containers.collect(),
            volumes: self.volumes.clone(),
            networks: self.networks.clone(),
            image: self.image.clone(),
            load: true,
        }
    }

    /// Whether the request says which node it is to be on.
    pub fn names_a_node(&self) -> bool {
        self.constraints.iter().any(|c| ["node.id==", "node.hostname=="].iter().any(|key| c.starts_with(key)))
    }

    /// Takes the node off a name: it becomes a constraint.
    fn unqualified(&mut self, name: &str) -> String {
        let (node, rest) = split_node(name);
        self.constraints.extend(node.map(on_node));
        rest.to_owned()
    }

    fn take_words(&mut self, env: &mut Vec<String>, labels: &mut Strings) -> Result<()> {
        for (prefix, label) in [("constraint:", CONSTRAINTS), ("affinity:", AFFINITIES)] {
            let mut words = match labels.get(label) {
                None => Vec::new(),
                Some(text) => serde_json::from_str::<Vec<String>>(text)
                    .map_err(|e| Error::invalid(format!("label {label}: expected a JSON list of texts: {e}")))?,
            };
            words.extend(env.extract_if(.., |e| e.starts_with(prefix)).map(|e| e[prefix.len()..].to_owned()));
            for word in &words {
                match label {
                    CONSTRAINTS => self.constraint(word)?,
                    _ => self.affinity(word)?,
                }
            }
            if !words.is_empty() {
                labels.insert(label.to_owned(), serde_json::json!(words).to_string());
            }
        }
        // Empty: as a variable that is not set leaves it.
        self.constraints.extend(labels.get(NODE).filter(|node| !node.is_empty()).map(|node| on_node(node)));
        Ok(())
    }

    fn constraint(&mut self, text: &str) -> Result<()> {
        let Term { key, equal, must, value } = Term::parse("constraint", text)?;
        let sign = if equal { "==" } else { "!=" };
        let (key, value) = match key {
            "node" => match value.parse::<NodeId>() {
                Ok(id) => ("node.id".to_owned(), id.to_string()),
                Err(_) => ("node.hostname".to_owned(), value.to_owned()),
            },
            key if key.starts_with("node.") || key.starts_with("engine.labels.") => (key.to_owned(), value.to_owned()),
            key => (format!("engine.labels.{key}"), value.to_owned()),
        };
        let constraint = format!("{key}{sign}{value}");
        Constraint::parse(&constraint)?;
        if must {
            self.constraints.push(constraint)
        } else {
            self.preferred.push(constraint)
        }
        Ok(())
    }

    fn affinity(&mut self, text: &str) -> Result<()> {
        let Term { key, equal, must, value } = Term::parse("affinity", text)?;
        if key != "container" {
            return Err(Error::unimplemented(format!("affinity:{text} (only affinity:container==NAME and !=NAME)")));
        }
        let name = self.unqualified(value);
        self.containers.push(Neighbour { name, beside: equal, must });
        Ok(())
    }

    fn neighbour(&mut self, name: &str) -> String {
        let name = self.unqualified(name);
        self.containers.push(Neighbour { name: name.clone(), beside: true, must: true });
        name
    }

    fn take_neighbours(&mut self, body: &mut ContainerCreateBody) {
        let host = &mut body.host_config;
        for mode in [&mut host.network_mode, &mut host.pid_mode, &mut host.ipc_mode] {
            if let Some(name) = mode.strip_prefix("container:") {
                *mode = format!("container:{}", self.neighbour(name));
            }
        }
        for text in &mut host.volumes_from {
            *text = renamed(text, |name| self.neighbour(name));
        }
        // On other networks than the default bridge a link is one more name, asked of the name server: no matter where.
        let near = is_predefined(&host.network_mode);
        for text in &mut host.links {
            *text = renamed(text, |name| if near { self.neighbour(name) } else { split_node(name).1.to_owned() });
        }
    }

    fn take_volumes(&mut self, body: &mut ContainerCreateBody) {
        let host = &mut body.host_config;
        // Other drivers' volumes are where their drivers say.
        let local = |driver: &str| matches!(driver, "" | "local");
        if local(&host.volume_driver) {
            for bind in &mut host.binds {
                let Some((source, rest)) = bind.split_once(':') else { continue };
                if !source.starts_with(['/', '.', '~']) {
                    let source = self.volume(source);
                    *bind = format!("{source}:{rest}");
                }
            }
        }
        for mount in host.mounts.iter_mut().filter(|m| m.kind == "volume" && !m.source.is_empty()) {
            if local(volume_driver(mount)) {
                mount.source = self.volume(&mount.source);
            }
        }
    }

    fn volume(&mut self, name: &str) -> String {
        let name = self.unqualified(name);
        self.volumes.insert(name.clone());
        name
    }

    fn take_networks(&mut self, body: &mut ContainerCreateBody) {
        let mut network = |name: &str| {
            if is_predefined(name) {
                return name.to_owned();
            }
            let name = self.unqualified(name);
            self.networks.insert(name.clone());
            name
        };
        body.host_config.network_mode = network(&body.host_config.network_mode);
        let endpoints = std::mem::take(&mut body.networking_config.endpoints_config);
        body.networking_config.endpoints_config =
            endpoints.into_iter().map(|(name, endpoint)| (network(&name), endpoint)).collect();
    }
}

/// `NAME[:REST]` with another name.
fn renamed(text: &str, rename: impl FnOnce(&str) -> String) -> String {
    match text.split_once(':') {
        Some((name, rest)) => format!("{}:{rest}", rename(name)),
        None => rename(text),
    }
}

fn volume_driver(mount: &Mount) -> &str {
    let options = mount.volume_options.as_ref();
    options.and_then(|o| o.driver_config.as_ref()).map_or("", |d| d.name.as_str())
}

/// `KEY==VALUE`, `!=`, either with `~` for "where it can be".
struct Term<'a> {
    key: &'a str,
    equal: bool,
    must: bool,
    value: &'a str,
}

impl<'a> Term<'a> {
    fn parse(what: &str, text: &'a str) -> Result<Self> {
        let form = |why: &str| {
            let shown: String = text.chars().take(80).collect();
            Error::invalid(format!(
                "{what}:{shown}: {why}; expected KEY==VALUE or KEY!=VALUE, `==~` and `!=~` for a preference"
            ))
        };
        let found =
            [("==", true), ("!=", false)].into_iter().filter_map(|(sign, equal)| Some((text.find(sign)?, equal)));
        let (at, equal) = found.min().ok_or_else(|| form("there is no == or != in it"))?;
        let (key, value) = (text[..at].trim(), text[at + 2..].trim());
        let (must, value) = value.strip_prefix('~').map_or((true, value), |v| (false, v.trim()));
        if key.is_empty() || value.is_empty() {
            return Err(form("key or value is empty"));
        }
        if value.contains('*') || (value.starts_with('/') && value.ends_with('/')) {
            return Err(form("patterns are not supported"));
        }
        Ok(Self { key, equal, must, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::engine::{ContainerConfig, HostConfig};

    fn of(env: &[&str], labels: &[(&str, &str)], host: HostConfig) -> Result<(Demand, ContainerCreateBody)> {
        let config = ContainerConfig {
            image: "busybox".into(),
            env: env.iter().map(|e| (*e).to_owned()).collect(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..ContainerConfig::default()
        };
        let mut body = ContainerCreateBody { config, host_config: host, ..ContainerCreateBody::default() };
        Demand::take(None, "", &mut body).map(|demand| (demand, body))
    }

    #[test]
    fn a_name_with_a_node_goes_there() {
        let mut body = ContainerCreateBody::default();
        let demand = Demand::take(Some("/host2/web".into()), "linux/arm64", &mut body).expect("valid");
        assert_eq!(demand.name.as_deref(), Some("web"));
        assert_eq!(demand.constraints, ["node.hostname==host2", "node.platform.arch==arm64"]);
        assert!(demand.names_a_node());
    }

    #[test]
    fn constraints_of_the_environment_move_into_the_labels() {
        let env = ["A=b", "constraint:node==host2", "constraint:disk!=ssd", "constraint:node.role==~worker"];
        let (demand, body) = of(&env, &[(CONSTRAINTS, r#"["region==eu"]"#)], HostConfig::default()).expect("valid");
        assert_eq!(demand.constraints, ["engine.labels.region==eu", "node.hostname==host2", "engine.labels.disk!=ssd"]);
        assert_eq!(demand.preferred, ["node.role==worker"]);
        assert_eq!(body.config.env, ["A=b"]);
        assert_eq!(body.config.labels[CONSTRAINTS], r#"["region==eu","node==host2","disk!=ssd","node.role==~worker"]"#);
        let (elsewhere, _) =
            of(&["constraint:node!=host2", "constraint:node==~host1"], &[], HostConfig::default()).expect("valid");
        assert!(!elsewhere.names_a_node());
        let (demand, _) = of(&[], &[(NODE, "host3")], HostConfig::default()).expect("valid");
        assert_eq!(demand.constraints, ["node.hostname==host3"]);
    }

    #[test]
    fn what_is_no_constraint_is_refused_by_its_text() {
        for (env, why) in [
            ("constraint:node=host2", "no == or !="),
            ("constraint:node==", "empty"),
            ("constraint:node==host*", "patterns"),
            ("constraint:node.size==1", "node.size"),
        ] {
            let e = of(&[env], &[], HostConfig::default()).expect_err(env);
            assert!(e.kind == muster_calls::Kind::Invalid && e.message.contains(why), "{env}: {e}");
        }
        let e = of(&["affinity:image==web"], &[], HostConfig::default()).expect_err("refused");
        assert_eq!(e.kind, muster_calls::Kind::Unimplemented);
        assert!(of(&[], &[(AFFINITIES, "x")], HostConfig::default()).is_err());
    }

    #[test]
    fn what_a_container_shares_must_be_beside_it() {
        let host = HostConfig {
            network_mode: "container:host2/a".into(),
            pid_mode: "container:b".into(),
            volumes_from: vec!["c:ro".into()],
            links: vec!["d:db".into()],
            ..HostConfig::default()
        };
        let (demand, body) = of(&["affinity:container!=~e"], &[], host).expect("valid");
        let names: Vec<_> = demand.containers.iter().map(|c| (c.name.as_str(), c.beside, c.must)).collect();
        assert_eq!(
            names,
            [("e", false, false), ("a", true, true), ("b", true, true), ("c", true, true), ("d", true, true)]
        );
        assert_eq!(demand.constraints, ["node.hostname==host2"]);
        let host = body.host_config;
        assert_eq!((host.network_mode.as_str(), host.pid_mode.as_str()), ("container:a", "container:b"));
        assert_eq!((host.volumes_from, host.links), (vec!["c:ro".to_owned()], vec!["d:db".to_owned()]));
    }

    #[test]
    fn a_link_on_a_network_with_names_goes_anywhere() {
        let host = HostConfig {
            network_mode: "shop".into(),
            links: vec!["host2/db:db".into(), "web".into()],
            ..HostConfig::default()
        };
        let (demand, body) = of(&[], &[], host).expect("valid");
        assert!(demand.containers.is_empty() && demand.constraints.is_empty(), "{demand:?}");
        assert_eq!(body.host_config.links, ["db:db", "web"]);
    }

    #[test]
    fn what_takes_anothers_place_waits_for_no_port() {
        let binding = muster_model::engine::PortBinding { host_port: "80".into(), ..Default::default() };
        let ports = || HostConfig {
            port_bindings: [("8080/udp".into(), Some(vec![binding.clone()]))].into(),
            ..HostConfig::default()
        };
        let (demand, _) = of(&[], &[], ports()).expect("valid");
        assert_eq!(demand.ports, [(Protocol::Udp, 80)]);
        let (demand, _) = of(&[], &[(REPLACES, "shop-web-1")], ports()).expect("valid");
        assert!(demand.ports.is_empty());
        assert_eq!(demand.containers, [Neighbour { name: "shop-web-1".into(), beside: true, must: false }]);
    }

    #[test]
    fn named_volumes_and_networks_are_looked_for_and_paths_are_not() {
        let mount = Mount { kind: "volume".into(), source: "more".into(), ..Mount::default() };
        let host = HostConfig {
            network_mode: "lane".into(),
            binds: vec!["data:/d".into(), "/etc:/e:ro".into(), "host3/kept:/k".into()],
            mounts: vec![mount],
            ..HostConfig::default()
        };
        let (demand, body) = of(&[], &[], host).expect("valid");
        assert_eq!(demand.volumes, ["data", "kept", "more"].map(str::to_owned).into());
        assert_eq!(demand.networks, ["lane".to_owned()].into());
        assert_eq!(demand.constraints, ["node.hostname==host3"]);
        assert_eq!(body.host_config.binds, ["data:/d", "/etc:/e:ro", "kept:/k"]);
    }
}
