//! What a create asks of the host is in force in the kernel, or refused by its name: each field in a real container.

mod common;

use common::{Host, IMAGE, command, inspect, run, script, start, within};
use muster_calls::{Engine, Kind, RemoveContainer};
use muster_engine::LocalEngine;
use muster_model::engine::{
    BindOptions, ContainerCreateBody, ContainerUpdate, DeviceMapping, ExecConfig, HostConfig, ImageOptions, Mount,
    ThrottleDevice, TmpfsOptions, Ulimit, VolumeOptions,
};
use std::{fs, path::PathBuf};

fn with(body: ContainerCreateBody, change: impl FnOnce(&mut HostConfig)) -> ContainerCreateBody {
    let mut body = body;
    change(&mut body.host_config);
    body
}

/// What a container prints that is made with this change.
async fn printed(engine: &LocalEngine, text: &str, change: impl FnOnce(&mut HostConfig)) -> String {
    let outcome = run(engine, None, with(script(text), change)).await;
    outcome.stdout + &outcome.stderr
}

async fn refused(engine: &LocalEngine, change: impl FnOnce(&mut HostConfig)) -> muster_calls::Error {
    engine.container_create(None, String::new(), with(script("true"), change)).await.expect_err("refused")
}

/// A file of a process's cgroup: of the v1 controller, else of the v2 tree.
fn cgroup(pid: i64, controller: &str, v1: &str, v2: &str) -> String {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroups");
    let path_of = |row: &str| row.splitn(3, ':').nth(2).expect("path").trim_start_matches('/').to_owned();
    let has = |row: &&str| row.split(':').nth(1).is_some_and(|names| names.split(',').any(|n| n == controller));
    let file = match table.lines().find(has) {
        Some(row) => PathBuf::from("/sys/fs/cgroup").join(controller).join(path_of(row)).join(v1),
        None => PathBuf::from("/sys/fs/cgroup").join(path_of(table.lines().last().expect("v2"))).join(v2),
    };
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
}

fn is_v2() -> bool {
    fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok()
}

