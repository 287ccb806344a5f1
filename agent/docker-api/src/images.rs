//! `/images` and `/commit`.

use crate::{
    call::Call,
    fault::{Fault, Outcome},
    reply,
    version::ApiVersion,
};
use http::StatusCode;
use muster_calls::{Commit, Import, Kind, Listed, Pull};
use muster_model::engine::{ContainerConfig, ImagePlatform, ImageSummary, ProgressLine, PruneReport};
use serde_json::json;
use std::sync::Arc;

pub(crate) async fn list(call: Call) -> Outcome {
    let filters =
        call.query.filters(&["before", "dangling", "label", "label!", "node", "reference", "since", "until"])?;
    filters.flag("dangling")?;
    let (all, digests) = (call.query.flag("all"), call.query.flag("digests"));
    let Listed { mut items, unreached } = call.api.engine.image_list(all, digests, filters).await?;
    for line in &mut items {
        if !call.query.flag("shared-size") {
            line.shared_size = -1;
        }
        if !call.query.flag("manifests") {
            line.manifests = None;
        }
        // Counted from API 1.51 on.
        line.containers = -1;
    }
    let old = |image: &ImageSummary| {
        let mut document = serde_json::to_value(image).unwrap_or_default();
        old_form(call.version, &mut document);
        document
    };
    Ok(reply::listed(&Listed { items: items.iter().map(old).collect(), unreached }))
}

/// The platform that a call names, as `os/arch[/variant]`: clients send the OCI object as JSON, older ones the text.
fn platform(call: &Call) -> Result<Option<String>, Fault> {
    let mut platforms = call.query.all("platform").into_iter().filter(|text| !text.is_empty());
    let (first, second) = (platforms.next(), platforms.next());
    if second.is_some() {
        return Err(Fault::unsupported("choosing several platforms of one image"));
    }
    first.map(|text| platform_text(&text)).transpose()
}

fn platform_text(text: &str) -> Result<String, Fault> {
    if !text.starts_with('{') {
        return Ok(text.to_owned());
    }
    let bad = |e: serde_json::Error| Fault::bad(format!("failed to parse platform: {e}"));
    let platform: ImagePlatform = serde_json::from_str(text).map_err(bad)?;
    if platform.os.is_empty() || platform.architecture.is_empty() {
        return Err(Fault::bad("both OS and Architecture must be provided"));
    }
    let variant = if platform.variant.is_empty() { String::new() } else { format!("/{}", platform.variant) };
    Ok(format!("{}/{}{variant}", platform.os, platform.architecture))
}

/// One image here is one platform: the call goes on when it is the one asked for.
async fn check_platform(call: &Call, name: &str) -> Result<(), Fault> {
    let Some(wanted) = platform(call)? else { return Ok(()) };
    let image = call.api.engine.image_inspect(name).await?;
    let own = |variant: &str| {
        let variant = if variant.is_empty() { String::new() } else { format!("/{variant}") };
        format!("{}/{}{variant}", image.os, image.architecture)
    };
    if wanted == own(&image.variant) || wanted == own("") {
        return Ok(());
    }
    Err(Fault::not_found(format!(
        "image with reference {name} was found but does not provide the specified platform ({wanted}): it has {}",
        own(&image.variant)
    )))
}

pub(crate) async fn inspect(call: Call) -> Outcome {
    let manifests = call.query.flag("manifests");
    if manifests && platform(&call)?.is_some() {
        return Err(Fault::bad("conflicting options: manifests and platform options cannot both be set"));
    }
    check_platform(&call, &call.name).await?;
    let mut image = call.api.engine.image_inspect(&call.name).await?;
    if !manifests {
        image.manifests = None;
    }
    let mut document = serde_json::to_value(&image).unwrap_or_default();
    old_form(call.version, &mut document);
    Ok(reply::ok(&document))
}

/// What older clients look for: until 1.43 `VirtualSize`, which is `Size`; until 1.44 the container that an image was made
/// from, which is not kept, and its configuration, which is the image's. The latter stays in all versions: docker-compose 1
/// takes the newest one and cannot make a container anew without it, as with dockerd from 26 on.
fn old_form(version: ApiVersion, image: &mut serde_json::Value) {
    if version < ApiVersion(1, 44) {
        image["VirtualSize"] = image["Size"].clone();
    }
    if image.get("Config").is_some() {
        image["ContainerConfig"] = image["Config"].clone();
        if version < ApiVersion(1, 45) {
            image["Container"] = json!("");
        }
    }
}

pub(crate) async fn history(call: Call) -> Outcome {
    check_platform(&call, &call.name).await?;
    Ok(reply::ok(&call.api.engine.image_history(&call.name).await?))
}

/// What a registry has under a name; clients pin the digests of services with it.
pub(crate) async fn distribution(call: Call) -> Outcome {
    let auth = call.registry_auth();
    Ok(reply::ok(&call.api.engine.distribution(call.name.clone(), auth).await?))
}

