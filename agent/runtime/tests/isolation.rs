//! What a container may and may not do, as the kernel sees it.

mod common;

use std::fs;
use std::path::Path;

use common::Host;
use muster_runtime::spec::{
    Bind, DeviceMapping, EtcFiles, MountRequest, NamespaceMode, Rlimit, SeccompProfile, SpecInput, Tmpfs,
};
use muster_runtime::{Resources, Runtime, cgroup};

async fn run(host: &Host, id: &str, script: &str, change: impl FnOnce(&mut SpecInput)) -> String {
    let mut input = host.input(id, &format!("{{ {script}\n}} 2>&1"));
    change(&mut input);
    host.output(&host.create_spec(id, &input)).await.1.replace('\t', " ")
}

#[tokio::test]
async fn defaults_are_those_of_docker() {
    let host = Host::new().await;
    let script = "grep -E '^(Seccomp|CapEff|CapInh|CapAmb):' /proc/self/status; env; id; hostname; \
        wc -c < /proc/keys; ls /sys/firmware | wc -l; touch /proc/sys/x /sys/x; \
        echo 1 > /proc/sys/kernel/panic; ls -d /sys/fs/cgroup/*; touch /sys/fs/cgroup/memory/x; \
        grep -E ' /dev/shm | /dev/mqueue | /dev/pts ' /proc/mounts; unshare -m true; mount -t tmpfs x /tmp; \
        ls -l /dev/null /dev/ptmx; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls -d /proc/[0-9]* | wc -l";
    let out = run(&host, "def", script, |_| {}).await;
    let has = |text: &str| assert!(out.contains(text), "no {text:?} in:\n{out}");
    has("Seccomp: 2");
    has("CapEff: 00000000a80425fb");
    has("CapInh: 0000000000000000");
    has("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    has("HOSTNAME=def");
    has("HOME=/root");
    has("uid=0(root) gid=0(root) groups=0(root)\ndef\n0\n0\n");
    has("/proc/sys/kernel/panic: Read-only file system");
    has("/sys/fs/cgroup/memory/x: Read-only file system");
    has("shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k");
    has("unshare: unshare(0x20000): Operation not permitted");
    has("mount: permission denied");
    assert!(!out.contains("TERM="), "{out}");
    assert!(out.trim_end().lines().rev().nth(1) == Some("0"), "low ports are open to all:\n{out}");
    host.assert_nothing_left();
}

#[tokio::test]
async fn users_limits_mounts_and_files_are_as_asked_for() {
    let host = Host::new().await;
    for (file, text) in
        [("hosts", "1.2.3.4 peer\n"), ("resolv", "nameserver 127.0.0.11\n"), ("ro/x", "x\n"), ("rw/x", "y\n")]
    {
        let path = host.path(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        fs::write(path, text).expect("file");
    }
    let script = "id; pwd; cat /etc/hosts /etc/resolv.conf; touch /ro/y; touch /rw/y && echo wrote; touch /z; \
        grep -E ' /(ro|rw|t) ' /proc/mounts; grep 'open files' /proc/self/limits; cat /proc/self/oom_score_adj; \
        grep NoNewPrivs /proc/self/status; cat /proc/sys/net/ipv4/ip_default_ttl; ls /dev/nothing; stat -c %t:%T /dev/nothing";
    let out = run(&host, "ask", script, |input| {
        input.user = "web".into();
        input.group_add = vec!["77".into()];
        input.cwd = "/home/web".into();
        input.readonly_rootfs = true;
        input.no_new_privileges = true;
        input.etc =
            EtcFiles { hosts: Some(host.path("hosts")), hostname: None, resolv_conf: Some(host.path("resolv")) };
        let bind = |source: &str, target: &str, read_only| {
            MountRequest::Bind(Bind { source: host.path(source), target: target.into(), read_only, ..Bind::default() })
        };
        let tmpfs = Tmpfs { target: "/t".into(), size: Some(1 << 20), ..Tmpfs::default() };
        input.mounts = vec![bind("ro", "/ro", true), bind("rw", "/rw", false), MountRequest::Tmpfs(tmpfs)];
        input.rlimits = vec![Rlimit { name: "nofile".into(), soft: 100, hard: 1 << 40 }];
        input.oom_score_adj = 500;
        input.sysctls.insert("net.ipv4.ip_default_ttl".into(), "33".into());
        input.devices =
            vec![DeviceMapping { host: "/dev/zero".into(), container: "/dev/nothing".into(), permissions: "r".into() }];
        for dir in ["ro", "rw", "t"] {
            fs::create_dir_all(host.rootfs().join(dir)).expect("folder");
        }
        rustix::fs::chmod(host.path("rw"), 0o777.into()).expect("mode");
    })
    .await;
    let has = |text: &str| assert!(out.contains(text), "no {text:?} in:\n{out}");
    has("uid=33(web) gid=34(web) groups=34(web),50(extra),77\n/home/web\n1.2.3.4 peer\nnameserver 127.0.0.11\n");
    has("/ro/y: Read-only file system\nwrote\ntouch: /z: Read-only file system");
    has(" /t tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k");
    has("Max open files            100");
    has("\n500\nNoNewPrivs: 1\n33\n/dev/nothing\n1:5\n");
    host.assert_nothing_left();
}

#[tokio::test]
async fn limits_are_in_the_cgroup_and_the_container_is_in_the_unified_tree_too() {
    let host = Host::new().await;
    let mut input = host.input("lim", "exec sleep 1000");
    input.resources = Resources {
        memory: Some(64 << 20),
        nano_cpus: Some(500_000_000),
        cpu_shares: Some(512),
        pids_limit: Some(50),
        cpuset_cpus: Some("0".into()),
        ..Resources::default()
    };
    let created = host.runtime.create(&host.create_spec("lim", &input)).await.expect("created");
    host.runtime.start("lim").await.expect("started");
    let paths = host.runtime.cgroup("lim");
    let unified = paths.unified.clone().expect("this machine has a v2 tree");
    let members = fs::read_to_string(unified.join("cgroup.procs")).expect("a cgroup there");
    assert_eq!(members.trim(), created.pid.to_string());
    let layout = host.runtime.layout().clone();
    let read = |controller: &str, v1: &str, v2: &str| {
        let file = if layout.is_v2() { v2 } else { v1 };
        let dir = paths.controller(controller).expect("a controller");
        fs::read_to_string(dir.join(file)).expect("a limit").trim().to_owned()
    };
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read("pids", "pids.max", "pids.max"), "50");
    assert_eq!(read("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    if !layout.is_v2() {
        assert_eq!(read("cpu", "cpu.cfs_quota_us", ""), "50000");
        assert_eq!(read("cpu", "cpu.shares", ""), "512");
    }
    // Until the shell has become the sleep, the threads of the runtime's own init count too.
    common::wait_until("one process", || cgroup::read_stats(&paths).expect("stats").pids.current == 1);
    let stats = host.runtime.stats("lim").await.expect("stats");
    assert_eq!((stats.memory.limit, stats.pids.limit), (64 << 20, 50));
    assert!(stats.cpu.total_ns > 0 && stats.cpu.host_ns > stats.cpu.total_ns && stats.memory.usage > 0);
    let more = Resources { memory: Some(128 << 20), pids_limit: Some(60), ..Resources::default() };
    host.runtime.update("lim", &more).await.expect("updated");
    let stats = host.runtime.stats("lim").await.expect("stats");
    assert_eq!((stats.memory.limit, stats.pids.limit), (128 << 20, 60));
    assert_eq!(read("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    host.runtime.delete("lim", true).await.expect("deleted");
    assert!(paths.all().iter().all(|dir| !dir.exists()));
    host.assert_nothing_left();
}

#[tokio::test]
async fn a_container_that_eats_its_memory_is_told_to_have_been_killed_for_it() {
    let host = Host::new().await;
    let mut input = host.input("oom", "exec dd if=/dev/zero of=/dev/null bs=200M count=1");
    input.resources = Resources { memory: Some(16 << 20), memory_swap: Some(16 << 20), ..Resources::default() };
    let (exit, _, _) = host.output(&host.create_spec("oom", &input)).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true));
    host.assert_nothing_left();
}

#[tokio::test]
async fn privileged_and_unconfined_open_what_they_say() {
    let host = Host::new().await;
    let script = "grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp && echo mounted; ls /dev/vda /dev/kmsg; \
        touch /proc/sys/kernel/panic && echo writable";
    let out = run(&host, "priv", script, |input| input.privileged = true).await;
    assert!(out.contains("Seccomp: 0\nmounted\n") && out.contains("/dev/kmsg") && out.contains("writable"), "{out}");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}]}"#;
    let out = run(&host, "prof", "/bin/busybox mkdir /tmp/x", |input| {
        input.seccomp = SeccompProfile::Json(profile.into());
    })
    .await;
    assert!(out.contains("Disk quota exceeded") || out.contains("Quota exceeded"), "{out}");
    let out =
        run(&host, "unc", "grep Seccomp: /proc/self/status", |input| input.seccomp = SeccompProfile::Unconfined).await;
    assert_eq!(out, "Seccomp: 0\n");
    let out = run(&host, "none", "grep CapEff /proc/self/status", |input| {
        (input.cap_drop, input.cap_add) = (vec!["ALL".into()], vec!["net_bind_service".into()]);
    })
    .await;
    assert_eq!(out, "CapEff: 0000000000000400\n");
    host.assert_nothing_left();
}

