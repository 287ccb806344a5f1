//! Images as an archive that is Docker's (`manifest.json`, `repositories`) and an OCI image layout (`index.json`) at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};

use serde_json::{Value, json};
use tar::EntryType;
use tokio::io::AsyncWrite;
use tokio_util::io::SyncIoBridge;

use crate::archive::writer::{Head, Writer};
use crate::error::{At, blocking};
use crate::image::Named;
use crate::manifest::{self, Index};
use crate::store::Layout;
use crate::{Digest, Error, Image, Reference, Result, Store, commit, index};

/// One image of an archive and the names it has there.
struct Chosen {
    image: Image,
    names: Vec<Reference>,
}

impl Store {
    /// Writes the named images as an uncompressed tar: by name with that tag, by repository with all of its tags, by
    /// id without a name. The same images give the same bytes.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] before anything is written; [`Error::Archive`] when the writer fails; [`Error::Io`].
    pub async fn save(&self, names: &[String], writer: impl AsyncWrite + Send + Unpin + 'static) -> Result<()> {
        let chosen = choose(&self.inner.index.view(), names)?;
        let mut needed = Vec::new();
        for Chosen { image, .. } in &chosen {
            needed.extend([image.id, image.manifest]);
            needed.extend(image.layers.iter().map(|layer| layer.blob));
        }
        let lease = self.inner.index.lease(needed).await?;
        let (layout, writer) = (self.inner.layout.clone(), SyncIoBridge::new(writer));
        blocking(move || {
            let _lease = lease;
            write(&layout, &chosen, writer)
        })
        .await
    }
}

fn choose(view: &index::View, names: &[String]) -> Result<Vec<Chosen>> {
    let mut chosen: BTreeMap<Digest, BTreeSet<Reference>> = BTreeMap::new();
    for name in names {
        if let Some(tags) = all_tags(view, name) {
            tags.into_iter().for_each(|(tag, id)| chosen.entry(id).or_default().extend([tag]));
            continue;
        }
        let (id, named) = view.find(name)?;
        let names = chosen.entry(id).or_default();
        if let Named::Reference(reference) = named
            && reference.tag().is_some()
        {
            names.insert(reference);
        }
    }
    let with_image = |(id, names): (Digest, BTreeSet<Reference>)| {
        let image = view.image(&id).ok_or_else(|| Error::NoSuchImage(id.to_string()))?;
        Ok(Chosen { image, names: names.into_iter().collect() })
    };
    chosen.into_iter().map(with_image).collect()
}

/// All tags of a repository, when `name` is only that.
fn all_tags(view: &index::View, name: &str) -> Option<Vec<(Reference, Digest)>> {
    let last = name.rsplit('/').next()?;
    if last.contains([':', '@']) {
        return None;
    }
    let repository = Reference::parse(name).ok()?.repository();
    let tags = view.refs.iter().filter(|(tag, _)| tag.tag().is_some() && tag.repository() == repository);
    let tags: Vec<_> = tags.map(|(tag, record)| (tag.clone(), record.image)).collect();
    (!tags.is_empty()).then_some(tags)
}

