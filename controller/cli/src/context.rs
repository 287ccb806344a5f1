//! Contexts: one file each, with an operator's certificate and key and the cluster's address.

use anyhow::{Context as _, bail};
use muster_mtls::{KeyRequest, OperatorContext};
use muster_proto::v1;
use std::{fs, path::PathBuf};
use tonic::transport::Channel;

/// This host's own socket.
pub const DEFAULT: &str = "default";

fn folder() -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os("MUSTER_CONFIG_DIR") {
        return Ok(dir.into());
    }
    let home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".config")));
    Ok(home.context("HOME is not set: contexts have no folder (or set MUSTER_CONFIG_DIR)")?.join("muster"))
}

fn file(name: &str) -> anyhow::Result<PathBuf> {
    muster_model::spec::check_name("context", name, 63)?;
    if name == DEFAULT {
        bail!("context {DEFAULT} is this host's own socket: it has no file");
    }
    Ok(folder()?.join("contexts").join(format!("{name}.pem")))
}

/// The context in use, if one was chosen.
pub fn current() -> anyhow::Result<Option<String>> {
    let Ok(folder) = folder() else { return Ok(None) };
    match fs::read_to_string(folder.join("current")) {
        Ok(name) => Ok(Some(name.trim().to_owned()).filter(|n| !n.is_empty())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context("the file that names the current context"),
    }
}

pub fn load(name: &str) -> anyhow::Result<OperatorContext> {
    let path = file(name)?;
    let text = fs::read_to_string(&path).with_context(|| format!("context {name} ({})", path.display()))?;
    OperatorContext::parse(&text).with_context(|| format!("context {name} ({})", path.display()))
}

fn store(name: &str, context: &OperatorContext) -> anyhow::Result<()> {
    let path = file(name)?;
    let dir = path.parent().context("a context's file has a folder")?;
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(muster_mtls::write_private(&path, context.to_text().as_bytes())?)
}

/// Asks the host for an operator's certificate and stores it.
pub async fn create(channel: Channel, name: &str, addr: &str) -> anyhow::Result<()> {
    file(name)?;
    let key = KeyRequest::new()?;
    let request = v1::IssueRequest { csr: key.csr().to_vec().into(), name: name.to_owned(), ..Default::default() };
    let reply = v1::ca_client::CaClient::new(channel).issue_operator(request).await;
    let reply = reply.map_err(|s| anyhow::anyhow!("{}", s.message()))?.into_inner();
    let roots = reply.roots.iter().map(|r| r.to_vec().into()).collect();
    let credentials = key.complete(reply.certificate.to_vec(), roots)?;
    store(name, &OperatorContext { addr: addr.to_owned(), credentials })
}

pub fn list() -> anyhow::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(folder()?.join("contexts")) {
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(name) = name.strip_suffix(".pem") {
                let addr = load(name).map_or_else(|e| format!("unreadable: {e:#}"), |c| c.addr);
                found.push((name.to_owned(), addr));
            }
        }
    }
    found.sort();
    Ok(found)
}

pub fn choose(name: &str) -> anyhow::Result<()> {
    if name != DEFAULT {
        load(name)?;
    }
    let folder = folder()?;
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("current"), name).context("write the file that names the current context")
}

pub fn export(name: &str) -> anyhow::Result<String> {
    fs::read_to_string(file(name)?).with_context(|| format!("context {name}"))
}

pub fn import(name: &str, text: &str) -> anyhow::Result<()> {
    store(name, &OperatorContext::parse(text).context("this is no exported context")?)
}

pub fn remove(name: &str) -> anyhow::Result<()> {
    fs::remove_file(file(name)?).with_context(|| format!("context {name}"))?;
    if current()?.as_deref() == Some(name) {
        choose(DEFAULT)?;
    }
    Ok(())
}
