//! Images from archives: what `docker save` wrote (old and new form), OCI image layouts, plain root file systems.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tar::EntryType;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

use crate::archive::reader::Reader;
use crate::archive::resolve;
use crate::commit::{Base, Commit, descriptor, make_layer};
use crate::compression::decoder;
use crate::digest::Hashing;
use crate::error::{At, blocking};
use crate::index::{self, ImageRecord};
use crate::manifest::{self, Descriptor, Manifest, Parsed};
use crate::progress::{Reporter, Status};
use crate::pull::chain_ids;
use crate::staging::{Staging, Temporary};
use crate::store::Inner;
use crate::{Digest, Error, Image, Platform, Progress, Reference, Result, Store, archive, durable, layer};

/// Largest JSON document of an archive, in bytes.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Most files of an archive: images have a few hundred.
const MAX_FILES: usize = 100_000;
/// Links followed from one name of an archive.
const MAX_LINKS: usize = 8;

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The names the archive gave it, familiar form; may be empty.
    pub names: Vec<String>,
}

/// How to make an image of a root file system.
#[derive(Clone, Debug)]
pub struct Import {
    /// Name, configuration and history line.
    pub commit: Commit,
    /// What it runs on.
    pub platform: Platform,
}

impl Store {
    /// Loads all images of an archive, plain or compressed: `docker save`'s or an OCI image layout. Of an index the
    /// entry for `platform` is taken.
    ///
    /// # Errors
    /// [`Error::InvalidArchive`], [`Error::CorruptBlob`], [`Error::Malformed`], [`Error::NoMatchingPlatform`],
    /// [`Error::Unsupported`], [`Error::TooLarge`], [`Error::Archive`], [`Error::Io`].
    pub async fn load(
        &self,
        reader: impl AsyncRead + Send + Unpin + 'static,
        platform: &Platform,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Vec<Loaded>> {
        let reporter = Reporter::new(progress);
        let (inner, reader, platform) = (self.inner.clone(), SyncIoBridge::new(reader), platform.clone());
        let (spool, plans) = blocking(move || {
            let spool = Spool::read(&inner, reader)?;
            let plans = plan(&spool, &platform)?;
            Ok((spool, plans))
        })
        .await?;
        let mut loaded = Vec::new();
        for plan in plans {
            loaded.push(self.load_one(plan, &reporter).await?);
        }
        drop(spool);
        Ok(loaded)
    }

    async fn load_one(&self, plan: Plan, reporter: &Reporter) -> Result<Loaded> {
        let chain = chain_ids(&plan.diff_ids);
        let mut claimed = vec![plan.id, Digest::of(&plan.manifest)];
        claimed.extend(plan.layers.iter().map(|(blob, _)| *blob).chain(chain.iter().copied()));
        let mut staging = Staging::begin(self.inner.clone(), claimed).await?;
        for (((blob, source), diff_id), chain_id) in plan.layers.into_iter().zip(plan.diff_ids).zip(chain) {
            reporter.state(&diff_id.short(), Status::LoadingLayer).await;
            let (inner, claim) = (self.inner.clone(), staging.claim.clone());
            let (new_blob, folder) = blocking(move || {
                let _claim = claim;
                load_layer(&inner, &source, &blob, &diff_id, &chain_id)
            })
            .await?;
            new_blob.into_iter().for_each(|new| staging.add_blob(new, blob));
            folder.into_iter().for_each(|new| staging.add_layer(new, chain_id));
        }
        let names: Vec<String> = plan.names.iter().map(Reference::familiar).collect();
        let manifest = staging.add_document(plan.manifest).await?;
        staging.add_document(plan.config).await?;
        staging.install(ImageRecord { id: plan.id, manifest, parent: None }, plan.names).await?;
        Ok(Loaded { id: plan.id, names })
    }

    /// Makes an image of one layer from the tar of a root file system, plain or compressed.
    ///
    /// # Errors
    /// [`Error::Archive`], [`Error::Unsupported`], [`Error::TooLarge`], [`Error::Io`].
    pub async fn import(&self, reader: impl AsyncRead + Send + Unpin + 'static, import: Import) -> Result<Image> {
        let (inner, reader) = (self.inner.clone(), SyncIoBridge::new(reader));
        let layer = blocking(move || {
            let mut plain = decoder(reader, inner.options.max_unpacked_bytes)?;
            make_layer(&inner, |writer| {
                std::io::copy(&mut plain, writer).map(drop).map_err(|error| archive::Error::Stream(error).into())
            })
        })
        .await?;
        self.install_new(Base::scratch(&import.platform), Some(layer), import.commit).await
    }
}

/// One image of an archive.
struct Plan {
    id: Digest,
    manifest: Vec<u8>,
    config: Vec<u8>,
    diff_ids: Vec<Digest>,
    /// Blob digest and the file that holds it.
    layers: Vec<(Digest, PathBuf)>,
    names: Vec<Reference>,
}

/// The files of an archive, spooled to the disk and digested on the way.
struct Spool {
    files: BTreeMap<Vec<u8>, Spooled>,
    links: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The folder that holds them.
    _folder: Temporary,
}

struct Spooled {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

/// One entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Spool {
    fn read(inner: &Inner, reader: impl Read + Send) -> Result<Self> {
        let folder = Temporary::new(inner.layout.ingest_path("load"), inner.trash.clone());
        fs::create_dir(folder.path()).at("create", folder.path())?;
        let mut reader = Reader::new(decoder(reader, inner.options.max_unpacked_bytes)?);
        let (mut files, mut links) = (BTreeMap::new(), BTreeMap::new());
        while let Some(entry) = reader.next()? {
            let name = resolve::join(&resolve::components(&entry.path)?);
            if files.len() + links.len() >= MAX_FILES {
                return Err(Error::InvalidArchive(format!("more than {MAX_FILES} files")));
            }
            match entry.kind {
                EntryType::Symlink => {
                    let folder = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
                    links.insert(name.clone(), [&name[..folder], &entry.link].concat());
                }
                EntryType::Link => drop(links.insert(name, entry.link)),
                kind if kind.is_file() => {
                    let path = folder.path().join(files.len().to_string());
                    let mut file = Hashing::new(durable::create(&path)?);
                    std::io::copy(&mut reader.content(), &mut file).map_err(archive::Error::Stream)?;
                    file.flush().at("write", &path)?;
                    let (_, digest, size) = file.finish();
                    if size != entry.size {
                        return Err(Error::InvalidArchive("it ends in the middle of a file".into()));
                    }
                    files.insert(name, Spooled { path, digest, size });
                }
                _ => {}
            }
        }
        reader.drain()?;
        Ok(Self { files, links, _folder: folder })
    }

