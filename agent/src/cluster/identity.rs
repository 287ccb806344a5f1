//! What makes this host a member, on disk: certificate and key, and where the managers are.
//!
//! `identity.pem` (mode 0600) is the commit point of joining: without it the host is no member, whatever else is there.

use anyhow::Context as _;
use muster_model::NodeId;
use muster_mtls::Credentials;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// What a member knows besides its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    pub listen_addr: SocketAddr,
    pub addr: SocketAddr,
    /// Managers as last heard of.
    pub managers: Vec<(NodeId, String)>,
    /// Serials of operators' certificates that were called back, as last heard of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<String>,
}

/// The folder that holds it.
#[derive(Clone, Debug)]
pub struct IdentityDir(PathBuf);

impl IdentityDir {
    pub fn new(data_dir: &Path) -> Self {
        Self(data_dir.join("cluster"))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Data of the control plane.
    pub fn controller(&self) -> PathBuf {
        self.0.join("controller")
    }

    fn pem(&self) -> PathBuf {
        self.0.join("identity.pem")
    }

    pub fn is_a_member(&self) -> bool {
        self.pem().exists()
    }

    fn facts(&self) -> PathBuf {
        self.0.join("member.json")
    }

    /// `None`: this host is no member.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub fn load(&self) -> anyhow::Result<Option<(Credentials, Facts)>> {
        let Some(credentials) = Credentials::load(&self.pem())? else { return Ok(None) };
        let file = self.facts();
        let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let facts = serde_json::from_slice(&text).with_context(|| format!("{}", file.display()))?;
        Ok(Some((credentials, facts)))
    }

    /// # Errors
    /// When the disk does not take it; the host is then what it was before.
    pub fn save(&self, credentials: &Credentials, facts: &Facts) -> anyhow::Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("create {}", self.0.display()))?;
        self.save_facts(facts)?;
        credentials.save(&self.pem()).context("save the certificate")
    }

    pub fn save_credentials(&self, credentials: &Credentials) -> anyhow::Result<()> {
        credentials.save(&self.pem()).context("save the certificate")
    }

    pub fn save_facts(&self, facts: &Facts) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec_pretty(facts).context("encode member.json")?;
        muster_mtls::write_private(&self.facts(), &bytes).context("save member.json")
    }

    /// This host is no member any more. The certificate goes first: what is left after a crash is no identity.
    pub fn remove(&self) -> anyhow::Result<()> {
        for gone in [self.pem(), self.facts()] {
            match fs::remove_file(&gone) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("remove {}", gone.display()));
                }
                _ => {}
            }
        }
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}
