//! A volume plugin: Docker's protocol on a unix socket, its volumes folders. In a thread of its own; ends with the test.

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

#[derive(Default)]
struct State {
    volumes: BTreeMap<String, Value>,
    /// Every call: method and body.
    calls: Vec<(String, Value)>,
}

/// A running plugin.
pub struct Plugin {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Plugin {
    /// Serves at `FOLDER/NAME.sock`; the files of its volumes are below `files`.
    pub fn serve(folder: &Path, name: &str, files: &Path) -> Self {
        fs::create_dir_all(folder).expect("folder");
        let socket = folder.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&socket).expect("listens");
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, files) = (state.clone(), files.to_owned());
        std::thread::spawn(move || {
            // The last connection is the one that ends it.
            for stream in listener.incoming().map_while(Result::ok) {
                if !answer(&stream, &shared, &files) {
                    return;
                }
            }
        });
        Self { socket, state }
    }

    /// The calls of a method so far.
    pub fn calls(&self, method: &str) -> Vec<Value> {
        let state = self.state.lock().expect("no panic under it");
        state.calls.iter().filter(|(m, _)| m == method).map(|(_, body)| body.clone()).collect()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if let Ok(mut stream) = UnixStream::connect(&self.socket) {
            let _ = stream.write_all(b"END\r\n\r\n");
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn answer(stream: &UnixStream, state: &Mutex<State>, files: &Path) -> bool {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|n| n > 2) {}
    let Some(method) = head.strip_prefix("POST /").and_then(|rest| rest.split(' ').next()) else { return false };
    let length = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).expect("body");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let (status, reply) = match reply(method, &body, state, files) {
        Ok(reply) => ("200 OK", reply),
        Err(text) => ("500 Internal Server Error", json!({ "Err": text })),
    };
    let reply = reply.to_string();
    let mut to = stream;
    write!(to, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{reply}", reply.len()).expect("answered");
    true
}

fn reply(method: &str, body: &Value, state: &Mutex<State>, files: &Path) -> Result<Value, String> {
    let mut state = state.lock().expect("no panic under it");
    state.calls.push((method.to_owned(), body.clone()));
    let name = body["Name"].as_str().unwrap_or_default().to_owned();
    let path = files.join(&name);
    let known = |state: &State| match state.volumes.contains_key(&name) {
        true => Ok(json!({ "Name": name, "Mountpoint": path, "Status": { "made": "by a test" } })),
        false => Err(format!("no volume {name}")),
    };
    match method {
        "Plugin.Activate" => Ok(json!({ "Implements": ["VolumeDriver"] })),
        "VolumeDriver.Create" if body["Opts"]["fail"] == "yes" => Err("told to fail".into()),
        "VolumeDriver.Create" => {
            fs::create_dir_all(&path).map_err(|e| e.to_string())?;
            state.volumes.insert(name, body["Opts"].clone());
            Ok(json!({}))
        }
        "VolumeDriver.Remove" => state.volumes.remove(&name).map(|_| json!({})).ok_or("no such volume".into()),
        "VolumeDriver.Get" => known(&state).map(|volume| json!({ "Volume": volume })),
        "VolumeDriver.Mount" | "VolumeDriver.Path" => known(&state).map(|_| json!({ "Mountpoint": path })),
        "VolumeDriver.Unmount" => Ok(json!({})),
        "VolumeDriver.List" => {
            let all = state.volumes.keys().map(|name| json!({ "Name": name, "Mountpoint": files.join(name) }));
            Ok(json!({ "Volumes": all.collect::<Vec<_>>() }))
        }
        "VolumeDriver.Capabilities" => Ok(json!({ "Capabilities": { "Scope": "global" } })),
        other => Err(format!("unknown method {other}")),
    }
}