fn write(layout: &Layout, chosen: &[Chosen], writer: impl Write) -> Result<()> {
    let mut writer = Writer::new(writer);
    folder(&mut writer, "blobs/")?;
    folder(&mut writer, "blobs/sha256/")?;
    let mut blobs = BTreeSet::new();
    for Chosen { image, .. } in chosen {
        blobs.extend([image.id, image.manifest]);
        blobs.extend(image.layers.iter().map(|layer| layer.blob));
    }
    for digest in &blobs {
        blob(&mut writer, layout, digest)?;
    }
    file(&mut writer, "index.json", &to_json(&index_json(layout, chosen)?))?;
    file(&mut writer, "manifest.json", &to_json(&manifest_json(chosen)))?;
    file(&mut writer, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let repositories = repositories(chosen);
    if !repositories.is_empty() {
        file(&mut writer, "repositories", &to_json(&repositories))?;
    }
    writer.finish()?;
    Ok(())
}

/// An entry for each name, as an OCI layout has them; one without for an image without.
fn index_json(layout: &Layout, chosen: &[Chosen]) -> Result<Index> {
    let mut manifests = Vec::new();
    for Chosen { image, names } in chosen {
        let raw = layout.read_blob(&image.manifest)?;
        let kind: Option<String> = serde_json::from_slice::<Value>(&raw).ok().and_then(|json| {
            let kind = json.get("mediaType")?.as_str()?;
            Some(kind.to_owned())
        });
        let kind = kind.unwrap_or_else(|| manifest::OCI_MANIFEST.into());
        let mut entry = commit::descriptor(&kind, image.manifest, raw.len() as u64);
        entry.platform = Some(image.platform.clone());
        if names.is_empty() {
            manifests.push(entry.clone());
        }
        for name in names {
            let tag = name.tag().unwrap_or_default().to_owned();
            let annotations =
                [("io.containerd.image.name", name.canonical()), ("org.opencontainers.image.ref.name", tag)];
            entry.annotations = Some(annotations.map(|(key, value)| (key.to_owned(), value)).into());
            manifests.push(entry.clone());
        }
    }
    Ok(Index { schema_version: 2, media_type: Some(manifest::OCI_INDEX.into()), manifests, annotations: None })
}

fn manifest_json(chosen: &[Chosen]) -> Value {
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let entry = |Chosen { image, names }: &Chosen| {
        let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
        let layers: Vec<String> = image.layers.iter().map(|layer| path(&layer.blob)).collect();
        json!({ "Config": path(&image.id), "RepoTags": if tags.is_empty() { Value::Null } else { json!(tags) }, "Layers": layers })
    };
    chosen.iter().map(entry).collect()
}

/// The table of names of the first format of archives, which older tools read: repository, tag, topmost layer.
fn repositories(chosen: &[Chosen]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut table: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for Chosen { image, names } in chosen {
        let Some(top) = image.layers.last() else { continue };
        for name in names {
            let familiar = name.familiar();
            let Some((repository, tag)) = familiar.rsplit_once(':') else { continue };
            table.entry(repository.to_owned()).or_default().insert(tag.to_owned(), top.blob.hex());
        }
    }
    table
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("these documents have string keys and plain fields only")
}

fn head<W: Write>(writer: &mut Writer<W>, kind: EntryType, path: &str, size: u64, mode: u32) -> Result<()> {
    let (path, link, device, xattrs) = (path.as_bytes(), &b""[..], (0, 0), &[][..]);
    Ok(writer.head(&Head { kind, path, link, size, mode, uid: 0, gid: 0, mtime: 0, device, xattrs })?)
}

fn folder<W: Write>(writer: &mut Writer<W>, path: &str) -> Result<()> {
    head(writer, EntryType::Directory, path, 0, 0o755)
}

fn file<W: Write>(writer: &mut Writer<W>, path: &str, content: &[u8]) -> Result<()> {
    let size = content.len() as u64;
    head(writer, EntryType::Regular, path, size, 0o644)?;
    writer.bytes(content)?;
    Ok(writer.pad(size)?)
}

fn blob<W: Write>(writer: &mut Writer<W>, layout: &Layout, digest: &Digest) -> Result<()> {
    let path = layout.blob(digest);
    let mut from = File::open(&path).at("open", &path)?;
    let size = from.metadata().at("read", &path)?.len();
    head(writer, EntryType::Regular, &format!("blobs/sha256/{}", digest.hex()), size, 0o644)?;
    let mut buffer = vec![0; 64 << 10];
    let mut written = 0;
    loop {
        let read = from.read(&mut buffer).at("read", &path)?;
        if read == 0 {
            break;
        }
        writer.bytes(&buffer[..read])?;
        written += read as u64;
    }
    // Blobs never change once they have their name.
    if written != size {
        return Err(Error::CorruptBlob { digest: *digest, reason: format!("{written} of its {size} bytes are here") });
    }
    Ok(writer.pad(size)?)
}