    fn get(&self, name: &str) -> Option<&Spooled> {
        let mut name = resolve::join(&resolve::components(name.as_bytes()).ok()?);
        for _ in 0..MAX_LINKS {
            if let Some(file) = self.files.get(&name) {
                return Some(file);
            }
            name = resolve::join(&resolve::components(self.links.get(&name)?).ok()?);
        }
        None
    }

    fn need(&self, name: &str) -> Result<&Spooled> {
        self.get(name).ok_or_else(|| Error::InvalidArchive(format!("{name} is missing")))
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.get(name) else { return Ok(None) };
        if file.size > MAX_DOCUMENT {
            return Err(Error::TooLarge { what: format!("{name} of the archive"), limit: MAX_DOCUMENT });
        }
        fs::read(&file.path).at("read", &file.path).map(Some)
    }

    /// A blob of an OCI layout, compared with its name.
    fn blob(&self, digest: &Digest) -> Result<&Spooled> {
        let file = self.need(&format!("blobs/sha256/{}", digest.hex()))?;
        if file.digest != *digest {
            return Err(Error::CorruptBlob { digest: *digest, reason: format!("the archive holds {}", file.digest) });
        }
        Ok(file)
    }

    fn blob_document(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.blob(digest)?;
        let name = format!("blobs/sha256/{}", digest.hex());
        self.document(&name)?.ok_or_else(|| Error::InvalidArchive(format!("{name} is missing")))
    }
}

/// What images an archive holds. Where it is both an OCI layout and Docker's, the layout counts: it has the manifests.
fn plan(spool: &Spool, platform: &Platform) -> Result<Vec<Plan>> {
    let saved: Option<Vec<Saved>> = match spool.document("manifest.json")? {
        Some(json) => {
            Some(serde_json::from_slice(&json).map_err(|e| Error::InvalidArchive(format!("manifest.json: {e}")))?)
        }
        None => None,
    };
    let index = spool.document("index.json")?;
    match (index, saved) {
        (Some(index), saved) => match oci_plans(spool, platform, &index, saved.as_deref().unwrap_or_default()) {
            Err(error @ (Error::InvalidArchive(_) | Error::NoMatchingPlatform { .. })) => match saved {
                Some(saved) => docker_plans(spool, &saved),
                None => Err(error),
            },
            other => other,
        },
        (None, Some(saved)) => docker_plans(spool, &saved),
        (None, None) => Err(Error::InvalidArchive("it has neither manifest.json nor index.json".into())),
    }
}

fn oci_plans(spool: &Spool, platform: &Platform, index: &[u8], saved: &[Saved]) -> Result<Vec<Plan>> {
    let bad = |reason: String| Error::InvalidArchive(format!("index.json: {reason}"));
    let index: manifest::Index = serde_json::from_slice(index).map_err(|error| bad(error.to_string()))?;
    let mut plans: Vec<Plan> = Vec::new();
    for entry in &index.manifests {
        let mut plan = oci_plan(spool, platform, entry)?;
        plan.names.extend(annotated_name(entry));
        match plans.iter_mut().find(|known| known.id == plan.id) {
            Some(known) => known.names.append(&mut plan.names),
            None => plans.push(plan),
        }
    }
    for image in saved {
        let config = spool.get(&image.config).map(|file| file.digest);
        if let Some(plan) = plans.iter_mut().find(|plan| Some(plan.id) == config) {
            plan.names.append(&mut repo_tags(image)?);
        }
    }
    for plan in &mut plans {
        plan.names.sort();
        plan.names.dedup();
    }
    Ok(plans)
}

fn oci_plan(spool: &Spool, wanted: &Platform, entry: &Descriptor) -> Result<Plan> {
    let mut digest = entry.digest;
    let mut raw = spool.blob_document(&digest)?;
    if let Parsed::Index(index) = manifest::parse(&raw, &digest)? {
        let (reference, available) = (digest.to_string(), index.available());
        let Some(chosen) = index.choose(wanted) else {
            return Err(Error::NoMatchingPlatform { wanted: Box::new(wanted.clone()), reference, available });
        };
        digest = chosen.digest;
        raw = spool.blob_document(&digest)?;
    }
    let Parsed::Manifest(manifest) = manifest::parse(&raw, &digest)? else {
        return Err(Error::InvalidArchive("an index inside of an index".into()));
    };
    let layer = |layer: &Descriptor| Ok((layer.digest, spool.blob(&layer.digest)?.path.clone()));
    let layers = manifest.layers.iter().map(layer).collect::<Result<Vec<_>>>()?;
    finish_plan(raw, manifest.config.digest, spool.blob_document(&manifest.config.digest)?, layers, Vec::new())
}

fn docker_plans(spool: &Spool, saved: &[Saved]) -> Result<Vec<Plan>> {
    saved.iter().map(|image| docker_plan(spool, image)).collect()
}

/// The old form has no manifest: one is made.
fn docker_plan(spool: &Spool, saved: &Saved) -> Result<Plan> {
    spool.need(&saved.config)?;
    let config = spool.document(&saved.config)?.unwrap_or_default();
    let id = Digest::of(&config);
    let files = saved.layers.iter().map(|name| spool.need(name)).collect::<Result<Vec<_>>>()?;
    let layer = |file: &&Spooled| Ok(descriptor(layer_type(&file.path)?, file.digest, file.size));
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(manifest::OCI_MANIFEST.into()),
        config: descriptor(manifest::OCI_CONFIG, id, config.len() as u64),
        layers: files.iter().map(layer).collect::<Result<Vec<_>>>()?,
        annotations: None,
    };
    let raw = serde_json::to_vec(&manifest).map_err(|error| Error::Task(error.to_string()))?;
    let layers = files.iter().map(|file| (file.digest, file.path.clone())).collect();
    finish_plan(raw, id, config, layers, repo_tags(saved)?)
}

