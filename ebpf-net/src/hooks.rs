//! Programs in the kernel: loaded, attached, pinned; replaced in place when the daemon starts anew.
//!
//! A tcx or cgroup attachment is a link pinned below `links/`, named after what it hangs on. An attachment by clsact is a
//! filter with a priority and a handle of ours. Replacing either is one step of the kernel: each packet meets the old
//! program or the new one.

use crate::{
    config::Attach,
    layout::MAPS_DIR,
    report::{Error, chain},
    sys,
};
use aya::{
    Ebpf, EbpfLoader,
    programs::{
        CgroupAttachMode, CgroupSockAddr, LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError},
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact, qdisc_detach_program,
        },
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

static PACKET: &[u8] = aya::include_bytes_aligned!("../bpf/packet.bpf.o");
static SOCKET: &[u8] = aya::include_bytes_aligned!("../bpf/socket.bpf.o");

/// The socket programs, each named like the kernel's attach type.
const SOCKET_PROGRAMS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// Priority and handle of our clsact filters: ours are found again by them.
const FILTER_PRIORITY: u16 = 7;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 1);

/// A program for packets and where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PacketHook {
    /// Host side of a container's veth pair, ingress.
    Container,
    /// The same, egress: what the host passes on to a container.
    ToContainer,
    /// Uplink, ingress.
    Uplink,
    /// Device from the host to remote endpoints, egress.
    Host,
}

impl PacketHook {
    const fn program(self) -> &'static str {
        match self {
            Self::Container => "from_container",
            Self::ToContainer => "to_container",
            Self::Uplink => "from_uplink",
            Self::Host => "from_host",
        }
    }

    const fn direction(self) -> TcAttachType {
        match self {
            Self::Container | Self::Uplink => TcAttachType::Ingress,
            Self::Host | Self::ToContainer => TcAttachType::Egress,
        }
    }
}

/// The loaded programs and what they are attached to.
pub struct Hooks {
    packet: Ebpf,
    socket: Ebpf,
    links: PathBuf,
    attach: Attach,
    has_tcx: bool,
    /// Interface attachments made or taken over in this life of the daemon: name of the interface and what runs there -> its index.
    interfaces: BTreeMap<(String, PacketHook), u32>,
    /// Cgroup attachments likewise: prefix of the pins -> inode of the directory.
    cgroups: BTreeMap<&'static str, u64>,
}

impl Hooks {
    /// Loads the programs and opens or makes the maps pinned below `dir`. Nothing that runs is touched.
    ///
    /// # Errors
    /// [`Error::Path`], or [`Error::Bpf`] with the verifier's words.
    pub fn load(dir: &Path, attach: Attach, has_tcx: bool, has_set_retval: bool) -> Result<Self, Error> {
        let maps = dir.join(MAPS_DIR);
        let links = dir.join("links");
        for folder in [&maps, &links] {
            fs::create_dir_all(folder).map_err(|source| Error::Path {
                doing: "create",
                path: folder.clone(),
                source,
            })?;
        }
        // A loader reads the kernel's own type information when it is made, which takes longer than the rest: one for both.
        let retval = u32::from(has_set_retval);
        let mut loader = EbpfLoader::new();
        loader.btf(None).default_map_pin_directory(&maps).override_global("has_set_retval", &retval, false);
        let mut load = |object| loader.load(object).map_err(|e| bpf("load", "the objects", &e));
        let mut hooks = Self {
            packet: load(PACKET)?,
            socket: load(SOCKET)?,
            links,
            attach,
            has_tcx,
            interfaces: BTreeMap::new(),
            cgroups: BTreeMap::new(),
        };
        for hook in [PacketHook::Container, PacketHook::ToContainer, PacketHook::Uplink, PacketHook::Host] {
            let program = hook.program();
            classifier(&mut hooks.packet, program)?.load().map_err(|e| bpf("load program", program, &e))?;
        }
        for program in SOCKET_PROGRAMS {
            socket_program(&mut hooks.socket, program)?.load().map_err(|e| bpf("load program", program, &e))?;
        }
        Ok(hooks)
    }

