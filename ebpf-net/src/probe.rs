//! What this kernel can do for us, found by trying, and what each lack costs.

use crate::{
    netns,
    sys::{
        CGROUP_INET4_CONNECT, CGROUP_SOCK_ADDR, HELPER_NETNS_COOKIE, HELPER_REDIRECT_PEER, HELPER_SET_RETVAL,
        SCHED_CLS, has_tcx, try_program,
    },
};
use std::{fmt, fs, process::Command};

/// The oldest kernel that the data plane is tested on (tests/kernels). What it asks for is there from 5.14 on.
pub const OLDEST_KERNEL: &str = "6.1";

/// What the kernel offers. Printable: a line for each lack, with its cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `uname -r`.
    pub kernel: String,
    /// Programs for packets load at all.
    pub packet_programs: bool,
    /// tcx links (6.6).
    pub tcx: bool,
    /// `bpf_redirect_peer` (5.10).
    pub redirect_peer: bool,
    /// Programs for sockets of a cgroup, told apart by the namespace's cookie (5.14).
    pub socket_programs: bool,
    /// `bpf_set_retval` in them (5.18).
    pub set_retval: bool,
    /// A cgroup v2 tree is mounted.
    pub cgroup_v2: bool,
    /// The program nft.
    pub nft: bool,
}

/// Asks the kernel. Needs root; without it, everything seems to be missing.
pub fn probe() -> Capabilities {
    let loads = |kind, attach, helper| try_program(kind, attach, helper).is_ok();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    Capabilities {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        packet_programs: loads(SCHED_CLS, 0, 0),
        tcx: has_tcx(),
        redirect_peer: loads(SCHED_CLS, 0, HELPER_REDIRECT_PEER),
        socket_programs: loads(CGROUP_SOCK_ADDR, CGROUP_INET4_CONNECT, HELPER_NETNS_COOKIE) && netns::cookie().is_ok(),
        set_retval: loads(CGROUP_SOCK_ADDR, CGROUP_INET4_CONNECT, HELPER_SET_RETVAL),
        cgroup_v2: mounts.lines().any(|l| l.split(' ').nth(2) == Some("cgroup2")),
        nft: Command::new("nft").arg("--version").output().is_ok_and(|o| o.status.success()),
    }
}

impl Capabilities {
    /// Everything that must be there is.
    pub fn sufficient(&self) -> bool {
        self.packet_programs && self.redirect_peer && self.socket_programs
    }

    /// (what is missing, what that costs), empty on a kernel that has everything.
    pub fn lacks(&self) -> Vec<(&'static str, &'static str)> {
        let all = [
            (
                self.packet_programs,
                "eBPF programs for packets",
                "no container network at all; root and CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF are needed",
            ),
            (self.redirect_peer, "bpf_redirect_peer (5.10)", "no container network at all"),
            (self.socket_programs, "socket programs by namespace (5.14)", "no container network at all"),
            (
                self.cgroup_v2,
                "a mounted cgroup v2 tree",
                "service names resolve, but 127.0.0.11:53 is not answered, and VIPs are translated packet by packet",
            ),
            (
                self.tcx,
                "tcx links (6.6)",
                "the uplinks' programs hang on clsact filters: another tool that clears an uplink's qdisc cuts the network",
            ),
            (
                self.set_retval,
                "bpf_set_retval (5.18)",
                "a service without running tasks is refused with EPERM instead of ECONNREFUSED",
            ),
            (self.nft, "nft (package nftables)", "containers cannot reach the outside"),
        ];
        all.into_iter().filter(|(has, ..)| !has).map(|(_, what, cost)| (what, cost)).collect()
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lacks = self.lacks();
        if lacks.is_empty() {
            return write!(f, "kernel {}: has all that the network uses", self.kernel);
        }
        write!(f, "kernel {}:", self.kernel)?;
        lacks.iter().try_for_each(|(what, cost)| write!(f, "\n  lacks {what}: {cost}"))
    }
}
