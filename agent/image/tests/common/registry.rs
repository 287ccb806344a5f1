//! A real registry on a loopback port of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use muster_image::Digest;

use super::TestImage;

pub struct Registry {
    child: Child,
    pub address: String,
    _folder: tempfile::TempDir,
}

impl Registry {
    /// Starts `docker-registry` and waits until it says where it listens.
    pub fn start() -> Self {
        Self::start_with("", |_| String::new())
    }

    /// The same with more in its configuration: `http` within the section of that name (YAML flow, with a comma in front),
    /// `more` at the top level. `more` is told the registry's folder, for files it names.
    pub fn start_with(http: &str, more: impl FnOnce(&std::path::Path) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join("config.yml");
        let more = more(folder.path());
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:0'{http}}}\n{more}",
            folder.path().join("data").display()
        );
        std::fs::write(&config, text).expect("a writable folder");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("these tests need the docker-registry program (Debian package docker-registry)");
        let mut lines = BufReader::new(child.stderr.take().expect("it was piped")).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let at = line.split("listening on ").nth(1)?;
            Some(at.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect::<String>())
        });
        // Its log must be read on, or it blocks; the thread ends with the process.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { child, address: address.expect("docker-registry says where it listens"), _folder: folder }
    }

    /// Puts an image there, not using the code under test.
    pub fn put(&self, repository: &str, tag: &str, image: &TestImage) {
        for content in image.layers.iter().map(|layer| &layer.blob).chain([&image.config]) {
            self.put_blob(repository, content);
        }
        self.put_manifest(repository, tag, "application/vnd.oci.image.manifest.v1+json", &image.manifest);
    }

    pub fn put_manifest(&self, repository: &str, tag: &str, kind: &str, manifest: &[u8]) {
        let (status, text) = self.request("PUT", &format!("/v2/{repository}/manifests/{tag}"), kind, manifest);
        assert_eq!(status, 201, "{text}");
    }

    fn put_blob(&self, repository: &str, content: &[u8]) {
        let (status, head) = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        assert_eq!(status, 202, "{head}");
        let location = head.lines().find_map(|line| line.strip_prefix("Location: ")).expect("a location").trim();
        let path = location.split_once(&self.address).map_or(location, |(_, path)| path);
        let path = format!("{path}&digest={}", Digest::of(content));
        let (status, text) = self.request("PUT", &path, "application/octet-stream", content);
        assert_eq!(status, 201, "{text}");
    }

    /// One request; the status and the head and body as text.
    pub fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("the registry listens");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nAccept: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("the registry reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the registry answers");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
        (status, text)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
