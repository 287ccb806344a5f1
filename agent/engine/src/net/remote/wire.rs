//! A plugin's interface on its way into a container's network namespace, and back. Each piece of work is a thread of its own, that
//! enters the namespace and ends.

use super::driver::{Cidr, Route};
use crate::record::NO_MAC;
use futures_util::TryStreamExt;
use muster_calls::{Error, Result};
use muster_model::net::Mac;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder, new_connection,
    packet_route::{
        address::{AddressAttribute, AddressFlags},
        link::{LinkAttribute, LinkFlags, LinkMessage},
        route::{RouteMessage, RouteScope},
    },
};
use std::{
    fs::{self, File},
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    pin::Pin,
};

/// An interface as it is to be in the container.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub netns: PathBuf,
    /// Its name on the host.
    pub source: String,
    /// Its name in the container.
    pub name: String,
    pub mac: Option<Mac>,
    pub ip: Cidr<Ipv4Addr>,
    pub ip6: Option<Cidr<Ipv6Addr>>,
    pub routes: Vec<Route>,
}

/// What went wrong, in the kernel's words.
type Done<T> = std::result::Result<T, String>;
type Work<T> = Pin<Box<dyn Future<Output = Done<T>>>>;

/// Moves the interface in and brings it up; answers with its hardware address. On an error it is back where it was, as far
/// as the kernel allows.
///
/// # Errors
/// `Internal` naming the interface and what the kernel said.
pub(super) async fn put_in(plan: Plan) -> Result<Mac> {
    let failed = format!("interface {} of the plugin", plan.source);
    in_thread(failed, move || {
        let netns = open(&plan.netns)?;
        send(None, &plan.source, &netns, &plan.name)?;
        let planned = plan.clone();
        let configured = aside(Some(&netns), |handle| Box::pin(configure(handle, planned)));
        configured.inspect_err(|_| {
            let _ = back(&plan.netns, &plan.name, &plan.source); // The first error is the one to be told.
        })
    })
    .await
}

/// Moves an interface back to the host, under its name there. One that is gone is no error.
pub(super) async fn take_out(netns: PathBuf, name: String, source: String) -> Result<()> {
    in_thread(format!("interface {name} of the container"), move || back(&netns, &name, &source)).await
}

/// Sets or removes the default routes that lead through an interface of a container.
pub(super) async fn route_default(
    netns: PathBuf,
    name: String,
    by: (Option<Ipv4Addr>, Option<Ipv6Addr>),
    here: bool,
) -> Result<()> {
    in_thread(format!("interface {name} of the container"), move || {
        let netns = open(&netns)?;
        let gateways = [by.0.map(IpAddr::V4), by.1.map(IpAddr::V6)];
        aside(Some(&netns), |handle| {
            Box::pin(async move {
                let Some(link) = find(&handle, &name).await? else {
                    return if here { Err("it is not there".to_owned()) } else { Ok(()) };
                };
                for gateway in gateways.into_iter().flatten() {
                    let unspecified = match gateway {
                        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                    };
                    let route = message(link.header.index, (unspecified, 0), Some(gateway));
                    if here {
                        words(handle.route().add(route).replace().execute().await, "default route")?;
                    } else {
                        // It may never have been set.
                        let _ = handle.route().del(route).execute().await;
                    }
                }
                Ok(())
            })
        })
    })
    .await
}

async fn in_thread<T: Send + 'static>(what: String, work: impl FnOnce() -> Done<T> + Send + 'static) -> Result<T> {
    crate::error::blocking(move || {
        let thread = std::thread::Builder::new().name("plugin-wire".to_owned()).spawn(work);
        let ended = thread.map_err(|e| e.to_string()).and_then(|t| t.join().unwrap_or(Err("a thread panicked".into())));
        ended.map_err(|e| Error::internal(format!("{what}: {e}")))
    })
    .await
}

fn open(netns: &Path) -> Done<File> {
    File::open(netns).map_err(|e| format!("{}: {e}", netns.display()))
}

/// Runs netlink requests, in a namespace or in the thread's own. A thread that has entered one does not come back: see
/// [`aside`].
fn within<T>(netns: Option<&File>, work: impl FnOnce(Handle) -> Work<T>) -> Done<T> {
    if let Some(netns) = netns {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|e| format!("enter the network namespace: {e}"))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let (connection, handle, _) = new_connection().map_err(|e| format!("netlink: {e}"))?;
        let serving = tokio::spawn(connection);
        let done = work(handle).await;
        serving.abort();
        done
    })
}

