//! Volumes of plugins: what of Docker's volume plugin protocol (`VolumeDriver.*`) is asked, and when.

use super::{LOCAL, VolumeRecord, Volumes};
use crate::plugin::Wait;
use muster_calls::{Error, Kind, Result};
use muster_model::engine::{Strings, Time, Volume};
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;

const VOLUME_DRIVER: &str = "VolumeDriver";

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Mounted {
    #[serde(default)]
    mountpoint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    name: String,
    #[serde(default)]
    mountpoint: Option<String>,
    #[serde(default)]
    created_at: Option<Time>,
    #[serde(default)]
    status: Option<std::collections::BTreeMap<String, serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Got {
    volume: Told,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(default)]
    volumes: Option<Vec<Told>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Able {
    capabilities: Scope,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Scope {
    #[serde(default)]
    scope: String,
}

impl Volumes {
    /// Calls a driver's method.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        driver: &str,
        method: &str,
        request: serde_json::Value,
    ) -> Result<T> {
        self.plugins.call(driver, &format!("{VOLUME_DRIVER}.{method}"), &request, Wait::Long).await
    }

    /// Has a new volume made by its plugin, unless that knows it already.
    pub(super) async fn create_at_driver(&self, record: &VolumeRecord) -> Result<()> {
        let (name, driver) = (&record.name, record.driver());
        self.plugins.find(driver, VOLUME_DRIVER).await.map_err(|e| {
            Error::new(e.kind, format!("create {name}: error looking up volume plugin {driver}: {}", e.message))
        })?;
        // Docker takes a volume over that the plugin has already.
        if self.ask::<Got>(driver, "Get", json!({ "Name": name })).await.is_ok_and(|got| got.volume.name == *name) {
            return Ok(());
        }
        let request = json!({ "Name": name, "Opts": record.options });
        let made = self.ask::<Nothing>(driver, "Create", request).await;
        made.map(drop).map_err(|e| Error::new(e.kind, format!("create {name}: {}", e.message)))
    }

    pub(super) async fn remove_at_driver(&self, name: &str, driver: &str) -> Result<()> {
        self.ask::<Nothing>(driver, "Remove", json!({ "Name": name })).await.map(drop)
    }

    /// Mounts a volume for the user `id`; answers with where.
    pub(super) async fn mount_at_driver(&self, name: &str, driver: &str, id: &str) -> Result<PathBuf> {
        let told: Mounted = self.ask(driver, "Mount", json!({ "Name": name, "ID": id })).await?;
        let path = PathBuf::from(told.mountpoint.unwrap_or_default());
        if path.is_absolute() {
            return Ok(path);
        }
        let text = format!("plugin {driver}: volume {name} is mounted at {path:?}, which is no absolute path");
        Err(Error::internal(text))
    }

    pub(super) async fn unmount_at_driver(&self, name: &str, driver: &str, id: &str) -> Result<()> {
        self.ask::<Nothing>(driver, "Unmount", json!({ "Name": name, "ID": id })).await.map(drop)
    }

    /// A recorded volume of a plugin, with what the plugin says of it.
    pub(super) async fn document_of_driver(&self, record: &VolumeRecord) -> Result<Volume> {
        let driver = record.driver();
        let got: Got = self.ask(driver, "Get", json!({ "Name": record.name })).await?;
        let scope = match self.ask::<Able>(driver, "Capabilities", json!({})).await {
            Ok(able) if able.capabilities.scope == "global" => "global",
            // Docker takes a plugin without this method for a local one.
            _ => "local",
        };
        let told = document(got.volume, driver);
        let own = self.document(record);
        Ok(Volume { mountpoint: told.mountpoint, status: told.status, scope: scope.to_owned(), ..own })
    }

    /// What every volume plugin of the host lists, and words about those that do not answer. Hosts without plugins have an
    /// empty folder to read, and nothing else.
    pub(super) async fn foreign_volumes(&self) -> (Vec<Volume>, Vec<String>) {
        let (mut volumes, mut warnings) = (Vec::new(), Vec::new());
        for driver in self.plugins.names() {
            let plugin = match self.plugins.find(&driver, VOLUME_DRIVER).await {
                Ok(plugin) => plugin,
                // A plugin of another kind.
                Err(e) if e.kind == Kind::NotFound => continue,
                Err(e) => {
                    warnings.push(e.message);
                    continue;
                }
            };
            match plugin.call_soon::<Listed>("VolumeDriver.List", &json!({})).await {
                Ok(listed) => {
                    volumes.extend(listed.volumes.unwrap_or_default().into_iter().map(|told| document(told, &driver)))
                }
                Err(e) => {
                    self.plugins.forget(&driver);
                    warnings.push(format!("error while listing volumes from driver {driver}: {}", e.message));
                }
            }
        }
        (volumes, warnings)
    }

    /// Names of drivers, for `info`. Blocks on the disk.
    pub fn drivers(&self) -> Vec<String> {
        std::iter::once(LOCAL.to_owned()).chain(self.plugins.names_for(VOLUME_DRIVER)).collect()
    }
}

fn document(told: Told, driver: &str) -> Volume {
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    let status: Strings = told.status.unwrap_or_default().into_iter().map(|(key, value)| (key, text(value))).collect();
    Volume {
        name: told.name,
        driver: driver.to_owned(),
        mountpoint: told.mountpoint.unwrap_or_default(),
        created_at: told.created_at.unwrap_or_default(),
        scope: "local".to_owned(),
        status,
        ..Volume::default()
    }
}
