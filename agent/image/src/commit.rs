//! New images made here: from a container's changes, from an image with another configuration, from a root file system.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;

use time::OffsetDateTime;

use crate::archive::{self, PackOptions, Whiteouts};
use crate::config::{ContainerConfig, History, ImageConfig, format_time};
use crate::digest::Hashing;
use crate::durable;
use crate::error::{At, blocking};
use crate::index::ImageRecord;
use crate::manifest::{self, Descriptor, Manifest, Parsed};
use crate::pull::chain_ids;
use crate::snapshot::{find, root_fs};
use crate::staging::{Staging, Temporary};
use crate::store::{Inner, Layout};
use crate::{Digest, Error, Image, Platform, Reference, Result, Store, layer};

/// What a new image says of itself.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The name it gets.
    pub reference: Option<Reference>,
    /// What its containers start with: the whole of it, nothing is taken over from the parent.
    pub config: ContainerConfig,
    /// Who made it.
    pub author: String,
    /// Free text of the history line.
    pub comment: String,
    /// Command of the history line.
    pub created_by: String,
}

/// An uncompressed layer that was made here, not yet in the store.
pub(crate) struct NewLayer {
    pub(crate) blob: Temporary,
    pub(crate) folder: Temporary,
    /// Digest of the blob and diff id: the same, as it is not compressed.
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// What a new image stands on.
pub(crate) struct Base {
    pub(crate) parent: Option<Digest>,
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<Descriptor>,
}

impl Store {
    /// Makes an image of a container: its image plus one layer with its changes. The container should not write
    /// meanwhile.
    ///
    /// # Errors
    /// [`Error::NoSuchSnapshot`]; [`Error::NoSuchImage`] when the container's image was removed; [`Error::Archive`],
    /// [`Error::Io`].
    pub async fn commit(&self, container_id: &str, commit: Commit) -> Result<Image> {
        let (inner, id) = (self.inner.clone(), container_id.to_owned());
        let view = self.inner.index.view();
        let (base, layer) = blocking(move || {
            let record = find(&inner.layout, &id)?;
            let image = view.image(&record.image).ok_or_else(|| Error::NoSuchImage(record.image.to_string()))?;
            let base = base_of(&inner.layout, &image)?;
            let upper = root_fs(&inner.layout, &id, &record).upper;
            Ok((base, pack_upper(&inner, &upper)?))
        })
        .await?;
        self.install_new(base, Some(layer), commit).await
    }

    /// Makes an image that differs from `base` in its configuration only; with no base, one without layers.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn derive(&self, base: Option<&Image>, commit: Commit) -> Result<Image> {
        let base = match base.cloned() {
            Some(image) => {
                let layout = self.inner.layout.clone();
                blocking(move || base_of(&layout, &image)).await?
            }
            None => Base::scratch(&Platform::host()),
        };
        self.install_new(base, None, commit).await
    }

