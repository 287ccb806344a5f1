//! Pushing an image: layers the registry lacks, the configuration, and the manifest byte for byte.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use url::Url;

use crate::error::blocking;
use crate::fetch::is_passing;
use crate::manifest::{self, Descriptor, Manifest, Parsed};
use crate::progress::{Reporter, Status};
use crate::pull::once_more;
use crate::registry::{Act, Activity, Body, Credentials, Remote, full_body};
use crate::{Digest, Error, Progress, Reference, Result, Store};

/// Size of the pieces a blob is sent in.
const CHUNK: usize = 64 << 10;
/// Pieces between the disk and the socket.
const QUEUE: usize = 8;

/// What a registry has after a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The tag.
    pub tag: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
}

impl Store {
    /// Pushes the local image that `reference` names to the registry in that name, with the manifest it was pulled or
    /// made with: its digest does not change. The image gets that digest as a name.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Conflict`] for a name with a digest; [`Error::Unauthorized`],
    /// [`Error::Unreachable`], [`Error::Stalled`], [`Error::Registry`]; [`Error::Io`].
    pub async fn push(
        &self,
        reference: &Reference,
        auth: Option<Credentials>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Pushed> {
        let reporter = Reporter::new(progress);
        let (None, Some(tag)) = (reference.digest(), reference.tag()) else {
            return Err(Error::Conflict("cannot push a digest reference".into()));
        };
        let missing = || Error::NoSuchImage(reference.familiar());
        let id = self.inner.index.view().refs.get(reference).ok_or_else(missing)?.image;
        let image = self.get(&id).ok_or_else(missing)?;
        let mut digests = vec![image.id, image.manifest];
        digests.extend(image.layers.iter().map(|layer| layer.blob));
        // A removal meanwhile must not take the blobs away.
        let _lease = self.inner.index.lease(digests).await?;
        let layout = self.inner.layout.clone();
        let raw = blocking(move || layout.read_blob(&image.manifest)).await?;
        let Parsed::Manifest(manifest) = manifest::parse(&raw, &image.manifest)? else {
            return Err(missing());
        };
        let remote = self.inner.registries.origin(reference, Act::Push, auth)?;
        reporter.line(Status::PushRefersTo(reference.repository())).await;
        self.push_layers(&remote, reference, &manifest, &reporter).await?;
        self.push_blob(&remote, &manifest.config, &[], None).await?;
        let size = raw.len() as u64;
        let raw = Bytes::from(raw);
        once_more(&remote, || put_manifest(&remote, tag, &manifest, raw.clone(), &image.manifest)).await?;
        let name = reference.with_digest(image.manifest);
        self.inner.index.run(move |writer| writer.put_ref(name, id)).await?;
        reporter.line(Status::PushedManifest(tag.to_owned(), image.manifest, size)).await;
        Ok(Pushed { tag: tag.to_owned(), digest: image.manifest, size })
    }

    async fn push_layers(
        &self,
        remote: &Remote,
        reference: &Reference,
        manifest: &Manifest,
        reporter: &Reporter,
    ) -> Result<()> {
        let mut layers: Vec<&Descriptor> = Vec::new();
        for layer in &manifest.layers {
            reporter.state(&layer.digest.short(), Status::Preparing).await;
            if layers.iter().all(|known| known.digest != layer.digest) {
                layers.push(layer);
            }
        }
        // A loop and not `map`: see the pull of layers.
        let mut work = Vec::with_capacity(layers.len());
        for layer in layers {
            work.push(async move {
                let sources = self.mount_sources(reference, &layer.digest);
                let id = layer.digest.short();
                let status = self.push_blob(remote, layer, &sources, Some(reporter)).await?;
                reporter.state(&id, status).await;
                Ok(())
            });
        }
        stream::iter(work).buffer_unordered(self.inner.options.parallel_layers.max(1)).try_collect().await
    }

    /// Other repositories of the same registry that hold the blob, by what was pulled from or pushed to them.
    fn mount_sources(&self, reference: &Reference, blob: &Digest) -> Vec<String> {
        /// More guesses cost more than they save.
        const MAX: usize = 3;
        let view = self.inner.index.view();
        let there = view.refs.iter().filter(|(name, record)| {
            let elsewhere = name.domain() == reference.domain() && name.path() != reference.path();
            let image = view.images.get(&record.image);
            elsewhere && name.digest().is_some() && image.is_some_and(|i| i.layers.iter().any(|l| l.blob == *blob))
        });
        let mut paths: Vec<String> = there.map(|(name, _)| name.path().to_owned()).collect();
        paths.dedup();
        paths.truncate(MAX);
        paths
    }

    /// Makes sure that the registry has a blob.
    async fn push_blob(
        &self,
        remote: &Remote,
        blob: &Descriptor,
        sources: &[String],
        reporter: Option<&Reporter>,
    ) -> Result<Status> {
        let url = remote.url(&format!("blobs/{}", blob.digest)).await?;
        // Where it cannot be asked for, the upload will say why.
        if once_more(remote, || remote.send(Method::HEAD, url.clone(), &[])).await?.status() == StatusCode::OK {
            return Ok(Status::LayerExists);
        }
        let config = self.inner.registries.config();
        let mut failures = 0;
        loop {
            let sent = self.upload(remote, blob, if failures == 0 { sources } else { &[] }, reporter).await;
            match sent {
                Err(error) if is_passing(&error) && failures + 1 < config.attempts => {
                    tracing::debug!(blob = %blob.digest, %error, "a push goes on after a failure");
                    failures += 1;
                    tokio::time::sleep(config.retry_pause * 2_u32.saturating_pow(failures - 1)).await;
                }
                other => return other,
            }
        }
    }

    /// Starts an upload (or a mount) and sends the blob in one piece (OCI distribution-spec, "Pushing a blob
    /// monolithically", POST then PUT).
    async fn upload(
        &self,
        remote: &Remote,
        blob: &Descriptor,
        sources: &[String],
        reporter: Option<&Reporter>,
    ) -> Result<Status> {
        let mut started = None;
        for source in sources {
            let mut url = remote.url("blobs/uploads/").await?;
            url.query_pairs_mut().append_pair("mount", &blob.digest.to_string()).append_pair("from", source);
            let response = remote.send(Method::POST, url.clone(), &[(CONTENT_LENGTH.as_str(), "0".into())]).await?;
            match response.status() {
                StatusCode::CREATED => return Ok(Status::MountedFrom(source.clone())),
                StatusCode::ACCEPTED => started = Some((url, response)),
                _ => {}
            }
        }
        let (base, response) = match started {
            Some(started) => started,
            None => {
                let url = remote.url("blobs/uploads/").await?;
                let response = remote.send(Method::POST, url.clone(), &[(CONTENT_LENGTH.as_str(), "0".into())]).await?;
                (url, response)
            }
        };
        let mut target = upload_url(remote, &base, response).await?;
        target.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let activity = Activity::default();
        let path = self.inner.layout.blob(&blob.digest);
        let body = || {
            let report = reporter.map(|reporter| (reporter.clone(), blob.digest.short()));
            Ok(file_body(path.clone(), blob.size, activity.clone(), report))
        };
        let headers = [
            (CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
            (CONTENT_LENGTH.as_str(), blob.size.to_string()),
        ];
        let response = remote.send_body(Method::PUT, target, &headers, &body, Some(&activity)).await?;
        if response.status() == StatusCode::CREATED { Ok(Status::Pushed) } else { Err(remote.failure(response).await) }
    }
}

async fn upload_url(remote: &Remote, base: &Url, response: Response<Incoming>) -> Result<Url> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    match location.filter(|_| response.status() == StatusCode::ACCEPTED) {
        Some(location) => remote.join(base, &location),
        None => Err(remote.failure(response).await),
    }
}

async fn put_manifest(remote: &Remote, tag: &str, manifest: &Manifest, raw: Bytes, digest: &Digest) -> Result<()> {
    let url = remote.url(&format!("manifests/{tag}")).await?;
    let kind = manifest.media_type.clone().unwrap_or_else(|| manifest::OCI_MANIFEST.into());
    let headers = [(CONTENT_TYPE.as_str(), kind)];
    let response = remote.send_body(Method::PUT, url, &headers, &|| Ok(full_body(raw.clone())), None).await?;
    if response.status() != StatusCode::CREATED {
        return Err(remote.failure(response).await);
    }
    let stored = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
    match stored.and_then(|text| Digest::parse(text).ok()) {
        Some(other) if other != *digest => {
            let reason = format!("the registry stored the manifest as {other}");
            Err(Error::CorruptBlob { digest: *digest, reason })
        }
        _ => Ok(()),
    }
}

/// A file as a request's content, read on a blocking thread no faster than it is sent.
fn file_body(path: PathBuf, size: u64, activity: Activity, report: Option<(Reporter, String)>) -> Body {
    let (chunks, inbox) = mpsc::channel::<std::io::Result<Bytes>>(QUEUE);
    // Ends by itself: when the file is read, or when the request that holds the receiver is dropped.
    tokio::task::spawn_blocking(move || {
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => return drop(chunks.blocking_send(Err(error))),
        };
        loop {
            let mut buffer = vec![0; CHUNK];
            let read = file.read(&mut buffer).map(|read| {
                buffer.truncate(read);
                Bytes::from(buffer)
            });
            let last = read.as_ref().is_ok_and(Bytes::is_empty);
            let failed = read.is_err();
            if last || chunks.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    let sent = stream::unfold((inbox, 0_u64), move |(mut inbox, sent)| {
        let (activity, report) = (activity.clone(), report.clone());
        async move {
            let chunk = inbox.recv().await?;
            let length = chunk.as_ref().map_or(0, Bytes::len);
            activity.moved(length);
            let sent = sent + length as u64;
            if let Some((reporter, id)) = &report {
                reporter.bytes(id, Status::Pushing, sent, size);
            }
            Some((chunk.map(Frame::data), (inbox, sent)))
        }
    });
    StreamBody::new(sent).boxed_unsync()
}