#[tokio::test]
async fn namespaces_are_new_the_hosts_or_another_containers() {
    let host = Host::new().await;
    fs::create_dir(host.path("shm")).expect("folder");
    let mut input = host.input("one", "echo shared > /dev/shm/x; touch /tmp/ready; exec sleep 1000");
    input.shm_path = Some(host.path("shm"));
    host.runtime.create(&host.create_spec("one", &input)).await.expect("created");
    host.runtime.start("one").await.expect("started");
    let pid = host.runtime.state("one").await.expect("known").pid;
    common::wait_until("the first container to be up", || Path::new(&format!("/proc/{pid}/root/tmp/ready")).exists());
    let path = |kind: &str| NamespaceMode::Path(format!("/proc/{pid}/ns/{kind}").into());
    let script = "cat /dev/shm/x; readlink /proc/self/ns/net; hostname; ls -d /proc/[0-9]* | wc -l; ps | grep -c sleep";
    let out = run(&host, "two", script, |input| {
        input.namespaces.ipc = path("ipc");
        input.shm_path = Some(host.path("shm"));
        input.namespaces.net = path("net");
        input.namespaces.pid = path("pid");
        input.namespaces.uts = path("uts");
    })
    .await;
    let net = fs::read_link(format!("/proc/{pid}/ns/net")).expect("a namespace");
    assert!(out.starts_with(&format!("shared\n{}\none\n", net.display())), "{out}");
    let out = run(&host, "three", "for kind in net ipc uts pid; do readlink /proc/self/ns/$kind; done", |input| {
        for mode in
            [&mut input.namespaces.net, &mut input.namespaces.ipc, &mut input.namespaces.uts, &mut input.namespaces.pid]
        {
            *mode = NamespaceMode::Host;
        }
    })
    .await;
    for kind in ["net", "ipc", "uts", "pid"] {
        let own = fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
        assert!(out.contains(&own.display().to_string()), "{kind}: {out}");
    }
    host.runtime.delete("one", true).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn the_init_passes_signals_on_and_reaps_orphans() {
    let host = Host::new().await;
    let script = "grep Name: /proc/1/status; (sleep 0.1 & exec true); trap 'echo term; exit 5' TERM; echo ready; \
        while :; do sleep 0.05; done";
    let mut input = host.input("init", script);
    input.init = Some(common::shim().to_path_buf());
    host.runtime.create(&host.create_spec("init", &input)).await.expect("created");
    let options = muster_runtime::AttachOptions::output();
    let mut attached = host.runtime.attach(common::container("init"), options).await.expect("attached");
    host.runtime.start("init").await.expect("started");
    let text = common::read_until(&mut attached, "ready\n").await.replace('\t', " ");
    assert!(text.contains("Name: docker-init"), "{text}");
    host.runtime.kill(common::container("init"), 15, false).await.expect("signalled");
    let (exit, out, _) = common::collect(attached).await;
    assert_eq!((exit.code, out.as_str()), (5, "term\n"));
    host.runtime.delete("init", false).await.expect("deleted");
    host.assert_nothing_left();
}

#[tokio::test]
async fn a_container_whose_creation_fails_leaves_nothing() {
    let host = Host::new().await;
    let mut input = host.input("bad", "true");
    let bind = Bind { source: "/no/such/path".into(), target: "/x".into(), ..Bind::default() };
    input.mounts = vec![MountRequest::Bind(bind)];
    let error = host.runtime.create(&host.create_spec("bad", &input)).await.expect_err("no such source");
    assert!(error.to_string().contains("/no/such/path") && error.exit_code() == 128, "{error}");
    assert!(!cgroup::Layout::detect().expect("layout").paths(&input.cgroups_path).all().iter().any(|dir| dir.exists()));
    host.assert_nothing_left();
}

/// A program that makes one system call with no arguments and ends with its error number as exit code, as bytes of an ELF
/// file: one header, one segment, no libraries (elf(5)).
#[cfg(target_arch = "x86_64")]
fn caller_of(number: u32, bits: u32) -> Vec<u8> {
    const BASE: u32 = 0x0040_0000;
    let mut code = vec![0xb8]; // mov eax, number
    code.extend(number.to_le_bytes());
    match bits {
        // xor edi, edi; syscall; neg eax; mov edi, eax; mov eax, 60 (exit); syscall
        64 => code.extend([0x31, 0xff, 0x0f, 0x05, 0xf7, 0xd8, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]),
        // xor ebx, ebx; int 0x80; neg eax; mov ebx, eax; mov eax, 1 (exit); int 0x80
        _ => code.extend([0x31, 0xdb, 0xcd, 0x80, 0xf7, 0xd8, 0x89, 0xc3, 0xb8, 1, 0, 0, 0, 0xcd, 0x80]),
    }
    let (class, machine, header, segment) = if bits == 64 { (2_u8, 62_u16, 64_u32, 56_u32) } else { (1, 3, 52, 32) };
    let start = header + segment;
    let size = start + code.len() as u32;
    let mut file = vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let word = |n: u32| if bits == 64 { u64::from(n).to_le_bytes().to_vec() } else { n.to_le_bytes().to_vec() };
    file.extend([2_u16, machine].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([word(BASE + start), word(header), word(0)].concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([header as u16, segment as u16, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    let (load, read_and_run) = (1_u32.to_le_bytes(), 5_u32.to_le_bytes());
    file.extend(load);
    if bits == 64 {
        file.extend(read_and_run);
    }
    file.extend([word(0), word(BASE), word(BASE), word(size), word(size)].concat());
    if bits == 32 {
        file.extend(read_and_run);
    }
    file.extend(word(4096));
    file.extend(code);
    file
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn calls_that_are_not_allowed_answer_eperm_newer_ones_enosys_and_those_of_other_machines_end_the_caller() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new().await;
    let all = [
        ("getpid", 39, 64),
        ("keyctl", 250, 64),
        ("io_uring_setup", 425, 64),
        ("newer", 2000, 64),
        ("x32", 0x4000_0000 | 39, 64),
        ("keyctl32", 288, 32),
        ("newer32", 2000, 32),
    ];
    for (name, number, bits) in all {
        let path = host.rootfs().join(name);
        fs::write(&path, caller_of(number, bits)).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }
    let out =
        run(&host, "calls", "for c in keyctl io_uring_setup newer x32; do /$c; echo $c $?; done 2>&1", |_| {}).await;
    let (eperm, enosys) = (1, 38);
    assert!(out.contains(&format!("keyctl {eperm}\nio_uring_setup {eperm}\nnewer {enosys}\n")), "{out}");
    const KILLED_BY_SIGSYS: i32 = 128 + 31;
    assert!(host.facts.x32 || out.contains(&format!("x32 {KILLED_BY_SIGSYS}\n")), "{out}");
    let out = run(&host, "calls32", "for c in keyctl32 newer32; do /$c; echo $c $?; done 2>&1", |_| {}).await;
    // A kernel without 32-bit programs (CONFIG_IA32_EMULATION) has nothing to be asked.
    assert!(out.contains(&format!("keyctl32 {eperm}\nnewer32 {enosys}\n")) || out.contains("not found"), "{out}");
    let open = |input: &mut SpecInput| input.seccomp = SeccompProfile::Unconfined;
    let out = run(&host, "open", "/keyctl; echo $?", open).await;
    assert_ne!(out, "1\n", "without a filter the kernel itself answers");
    host.assert_nothing_left();
}
