//! A network plugin with a bridge for each network and a veth pair for each endpoint, and an address plugin that counts; both
//! make what they make in the network namespace of the thread that started them.

#![allow(dead_code)]

#[path = "plugin_server.rs"]
mod server;

use serde_json::{Value, json};
pub use server::{Reply, Server};
use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

/// What a method is made to answer instead of what is right.
type Faults = Arc<Mutex<BTreeMap<String, fn() -> Reply>>>;

/// A running plugin.
pub struct Plugin {
    pub server: Server,
    faults: Faults,
}

impl Plugin {
    /// Serves at `FOLDER/NAME.sock`.
    pub fn serve(folder: &Path, name: &str) -> Self {
        let faults = Faults::default();
        let (told, mut next) = (faults.clone(), 10);
        let server = Server::serve(folder, name, move |method, body| {
            if let Some(fault) = told.lock().expect("no panic under it").get(method) {
                let fault = fault();
                if matches!(fault, Reply::Lost) {
                    reply(method, body, &mut next).expect("done");
                }
                return fault;
            }
            match reply(method, body, &mut next) {
                Ok(value) => Reply::Json(value),
                Err(text) => Reply::Fail(text),
            }
        });
        Self { server, faults }
    }

    /// From now on a method answers so.
    pub fn fail(&self, method: &str, reply: fn() -> Reply) {
        self.faults.lock().expect("no panic under it").insert(method.to_owned(), reply);
    }

    pub fn mend(&self) {
        self.faults.lock().expect("no panic under it").clear();
    }

    pub fn calls(&self, method: &str) -> Vec<Value> {
        self.server.calls(method)
    }
}

pub fn ip(words: &str) -> Result<String, String> {
    let out = Command::new("ip").args(words.split(' ')).output().map_err(|e| e.to_string())?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(format!("ip {words}: {}", String::from_utf8_lossy(&out.stderr).trim()))
    }
}

fn short(id: &Value) -> String {
    id.as_str().unwrap_or_default().chars().take(9).collect()
}

fn reply(method: &str, body: &Value, next: &mut u8) -> Result<Value, String> {
    let (bridge, near, far) = (
        format!("br{}", short(&body["NetworkID"])),
        format!("vh{}", short(&body["EndpointID"])),
        format!("vc{}", short(&body["EndpointID"])),
    );
    match method {
        "Plugin.Activate" => Ok(json!({ "Implements": ["NetworkDriver", "IpamDriver"] })),
        "NetworkDriver.GetCapabilities" => Ok(json!({ "Scope": "local", "ConnectivityScope": "local" })),
        "NetworkDriver.CreateNetwork" => {
            ip(&format!("link add {bridge} type bridge"))?;
            if let Some(gateway) = body["IPv4Data"][0]["Gateway"].as_str() {
                ip(&format!("addr add {gateway} dev {bridge}"))?;
            }
            if let Some(gateway) = body["IPv6Data"][0]["Gateway"].as_str() {
                ip(&format!("-6 addr add {gateway} dev {bridge} nodad"))?;
            }
            ip(&format!("link set {bridge} up")).map(|_| json!({}))
        }
        "NetworkDriver.DeleteNetwork" => ip(&format!("link del {bridge}")).map(|_| json!({})),
        "NetworkDriver.CreateEndpoint" => {
            ip(&format!("link add {near} type veth peer name {far}"))?;
            ip(&format!("link set {near} master {bridge} up"))?;
            *next += 1;
            let own = format!("02:99:00:00:00:{next:02x}");
            let mac = if body["Interface"]["MacAddress"] == "" { own.as_str() } else { "" };
            let address = if body["Interface"]["Address"] == "" { "10.77.0.9/24" } else { "" };
            Ok(json!({ "Interface": { "Address": address, "AddressIPv6": "", "MacAddress": mac } }))
        }
        "NetworkDriver.Join" => Ok(json!({
            "InterfaceName": { "SrcName": far, "DstName": "", "DstPrefix": "lan" },
            "Gateway": gateway(&bridge, "-4")?, "GatewayIPv6": gateway(&bridge, "-6")?,
            "StaticRoutes": [{ "Destination": "10.99.0.0/16", "RouteType": 1, "NextHop": "" }],
            "DisableGatewayService": false,
        })),
        "NetworkDriver.EndpointOperInfo" => Ok(json!({ "Value": {} })),
        "NetworkDriver.Leave" => Ok(json!({})),
        "NetworkDriver.DeleteEndpoint" => ip(&format!("link del {near}")).map(|_| json!({})),
        "NetworkDriver.ProgramExternalConnectivity" | "NetworkDriver.RevokeExternalConnectivity" => Ok(json!({})),
        "IpamDriver.GetDefaultAddressSpaces" => {
            Ok(json!({ "LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "there" }))
        }
        "IpamDriver.GetCapabilities" => Ok(json!({ "RequiresMACAddress": true })),
        "IpamDriver.RequestPool" => Ok(json!({ "PoolID": "p1", "Pool": "10.55.0.0/24", "Data": {} })),
        "IpamDriver.RequestAddress" => {
            let wanted = body["Address"].as_str().filter(|a| !a.is_empty()).map(str::to_owned);
            *next += 1;
            Ok(json!({ "Address": format!("{}/24", wanted.unwrap_or(format!("10.55.0.{next}"))), "Data": {} }))
        }
        "IpamDriver.ReleaseAddress" | "IpamDriver.ReleasePool" => Ok(json!({})),
        other => Err(format!("unknown method {other}")),
    }
}

/// The first address of the bridge that is not of the link alone.
fn gateway(bridge: &str, family: &str) -> Result<String, String> {
    let shown = ip(&format!("{family} -o addr show dev {bridge} scope global"))?;
    let address = shown.split_whitespace().find(|w| w.contains('/')).unwrap_or_default();
    Ok(address.split('/').next().unwrap_or_default().to_owned())
}
