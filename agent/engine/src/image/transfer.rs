//! Images that come and go: pull, push, load, save, import, with progress in Docker's words.

use super::{document::reference, remote::credentials};
use crate::{engine::Shared, error};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use muster_calls::{Error, Import, Pull, Result, Stream};
use muster_image::{Platform, Progress, Reference, Status};
use muster_model::engine::{AuthConfig, ErrorDetail, ProgressDetail, ProgressLine};
use std::{future::Future, io, sync::Arc};
use tokio::{io::AsyncRead, sync::mpsc};
use tokio_util::io::{ReaderStream, StreamReader};

/// Lines that may wait for a slow client; byte counts beyond are dropped by the store.
const LINES: usize = 64;
/// Pieces of a saved archive on their way.
const PIPE: usize = 256 * 1024;

/// A line that ends a transfer badly after it has begun.
fn failed_line(e: &Error) -> ProgressLine {
    ProgressLine {
        error_detail: Some(ErrorDetail { code: 0, message: e.message.clone() }),
        error: e.message.clone(),
        ..ProgressLine::default()
    }
}

fn line(progress: Progress) -> ProgressLine {
    let (current, total) = (progress.current.unwrap_or(0), progress.total.unwrap_or(0));
    let whole = matches!(
        progress.status,
        Status::PullingFrom(_)
            | Status::Digest(_)
            | Status::Downloaded(_)
            | Status::UpToDate(_)
            | Status::PushRefersTo(_)
            | Status::PushedManifest(..)
    );
    let detail = ProgressDetail { current: signed(current), total: signed(total), ..ProgressDetail::default() };
    ProgressLine {
        status: progress.status.to_string(),
        id: progress.id.unwrap_or_default(),
        progress: if total > 0 { bar(current, total) } else { String::new() },
        progress_detail: (!whole).then_some(detail),
        ..ProgressLine::default()
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// `[=====>    ]  1.5MB/3MB`, fifty wide as Docker's.
fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    let done = (current.min(total) as u128 * u128::from(WIDTH) / u128::from(total.max(1))) as usize;
    let head = if done < WIDTH as usize {
        format!("{}>{}", "=".repeat(done), " ".repeat(WIDTH as usize - done - 1))
    } else {
        "=".repeat(done)
    };
    format!("[{head}]  {}/{}", size(current), size(total))
}

/// Bytes as go-units' `HumanSize` writes them: four digits, powers of 1000.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 1000.0 || unit == "TB" {
            let digits = if value >= 100.0 {
                1
            } else if value >= 10.0 {
                2
            } else {
                3
            };
            let text = format!("{value:.digits$}");
            let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            return format!("{text}{unit}");
        }
        value /= 1000.0;
    }
    String::new()
}

fn platform(text: &str) -> Result<Platform> {
    if text.is_empty() {
        Ok(Platform::host())
    } else {
        text.parse().map_err(|e: muster_image::InvalidPlatform| Error::invalid(e.to_string()))
    }
}

/// The lines of a transfer, which goes on while they are read; dropping them stops it.
fn begin<F>(work: impl FnOnce(mpsc::Sender<Progress>) -> F) -> Stream<ProgressLine>
where
    F: Future<Output = Result<Vec<ProgressLine>>> + Send + 'static,
{
    let (sender, progress) = mpsc::channel(LINES);
    run(Box::pin(work(sender)), progress)
}

/// Waits for `answers` lines: an error among them is the call's own, one after them is the last line.
async fn answered(mut lines: Stream<ProgressLine>, answers: usize) -> Result<Stream<ProgressLine>> {
    let mut first = Vec::new();
    while first.len() < answers {
        match lines.next().await {
            Some(line) => first.push(Ok(line?)),
            None => break,
        }
    }
    Ok(stream::iter(first).chain(shown(lines)).boxed())
}

fn shown(lines: Stream<ProgressLine>) -> Stream<ProgressLine> {
    lines.map(|line| Ok(line.unwrap_or_else(|e| failed_line(&e)))).boxed()
}

type Work = futures_core::future::BoxFuture<'static, Result<Vec<ProgressLine>>>;

enum Step {
    Working(Work, mpsc::Receiver<Progress>),
    /// The work has ended: what it still reported, then its own lines.
    Draining(mpsc::Receiver<Progress>, Result<Vec<ProgressLine>>),
    Last(std::vec::IntoIter<ProgressLine>),
    Over,
}

fn run(work: Work, progress: mpsc::Receiver<Progress>) -> Stream<ProgressLine> {
    stream::unfold(Step::Working(work, progress), |mut step| async move {
        loop {
            step = match step {
                Step::Working(mut work, mut progress) => tokio::select! {
                    biased;
                    Some(p) = progress.recv() => return Some((Ok(line(p)), Step::Working(work, progress))),
                    ended = &mut work => Step::Draining(progress, ended),
                },
                Step::Draining(mut progress, ended) => match progress.try_recv() {
                    Ok(p) => return Some((Ok(line(p)), Step::Draining(progress, ended))),
                    Err(_) => match ended {
                        Ok(last) => Step::Last(last.into_iter()),
                        Err(e) => return Some((Err(e), Step::Over)),
                    },
                },
                Step::Last(mut lines) => match lines.next() {
                    Some(line) => return Some((Ok(line), Step::Last(lines))),
                    None => Step::Over,
                },
                Step::Over => return None,
            };
        }
    })
    .boxed()
}

