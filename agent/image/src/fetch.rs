//! Fetching one blob so that a cut connection costs only what was in flight, and that only verified bytes come out.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::digest::Hashing;
use crate::early::Early;
use crate::error::{At, blocking};
use crate::follow::Follow;
use crate::manifest::Descriptor;
use crate::progress::{Reporter, Status};
use crate::registry::Remote;
use crate::staging::{Claim, Temporary};
use crate::store::Inner;
use crate::{Digest, Error, Result};

/// Pieces between the socket and the disk: enough to keep both busy, about 1 MiB at hyper's sizes.
const QUEUE: usize = 16;

/// What is here of a blob: the file `ingest/<hex>.part` and the digest of its bytes so far.
struct Part {
    file: Hashing<File>,
    path: PathBuf,
    /// Some bytes came from an earlier attempt.
    resumed: bool,
    /// Told how far the file is.
    follow: Arc<Follow>,
}

/// One blob to fetch, and all that is needed for it.
pub(crate) struct Fetch<'a> {
    pub(crate) inner: &'a Arc<Inner>,
    /// Hosts to try, in order.
    pub(crate) remotes: &'a [Remote],
    pub(crate) blob: &'a Descriptor,
    /// Held by the blocking side too.
    pub(crate) claim: &'a Arc<Claim>,
    pub(crate) reporter: &'a Reporter,
    /// Who unpacks while it comes reads by this.
    pub(crate) follow: Arc<Follow>,
}

impl Fetch<'_> {
    /// Fetches and verifies the blob. After a failure the part stays, and the next attempt goes on from there.
    pub(crate) async fn run(&self) -> Result<Temporary> {
        let id = self.blob.digest.short();
        let (path, follow) = (self.part(), self.follow.clone());
        let mut part = self.blocking(move || Part::open(path, follow)).await?;
        let mut failures = 0;
        let (mut remotes, mut again) = (self.remotes.iter(), true);
        let mut remote = remotes.next().ok_or(Error::Closed)?;
        loop {
            let before = part.file.count();
            let (back, outcome) = self.attempt(part, remote, &id).await?;
            part = back;
            let error = match outcome {
                Ok(()) => match self.verified(part, &id).await? {
                    Ok(temporary) => return Ok(temporary),
                    Err((back, error)) => {
                        // Bytes of two answers may not belong together: once more from the start.
                        let retry = std::mem::take(&mut again) && back.resumed;
                        part = self.blocking(move || back.restart()).await?;
                        if retry {
                            continue;
                        }
                        error
                    }
                },
                Err(error) => error,
            };
            failures = if part.file.count() > before { 1 } else { failures + 1 };
            if !is_passing(&error) || failures >= self.inner.registries.config().attempts {
                remote = remotes.next().ok_or(error)?;
                failures = 0;
                continue;
            }
            tracing::debug!(blob = %self.blob.digest, %error, have = part.file.count(), "fetch goes on after a failure");
            self.reporter.state(&id, Status::Retrying).await;
            let pause = self.inner.registries.config().retry_pause * 2_u32.saturating_pow(failures - 1);
            tokio::time::sleep(pause).await;
        }
    }

    /// The file that the blob is fetched into.
    pub(crate) fn part(&self) -> PathBuf {
        self.inner.layout.ingest.join(format!("{}.part", self.blob.digest.hex()))
    }

    /// Fetches what is missing. The outer error is the disk's; the inner one the registry's, with the part so far.
    async fn attempt(&self, mut part: Part, remote: &Remote, id: &str) -> Result<(Part, Result<()>)> {
        if part.file.count() > self.blob.size {
            part = self.blocking(move || part.restart()).await?;
        }
        let have = part.file.count();
        if have == self.blob.size {
            return Ok((part, Ok(())));
        }
        let response = match self.request(remote, have).await {
            Ok(response) => response,
            Err(error) => return Ok((part, Err(error))),
        };
        match continues_at(&response, have, self.blob) {
            Err(error) => return Ok((part, Err(error))),
            Ok(0) if have > 0 => part = self.blocking(move || part.restart()).await?,
            Ok(_) => part.resumed |= have > 0,
        }
        self.receive(part, remote, response.into_body(), id).await
    }

    async fn request(&self, remote: &Remote, have: u64) -> Result<Response<Incoming>> {
        let url = remote.url(&format!("blobs/{}", self.blob.digest)).await?;
        let range = (have > 0).then(|| (RANGE.as_str(), format!("bytes={have}-")));
        let response = remote.send(Method::GET, url, range.as_slice()).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                let url = remote.url(&format!("blobs/{}", self.blob.digest)).await?;
                remote.send(Method::GET, url, &[]).await
            }
            _ => Err(remote.failure(response).await),
        }
    }

    /// Moves content from the socket to the disk.
    async fn receive(&self, part: Part, remote: &Remote, mut body: Incoming, id: &str) -> Result<(Part, Result<()>)> {
        let (chunks, inbox) = mpsc::channel(QUEUE);
        let mut have = part.file.count();
        let size = self.blob.size;
        let claim = self.claim.clone();
        let writer = tokio::task::spawn_blocking(move || {
            let _claim = claim;
            write_all(part, inbox)
        });
        let received = async {
            while let Some(chunk) = remote.chunk(&mut body).await? {
                have += chunk.len() as u64;
                if have > size {
                    let reason = format!("more than the announced {size} bytes came");
                    return Err(Error::CorruptBlob { digest: self.blob.digest, reason });
                }
                if chunks.send(chunk).await.is_err() {
                    // The writer failed; its own error says why.
                    return Ok(());
                }
                self.reporter.bytes(id, Status::Downloading, have, size);
            }
            if have < size {
                let reason = format!("the connection ended after {have} of {size} bytes");
                return Err(Error::Unreachable { registry: remote.host().into(), reason });
            }
            Ok(())
        };
        let received = received.await;
        drop(chunks);
        let part = writer.await.map_err(|error| Error::Task(error.to_string()))??;
        Ok((part, received))
    }

    async fn verified(&self, part: Part, id: &str) -> Result<std::result::Result<Temporary, (Part, Error)>> {
        self.reporter.state(id, Status::VerifyingChecksum).await;
        let Part { file, path, resumed, follow } = part;
        let (file, found, count) = file.finish();
        if found == self.blob.digest && count == self.blob.size {
            follow.whole();
            self.reporter.state(id, Status::DownloadComplete).await;
            return Ok(Ok(Temporary::kept(path, self.inner.trash.clone())));
        }
        let error = Error::CorruptBlob { digest: self.blob.digest, reason: format!("{count} bytes of {found} came") };
        Ok(Err((Part { file: Hashing::new(file), path, resumed, follow }, error)))
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let claim = self.claim.clone();
        blocking(move || {
            let _claim = claim;
            work()
        })
        .await
    }
}