    /// Sees to it that an interface of the calling thread's namespace runs our program.
    ///
    /// # Errors
    /// [`Error::Bpf`].
    pub fn attach_interface(&mut self, hook: PacketHook, name: &str, index: u32) -> Result<(), Error> {
        let key = (name.to_owned(), hook);
        if self.interfaces.get(&key) == Some(&index) {
            return Ok(());
        }
        let pin = self.links.join(pin_name(name, hook));
        if self.uses_tcx() {
            self.attach_tcx(hook, name, &pin)?;
            remove_filter(name, hook);
        } else {
            self.attach_clsact(hook, name)?;
            remove_pin(&pin)?;
        }
        self.interfaces.insert(key, index);
        Ok(())
    }

    /// Making a tcx link waits for all processors to pass a quiet point (`synchronize_rcu`, 10 ms and more), a clsact filter does
    /// not. No container waits for it: its interface is made while the OCI runtime makes the rest.
    fn uses_tcx(&self) -> bool {
        match self.attach {
            Attach::Auto => self.has_tcx,
            Attach::Tcx => true,
            Attach::Clsact => false,
        }
    }

    fn attach_tcx(&mut self, hook: PacketHook, name: &str, pin: &Path) -> Result<(), Error> {
        let program = classifier(&mut self.packet, hook.program())?;
        let fd = program.fd().map_err(|e| bpf("use program", hook.program(), &e))?;
        if sys::renew_link(pin, fd.as_fd()).map_err(|e| bpf("renew the link of", name, &e))? {
            return Ok(());
        }
        remove_pin(pin)?;
        let id = program
            .attach_with_options(name, hook.direction(), TcAttachOptions::TcxOrder(LinkOrder::first()))
            .map_err(|e| bpf("attach to interface", name, &e))?;
        let link = program.take_link(id).map_err(|e| bpf("take the link of", name, &e))?;
        pin_link(link, pin, name)
    }

    fn attach_clsact(&mut self, hook: PacketHook, name: &str) -> Result<(), Error> {
        match qdisc_add_clsact(name) {
            Ok(()) => {}
            Err(TcError::AlreadyAttached) => {}
            Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST) => {}
            Err(e) => return Err(bpf("add clsact to", name, &e)),
        }
        let program = classifier(&mut self.packet, hook.program())?;
        let old = SchedClassifierLink::attached(name, hook.direction(), FILTER_PRIORITY, FILTER_HANDLE, None)
            .map_err(|e| bpf("find interface", name, &e))?;
        let id = match program.attach_to_link(old) {
            Ok(id) => id,
            Err(_) => {
                // No filter of ours is there to be replaced.
                let options = NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, classid: None };
                program
                    .attach_with_options(name, hook.direction(), TcAttachOptions::Netlink(options))
                    .map_err(|e| bpf("attach to interface", name, &e))?
            }
        };
        let link = program.take_link(id).map_err(|e| bpf("take the filter of", name, &e))?;
        std::mem::forget(link); // its drop would detach; the filter belongs to the interface
        Ok(())
    }

    /// Sees to it that the socket programs run for a cgroup. `prefix` names the pins.
    ///
    /// # Errors
    /// [`Error::Path`] when the directory cannot be opened, [`Error::Bpf`].
    pub fn attach_cgroup(&mut self, prefix: &'static str, cgroup: &Path) -> Result<(), Error> {
        let open = || {
            let dir = File::open(cgroup)?;
            let inode = dir.metadata()?.ino();
            Ok((dir, inode))
        };
        let (dir, inode) =
            open().map_err(|source| Error::Path { doing: "open cgroup", path: cgroup.to_owned(), source })?;
        if self.cgroups.get(prefix) == Some(&inode) {
            return Ok(());
        }
        for name in SOCKET_PROGRAMS {
            let pin = self.links.join(format!("{prefix}-{inode}-{name}"));
            let program = socket_program(&mut self.socket, name)?;
            let fd = program.fd().map_err(|e| bpf("use program", name, &e))?;
            if sys::renew_link(&pin, fd.as_fd()).map_err(|e| bpf("renew the link of", name, &e))? {
                continue;
            }
            remove_pin(&pin)?;
            let id = program.attach(&dir, CgroupAttachMode::Single).map_err(|e| bpf("attach to a cgroup", name, &e))?;
            let link = program.take_link(id).map_err(|e| bpf("take the link of", name, &e))?;
            pin_link(link, &pin, name)?;
        }
        self.cgroups.insert(prefix, inode);
        Ok(())
    }

    /// Removes attachments to interfaces that are not in `wanted`, and pins that lead nowhere: an interface that died
    /// by itself leaves its pin behind. `cgroups`: the prefixes in use.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn retain(&mut self, wanted: &BTreeSet<(String, PacketHook)>, cgroups: &[&'static str]) -> Result<(), Error> {
        let dead: Vec<_> = self.interfaces.keys().filter(|at| !wanted.contains(*at)).cloned().collect();
        for at in dead {
            self.interfaces.remove(&at);
            if !self.uses_tcx() {
                remove_filter(&at.0, at.1);
            }
        }
        self.cgroups.retain(|prefix, _| cgroups.contains(prefix));
        let interfaces: BTreeSet<String> = wanted.iter().map(|(name, hook)| pin_name(name, *hook)).collect();
        let cgroups: Vec<String> = self.cgroups.iter().map(|(prefix, inode)| format!("{prefix}-{inode}-")).collect();
        let in_use = |pin: &str| interfaces.contains(pin) || cgroups.iter().any(|start| pin.starts_with(start));
        for pin in pins(&self.links)?.into_iter().filter(|p| !in_use(p)) {
            remove_pin(&self.links.join(pin))?;
        }
        Ok(())
    }

    /// Forgets an interface that is about to be removed.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn forget(&mut self, name: &str) -> Result<(), Error> {
        for hook in [PacketHook::Container, PacketHook::ToContainer] {
            self.interfaces.remove(&(name.to_owned(), hook));
            remove_pin(&self.links.join(pin_name(name, hook)))?;
        }
        Ok(())
    }

    /// Detaches everything. `uplinks`: interfaces that stay, and may have filters of an earlier life.
    ///
    /// # Errors
    /// [`Error::Path`].
    pub fn remove_all<'a>(&mut self, uplinks: impl Iterator<Item = &'a String>) -> Result<(), Error> {
        self.interfaces.clear(); // their filters go with them
        self.cgroups.clear();
        for name in uplinks {
            remove_filter(name, PacketHook::Uplink);
        }
        for pin in pins(&self.links)? {
            remove_pin(&self.links.join(pin))?;
        }
        Ok(())
    }
}