/// A client's bytes as something to read from.
fn reader(tar: Stream<Bytes>) -> impl AsyncRead + Send + Unpin + 'static {
    StreamReader::new(tar.map_err(|e| io::Error::other(e.message)))
}

impl Shared {
    pub(crate) async fn image_pull(self: &Arc<Self>, pull: Pull) -> Result<Stream<ProgressLine>> {
        let name = Reference::parse(&pull.reference).map_err(|e| Error::invalid(e.to_string()))?;
        let (platform, auth) = (platform(&pull.platform)?, credentials(pull.auth));
        if pull.all_tags && name.digest().is_some() {
            return Err(Error::invalid("tag can't be used with --all-tags/-a"));
        }
        let shared = self.clone();
        // The store's first line says only that it began; what decides between an answer and an error is the registry's.
        let lines = begin(move |progress| async move {
            let images = &shared.config.images;
            let names = if pull.all_tags {
                let tags = images.remote_tags(&name, auth.clone()).await.map_err(error::image)?;
                let tagged = tags.iter().map(|tag| name.with_tag(tag).map_err(|e| Error::invalid(e.to_string())));
                tagged.collect::<Result<Vec<_>>>()?
            } else {
                vec![name]
            };
            for name in names {
                let pulled = images.pull(&name, &platform, auth.clone(), progress.clone()).await;
                let image = pulled.map_err(error::image)?;
                shared.image_event("pull", &image.id.to_string(), &name.familiar());
            }
            Ok(Vec::new())
        });
        // dockerd answers a pull of what is not there with an HTTP error.
        answered(lines, 2).await
    }

    pub(crate) async fn image_push(
        self: &Arc<Self>,
        name: &str,
        tag: Option<String>,
        auth: Option<AuthConfig>,
    ) -> Result<Stream<ProgressLine>> {
        let repository = reference(name, "")?;
        let targets = self.push_targets(name, tag.as_deref().unwrap_or_default());
        let (shared, auth) = (self.clone(), credentials(auth));
        let lines = begin(move |progress| async move {
            // As in Docker the client is told where it would have gone; it may be gone itself.
            let refers = |target: &Reference| {
                let status = Status::PushRefersTo(target.repository());
                let _ = progress.try_send(Progress { id: None, status, current: None, total: None });
            };
            let targets = targets.inspect_err(|_| refers(&repository))?;
            let mut lines = Vec::new();
            for target in targets {
                let pushed = shared.config.images.push(&target, auth.clone(), progress.clone()).await;
                let pushed = pushed.map_err(|e| match e {
                    muster_image::Error::NoSuchImage(_) => {
                        refers(&target);
                        not_here(&target)
                    }
                    other => error::image(other),
                })?;
                shared.image_event("push", &target.familiar(), &target.familiar());
                let digest = pushed.digest.to_string();
                let aux = serde_json::json!({"Tag": pushed.tag, "Digest": digest, "Size": pushed.size});
                let progress_detail = Some(ProgressDetail::default());
                lines.push(ProgressLine { progress_detail, aux: Some(aux), ..ProgressLine::default() });
            }
            Ok(lines)
        });
        answered(lines, 0).await
    }

    /// The names to push: one, or with no tag all that the repository has here.
    fn push_targets(&self, name: &str, tag: &str) -> Result<Vec<Reference>> {
        let target = reference(name, tag)?;
        if !tag.is_empty() || target.digest().is_some() || name.rsplit('/').next().is_some_and(|l| l.contains(':')) {
            return Ok(vec![target]);
        }
        let all = self.config.images.list();
        let names = all.iter().flat_map(|image| &image.repo_tags).filter_map(|name| Reference::parse(name).ok());
        let mut names: Vec<_> = names.filter(|name| name.repository() == target.repository()).collect();
        names.sort();
        if names.is_empty() { Err(not_here(&target)) } else { Ok(names) }
    }

    pub(crate) async fn image_load(
        self: &Arc<Self>,
        tar: Stream<Bytes>,
        quiet: bool,
        wanted: &str,
    ) -> Result<Stream<ProgressLine>> {
        let (shared, platform) = (self.clone(), platform(wanted)?);
        let lines = begin(move |progress| async move {
            let progress = if quiet { mpsc::channel(1).0 } else { progress };
            let loaded = shared.config.images.load(reader(tar), &platform, progress).await.map_err(error::image)?;
            let mut lines = Vec::new();
            for image in loaded {
                let id = image.id.to_string();
                shared.image_event("load", &id, image.names.first().map_or("", String::as_str));
                image.names.iter().for_each(|name| shared.image_event("tag", &id, name));
                if image.names.is_empty() {
                    lines.push(text(format!("Loaded image ID: {}\n", image.id)));
                }
                lines.extend(image.names.iter().map(|name| text(format!("Loaded image: {name}\n"))));
            }
            Ok(lines)
        });
        answered(lines, 1).await
    }