/// Where the content of a response begins: at 0, or at `have`.
fn continues_at(response: &Response<Incoming>, have: u64, blob: &Descriptor) -> Result<u64> {
    let corrupt = |reason: String| Error::CorruptBlob { digest: blob.digest, reason };
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let start = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = text(CONTENT_RANGE).unwrap_or_default();
            let start: Option<u64> = range.strip_prefix("bytes ").and_then(|rest| rest.split('-').next()?.parse().ok());
            match start {
                Some(start) if start == have => have,
                _ => return Err(corrupt(format!("bytes from {have} were asked for, {range:?} came"))),
            }
        }
        _ => 0,
    };
    match text(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length != blob.size - start => {
            Err(corrupt(format!("the registry announces {} bytes, the manifest {}", start + length, blob.size)))
        }
        _ => Ok(start),
    }
}

/// Failures that may pass: the network's and the server's, not those of wrong content or missing rights.
pub(crate) fn is_passing(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::Stalled { .. } => true,
        Error::Registry { status, .. } => *status >= 500 || *status == 429 || *status == 408,
        _ => false,
    }
}

fn write_all(mut part: Part, mut inbox: mpsc::Receiver<Bytes>) -> Result<Part> {
    let mut early = Early::default();
    while let Some(chunk) = inbox.blocking_recv() {
        part.file.write_all(&chunk).at("write", &part.path)?;
        early.reached(part.file.get_ref(), part.file.count());
        part.follow.reached(part.file.count());
    }
    Ok(part)
}

impl Part {
    /// Opens what an earlier attempt left and digests it; the file is positioned at its end.
    fn open(path: PathBuf, follow: Arc<Follow>) -> Result<Self> {
        let open = |path: &Path| File::options().create(true).truncate(false).read(true).write(true).open(path);
        let mut reader = Hashing::new(open(&path).at("open", &path)?);
        io::copy(&mut reader, &mut io::sink()).at("read", &path)?;
        let resumed = reader.count() > 0;
        follow.reached(reader.count());
        Ok(Self { file: reader, path, resumed, follow })
    }

    /// Forgets what is there.
    fn restart(self) -> Result<Self> {
        self.follow.begin_anew();
        let (mut file, ..) = self.file.finish();
        file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).at("empty", &self.path)?;
        Ok(Self { file: Hashing::new(file), path: self.path, resumed: false, follow: self.follow })
    }
}

/// Digest of content that is small enough for memory, compared with its descriptor.
pub(crate) fn check(bytes: &[u8], blob: &Descriptor) -> Result<()> {
    let found = Digest::of(bytes);
    if found == blob.digest && bytes.len() as u64 == blob.size {
        return Ok(());
    }
    let reason = format!("{} bytes of {found} came, {} were announced", bytes.len(), blob.size);
    Err(Error::CorruptBlob { digest: blob.digest, reason })
}
