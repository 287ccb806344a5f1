//! Docker's plugin protocol from the other side: a plugin on a unix socket, in a thread of its own, that notes what it is asked.
//! Ends with the test.

#![allow(dead_code)]

use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// What a plugin answers.
pub enum Reply {
    Json(Value),
    /// Its own words of what failed.
    Fail(String),
    /// Status line and body, whatever they are.
    Raw(&'static str, &'static str),
    /// Nothing, with the connection left open.
    Silence,
    /// As [`Reply::Silence`], and what was asked is done all the same.
    Lost,
}

/// Every call: method and body.
type Calls = Arc<Mutex<Vec<(String, Value)>>>;

/// A running plugin.
pub struct Server {
    socket: PathBuf,
    calls: Calls,
}

impl Server {
    /// Serves at `FOLDER/NAME.sock`.
    pub fn serve(folder: &Path, name: &str, mut reply: impl FnMut(&str, &Value) -> Reply + Send + 'static) -> Self {
        fs::create_dir_all(folder).expect("folder");
        let socket = folder.join(format!("{name}.sock"));
        let _ = fs::remove_file(&socket); // Of a plugin that was here before.
        let listener = UnixListener::bind(&socket).expect("listens");
        let calls = Calls::default();
        let noted = calls.clone();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                // The last connection is the one that ends it.
                let Some((method, body)) = request(&stream) else { return };
                noted.lock().expect("no panic under it").push((method.clone(), body.clone()));
                match reply(&method, &body) {
                    Reply::Json(value) => answer(&stream, "200 OK", &value.to_string()),
                    Reply::Fail(text) => {
                        answer(&stream, "500 Internal Server Error", &json!({ "Err": text }).to_string())
                    }
                    Reply::Raw(status, body) => answer(&stream, status, body),
                    Reply::Silence | Reply::Lost => silent.push(stream),
                }
            }
        });
        Self { socket, calls }
    }

    /// The calls of a method so far.
    pub fn calls(&self, method: &str) -> Vec<Value> {
        let calls = self.calls.lock().expect("no panic under it");
        calls.iter().filter(|(m, _)| m == method).map(|(_, body)| body.clone()).collect()
    }

    /// The methods that were called, in order.
    pub fn methods(&self) -> Vec<String> {
        self.calls.lock().expect("no panic under it").iter().map(|(m, _)| m.clone()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(mut stream) = UnixStream::connect(&self.socket) {
            let _ = stream.write_all(b"END\r\n\r\n");
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn request(stream: &UnixStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|n| n > 2) {}
    let method = head.strip_prefix("POST /")?.split(' ').next()?.to_owned();
    let length = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).expect("body");
    Some((method, serde_json::from_slice(&body).expect("JSON")))
}

/// Whoever asked may have gone.
fn answer(mut stream: &UnixStream, status: &str, body: &str) {
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}
