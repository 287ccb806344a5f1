//! `/volumes`.

use crate::{
    call::Call,
    fault::{Fault, Outcome},
    reply,
    version::ApiVersion,
};
use http::StatusCode;
use muster_model::engine::{PruneReport, VolumeCreate};
use serde_json::json;

pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.query.filters(&["dangling", "driver", "label", "name", "node"])?;
    filters.flag("dangling")?;
    Ok(reply::ok(&call.api.engine.volume_list(filters).await?))
}

pub(crate) async fn create(mut call: Call) -> Outcome {
    let volume: VolumeCreate = call.document_or_none().await?.unwrap_or_default();
    if volume.cluster_volume_spec.is_some() {
        return Err(Fault::unsupported("ClusterVolumeSpec (a CSI volume)"));
    }
    Ok(reply::json(StatusCode::CREATED, &call.api.engine.volume_create(volume).await?))
}

pub(crate) async fn inspect(call: Call) -> Outcome {
    Ok(reply::ok(&call.api.engine.volume_inspect(&call.name).await?))
}

pub(crate) async fn remove(call: Call) -> Outcome {
    call.api.engine.volume_remove(&call.name, call.query.flag("force")).await?;
    Ok(reply::no_content())
}

/// Before 1.42 every unused volume went; since then only anonymous ones, unless the filter `all` says so.
pub(crate) async fn prune(call: Call) -> Outcome {
    let mut filters = call.query.filters(&["label", "label!", "all"])?;
    filters.flag("all")?;
    if call.version < ApiVersion(1, 42) && !filters.contains("all") {
        filters.add("all", "true");
    }
    let PruneReport { volumes_deleted, space_reclaimed, warnings, .. } = call.api.engine.volume_prune(filters).await?;
    let report = json!({ "VolumesDeleted": volumes_deleted, "SpaceReclaimed": space_reclaimed });
    Ok(reply::warned(reply::ok(&report), warnings))
}