    pub(crate) async fn image_save(self: &Arc<Self>, names: Vec<String>) -> Result<Stream<Bytes>> {
        for name in &names {
            // Before the first byte, so that the client gets an error and not a cut archive.
            let plain = Reference::parse(name).ok();
            let repository = plain.is_some_and(|r| {
                self.config
                    .images
                    .list()
                    .iter()
                    .any(|i| i.repo_tags.iter().any(|t| t.starts_with(&format!("{}:", r.familiar_repository()))))
            });
            if !repository {
                self.find_image(name)?;
            }
        }
        for name in &names {
            if let Ok(image) = self.find_image(name) {
                self.image_event("save", &image.id.to_string(), name);
            }
        }
        let (writer, read) = tokio::io::duplex(PIPE);
        let shared = self.clone();
        let save = Box::pin(async move { shared.config.images.save(&names, writer).await.map_err(error::image) });
        Ok(beside(save, ReaderStream::new(read).map_err(|e| Error::internal(e.to_string())).boxed()))
    }

    pub(crate) async fn image_import(
        self: &Arc<Self>,
        tar: Stream<Bytes>,
        import: Import,
    ) -> Result<Stream<ProgressLine>> {
        let Import { url, repo, tag, message, changes, platform: wanted } = import;
        let name = if repo.is_empty() { None } else { Some(reference(&repo, &tag)?) };
        let platform = platform(&wanted)?;
        let config = super::commit::image_side(&super::commit::apply(Default::default(), &changes)?)?;
        let source = if url.is_empty() { "-" } else { &url };
        let comment = if message.is_empty() { format!("Imported from {source}") } else { message };
        let tar = if url.is_empty() {
            tar
        } else {
            let bytes = self.config.images.download(&url).await.map_err(error::image)?;
            bytes.map_err(error::image).boxed()
        };
        let shared = self.clone();
        let lines = begin(move |_progress| async move {
            let commit =
                muster_image::Commit { reference: name.clone(), config, comment, ..muster_image::Commit::default() };
            let image = shared
                .config
                .images
                .import(reader(tar), muster_image::Import { commit, platform })
                .await
                .map_err(error::image)?;
            let id = image.id.to_string();
            shared.image_event("import", &id, &name.map(|n| n.familiar()).unwrap_or_default());
            Ok(vec![ProgressLine::status(id)])
        });
        answered(lines, 1).await
    }
}

fn not_here(target: &Reference) -> Error {
    Error::not_found(format!("An image does not exist locally with the tag: {}", target.familiar_repository()))
}

fn text(stream: String) -> ProgressLine {
    ProgressLine { stream, ..ProgressLine::default() }
}

/// A stream of bytes and the work that makes them: its error is the stream's last item.
pub(super) fn beside(
    work: futures_core::future::BoxFuture<'static, Result<()>>,
    bytes: Stream<Bytes>,
) -> Stream<Bytes> {
    stream::unfold((Some(work), bytes), |(work, mut bytes)| async move {
        let Some(mut running) = work else {
            return bytes.next().await.map(|item| (item, (None, bytes)));
        };
        tokio::select! {
            biased;
            ended = &mut running => match ended {
                Ok(()) => bytes.next().await.map(|item| (item, (None, bytes))),
                Err(e) => Some((Err(e), (None, stream::empty().boxed()))),
            },
            Some(item) = bytes.next() => Some((item, (Some(running), bytes))),
            else => None,
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_bars_and_sizes_look_like_dockers() {
        assert_eq!(bar(0, 100), format!("[>{}]  0B/100B", " ".repeat(49)));
        assert_eq!(bar(100, 100), format!("[{}]  100B/100B", "=".repeat(50)));
        assert_eq!(size(1_536_000), "1.536MB");
        assert_eq!(size(12_345), "12.35kB");
        assert_eq!(size(999), "999B");
    }

    #[tokio::test]
    async fn an_error_before_the_first_line_is_the_calls_and_one_after_it_is_the_last_line() {
        let early = answered(begin(|_| async { Err(Error::not_found("no")) }), 1).await;
        assert_eq!(early.err().map(|e| e.message).as_deref(), Some("no"));
        let late = begin(|progress| async move {
            let begin = Progress { id: None, status: Status::Preparing, current: None, total: None };
            progress.send(begin).await.map_err(|_| Error::internal("nobody listens"))?;
            Err(Error::internal("broke off"))
        });
        let lines: Vec<_> = answered(late, 1).await.expect("begun").map(|l| l.expect("a line")).collect().await;
        assert_eq!(lines[0].status, "Preparing");
        assert_eq!(lines[1].error, "broke off");
    }
}
