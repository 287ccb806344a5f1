//! `/secrets` and `/configs`: none can be made yet, so there are none. Clients look anyway (`docker inspect`, `stack rm`).

use super::member_of;
use crate::{
    call::Call,
    fault::{Fault, Outcome},
    reply,
};
use serde_json::json;

pub(crate) async fn list(call: Call) -> Outcome {
    member_of(&call.api).await?;
    call.query.filters(&["id", "label", "name", "names"])?;
    Ok(reply::ok(&json!([])))
}

pub(crate) async fn no_secret(call: Call) -> Outcome {
    member_of(&call.api).await?;
    Err(Fault::not_found(format!("secret {} not found", call.name)))
}

pub(crate) async fn no_config(call: Call) -> Outcome {
    member_of(&call.api).await?;
    Err(Fault::not_found(format!("config {} not found", call.name)))
}
