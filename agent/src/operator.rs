//! The operator's credential that a worker's host may hold for its cluster endpoint.
//!
//! A worker's own certificate opens no other node's door. Who administers a host may put a context there, as `muster context`
//! makes them: users of the cluster endpoint of that host then ask the other nodes as that operator. A manager's host has no
//! need of it. It is read when the daemon starts and when it is told to reload; nobody renews it: when it runs out is logged
//! and told in `info`.

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use muster_calls::{Error, Result};
use muster_model::{ClusterId, NodeId, Timestamp};
use muster_mtls::{DialError, Expect, Leaf, OperatorContext, Tls};
use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Between two reminders that a certificate runs out.
const REMIND_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Who can read the file is an operator of the cluster: nobody but root or the daemon's own user may.
fn keeps_to_itself(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(file)?;
    let mode = meta.mode() & 0o7777;
    anyhow::ensure!(
        mode & 0o077 == 0,
        "its mode is {mode:04o}: expected one that lets its owner alone read it, as 0600"
    );
    let (owner, own) = (meta.uid(), nix::unistd::geteuid().as_raw());
    anyhow::ensure!(owner == 0 || owner == own, "it belongs to user {owner}: expected root");
    Ok(())
}

/// A credential, and the connections that were made with it.
pub struct Operator {
    tls: Tls,
    /// Where the cluster was when the context was made.
    addr: String,
    file: PathBuf,
    nodes: Mutex<HashMap<(NodeId, SocketAddr), Channel>>,
    managers: Mutex<HashMap<String, Channel>>,
    /// The manager that answered last.
    answered: Mutex<Option<String>>,
}

