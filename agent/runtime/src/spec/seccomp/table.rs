//! The default filter, as data: calls grouped by what they are for, and under which capability the rest opens.
//!
//! What it allows is what Docker's default profile allows (moby/profiles, seccomp/default.json, 2025). Not in it, whatever the
//! capabilities: kernel keyrings (not divided by namespace), io_uring, another kernel, faults handled in user space, swap, the
//! root itself, memory of others, relics.
//! Names that a kernel or its architecture does not have are passed over by the runtime.

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use crate::spec::error::{Error, oci};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// `CLONE_NEW*` of every namespace kind: creating one is for the capable (clone(2)).
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// `AF_ALG`: the kernel's crypto sockets, a rich source of holes; `AF_VSOCK`: reaches the hypervisor.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// Always allowed: nothing here reaches beyond the caller's own namespaces and credentials.
const ALWAYS: &[(&str, &str)] = &[
    (
        "files: open, read, write, position",
        "open openat openat2 creat close close_range read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 \
         lseek _llseek sendfile sendfile64 copy_file_range splice tee vmsplice readahead fadvise64 fadvise64_64 fallocate \
         ftruncate ftruncate64 truncate truncate64 fsync fdatasync sync syncfs sync_file_range dup dup2 dup3 fcntl fcntl64 \
         flock ioctl pipe pipe2 memfd_create memfd_secret name_to_handle_at cachestat",
    ),
    (
        "files: names, metadata, attributes",
        "access faccessat faccessat2 stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 \
         fstatfs fstatfs64 getdents getdents64 readlink readlinkat link linkat symlink symlinkat unlink unlinkat \
         rename renameat renameat2 mkdir mkdirat rmdir mknod mknodat chdir fchdir getcwd chmod fchmod fchmodat fchmodat2 \
         chown chown32 lchown lchown32 fchown fchown32 fchownat umask utime utimes futimesat utimensat utimensat_time64 \
         getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr flistxattr \
         listxattrat removexattr lremovexattr fremovexattr removexattrat statmount listmount",
    ),
    (
        "files: watching",
        "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark poll ppoll ppoll_time64 select \
         _newselect pselect6 pselect6_time64 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old \
         epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4",
    ),
    (
        "files: asynchronous I/O of the old kind (io_uring is not here: it has escaped too often)",
        "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64",
    ),
    (
        "memory",
        "brk mmap mmap2 munmap mremap mprotect madvise mincore msync mlock mlock2 mlockall munlock munlockall mseal \
         remap_file_pages pkey_alloc pkey_free pkey_mprotect membarrier map_shadow_stack process_mrelease",
    ),
    (
        "processes and threads (clone has a rule of its own)",
        "fork vfork execve execveat exit exit_group wait4 waitid waitpid getpid getppid gettid getpgid getpgrp setpgid getsid \
         setsid set_tid_address set_robust_list get_robust_list set_thread_area get_thread_area prctl rseq uretprobe \
         pidfd_open pidfd_send_signal restart_syscall",
    ),
    (
        "tracing of processes that the caller may trace anyway: safe since Linux 4.8",
        "ptrace process_vm_readv process_vm_writev",
    ),
    ("waking and locking", "futex futex_time64 futex_wait futex_waitv futex_wake futex_requeue"),
    (
        "signals",
        "kill tkill tgkill pause sigaltstack sigprocmask sigreturn rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
         rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo",
    ),
    (
        "credentials: the kernel checks each change against the capabilities",
        "getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32 \
         getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32 \
         setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32 capget capset",
    ),
    (
        "limits and scheduling",
        "getrlimit ugetrlimit setrlimit prlimit64 getrusage times getpriority setpriority ioprio_get ioprio_set sched_yield \
         sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam sched_getscheduler \
         sched_setscheduler sched_get_priority_max sched_get_priority_min sched_rr_get_interval \
         sched_rr_get_interval_time64 getcpu",
    ),
    (
        "time: reading it, sleeping, timers (setting it is under CAP_SYS_TIME; adjtimex without it only reads)",
        "time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep \
         clock_nanosleep_time64 nanosleep alarm getitimer setitimer timer_create timer_delete timer_getoverrun timer_gettime \
         timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
         timerfd_settime64 adjtimex clock_adjtime clock_adjtime64",
    ),
    (
        "network (socket has a rule of its own)",
        "socketcall socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt send \
         sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64",
    ),
    (
        "System V IPC and POSIX queues: of the IPC namespace",
        "ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget mq_open \
         mq_unlink mq_notify mq_getsetattr mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64",
    ),
    ("locking oneself in further", "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self"),
    ("facts about the machine", "uname sysinfo getrandom riscv_hwprobe"),
];

