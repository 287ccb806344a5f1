//! Addresses of containers of no service: a place without one is given one, or told why there is none.

use crate::planner::Context;
use muster_model::{AttachmentId, cluster::Attachment};
use muster_state::{Change, Expect, Group, Key};

/// What is to be proposed for this place; `None`: nothing, it is gone or was decided.
pub(crate) fn decide(id: AttachmentId, cx: &mut Context<'_>) -> Option<Group> {
    let old = cx.state.attachment(id).filter(|a| a.is_pending())?;
    let mut new = Attachment::clone(old);
    let taken = match old.wanted_ip {
        Some(ip) => cx.ipam.take_this(old.network, ip).map(|()| ip),
        None => cx.ipam.take(old.network),
    };
    match taken {
        Ok(ip) => new.ip = Some(ip),
        Err(why) => new.refusal = why,
    }
    let expects =
        vec![Expect::version(Key::Attachment(id), old.meta.version), Expect::Exists(Key::Network(old.network))];
    Some(Group { expects, changes: vec![Change::put(new)], trace_parent: None })
}