/// As [`within`], on a thread of its own, so that the caller stays where it is.
fn aside<T: Send + 'static>(netns: Option<&File>, work: impl FnOnce(Handle) -> Work<T> + Send) -> Done<T> {
    std::thread::scope(|threads| {
        threads.spawn(|| within(netns, work)).join().unwrap_or(Err("a thread panicked".to_owned()))
    })
}

/// Sends an interface from one namespace (`None`: the host's) into another, with a new name. It is down then.
fn send(from: Option<&File>, name: &str, to: &File, new_name: &str) -> Done<()> {
    let (name, new_name, to) = (name.to_owned(), new_name.to_owned(), to.as_raw_fd());
    aside(from, move |handle| {
        Box::pin(async move {
            let link = find(&handle, &name).await?.ok_or_else(|| "there is no such interface".to_owned())?;
            let down = LinkUnspec::new_with_index(link.header.index).down().build();
            words(handle.link().set(down).execute().await, "set it down")?;
            let mut moved = LinkMessage::default();
            moved.header.index = link.header.index;
            moved.attributes = vec![LinkAttribute::NetNsFd(to), LinkAttribute::IfName(new_name.clone())];
            words(handle.link().set(moved).execute().await, &format!("move it as {new_name}"))
        })
    })
}

fn back(netns: &Path, name: &str, source: &str) -> Done<()> {
    let Ok(from) = File::open(netns) else { return Ok(()) };
    let host = open(Path::new("/proc/thread-self/ns/net"))?;
    match send(Some(&from), name, &host, source) {
        Err(e) if e == "there is no such interface" => Ok(()),
        // The mount point of a namespace that is gone: its interfaces are where the kernel puts them.
        Err(e) if e.starts_with("enter the network namespace") => Ok(()),
        other => other,
    }
}

async fn find(handle: &Handle, name: &str) -> Done<Option<LinkMessage>> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(rtnetlink::Error::NetlinkError(e)) if e.to_io().raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(format!("look for it: {}", cause(e))),
    }
}

async fn configure(handle: Handle, plan: Plan) -> Done<Mac> {
    let link = find(&handle, &plan.name).await?.ok_or_else(|| "it did not arrive".to_owned())?;
    let index = link.header.index;
    if let Some(mac) = plan.mac {
        let set = LinkUnspec::new_with_index(index).address(mac.0.to_vec()).build();
        words(handle.link().set(set).execute().await, "set its hardware address")?;
    }
    // Without this a link of a kernel with IPv6 gets an address of its own.
    let ipv6 = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", plan.name);
    if Path::new(&ipv6).exists() {
        fs::write(&ipv6, if plan.ip6.is_some() { "0" } else { "1" }).map_err(|e| format!("{ipv6}: {e}"))?;
    }
    let added = handle.address().add(index, plan.ip.0.into(), plan.ip.1).execute().await;
    words(added, &format!("address {}/{}", plan.ip.0, plan.ip.1))?;
    if let Some((ip, prefix)) = plan.ip6 {
        let mut add = handle.address().add(index, ip.into(), prefix);
        // Nobody else has it: it is usable at once.
        add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        words(add.execute().await, &format!("address {ip}/{prefix}"))?;
    }
    words(handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await, "bring it up")?;
    for route in &plan.routes {
        let added = handle.route().add(message(index, route.to, route.by)).replace().execute().await;
        words(added, &format!("route to {}/{}", route.to.0, route.to.1))?;
    }
    let up = find(&handle, &plan.name).await?.ok_or_else(|| "it went away".to_owned())?;
    debug_assert!(up.header.flags.contains(LinkFlags::Up));
    let mac = up.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    Ok(mac.map_or(NO_MAC, Mac))
}

fn message(index: u32, to: Cidr<IpAddr>, by: Option<IpAddr>) -> RouteMessage {
    match (to.0, by) {
        (IpAddr::V4(ip), by) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, to.1).output_interface(index);
            match by {
                Some(IpAddr::V4(by)) => route.gateway(by).build(),
                _ => route.scope(RouteScope::Link).build(),
            }
        }
        (IpAddr::V6(ip), by) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, to.1).output_interface(index);
            match by {
                Some(IpAddr::V6(by)) => route.gateway(by).build(),
                _ => route.build(),
            }
        }
    }
}

fn words(done: std::result::Result<(), rtnetlink::Error>, what: &str) -> Done<()> {
    done.map_err(|e| format!("{what}: {}", cause(e)))
}

fn cause(e: rtnetlink::Error) -> String {
    match e {
        rtnetlink::Error::NetlinkError(e) => io::Error::to_string(&e.to_io()),
        other => other.to_string(),
    }
}