/// Allowed on these architectures only, where user space cannot do without.
const BY_ARCH: &[(&[&str], &str)] = &[
    (&["x86_64"], "arch_prctl modify_ldt"),
    (&["x86"], "modify_ldt"),
    (&["arm", "aarch64"], "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
    (&["powerpc64"], "sync_file_range2 swapcontext"),
    (&["s390x"], "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    (&["riscv64"], "riscv_flush_icache"),
];

/// Opened by a capability: the call itself is what the capability is about.
const BY_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules \
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// The default filter for a process with these capabilities.
pub(super) fn filter(caps: &BTreeSet<String>, x32: bool) -> Result<LinuxSeccomp, Error> {
    let mut rules = vec![json!({"names": allowed(caps), "action": "SCMP_ACT_ALLOW"})];
    rules.extend(by_argument(caps));
    let mut filter = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM, "syscalls": rules});
    if let Some(architectures) = architectures(x32) {
        filter["architectures"] = json!(architectures);
    }
    oci("seccomp", filter)
}

fn words(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split_whitespace()
}

fn allowed(caps: &BTreeSet<String>) -> BTreeSet<&'static str> {
    let always = ALWAYS.iter().flat_map(|(_, names)| words(names));
    let by_arch = BY_ARCH.iter().filter(|(arches, _)| arches.contains(&std::env::consts::ARCH));
    let by_capability = BY_CAPABILITY.iter().filter(|(cap, _)| caps.contains(*cap));
    let mut all: BTreeSet<&str> = always.chain(by_arch.flat_map(|(_, names)| words(names))).collect();
    all.extend(by_capability.flat_map(|(_, names)| words(names)));
    all
}

fn by_argument(caps: &BTreeSet<String>) -> Vec<Value> {
    let rule = |name: &str, index: u32, op: &str, value: u64, two: u64| {
        json!({"names": [name], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": index, "value": value, "valueTwo": two, "op": op}]})
    };
    let mut rules = vec![
        rule("socket", 0, "SCMP_CMP_LT", AF_ALG, 0),
        rule("socket", 0, "SCMP_CMP_EQ", AF_ALG + 1, 0),
        rule("socket", 0, "SCMP_CMP_GT", AF_VSOCK, 0),
    ];
    // PER_LINUX, PER_LINUX32, UNAME26, both, and the query.
    let personalities = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
    rules.extend(personalities.map(|value| rule("personality", 0, "SCMP_CMP_EQ", value, 0)));
    if !caps.contains("CAP_SYS_ADMIN") {
        // s390 has the flags second (clone(2)).
        let flags = if std::env::consts::ARCH == "s390x" { 1 } else { 0 };
        rules.push(rule("clone", flags, "SCMP_CMP_MASKED_EQ", CLONE_NAMESPACES, 0));
        // Its flags are in memory, where a filter cannot look: the C library falls back to clone.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
    }
    rules
}

/// The native architecture and those that its kernels run besides. Calls of any other end the caller.
fn architectures(x32: bool) -> Option<&'static [&'static str]> {
    match std::env::consts::ARCH {
        "x86_64" if x32 => Some(&["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", super::X32]),
        "x86_64" => Some(&["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]),
        "aarch64" => Some(&["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        "riscv64" => Some(&["SCMP_ARCH_RISCV64"]),
        "s390x" => Some(&["SCMP_ARCH_S390X", "SCMP_ARCH_S390"]),
        // The runtime takes its own then.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn a_call_is_listed_once_and_what_reaches_further_is_not() {
        let mut seen = BTreeSet::new();
        for name in ALWAYS.iter().flat_map(|(_, names)| words(names)) {
            assert!(seen.insert(name), "{name} is listed twice");
        }
        let allowed = allowed(&caps(&[]));
        for guarded in ["mount", "bpf", "setns", "unshare", "kexec_load", "io_uring_setup", "keyctl", "reboot"] {
            assert!(!allowed.contains(guarded), "{guarded}");
        }
    }

    #[test]
    fn a_capability_opens_what_it_is_about() {
        assert!(allowed(&caps(&["CAP_SYS_ADMIN"])).contains("mount"));
        assert!(!allowed(&caps(&["CAP_SYS_ADMIN"])).contains("reboot"));
        let all: BTreeSet<String> = BY_CAPABILITY.iter().map(|(cap, _)| (*cap).to_owned()).collect();
        for never in ["keyctl", "io_uring_setup", "kexec_load", "pivot_root", "swapon"] {
            assert!(!allowed(&all).contains(never), "{never}");
        }
    }

    #[test]
    fn what_is_denied_costs_no_rule() {
        let filter = filter(&caps(&[]), false).expect("valid");
        let denied: Vec<&String> = filter
            .syscalls()
            .iter()
            .flatten()
            .filter(|rule| rule.errno_ret() == Some(EPERM))
            .flat_map(|rule| rule.names())
            .collect();
        assert!(denied.is_empty() && filter.default_errno_ret() == Some(EPERM), "{denied:?}");
    }
}