/// The first block device that has a node.
fn disk() -> Option<(String, String)> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let path = format!("/dev/{}", entry.file_name().to_string_lossy());
        let number = fs::read_to_string(entry.path().join("dev")).ok()?.trim().to_owned();
        fs::metadata(&path).is_ok().then_some((path, number))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_in_the_kernel_from_the_start_and_after_an_update() {
    let host = Host::new();
    let engine = host.open().await;
    let disk = disk();
    let body = with(command(&["sleep", "300"]), |h| {
        let r = &mut h.resources;
        (r.memory, r.memory_swap, r.memory_reservation) = (64 << 20, 128 << 20, 32 << 20);
        (r.nano_cpus, r.cpu_shares, r.pids_limit) = (500_000_000, 512, Some(50));
        (r.cpuset_cpus, r.cpuset_mems) = ("0".into(), "0".into());
        if !is_v2() {
            (r.memory_swappiness, r.oom_kill_disable) = (Some(10), Some(true));
        }
        if let Some((path, _)) = &disk {
            let rate = |rate| vec![ThrottleDevice { path: path.clone(), rate }];
            (r.blkio_device_read_bps, r.blkio_device_write_bps) = (rate(1 << 20), rate(2 << 20));
            (r.blkio_device_read_iops, r.blkio_device_write_iops) = (rate(100), rate(200));
        }
        r.blkio_weight = 300;
        r.ulimits = vec![Ulimit { name: "nofile".into(), soft: 100, hard: 200 }];
        h.oom_score_adj = 100;
    });
    let id = start(&engine, "limited", body).await;
    let pid = inspect(&engine, &id).await.state.pid;
    assert_eq!(cgroup(pid, "memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(cgroup(pid, "memory", "memory.soft_limit_in_bytes", "memory.low"), (32 << 20).to_string());
    if !is_v2() {
        assert_eq!(cgroup(pid, "memory", "memory.memsw.limit_in_bytes", ""), (128 << 20).to_string());
        assert_eq!(cgroup(pid, "memory", "memory.swappiness", ""), "10");
        assert!(cgroup(pid, "memory", "memory.oom_control", "").starts_with("oom_kill_disable 1"));
        assert_eq!(cgroup(pid, "cpu", "cpu.cfs_quota_us", ""), "50000");
        assert_eq!(cgroup(pid, "cpu", "cpu.shares", ""), "512");
        // Which of the two files there is, the kernel's schedulers decide; without either it is discarded with a warning.
        let shown = inspect(&engine, &id).await.host_config.resources.blkio_weight;
        let has = |name: &str| fs::metadata(format!("/sys/fs/cgroup/blkio/{name}")).is_ok();
        if shown != 0 {
            let file = if has("blkio.weight") { "blkio.weight" } else { "blkio.bfq.weight" };
            assert_eq!(cgroup(pid, "blkio", file, ""), "300");
        }
        if let Some((_, number)) = &disk {
            let throttle = |file: &str| cgroup(pid, "blkio", &format!("blkio.throttle.{file}_device"), "");
            assert_eq!(throttle("read_bps"), format!("{number} {}", 1 << 20));
            assert_eq!(throttle("write_bps"), format!("{number} {}", 2 << 20));
            assert_eq!(
                (throttle("read_iops"), throttle("write_iops")),
                (format!("{number} 100"), format!("{number} 200"))
            );
        }
    }
    assert_eq!(cgroup(pid, "pids", "pids.max", "pids.max"), "50");
    assert_eq!(cgroup(pid, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("its process");
    assert_eq!(read("oom_score_adj").trim(), "100");
    let files = read("limits").lines().find(|l| l.starts_with("Max open files")).expect("row").to_owned();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["100", "200"]);

    let mut update = ContainerUpdate::default();
    (update.resources.memory, update.resources.pids_limit) = (96 << 20, Some(-1));
    (update.resources.cpu_shares, update.resources.cpuset_cpus) = (256, "0".into());
    engine.container_update(&id, update).await.expect("updated");
    assert_eq!(cgroup(pid, "memory", "memory.limit_in_bytes", "memory.max"), (96 << 20).to_string());
    assert_eq!(cgroup(pid, "pids", "pids.max", "pids.max"), "max");
    if !is_v2() {
        assert_eq!(cgroup(pid, "memory", "memory.memsw.limit_in_bytes", ""), (128 << 20).to_string(), "nobody asked");
        assert_eq!(cgroup(pid, "cpu", "cpu.shares", ""), "256");
    }
    let mut tiny = ContainerUpdate::default();
    tiny.resources.memory = 1 << 20;
    assert!(engine.container_update(&id, tiny).await.expect_err("too little").message.contains("6MB"));
    let mut absent = ContainerUpdate::default();
    absent.resources.cpuset_cpus = "4000".into();
    assert!(engine.container_update(&id, absent).await.expect_err("no such CPU").message.contains("4000"));
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_those_that_were_given_and_no_others() {
    let host = Host::new();
    let engine = host.open().await;
    let try_loop =
        "busybox mknod /tmp/loop c 10 237; (exec 3<>/tmp/loop) 2>&1 | grep -o 'not permitted' || echo let in";
    assert_eq!(printed(&engine, try_loop, |_| {}).await, "not permitted\n");
    let ruled = printed(&engine, try_loop, |h| h.resources.device_cgroup_rules = vec!["c 10:237 rwm".into()]).await;
    assert_eq!(ruled, "let in\n");
    let device = |permissions: &str| DeviceMapping {
        path_on_host: "/dev/loop-control".into(),
        path_in_container: "/dev/mine".into(),
        cgroup_permissions: permissions.into(),
    };
    if fs::metadata("/dev/loop-control").is_ok() {
        let text = "test -c /dev/mine && echo there; (exec 3</dev/mine) 2>/dev/null && echo read; \
                    (exec 3>/dev/mine) 2>/dev/null && echo write; true";
        let read_only = printed(&engine, text, |h| h.resources.devices = vec![device("r")]).await;
        assert_eq!(read_only, "there\nread\n");
        let both = printed(&engine, text, |h| h.resources.devices = vec![device("rw")]).await;
        assert_eq!(both, "there\nread\nwrite\n");
    }
    let bad = refused(&engine, |h| h.resources.device_cgroup_rules = vec!["q 1:1 r".into()]).await;
    assert!(bad.message.contains("DeviceCgroupRules") && bad.message.contains("q 1:1 r"), "{bad}");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn name_spaces_are_own_joined_or_the_hosts() {
    let host = Host::new();
    let engine = host.open().await;
    let ns = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).expect("own").to_string_lossy().into_owned();
    let text = "for n in ipc pid uts cgroup; do busybox readlink /proc/self/ns/$n; done";
    let all = |out: String| out.lines().map(str::to_owned).collect::<Vec<_>>();
    let of_host: Vec<String> = ["ipc", "pid", "uts", "cgroup"].map(ns).to_vec();
    let shared = printed(&engine, text, |h| {
        (h.ipc_mode, h.pid_mode, h.uts_mode) = ("host".into(), "host".into(), "host".into());
        h.cgroupns_mode = "host".into();
    });
    assert_eq!(all(shared.await), of_host);
    let own = all(printed(&engine, text, |h| h.cgroupns_mode = "private".into()).await);
    assert!(own.iter().zip(&of_host).all(|(a, b)| a != b), "{own:?} {of_host:?}");

    let lender = with(script("echo lent > /dev/shm/f; sleep 300"), |h| h.ipc_mode = "shareable".into());
    start(&engine, "lender", lender).await;
    let borrow = "i=0; until cat /dev/shm/f 2>/dev/null || [ $i = 50 ]; do sleep 0.1; i=$((i+1)); done";
    assert_eq!(printed(&engine, borrow, |h| h.ipc_mode = "container:lender".into()).await, "lent\n");
    let see = "grep -q lent /proc/1/root/dev/shm/f && echo seen";
    let seen =
        printed(&engine, see, |h| (h.pid_mode, h.cap_add) = ("container:lender".into(), vec!["SYS_PTRACE".into()]));
    assert_eq!(seen.await, "seen\n");
    let private = with(command(&["sleep", "300"]), |h| h.ipc_mode = "private".into());
    start(&engine, "private", private).await;
    let joined = with(script("true"), |h| h.ipc_mode = "container:private".into());
    let id = engine.container_create(None, String::new(), joined).await.expect("created").id;
    assert!(engine.container_start(&id).await.expect_err("private").message.contains("not shareable"));
    let none = printed(&engine, "grep -c ' /dev/shm ' /proc/mounts", |h| h.ipc_mode = "none".into()).await;
    assert_eq!(none, "0\n");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn security_options_are_in_force_on_run_and_on_exec_alike() {
    let host = Host::new();
    let engine = host.open().await;
    let profile =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    let body = with(script("busybox mkdir /tmp/a 2>&1; sleep 300"), |h| {
        h.security_opt = vec![format!("seccomp={profile}"), "no-new-privileges".into()];
    });
    let id = start(&engine, "filtered", body).await;
    let exec = |cmd: &[&str]| {
        let (engine, id) = (engine.clone(), id.clone());
        let cmd = cmd.iter().map(|w| (*w).to_owned()).collect();
        async move {
            let config = ExecConfig { cmd, attach_stdout: true, attach_stderr: true, ..ExecConfig::default() };
            let exec = engine.exec_create(&id, config).await.expect("exec");
            let (out, err) =
                within(common::collect(engine.exec_start(&exec, Default::default()).await.expect("runs"))).await;
            out + &err
        }
    };
    assert!(exec(&["busybox", "mkdir", "/tmp/b"]).await.contains("Operation not permitted"));
    let status = exec(&["grep", "-E", "^(Seccomp|NoNewPrivs):", "/proc/self/status"]).await;
    assert_eq!(status, "NoNewPrivs:\t1\nSeccomp:\t2\n");
    let status = "grep -E '^Seccomp:' /proc/self/status";
    assert_eq!(printed(&engine, status, |_| {}).await, "Seccomp:\t2\n");
    let open = printed(&engine, status, |h| h.security_opt = vec!["seccomp=unconfined".into()]).await;
    assert_eq!(open, "Seccomp:\t0\n");
    let masks = "grep -cE ' /proc/(kcore|keys|sys) ' /proc/mounts";
    assert_ne!(printed(&engine, masks, |_| {}).await, "0\n");
    let unmasked = printed(&engine, masks, |h| h.security_opt = vec!["systempaths=unconfined".into()]).await;
    assert_eq!(unmasked, "0\n");
    let paths = printed(&engine, masks, |h| (h.masked_paths, h.readonly_paths) = (Some(Vec::new()), Some(Vec::new())));
    assert_eq!(paths.await, "0\n");
    if fs::read("/sys/module/apparmor/parameters/enabled").is_err() {
        let error = refused(&engine, |h| h.security_opt = vec!["apparmor=docker-default".into()]).await;
        assert!(error.message.contains("no AppArmor"), "{error}");
    }
    let error = refused(&engine, |h| h.security_opt = vec!["label=level:s0".into()]).await;
    assert_eq!(error.kind, Kind::Unimplemented);
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_groups_sysctls_and_a_disabled_network_are_as_asked() {
    let host = Host::new();
    let engine = host.open().await;
    let init = printed(&engine, "busybox readlink /proc/1/exe; cat /proc/1/cmdline | busybox tr '\\0' ' '", |h| {
        h.init = Some(true)
    });
    assert!(init.await.starts_with("/sbin/docker-init\n/sbin/docker-init -- sh -c"));
    let groups = printed(&engine, "id -G", |h| h.group_add = vec!["nogroup".into(), "7".into()]).await;
    assert_eq!(groups.trim(), "0 7 65534");
    let sysctl = printed(&engine, "cat /proc/sys/kernel/msgmax", |h| {
        h.sysctls.insert("kernel.msgmax".into(), "4096".into());
    });
    assert_eq!(sysctl.await, "4096\n");
    let mut body = script("busybox ifconfig -a | grep -c Link");
    body.config.network_disabled = true;
    assert_eq!(run(&engine, None, body).await.stdout, "1\n");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_host_cannot_do_is_refused_by_name_or_said_in_a_warning() {
    let host = Host::new();
    let engine = host.open().await;
    type Change = fn(&mut HostConfig);
    let cases: [(Change, &str); 12] = [
        (|h| h.resources.cpuset_cpus = "0-4000".into(), "0-4000"),
        (|h| h.resources.cpuset_mems = "900".into(), "900"),
        (|h| h.resources.kernel_memory = 1 << 20, "KernelMemory"),
        (|h| drop(h.storage_opt.insert("size".into(), "1G".into())), "pquota"),
        (|h| h.userns_mode = "keep-id".into(), "userns mode"),
        (|h| h.isolation = "hyperv".into(), "isolation"),
        (|h| h.runtime = "gvisor".into(), "gvisor"),
        (|h| h.cap_add = vec!["FLY".into()], "FLY"),
        (|h| h.resources.ulimits = vec![Ulimit { name: "sky".into(), soft: 1, hard: 1 }], "sky"),
        (|h| drop(h.tmpfs.insert("/t".into(), "bogus=1".into())), "bogus=1"),
        (|h| h.resources.device_requests = vec![Default::default()], "could not select device driver"),
        (|h| h.resources.cgroup_parent = "/a/../b".into(), "cgroup-parent"),
    ];
    for (change, named) in cases {
        let error = refused(&engine, change).await;
        assert!(error.message.contains(named), "{named}: {error}");
    }
    if fs::metadata("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").is_err() {
        let error = refused(&engine, |h| h.resources.cpu_realtime_runtime = 1000).await;
        assert!(error.message.contains("CpuRealtime"), "{error}");
    }
    // An unlimited limit is above what this process may hand on only where it may not raise limits.
    let body = with(script("true"), |h| {
        h.resources.ulimits = vec![Ulimit { name: "nofile".into(), soft: 1 << 29, hard: 1 << 29 }];
    });
    let created = engine.container_create(None, String::new(), body).await.expect("created");
    let may_raise = fs::read_to_string("/proc/self/status").expect("status").lines().any(|l| {
        l.strip_prefix("CapEff:").is_some_and(|m| u64::from_str_radix(m.trim(), 16).is_ok_and(|m| m >> 24 & 1 == 1))
    });
    assert_eq!(created.warnings.is_empty(), may_raise, "{:?}", created.warnings);
    host.finish(engine).await;
}

fn mount(kind: &str, source: &str, target: &str) -> Mount {
    Mount { kind: kind.into(), source: source.into(), target: target.into(), ..Mount::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_of_images_and_parts_of_volumes_show_what_is_in_them_and_nothing_else() {
    let host = Host::new();
    let engine = host.open().await;
    let image =
        Mount { image_options: Some(ImageOptions { subpath: "filled".into() }), ..mount("image", IMAGE, "/img") };
    let body = with(script("cat /img/seed; echo own > /img/new && cat /img/new; sleep 300"), |h| {
        h.mounts = vec![image.clone()];
    });
    let id = start(&engine, "imaged", body).await;
    let shown = inspect(&engine, &id).await.mounts;
    assert_eq!((shown[0].kind.as_str(), shown[0].source.as_str()), ("image", IMAGE));
    let read_only = Mount { read_only: true, ..mount("image", IMAGE, "/img") };
    let text = "cat /img/filled/seed; touch /img/x 2>/dev/null || echo ro; test -e /img/filled/new || echo apart";
    assert_eq!(printed(&engine, text, |h| h.mounts = vec![read_only]).await, "from the image\nro\napart\n");
    let error = refused(&engine, |h| h.mounts = vec![mount("image", "nonesuch", "/img")]).await;
    assert!(error.message.contains("nonesuch"), "{error}");

    let part = |subpath: &str| Mount {
        volume_options: Some(VolumeOptions { subpath: subpath.into(), ..VolumeOptions::default() }),
        ..mount("volume", "parts", "/p")
    };
    let fill = "busybox mkdir -p /v/in; echo inner > /v/in/f; busybox ln -s /etc /v/out; busybox ln -s in /v/alias";
    printed(&engine, fill, |h| h.binds = vec!["parts:/v".into()]).await;
    for path in ["in", "alias"] {
        assert_eq!(printed(&engine, "cat /p/f", |h| h.mounts = vec![part(path)]).await, "inner\n");
    }
    let body = with(script("ls /p"), |h| h.mounts = vec![part("out")]);
    let id = engine.container_create(None, String::new(), body).await.expect("created").id;
    assert!(engine.container_start(&id).await.expect_err("outside").message.contains("leads out of"));
    assert!(refused(&engine, |h| h.mounts = vec![part("../x")]).await.message.contains("../x"));
    let all = RemoveContainer { force: true, volumes: true };
    engine.container_remove("imaged", all).await.expect("removed");
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binds_reach_as_deep_and_travel_as_far_as_asked() {
    let host = Host::new();
    let engine = host.open().await;
    let outer = host.dir.join("outer");
    fs::create_dir_all(outer.join("inner")).expect("folders");
    let inner = outer.join("inner");
    let tmpfs = |at: &PathBuf| {
        nix::mount::mount(Some("t"), at, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).expect("tmpfs")
    };
    tmpfs(&inner);
    let source = outer.to_string_lossy().into_owned();
    let bind = |read_only: bool, change: &dyn Fn(&mut BindOptions)| {
        let mut options = BindOptions::default();
        change(&mut options);
        Mount { read_only, bind_options: Some(options), ..mount("bind", &source, "/b") }
    };
    let text = "touch /b/x 2>/dev/null && echo top; touch /b/inner/x 2>/dev/null && echo below; grep -c ' /b/inner ' /proc/mounts";
    let case = async |m: Mount| printed(&engine, text, |h| h.mounts = vec![m]).await;
    assert_eq!(case(bind(true, &|_| {})).await, "1\n");
    assert_eq!(case(bind(true, &|o| o.read_only_force_recursive = true)).await, "1\n");
    assert_eq!(case(bind(true, &|o| o.read_only_non_recursive = true)).await, "below\n1\n");
    assert_eq!(case(bind(false, &|o| o.non_recursive = true)).await, "top\nbelow\n0\n");

    // The host's folder is a mount of its own that is not shared, until it is.
    let flags = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&outer), &outer, None::<&str>, flags, None::<&str>).expect("bind");
    let make = |kind| nix::mount::mount(None::<&str>, &outer, None::<&str>, kind, None::<&str>).expect("propagation");
    make(nix::mount::MsFlags::MS_PRIVATE);
    let shared = bind(false, &|o| o.propagation = "rshared".into());
    let body = with(script("true"), |h| h.mounts = vec![shared.clone()]);
    let id = engine.container_create(None, String::new(), body).await.expect("created").id;
    assert!(engine.container_start(&id).await.expect_err("private").message.contains("not a shared mount"));
    make(nix::mount::MsFlags::MS_SHARED);
    fs::create_dir_all(outer.join("late")).expect("folder");
    let slave = bind(false, &|o| o.propagation = "rslave".into());
    start(&engine, "follower", with(command(&["sleep", "300"]), |h| h.mounts = vec![slave])).await;
    tmpfs(&outer.join("late"));
    let pid = inspect(&engine, "follower").await.state.pid;
    let seen = fs::read_to_string(format!("/proc/{pid}/mounts")).expect("mounts");
    assert!(seen.contains(" /b/late "), "a later mount travels: {seen}");
    engine.container_remove("follower", RemoveContainer { force: true, volumes: false }).await.expect("removed");
    for at in [outer.join("late"), outer.clone(), inner] {
        nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
    }
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tmpfs_has_the_size_mode_and_flags_it_was_given() {
    let host = Host::new();
    let engine = host.open().await;
    let options = TmpfsOptions { size_bytes: 1 << 20, mode: 0o700, options: vec![vec!["exec".into()]] };
    let tmpfs = Mount { tmpfs_options: Some(options), ..mount("tmpfs", "", "/t") };
    let text = "grep ' /t ' /proc/mounts; stat -c %a /t";
    let out = printed(&engine, text, |h| h.mounts = vec![tmpfs]).await;
    assert!(out.contains("size=1024k") && out.ends_with("700\n") && !out.contains("noexec"), "{out}");
    let short = printed(&engine, "grep ' /t ' /proc/mounts", |h| {
        h.tmpfs.insert("/t".into(), "size=64k,uid=65534,ro".into());
    });
    let short = short.await;
    assert!(short.contains("size=64k") && short.contains("uid=65534") && short.contains(" ro,"), "{short}");
    host.finish(engine).await;
}
