//! Operations that exist in the API and not in Muster: each is refused by its name, or answered with the nothing there is.

use crate::{
    call::Call,
    fault::{Fault, Outcome},
    reply,
    swarm::member_of,
};
use serde_json::json;

/// A handler that answers 501 with the operation's name.
macro_rules! refused {
    ($($name:ident: $what:literal;)*) => {$(
        pub(crate) async fn $name(_: Call) -> Outcome {
            Err(Fault::unsupported($what))
        }
    )*};
}

/// The same for operations of a swarm: a host outside of any is told so first.
macro_rules! refused_in_swarm {
    ($($name:ident: $what:literal;)*) => {$(
        pub(crate) async fn $name(call: Call) -> Outcome {
            member_of(&call.api).await?;
            Err(Fault::unsupported($what))
        }
    )*};
}

refused_in_swarm! {
    unlock_key: "swarm unlock-key (auto-lock)";
    unlock: "swarm unlock (auto-lock)";
    secret_create: "secret create";
    secret_update: "secret update";
    config_create: "config create";
    config_update: "config update";
}

refused! {
    build: "build";
    build_cancel: "cancelling a build";
    checkpoint: "checkpoint";
    grpc: "BuildKit over /grpc";
    session: "BuildKit sessions";
    volume_update: "volume update (cluster volumes)";
    plugin: "managing plugins";
}

/// There is no build cache as long as there is no build.
pub(crate) async fn build_prune(_: Call) -> Outcome {
    Ok(reply::ok(&json!({ "CachesDeleted": null, "SpaceReclaimed": 0 })))
}

/// No managed plugins can be installed, so there are none.
pub(crate) async fn plugin_list(_: Call) -> Outcome {
    Ok(reply::ok(&json!([])))
}

pub(crate) async fn plugin_inspect(call: Call) -> Outcome {
    Err(Fault::not_found(format!("plugin {:?} not found", call.name)))
}
