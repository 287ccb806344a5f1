//! A new cluster: its authority, its secrets, and the first manager's identity.

use crate::{SealKey, StartError, clock::random_id};
use muster_controller_core::{NewCluster, Registration};
use muster_model::{
    ClusterId, NodeId,
    cluster::{ClusterSpec, NodeDescription},
    net::Subnet,
    spec::{Availability, Labels, Role},
};
use muster_mtls::{Ca, CertRole, Credentials, KeyRequest, NodeIdentity, new_secret};
use std::net::SocketAddr;

/// Everything that [`crate::Bootstrap::New`] needs, made but nowhere written.
#[derive(Debug)]
pub struct Founding {
    pub cluster: NewCluster,
    pub first: Registration,
    pub credentials: Credentials,
    pub seal_key: SealKey,
}

impl Founding {
    /// Draws ids, keys and secrets. `addr`: where this first manager is reached.
    ///
    /// # Errors
    /// [`StartError::Random`], [`StartError::Mtls`], [`StartError::Seal`].
    pub fn new(
        spec: ClusterSpec,
        address_pool: Subnet,
        subnet_prefix: u8,
        description: NodeDescription,
        addr: SocketAddr,
    ) -> Result<Self, StartError> {
        let (id, node) = (ClusterId::from_u128(random_id()?), NodeId::from_u128(random_id()?));
        let now = muster_mtls::now();
        let ca = Ca::create(id, now)?;
        let seal_key = SealKey::generate()?;
        let request = KeyRequest::new()?;
        let identity = NodeIdentity { node_id: node, cluster_id: id, role: CertRole::Manager };
        let leaf = ca.sign_csr(request.csr(), identity, spec.certificate_lifetime, now)?;
        let credentials = request.complete(leaf.to_vec(), vec![ca.certificate().clone()])?;
        let cluster = NewCluster {
            id,
            spec,
            ca_cert_pem: ca.certificate_pem(),
            ca_key_sealed: seal_key.seal(id, ca.key_der())?,
            worker_secret: new_secret()?,
            manager_secret: new_secret()?,
            address_pool,
            subnet_prefix,
        };
        let first = Registration {
            node,
            role: Role::Manager,
            availability: Availability::Active,
            labels: Labels::new(),
            description,
            manager_addr: Some(addr),
        };
        Ok(Self { cluster, first, credentials, seal_key })
    }
}
