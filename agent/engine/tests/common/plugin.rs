//! A volume plugin: its volumes are folders.

#[path = "plugin_server.rs"]
mod server;

use serde_json::{Value, json};
use server::{Reply, Server};
use std::{collections::BTreeMap, fs, path::Path};

/// A running plugin.
pub struct Plugin(Server);

impl Plugin {
    /// Serves at `FOLDER/NAME.sock`; the files of its volumes are below `files`.
    pub fn serve(folder: &Path, name: &str, files: &Path) -> Self {
        let (mut volumes, files) = (BTreeMap::new(), files.to_owned());
        Self(Server::serve(folder, name, move |method, body| match reply(method, body, &mut volumes, &files) {
            Ok(value) => Reply::Json(value),
            Err(text) => Reply::Fail(text),
        }))
    }

    /// The calls of a method so far.
    pub fn calls(&self, method: &str) -> Vec<Value> {
        self.0.calls(method)
    }
}

fn reply(method: &str, body: &Value, volumes: &mut BTreeMap<String, Value>, files: &Path) -> Result<Value, String> {
    let name = body["Name"].as_str().unwrap_or_default().to_owned();
    let path = files.join(&name);
    let known = |volumes: &BTreeMap<String, Value>| match volumes.contains_key(&name) {
        true => Ok(json!({ "Name": name, "Mountpoint": path, "Status": { "made": "by a test" } })),
        false => Err(format!("no volume {name}")),
    };
    match method {
        "Plugin.Activate" => Ok(json!({ "Implements": ["VolumeDriver"] })),
        "VolumeDriver.Create" if body["Opts"]["fail"] == "yes" => Err("told to fail".into()),
        "VolumeDriver.Create" => {
            fs::create_dir_all(&path).map_err(|e| e.to_string())?;
            volumes.insert(name, body["Opts"].clone());
            Ok(json!({}))
        }
        "VolumeDriver.Remove" => volumes.remove(&name).map(|_| json!({})).ok_or("no such volume".into()),
        "VolumeDriver.Get" => known(volumes).map(|volume| json!({ "Volume": volume })),
        "VolumeDriver.Mount" | "VolumeDriver.Path" => known(volumes).map(|_| json!({ "Mountpoint": path })),
        "VolumeDriver.Unmount" => Ok(json!({})),
        "VolumeDriver.List" => {
            let all = volumes.keys().map(|name| json!({ "Name": name, "Mountpoint": files.join(name) }));
            Ok(json!({ "Volumes": all.collect::<Vec<_>>() }))
        }
        "VolumeDriver.Capabilities" => Ok(json!({ "Capabilities": { "Scope": "global" } })),
        other => Err(format!("unknown method {other}")),
    }
}