    /// Writes configuration and manifest of `base` plus `layer`, and records the image.
    pub(crate) async fn install_new(&self, base: Base, layer: Option<NewLayer>, commit: Commit) -> Result<Image> {
        let Base { parent, mut config, mut layers } = base;
        let now = format_time(OffsetDateTime::now_utc());
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        config.created = Some(now.clone());
        config.author = text(commit.author.clone());
        config.config = commit.config;
        config.history.push(History {
            created: Some(now),
            created_by: text(commit.created_by),
            author: text(commit.author),
            comment: text(commit.comment),
            empty_layer: layer.is_none(),
        });
        if let Some(layer) = &layer {
            config.rootfs.diff_ids.push(layer.digest);
            layers.push(descriptor(manifest::OCI_LAYER, layer.digest, layer.size));
        }
        if layers.len() > manifest::MAX_LAYERS {
            return Err(Error::Unsupported(format!("an image of more than {} layers", manifest::MAX_LAYERS)));
        }
        let raw_config = serde_json::to_vec(&config).map_err(|error| Error::Task(error.to_string()))?;
        let id = Digest::of(&raw_config);
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(manifest::OCI_MANIFEST.into()),
            config: descriptor(manifest::OCI_CONFIG, id, raw_config.len() as u64),
            layers,
            annotations: None,
        };
        let raw_manifest = serde_json::to_vec(&manifest).map_err(|error| Error::Task(error.to_string()))?;
        let record = ImageRecord { id, manifest: Digest::of(&raw_manifest), parent };
        let chain = chain_ids(&config.rootfs.diff_ids);
        let mut claimed = vec![id, record.manifest];
        claimed.extend(chain.iter().copied().chain(manifest.layers.iter().map(|layer| layer.digest)));
        let mut staging = Staging::begin(self.inner.clone(), claimed).await?;
        if let (Some(layer), Some(chain_id)) = (layer, chain.last()) {
            staging.add_blob(layer.blob, layer.digest);
            staging.add_layer(layer.folder, *chain_id);
        }
        staging.add_document(raw_config).await?;
        staging.add_document(raw_manifest).await?;
        staging.install(record, commit.reference.into_iter().collect()).await
    }
}

impl Base {
    /// Nothing, on this platform.
    pub(crate) fn scratch(platform: &Platform) -> Self {
        let config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        };
        Self { parent: None, config, layers: Vec::new() }
    }
}

fn base_of(layout: &Layout, image: &Image) -> Result<Base> {
    let Parsed::Manifest(manifest) = manifest::parse(&layout.read_blob(&image.manifest)?, &image.manifest)? else {
        return Err(Error::NoSuchImage(image.id.to_string()));
    };
    let mut config = ImageConfig::clone(&image.config);
    // They speak of how the parent was made.
    for stale in ["container", "container_config", "docker_version", "id", "parent"] {
        config.other.remove(stale);
    }
    let as_oci = |mut layer: Descriptor| {
        layer.media_type = oci_layer_type(&layer.media_type).into();
        layer
    };
    Ok(Base { parent: Some(image.id), config, layers: manifest.layers.into_iter().map(as_oci).collect() })
}

/// Docker's names of layer types in OCI's words, as an OCI manifest must have them.
fn oci_layer_type(docker: &str) -> &str {
    match docker {
        "application/vnd.docker.image.rootfs.diff.tar" => manifest::OCI_LAYER,
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => manifest::OCI_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => manifest::OCI_LAYER_ZSTD,
        other => other,
    }
}

pub(crate) fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.into(), digest, size, platform: None, annotations: None }
}

/// Packs a container's changes into a blob, and unpacks that into a layer folder.
fn pack_upper(inner: &Inner, upper: &Path) -> Result<NewLayer> {
    let root = File::open(upper).at("open", upper)?;
    let options = PackOptions { name: Some(String::new()), whiteouts: Whiteouts::Overlay, follow: false };
    make_layer(inner, |writer| {
        archive::pack(root.as_fd(), Path::new("."), writer, &options).map(drop).map_err(Error::from)
    })
}

/// Makes a layer of the tar that `write` writes.
pub(crate) fn make_layer(inner: &Inner, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<NewLayer> {
    let blob = Temporary::new(inner.layout.ingest_path("blob"), inner.trash.clone());
    let mut writer = Hashing::new(BufWriter::new(durable::create(blob.path())?));
    write(&mut writer)?;
    writer.flush().at("write", blob.path())?;
    let (_, digest, size) = writer.finish();
    let file = File::open(blob.path()).at("open", blob.path())?;
    let (folder, diff_id) = layer::unpack_stream(inner, std::io::BufReader::new(file))?;
    if diff_id != digest {
        return Err(Error::CorruptBlob { digest, reason: format!("the disk gave back {diff_id}") });
    }
    Ok(NewLayer { blob, folder, digest, size })
}
