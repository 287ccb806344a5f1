//! Networks that span hosts, for containers of no service: [`Spanning`], and the answer of a host in no cluster.

use crate::EndpointSpec;
use async_trait::async_trait;
use muster_calls::{Error, Result};
use muster_model::{AttachmentId, cluster::AttachRequest};

/// Who gives containers their places on networks that are not of this host. The id in a request is drawn by the engine and
/// kept in the container's record for as long as the container holds the place.
#[async_trait]
pub trait Spanning: Send + Sync + 'static {
    /// Whether there may be such networks at all.
    fn is_member(&self) -> bool;

    /// A place on a network, once the cluster has given one. A place that was given before is answered at once, also
    /// where no manager can be reached.
    ///
    /// # Errors
    /// `NotFound` and `Forbidden` for networks that are not there or take no such containers, `Unavailable` where nobody
    /// answers. The place is not wanted any more then.
    async fn attach(&self, request: AttachRequest) -> Result<EndpointSpec>;

    /// A running container has this place, or goes by other names on it: nothing is waited for.
    fn hold(&self, request: AttachRequest);

    /// The container does not need the place any more. One that is not known is no error.
    fn release(&self, id: AttachmentId);
}

/// For engines outside of any cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSpanning;

#[async_trait]
impl Spanning for NoSpanning {
    fn is_member(&self) -> bool {
        false
    }
    async fn attach(&self, request: AttachRequest) -> Result<EndpointSpec> {
        Err(Error::not_found(format!("network {} not found", request.network)))
    }
    fn hold(&self, _: AttachRequest) {}
    fn release(&self, _: AttachmentId) {}
}