pub(crate) async fn search(call: Call) -> Outcome {
    let term = call.query.text("term").ok_or_else(|| Fault::bad("term: words to search for are needed"))?;
    let limit = call.query.number::<u32>("limit")?.filter(|n| *n > 0).unwrap_or(25);
    if limit > 100 {
        return Err(Fault::bad(format!("limit {limit} is outside the range of [1, 100]")));
    }
    let filters = call.query.filters(&["is-automated", "is-official", "stars"])?;
    let auth = call.registry_auth();
    Ok(reply::ok(&call.api.engine.image_search(term, limit, filters, auth).await?))
}

/// Pulls `fromImage`, or imports a tar: the body's when `fromSrc` is `-`, else that at its URL.
pub(crate) async fn create(call: Call) -> Outcome {
    match (call.query.get("fromImage"), call.query.get("fromSrc")) {
        ("", "") => Err(Fault::bad("invalid reference format: fromImage or fromSrc is needed")),
        ("", _) => import(call).await,
        _ => pull(call).await,
    }
}

async fn pull(call: Call) -> Outcome {
    let (reference, all_tags) = reference(call.query.get("fromImage"), call.query.get("tag"));
    let pull = Pull { reference, all_tags, platform: platform(&call)?.unwrap_or_default(), auth: call.registry_auth() };
    Ok(reply::progress(call.api.engine.image_pull(pull).await?))
}

/// Puts a name and its tag or digest together, as clients send them apart. Without either all tags are meant.
fn reference(image: &str, tag: &str) -> (String, bool) {
    let last = image.rsplit('/').next().unwrap_or(image);
    let complete = image.contains('@') || last.contains(':');
    let whole = match tag {
        "" => return (image.to_owned(), !complete),
        digest if digest.contains(':') => format!("{image}@{digest}"),
        // A tag beside a tag replaces it, as dockerd does.
        tag if complete && !image.contains('@') => {
            let end = image.len() - last.len() + last.find(':').unwrap_or(last.len());
            format!("{}:{tag}", &image[..end])
        }
        tag => format!("{image}:{tag}"),
    };
    (whole, false)
}

async fn import(call: Call) -> Outcome {
    let q = &call.query;
    let (repo, tag) = (q.get("repo").to_owned(), q.get("tag").to_owned());
    // Clients that know no `tag` parameter write it behind the name.
    let (repo, tag) = if tag.is_empty() { split_tag(&repo) } else { (repo, tag) };
    let url = match q.get("fromSrc") {
        "-" => String::new(),
        url if url.contains("://") => url.to_owned(),
        host => format!("http://{host}"),
    };
    let (message, changes) = (q.get("message").to_owned(), q.all("changes"));
    let import = Import { url, repo, tag, message, changes, platform: q.get("platform").to_owned() };
    let engine = Arc::clone(&call.api.engine);
    Ok(reply::progress(engine.image_import(call.into_bytes(), import).await?))
}

fn with_tag(name: &str, tag: &str) -> String {
    if tag.is_empty() { name.to_owned() } else { format!("{name}:{tag}") }
}

fn split_tag(repo: &str) -> (String, String) {
    match repo.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name.to_owned(), tag.to_owned()),
        _ => (repo.to_owned(), String::new()),
    }
}

/// An image that does not exist is told in the stream, as dockerd does: the status is 200 by then.
pub(crate) async fn push(call: Call) -> Outcome {
    check_platform(&call, &with_tag(&call.name, call.query.get("tag"))).await?;
    let auth = call.push_auth()?;
    match call.api.engine.image_push(&call.name, call.query.text("tag"), auth).await {
        Ok(lines) => Ok(reply::progress(lines)),
        Err(e) if e.kind == Kind::NotFound => {
            Ok(reply::lines(futures_util::stream::once(async { Ok(ProgressLine::error(e.message)) })))
        }
        Err(e) => Err(e.into()),
    }
}

pub(crate) async fn tag(call: Call) -> Outcome {
    let (repo, tag) = (call.query.get("repo").to_owned(), call.query.get("tag").to_owned());
    let (repo, tag) = if tag.is_empty() { split_tag(&repo) } else { (repo, tag) };
    let tag = if tag.is_empty() { "latest".to_owned() } else { tag };
    call.api.engine.image_tag(&call.name, repo, tag).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

/// An image here is one platform, so removing that one is removing the image.
pub(crate) async fn remove(call: Call) -> Outcome {
    for wanted in call.query.all("platforms") {
        let wanted = platform_text(&wanted)?;
        let image = call.api.engine.image_inspect(&call.name).await?;
        if wanted != format!("{}/{}", image.os, image.architecture) {
            return Err(Fault::not_found(format!("image {} has no platform {wanted}", call.name)));
        }
    }
    let (force, no_prune) = (call.query.flag("force"), call.query.flag("noprune"));
    Ok(reply::ok(&call.api.engine.image_remove(&call.name, force, no_prune).await?))
}

pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = call.query.filters(&["dangling", "until", "label", "label!"])?;
    filters.flag("dangling")?;
    let PruneReport { images_deleted, space_reclaimed, warnings, .. } = call.api.engine.image_prune(filters).await?;
    let report =
        json!({ "ImagesDeleted": images_deleted.filter(|all| !all.is_empty()), "SpaceReclaimed": space_reclaimed });
    Ok(reply::warned(reply::ok(&report), warnings))
}

