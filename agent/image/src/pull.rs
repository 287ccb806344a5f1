//! Pulling an image from a registry.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::header::ACCEPT;
use http::{Method, StatusCode};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::blocking;
use crate::fetch::{self, Fetch};
use crate::follow::Following;
use crate::index::{self, ImageRecord};
use crate::manifest::{self, Descriptor, Manifest, Parsed};
use crate::progress::{Reporter, Status};
use crate::registry::{Credentials, Remote, read_limited};
use crate::staging::{Staging, Temporary};
use crate::{Digest, Error, Image, ImageConfig, Platform, Progress, Reference, Result, Store, layer};

/// A manifest as it came.
pub(crate) struct Found {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    pub(crate) parsed: Parsed,
}

/// A blob, and the layer folders that are made of it: several when an image has the same layer twice.
#[derive(Clone)]
struct Wanted {
    blob: Descriptor,
    folders: Vec<Folder>,
}

#[derive(Clone, Copy)]
struct Folder {
    diff_id: Digest,
    chain_id: Digest,
}

/// What was made of a [`Wanted`]: its blob, if it was not here, and the folders that were not.
type Made = (Option<Temporary>, Vec<(Temporary, Digest)>);

impl Store {
    /// Pulls the image that `reference` names for `platform` and points the name at it.
    ///
    /// By tag the registry is always asked; by digest only when the image is not here. Layers that are here are not
    /// fetched again. Dropping the future stops the pull; what was fetched of a blob serves the next attempt while the
    /// store is open.
    ///
    /// # Errors
    /// [`Error::ManifestNotFound`], [`Error::Unauthorized`], [`Error::NoMatchingPlatform`], [`Error::CorruptBlob`],
    /// [`Error::Malformed`], [`Error::TooLarge`], [`Error::Unreachable`], [`Error::Stalled`], [`Error::Registry`],
    /// [`Error::Archive`] for a layer that cannot be unpacked, [`Error::Io`].
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        auth: Option<Credentials>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Image> {
        let reporter = Reporter::new(progress);
        reporter.state(&reference.target(), Status::PullingFrom(reference.path().to_owned())).await;
        let familiar = reference.familiar();
        if let Some(image) = self.pinned(reference, platform) {
            reporter.line(Status::Digest(*reference.digest().unwrap_or(&image.manifest))).await;
            reporter.line(Status::UpToDate(familiar)).await;
            return Ok(image);
        }
        let remotes = self.inner.registries.pull_from(reference, auth)?;
        let (remotes, top) = first_manifest(&remotes, reference).await?;
        let found = choose(&remotes[0], reference, platform, &top).await?;
        let Parsed::Manifest(manifest) = &found.parsed else {
            let reason = "an index inside of an index".into();
            return Err(Error::Malformed { what: "manifest", digest: found.digest, reason });
        };
        let before = self.get(&manifest.config.digest);
        let names = names(reference, top.digest)?;
        let image = self.pull_manifest(remotes, reference, platform, &found, manifest, names, &reporter).await?;
        reporter.line(Status::Digest(top.digest)).await;
        let same = before.is_some_and(|before| reference.tag().is_none() || before.repo_tags.contains(&familiar));
        reporter.line(if same { Status::UpToDate(familiar) } else { Status::Downloaded(familiar) }).await;
        Ok(image)
    }

    /// An image that is here and cannot change: one named by digest.
    fn pinned(&self, reference: &Reference, platform: &Platform) -> Option<Image> {
        let name = reference.with_digest(*reference.digest()?);
        let view = self.inner.index.view();
        let image = view.image(&view.refs.get(&name)?.image)?;
        platform.distance(&image.platform).map(|_| image)
    }