impl Operator {
    /// # Errors
    /// Names the field, the file and what is wrong with it. A certificate that has run out is taken: the host has other work.
    pub fn load(file: &Path) -> anyhow::Result<Arc<Self>> {
        let what = || format!("docker-cluster-context: {}", file.display());
        keeps_to_itself(file).with_context(what)?;
        let text = std::fs::read_to_string(file).with_context(what)?;
        let context = OperatorContext::parse(&text)
            .map_err(anyhow::Error::from)
            .with_context(|| format!("{}: expected what `muster context export` writes", what()))?;
        let tls = Tls::new(context.credentials).with_context(what)?;
        let (nodes, managers, answered) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { tls, addr: context.addr, file: file.to_owned(), nodes, managers, answered }))
    }

    /// Whether it opens this cluster now.
    ///
    /// # Errors
    /// `Unavailable`, saying what to do.
    pub fn usable(&self, cluster: ClusterId, now: Timestamp) -> Result<()> {
        let (leaf, file) = (self.tls.leaf(), self.file.display());
        let what_to_do =
            "make one with `muster context create` on a manager's host, put it there and send musterd a SIGHUP";
        let found = leaf.identity.cluster_id;
        if found != cluster {
            return Err(Error::unavailable(format!(
                "docker-cluster-context: {file} is for cluster {found}, and this host is in cluster {cluster}: {what_to_do}"
            )));
        }
        if leaf.expired(now) {
            let end = leaf.not_after.to_rfc3339();
            return Err(Error::unavailable(format!(
                "docker-cluster-context: the operator's certificate in {file} expired at {end}: {what_to_do}"
            )));
        }
        Ok(())
    }

    /// What people should know about it: nothing, while it holds for long.
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        ending(&self.tls.leaf(), now).map(|when| {
            format!("the operator's certificate in {} (docker-cluster-context) {when}", self.file.display())
        })
    }

    /// A channel to a node, dialled when first needed.
    ///
    /// # Errors
    /// [`DialError::Address`].
    pub fn node(&self, id: NodeId, addr: SocketAddr) -> Result<Channel, DialError> {
        let mut nodes = locked(&self.nodes);
        if let Some(channel) = nodes.get(&(id, addr)) {
            return Ok(channel.clone());
        }
        let channel = self.tls.channel_lazy(&addr.to_string(), Expect::Node(id))?;
        nodes.insert((id, addr), channel.clone());
        Ok(channel)
    }

    /// Lets go of the connections to nodes that are there no more, or no more where they were.
    pub fn keep_nodes(&self, there: impl Fn(NodeId, SocketAddr) -> bool) {
        locked(&self.nodes).retain(|(id, addr), _| there(*id, *addr));
    }

    /// A connection to the manager at an address.
    ///
    /// # Errors
    /// [`DialError`]: nobody is there, or no manager of this cluster.
    pub async fn manager(&self, addr: &str) -> Result<Channel, DialError> {
        if let Some(channel) = locked(&self.managers).get(addr) {
            return Ok(channel.clone());
        }
        let channel = self.tls.channel(addr, Expect::Manager).await?;
        locked(&self.managers).insert(addr.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Where to look for a manager: the one that answered last, those that are known, and where the cluster once was.
    pub fn managers(&self, known: impl Iterator<Item = String>) -> Vec<String> {
        let mut all: Vec<String> = locked(&self.answered).iter().cloned().collect();
        for addr in known.chain([self.addr.clone()]) {
            if !all.contains(&addr) {
                all.push(addr);
            }
        }
        all
    }

    pub fn answered(&self, addr: &str) {
        let mut last = locked(&self.answered);
        if last.as_deref() != Some(addr) {
            *last = Some(addr.to_owned());
        }
    }

    /// This manager did not answer: the others are asked before it, and its connection is given up.
    pub fn lost(&self, addr: &str) {
        locked(&self.answered).take_if(|last| last == addr);
        locked(&self.managers).remove(addr);
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says when a certificate ends, once a third of its life or less is left.
fn ending(leaf: &Leaf, now: Timestamp) -> Option<String> {
    let end = leaf.not_after.to_rfc3339();
    match (leaf.expired(now), now >= leaf.renew_at(0.0)) {
        (true, _) => Some(format!("expired at {end}")),
        (false, true) => Some(format!("expires at {end}")),
        (false, false) => None,
    }
}

/// The credential in force, if there is one.
#[derive(Default)]
pub struct Held {
    current: ArcSwapOption<Operator>,
    changed: Notify,
}

impl Held {
    pub fn get(&self) -> Option<Arc<Operator>> {
        self.current.load_full()
    }

    /// Calls that have begun go on with the credential that they began with.
    pub fn set(&self, operator: Option<Arc<Operator>>) {
        if let Some(operator) = &operator {
            let leaf = operator.tls.leaf();
            tracing::info!(
                operator.id = %leaf.identity.node_id,
                cluster.id = %leaf.identity.cluster_id,
                file = %operator.file.display(),
                expires = leaf.not_after.to_rfc3339(),
                "the cluster endpoint asks other nodes as this operator where the host is a worker's"
            );
        }
        self.current.store(operator);
        self.changed.notify_one();
    }

    /// Says in the log that the certificate runs out: from the time on when it is due to be replaced, once a day.
    pub async fn remind(&self, stop: CancellationToken) {
        loop {
            let now = muster_mtls::now();
            let wait = self.get().map(|operator| match operator.warning(now) {
                Some(warning) => {
                    tracing::warn!("{warning}: make a new one with `muster context create` and send musterd a SIGHUP");
                    REMIND_EVERY
                }
                // Looked at once a day, so that a clock that is set is noticed.
                None => operator.tls.leaf().renew_at(0.0).since(now).clamp(Duration::from_secs(1), REMIND_EVERY),
            });
            let due = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = due => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_mtls::{Ca, CertRole, KeyRequest, NodeIdentity, now};

    fn written(dir: &Path, cluster: u128, role: CertRole, lifetime: Duration) -> PathBuf {
        let cluster_id = ClusterId::from_u128(cluster);
        let ca = Ca::create(cluster_id, now()).expect("an authority");
        let key = KeyRequest::new().expect("a key");
        let identity = NodeIdentity { node_id: NodeId::from_u128(2), cluster_id, role };
        let leaf = ca.sign_csr(key.csr(), identity, lifetime, now()).expect("signed");
        let credentials = key.complete(leaf.to_vec(), vec![ca.certificate().clone()]).expect("complete");
        let file = dir.join("lab.pem");
        let text = OperatorContext { addr: "198.18.0.1:2377".into(), credentials }.to_text();
        std::fs::write(&file, text).expect("written");
        mode(&file, 0o600);
        file
    }

    fn mode(file: &Path, mode: u32) {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("its mode");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = written(dir.path(), 1, CertRole::Operator, Duration::from_secs(60));
        mode(&file, 0o640);
        let refused = format!("{:#}", Operator::load(&file).err().expect("refused"));
        assert!(refused.contains("docker-cluster-context") && refused.contains("0640"), "{refused}");
        mode(&file, 0o400);
        Operator::load(&file).expect("loads");
    }

    #[test]
    fn a_file_that_is_no_operators_context_is_refused_by_field_and_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let missing = format!("{:#}", Operator::load(&dir.path().join("nope")).err().expect("refused"));
        assert!(missing.contains("docker-cluster-context") && missing.contains("nope"), "{missing}");
        let node = written(dir.path(), 1, CertRole::Manager, Duration::from_secs(60));
        let refused = format!("{:#}", Operator::load(&node).err().expect("refused"));
        assert!(refused.contains("docker-cluster-context") && refused.contains("operator"), "{refused}");
    }

    #[test]
    fn a_credential_opens_its_own_cluster_until_it_ends_and_says_so_in_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let life = Duration::from_secs(30 * 24 * 3600);
        let operator = Operator::load(&written(dir.path(), 1, CertRole::Operator, life)).expect("loads");
        let (own, other) = (ClusterId::from_u128(1), ClusterId::from_u128(9));
        operator.usable(own, now()).expect("usable");
        assert_eq!(operator.warning(now()), None);
        let refused = operator.usable(other, now()).expect_err("another cluster's");
        assert!(refused.message.contains(&other.to_string()) && refused.message.contains("lab.pem"), "{refused}");
        let late = now().after(Duration::from_secs(25 * 24 * 3600));
        operator.usable(own, late).expect("still usable");
        assert!(operator.warning(late).expect("told").contains("expires at"));
        let after = now().after(life + Duration::from_secs(1));
        let expired = operator.usable(own, after).expect_err("expired");
        assert!(expired.message.contains("expired at") && expired.message.contains("SIGHUP"), "{expired}");
        assert!(operator.warning(after).expect("told").contains("expired at"));
    }

    #[test]
    fn the_manager_that_answered_last_is_asked_first_and_none_twice() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = written(dir.path(), 1, CertRole::Operator, Duration::from_secs(60));
        let operator = Operator::load(&file).expect("loads");
        let known = || ["198.18.0.3:2377", "198.18.0.1:2377"].map(str::to_owned).into_iter();
        assert_eq!(operator.managers(known()), ["198.18.0.3:2377", "198.18.0.1:2377"]);
        operator.answered("198.18.0.1:2377");
        assert_eq!(operator.managers(known()), ["198.18.0.1:2377", "198.18.0.3:2377"]);
    }
}