fn finish_plan(
    manifest: Vec<u8>,
    id: Digest,
    config: Vec<u8>,
    layers: Vec<(Digest, PathBuf)>,
    names: Vec<Reference>,
) -> Result<Plan> {
    let diff_ids = index::parse_config(&config, &id)?.rootfs.diff_ids;
    if diff_ids.len() != layers.len() {
        return Err(index::layer_mismatch(&id, diff_ids.len(), layers.len()));
    }
    if layers.len() > manifest::MAX_LAYERS {
        return Err(Error::Unsupported(format!("an image of more than {} layers", manifest::MAX_LAYERS)));
    }
    Ok(Plan { id, manifest, config, diff_ids, layers, names })
}

fn repo_tags(saved: &Saved) -> Result<Vec<Reference>> {
    saved.repo_tags.iter().flatten().map(|tag| Reference::parse(tag).map_err(Error::from)).collect()
}

/// The name containerd writes, or OCI's where it is a whole name and not only a tag.
fn annotated_name(entry: &Descriptor) -> Option<Reference> {
    let annotations = entry.annotations.as_ref()?;
    let whole = |name: &&String| name.contains([':', '/']);
    let name = annotations
        .get("io.containerd.image.name")
        .or_else(|| annotations.get("org.opencontainers.image.ref.name").filter(whole))?;
    Reference::parse(name).ok().filter(|name| name.digest().is_none())
}

fn layer_type(path: &Path) -> Result<&'static str> {
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(4).read_to_end(&mut start)).at("read", path)?;
    Ok(match start.as_slice() {
        [0x1f, 0x8b, ..] => manifest::OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => manifest::OCI_LAYER_ZSTD,
        _ => manifest::OCI_LAYER,
    })
}

/// Takes what is missing of a layer from the spool. Several images may take the same file, so it is linked, not moved.
fn load_layer(
    inner: &Inner,
    source: &Path,
    blob: &Digest,
    diff_id: &Digest,
    chain_id: &Digest,
) -> Result<(Option<Temporary>, Option<Temporary>)> {
    let folder =
        if inner.layout.layer(chain_id).exists() { None } else { Some(layer::unpack(inner, source, blob, diff_id)?) };
    if inner.layout.blob(blob).exists() {
        return Ok((None, folder));
    }
    let new = Temporary::new(inner.layout.ingest_path("blob"), inner.trash.clone());
    fs::hard_link(source, new.path()).at("link", new.path())?;
    Ok((Some(new), folder))
}