    #[expect(clippy::too_many_arguments, reason = "one call from one place; a struct would only rename the arguments")]
    async fn pull_manifest(
        &self,
        remotes: &[Remote],
        reference: &Reference,
        platform: &Platform,
        found: &Found,
        manifest: &Manifest,
        names: Vec<Reference>,
        reporter: &Reporter,
    ) -> Result<Image> {
        let raw_config = self.config_bytes(&remotes[0], &manifest.config).await?;
        let config = index::parse_config(&raw_config, &manifest.config.digest)?;
        check_platform(&config, platform, reference)?;
        let wanted = wanted(&config, manifest)?;
        let mut claimed = vec![found.digest, manifest.config.digest];
        claimed.extend(wanted.iter().map(|layer| layer.blob.digest));
        claimed.extend(wanted.iter().flat_map(|layer| layer.folders.iter().map(|folder| folder.chain_id)));
        let mut staging = Staging::begin(self.inner.clone(), claimed).await?;
        let pulled = self.layers(remotes, &wanted, &mut staging, reporter).await;
        if let Err(error) = pulled {
            // What is complete serves the next attempt; the error that counts is the first.
            if let Err(error) = staging.commit().await {
                tracing::warn!(%error, "layers of a failed pull not kept");
            }
            return Err(error);
        }
        staging.add_document(found.bytes.to_vec()).await?;
        staging.add_document(raw_config.to_vec()).await?;
        let record = ImageRecord { id: manifest.config.digest, manifest: found.digest, parent: None };
        staging.install(record, names).await
    }

    async fn config_bytes(&self, remote: &Remote, config: &Descriptor) -> Result<Bytes> {
        let limit = self.inner.registries.config().max_config_bytes;
        if config.size > limit {
            return Err(Error::TooLarge { what: format!("image config {}", config.digest), limit });
        }
        if let Some(image) = self.get(&config.digest) {
            return Ok(image.raw_config);
        }
        once_more(remote, || ask_config(remote, config)).await
    }