fn classifier<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Error> {
    let missing = || Error::Bpf { doing: format!("find program {name}"), why: "it is not in the object".into() };
    object.program_mut(name).and_then(|p| p.try_into().ok()).ok_or_else(missing)
}

fn socket_program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr, Error> {
    let missing = || Error::Bpf { doing: format!("find program {name}"), why: "it is not in the object".into() };
    object.program_mut(name).and_then(|p| p.try_into().ok()).ok_or_else(missing)
}

/// Pins a link, so that it stays when our handle goes.
fn pin_link(link: impl TryInto<FdLink, Error = LinkError>, pin: &Path, name: &str) -> Result<(), Error> {
    let link: FdLink = link.try_into().map_err(|e| bpf("take the link of", name, &e))?;
    link.pin(pin).map(drop).map_err(|e| bpf("pin the link of", name, &e))
}

/// The pin of an interface's link. bpffs reserves dots in names, interfaces may have them; colons they may not.
fn pin_name(interface: &str, hook: PacketHook) -> String {
    let name = interface.replace('.', ",");
    if hook == PacketHook::ToContainer { format!("{name}:to") } else { name }
}

fn pins(dir: &Path) -> Result<Vec<String>, Error> {
    let name = |entry: io::Result<fs::DirEntry>| entry.map(|e| e.file_name().to_string_lossy().into_owned());
    fs::read_dir(dir).and_then(|entries| entries.map(name).collect()).map_err(|source| Error::Path {
        doing: "list",
        path: dir.to_owned(),
        source,
    })
}

fn remove_pin(pin: &Path) -> Result<(), Error> {
    match fs::remove_file(pin) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::Path { doing: "remove pin", path: pin.to_owned(), source: e })
        }
        _ => Ok(()),
    }
}

/// Removes our clsact filter, if there is one. That there is none, or no interface, is the usual case.
fn remove_filter(interface: &str, hook: PacketHook) {
    if let Err(e) = qdisc_detach_program(interface, hook.direction(), hook.program()) {
        tracing::trace!(interface, error = %e, "no filter to remove");
    }
}

fn bpf(doing: &str, what: &str, error: &dyn std::error::Error) -> Error {
    Error::Bpf { doing: format!("{doing} {what}"), why: chain(error) }
}