pub(crate) async fn save(call: Call) -> Outcome {
    let names = if call.name.is_empty() { call.query.all("names") } else { vec![call.name.clone()] };
    // `names` may hold several, parted by commas, too.
    let names: Vec<String> =
        names.iter().flat_map(|n| n.split(',')).filter(|n| !n.is_empty()).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Fault::bad("no image names were given"));
    }
    for name in &names {
        check_platform(&call, name).await?;
    }
    Ok(reply::stream(reply::TAR, call.api.engine.image_save(names).await?))
}

pub(crate) async fn load(call: Call) -> Outcome {
    let platform = platform(&call)?.unwrap_or_default();
    let quiet = call.query.flag_or("quiet", true);
    let engine = Arc::clone(&call.api.engine);
    match engine.image_load(call.into_bytes(), quiet, platform).await {
        Ok(lines) => Ok(reply::progress(lines)),
        // As dockerd: what is wrong with the archive is told in the stream.
        Err(e) if matches!(e.kind, Kind::Unimplemented | Kind::Unavailable) => Err(e.into()),
        Err(e) => Ok(reply::lines(futures_util::stream::once(async { Ok(ProgressLine::error(e.message)) }))),
    }
}

pub(crate) async fn commit(mut call: Call) -> Outcome {
    let config: Option<ContainerConfig> = call.document_or_none::<Option<ContainerConfig>>().await?.flatten();
    let q = &call.query;
    let container = q.text("container").ok_or_else(|| Fault::bad("container: the name of a container is needed"))?;
    let commit = Commit {
        container,
        repo: q.get("repo").to_owned(),
        tag: q.get("tag").to_owned(),
        comment: q.get("comment").to_owned(),
        author: q.get("author").to_owned(),
        pause: q.flag_or("pause", true),
        changes: q.all("changes"),
    };
    let id = call.api.engine.commit(commit, config).await?;
    Ok(reply::json(StatusCode::CREATED, &json!({ "Id": id })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_tag_are_put_together_however_they_are_sent() {
        let r = |image, tag| Some(reference(image, tag)).filter(|(_, all)| !all).map(|(name, _)| name);
        assert_eq!(r("127.0.0.1:5000/q", "1").as_deref(), Some("127.0.0.1:5000/q:1"));
        assert_eq!(r("q", "sha256:00").as_deref(), Some("q@sha256:00"));
        assert_eq!(r("127.0.0.1:5000/q:2", "").as_deref(), Some("127.0.0.1:5000/q:2"));
        assert_eq!(r("127.0.0.1:5000/q:2", "3").as_deref(), Some("127.0.0.1:5000/q:3"));
        assert_eq!(r("q@sha256:00", "").as_deref(), Some("q@sha256:00"));
        assert_eq!(reference("127.0.0.1:5000/q", ""), ("127.0.0.1:5000/q".to_owned(), true));
    }

    #[test]
    fn platforms_are_read_as_text_and_as_json() {
        let p = |text| platform_text(text).map_err(|fault| fault.message);
        assert_eq!(p("linux/arm64"), Ok("linux/arm64".to_owned()));
        assert_eq!(p(r#"{"os":"linux","architecture":"arm","variant":"v7"}"#), Ok("linux/arm/v7".to_owned()));
        assert!(p(r#"{"os":"linux"}"#).is_err() && p("{").is_err());
    }

    #[test]
    fn old_clients_find_what_they_look_for() {
        let at = |version| {
            let mut image = json!({"Size": 7, "Config": {"Volumes": {"/v": {}}}});
            old_form(version, &mut image);
            assert!(image.pointer("/ContainerConfig/Volumes/~1v").is_some(), "{image}");
            (image.get("VirtualSize").cloned(), image.get("Container").is_some())
        };
        assert_eq!(at(ApiVersion(1, 43)), (Some(json!(7)), true));
        assert_eq!(at(ApiVersion(1, 44)), (None, true));
        assert_eq!(at(ApiVersion(1, 50)), (None, false));
    }

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split_tag("im:1"), ("im".into(), "1".into()));
        assert_eq!(split_tag("r:5000/im"), ("r:5000/im".into(), String::new()));
    }
}