    /// Fetches and unpacks what is missing, a few layers at a time; the first failure stops the others.
    async fn layers(
        &self,
        remotes: &[Remote],
        wanted: &[Wanted],
        staging: &mut Staging,
        reporter: &Reporter,
    ) -> Result<()> {
        for layer in wanted {
            reporter.state(&layer.blob.digest.short(), Status::PullingFsLayer).await;
        }
        let claim = staging.claim.clone();
        // A loop and not `map`: a closure over borrowed layers would make the future of a pull one that cannot be spawned.
        let mut work = Vec::with_capacity(wanted.len());
        for layer in wanted {
            let (inner, claim) = (&self.inner, &claim);
            work.push(async move {
                let fetch = Fetch { inner, remotes, blob: &layer.blob, claim, reporter, follow: Arc::default() };
                let made = one_layer(&fetch, layer).await;
                (layer, made)
            });
        }
        let mut done = stream::iter(work).buffer_unordered(self.inner.options.parallel_layers.max(1));
        let mut failed = None;
        while let Some((layer, made)) = done.next().await {
            match made {
                Ok((blob, folders)) => {
                    blob.into_iter().for_each(|blob| staging.add_blob(blob, layer.blob.digest));
                    folders.into_iter().for_each(|(folder, chain_id)| staging.add_layer(folder, chain_id));
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Makes what is missing of one layer: its blob, its folders, or nothing.
async fn one_layer(fetch: &Fetch<'_>, layer: &Wanted) -> Result<Made> {
    let (inner, id) = (fetch.inner.clone(), layer.blob.digest.short());
    let (blob_path, mut missing) = (inner.layout.blob(&layer.blob.digest), layer.folders.clone());
    let layout = inner.layout.clone();
    let here = blocking(move || {
        missing.retain(|folder| !layout.layer(&folder.chain_id).exists());
        Ok((blob_path.exists(), missing))
    });
    let (has_blob, mut missing) = here.await?;
    if has_blob && missing.is_empty() {
        fetch.reporter.state(&id, Status::AlreadyExists).await;
        return Ok((None, Vec::new()));
    }
    let following = Following(fetch.follow.clone());
    let unpacking = match missing.first() {
        Some(folder) if !has_blob => Some(unpack_as_it_comes(fetch, folder)),
        _ => None,
    };
    let blob = if has_blob { Ok(None) } else { fetch.run().await.map(Some) };
    drop(following);
    if blob.is_ok() && !missing.is_empty() {
        fetch.reporter.state(&id, Status::Extracting).await;
    }
    let early = match unpacking {
        // A blob that began anew was read in vain: it is whole now.
        Some(unpacking) => unpacking.await.map_err(|error| Error::Task(error.to_string()))?,
        None => Unpacking::InVain,
    };
    let blob = blob?;
    let early = match early {
        Unpacking::Ended(Ok(folder)) => Some((folder, missing.remove(0).chain_id)),
        // What came first was not the blob (a bad mirror, a torn part): the verified one is unpacked, and its error counts.
        Unpacking::Ended(Err(error)) => {
            tracing::debug!(%error, "a layer was unpacked in vain");
            None
        }
        Unpacking::InVain => None,
    };
    let (claim, digest) = (fetch.claim.clone(), layer.blob.digest);
    let made = blocking(move || {
        let _claim = claim;
        let path = blob.as_ref().map_or_else(|| inner.layout.blob(&digest), |blob| blob.path().to_owned());
        let unpack = |folder: Folder| Ok((layer::unpack(&inner, &path, &digest, &folder.diff_id)?, folder.chain_id));
        let late = missing.into_iter().map(unpack);
        let folders = early.into_iter().map(Ok).chain(late).collect::<Result<Vec<_>>>()?;
        Ok((blob, folders))
    })
    .await?;
    fetch.reporter.state(&id, Status::PullComplete).await;
    Ok(made)
}

/// What came of unpacking a blob while it was fetched.
enum Unpacking {
    Ended(Result<Temporary>),
    /// The blob began anew, or did not come to its end.
    InVain,
}

/// Begins to unpack a blob that is being fetched. It ends with the fetch, however that ends.
fn unpack_as_it_comes(fetch: &Fetch<'_>, folder: &Folder) -> JoinHandle<Unpacking> {
    let (inner, follow, claim) = (fetch.inner.clone(), fetch.follow.clone(), fetch.claim.clone());
    let (path, blob, diff_id) = (fetch.part(), fetch.blob.clone(), folder.diff_id);
    tokio::task::spawn_blocking(move || {
        let _claim = claim;
        match layer::unpack_as_it_comes(&inner, &path, &follow, &blob, &diff_id) {
            Ok(Some(folder)) => Unpacking::Ended(Ok(folder)),
            Ok(None) => Unpacking::InVain,
            Err(error) => Unpacking::Ended(Err(error)),
        }
    })
}

/// The first host that has the manifest, with those after it, and the manifest. The last host's error counts.
pub(crate) async fn first_manifest<'a>(remotes: &'a [Remote], reference: &Reference) -> Result<(&'a [Remote], Found)> {
    let mut last = Error::ManifestNotFound { reference: reference.familiar() };
    for (position, remote) in remotes.iter().enumerate() {
        match get_manifest(remote, reference, &reference.target(), reference.digest()).await {
            Ok(found) => return Ok((&remotes[position..], found)),
            Err(error) => {
                tracing::debug!(registry = remote.host(), %error, "no manifest from this host");
                last = error;
            }
        }
    }
    Err(last)
}

/// The manifest for `platform`: the one found, or the entry of the index that suits best.
async fn choose(remote: &Remote, reference: &Reference, platform: &Platform, top: &Found) -> Result<Found> {
    let Parsed::Index(index) = &top.parsed else {
        return Ok(Found { bytes: top.bytes.clone(), digest: top.digest, parsed: top.parsed.clone() });
    };
    let entry = index.choose(platform).ok_or_else(|| Error::NoMatchingPlatform {
        wanted: Box::new(platform.clone()),
        reference: reference.familiar(),
        available: index.available(),
    })?;
    let found = get_manifest(remote, reference, &entry.digest.to_string(), Some(&entry.digest)).await?;
    fetch::check(&found.bytes, entry)?;
    Ok(found)
}

/// Asks once more when the registry was only busy or the connection broke.
pub(crate) async fn once_more<T, F: Future<Output = Result<T>>>(remote: &Remote, ask: impl Fn() -> F) -> Result<T> {
    match ask().await {
        Err(error) if fetch::is_passing(&error) => {
            tracing::debug!(registry = remote.host(), %error, "asking once more");
            tokio::time::sleep(remote.retry_pause()).await;
            ask().await
        }
        other => other,
    }
}

pub(crate) async fn ask_config(remote: &Remote, config: &Descriptor) -> Result<Bytes> {
    let url = remote.url(&format!("blobs/{}", config.digest)).await?;
    let response = remote.send(Method::GET, url, &[]).await?;
    if response.status() != StatusCode::OK {
        return Err(remote.failure(response).await);
    }
    let bytes = read_limited(remote, response, config.size, "image config").await?;
    fetch::check(&bytes, config)?;
    Ok(bytes)
}

async fn get_manifest(
    remote: &Remote,
    reference: &Reference,
    target: &str,
    expected: Option<&Digest>,
) -> Result<Found> {
    once_more(remote, || ask_manifest(remote, reference, target, expected)).await
}

async fn ask_manifest(
    remote: &Remote,
    reference: &Reference,
    target: &str,
    expected: Option<&Digest>,
) -> Result<Found> {
    let accept = [manifest::OCI_MANIFEST, manifest::OCI_INDEX, manifest::DOCKER_MANIFEST, manifest::DOCKER_LIST];
    let url = remote.url(&format!("manifests/{target}")).await?;
    let response = remote.send(Method::GET, url, &[(ACCEPT.as_str(), accept.join(", "))]).await?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(Error::ManifestNotFound { reference: reference.familiar() }),
        _ => return Err(remote.failure(response).await),
    }
    let limit = remote.max_manifest_bytes();
    let announced = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|text| Digest::parse(text).ok());
    let bytes = read_limited(remote, response, limit, "manifest").await?;
    let digest = Digest::of(&bytes);
    if let Some(wrong) = expected.copied().or(announced).filter(|expected| *expected != digest) {
        return Err(Error::CorruptBlob { digest: wrong, reason: format!("the registry sent {digest}") });
    }
    let parsed = manifest::parse(&bytes, &digest)?;
    Ok(Found { bytes, digest, parsed })
}

fn check_platform(config: &ImageConfig, platform: &Platform, reference: &Reference) -> Result<()> {
    // Images made by hand may say nothing.
    if config.os.is_empty() && config.architecture.is_empty() || platform.distance(&config.platform()).is_some() {
        return Ok(());
    }
    Err(Error::NoMatchingPlatform {
        wanted: Box::new(platform.clone()),
        reference: reference.familiar(),
        available: config.platform().to_string(),
    })
}

fn wanted(config: &ImageConfig, manifest: &Manifest) -> Result<Vec<Wanted>> {
    let (diff_ids, layers) = (&config.rootfs.diff_ids, &manifest.layers);
    if diff_ids.len() != layers.len() {
        return Err(index::layer_mismatch(&manifest.config.digest, diff_ids.len(), layers.len()));
    }
    let mut all: Vec<Wanted> = Vec::new();
    for ((diff_id, chain_id), blob) in diff_ids.iter().zip(chain_ids(diff_ids)).zip(layers) {
        let folder = Folder { diff_id: *diff_id, chain_id };
        match all.iter_mut().find(|wanted| wanted.blob.digest == blob.digest) {
            Some(wanted) => wanted.folders.push(folder),
            None => all.push(Wanted { blob: blob.clone(), folders: vec![folder] }),
        }
    }
    Ok(all)
}

/// The names a pulled image gets: its tag, unless a digest was asked for, and the digest the registry knows it by.
fn names(reference: &Reference, top: Digest) -> Result<Vec<Reference>> {
    let mut names = vec![reference.with_digest(top)];
    if let (None, Some(tag)) = (reference.digest(), reference.tag()) {
        names.push(reference.with_tag(tag)?);
    }
    Ok(names)
}

/// For other rooms of this crate: an image's layer stack by its parts.
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut below = None;
    let next = |diff_id| {
        let chain_id = Digest::chain(below.as_ref(), diff_id);
        below = Some(chain_id);
        chain_id
    };
    diff_ids.iter().map(next).collect()
}
