//! The services that a manager's peers and agents call: `Ca`, `Dispatch`, `Raft`. They are mounted once, when the server
//! starts, and answer Unavailable while the node is no manager.

mod authority;
mod dispatch;
mod raft;

use crate::Controller;
use arc_swap::ArcSwapOption;
use muster_calls::Error;
use muster_proto::{MAX_MESSAGE_BYTES, to_status, v1};
use std::sync::Arc;
use tonic::{Status, service::Routes};

/// Where the services find the controller; a node may become a manager, and stop being one, while it serves.
#[derive(Clone, Default)]
pub struct Slot(Arc<ArcSwapOption<Controller>>);

impl Slot {
    /// Puts a controller in, or takes it out. Calls that have begun go on with what they found.
    pub fn set(&self, controller: Option<Controller>) {
        self.0.store(controller.map(Arc::new));
    }

    pub fn get(&self) -> Option<Controller> {
        self.0.load().as_deref().cloned()
    }

    /// # Errors
    /// `Unavailable` on a node that is no manager.
    pub fn controller(&self) -> Result<Controller, Error> {
        self.get().ok_or_else(|| Error::unavailable("this node is not a manager"))
    }

    fn served(&self) -> Result<Controller, Status> {
        self.controller().map_err(to_status)
    }
}

/// The three services, to which the host adds its own. The server must hand requests a [`muster_mtls::Peer`]: serve on
/// [`muster_mtls::incoming`].
pub fn routes(slot: &Slot) -> Routes {
    let ca = v1::ca_server::CaServer::new(authority::CaService(slot.clone()));
    let dispatch = v1::dispatch_server::DispatchServer::new(dispatch::DispatchService(slot.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let raft =
        v1::raft_server::RaftServer::new(raft::RaftService(slot.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Routes::new(ca).add_service(dispatch).add_service(raft)
}
