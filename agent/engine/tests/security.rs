//! Attacks that have worked on container engines, each tried for real: from inside a container, or by a hostile image or archive.

mod common;

use bytes::Bytes;
use common::{Host, command, inspect, run, script, start, within};
use futures_util::{StreamExt, TryStreamExt, stream};
use muster_calls::{Engine, Logs, RemoveContainer};
use muster_engine::LocalEngine;
use muster_model::engine::{ExecConfig, Mount};
use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const ALL: RemoveContainer = RemoveContainer { force: true, volumes: true };

/// A folder of the host that no container may read or change, at a path that no container has.
struct Canary {
    folder: PathBuf,
}

const SECRET: &str = "a secret of the host";

impl Canary {
    fn new(host: &Host) -> Self {
        let folder = host.dir.join("canary");
        fs::create_dir(&folder).expect("folder");
        fs::write(folder.join("f"), SECRET).expect("file");
        Self { folder }
    }

    fn path(&self) -> &str {
        self.folder.to_str().expect("text")
    }

    fn assert_untouched(&self) {
        let names: Vec<_> = fs::read_dir(&self.folder).expect("folder").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["f"], "something was put into a folder of the host");
        assert_eq!(fs::read_to_string(self.folder.join("f")).expect("file"), SECRET);
    }
}

/// What an exec prints.
async fn exec(engine: &LocalEngine, id: &str, config: ExecConfig) -> String {
    let config = ExecConfig { attach_stdout: true, attach_stderr: true, ..config };
    let exec = engine.exec_create(id, config).await.expect("exec");
    let attached = engine.exec_start(&exec, Default::default()).await.expect("starts");
    let (out, err) = within(common::collect(attached)).await;
    out + &err
}

fn words(cmd: &[&str]) -> Vec<String> {
    cmd.iter().map(|w| (*w).to_owned()).collect()
}

/// A tar of entries as they are, however hostile.
fn tar(entries: &[(tar::EntryType, &str, &str)]) -> Bytes {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // Past the library's own checks: the name is what an attacker writes.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        let data: &[u8] = if *kind == tar::EntryType::Regular { content.as_bytes() } else { &[] };
        if *kind != tar::EntryType::Regular {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).expect("entry");
    }
    builder.into_inner().expect("tar").into()
}

async fn put(engine: &LocalEngine, id: &str, path: &str, tar: Bytes) -> muster_calls::Result<()> {
    engine.archive_put(id, path.to_owned(), false, false, stream::iter([Ok(tar)]).boxed()).await
}

async fn get(engine: &LocalEngine, id: &str, path: &str) -> muster_calls::Result<Vec<u8>> {
    let (_, tar) = engine.archive_get(id, path.to_owned()).await?;
    tar.try_fold(Vec::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece);
        Ok(all)
    })
    .await
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

/// CVE-2018-15664: a container swaps a folder and a link to the host while `docker cp` works on the path.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2018_15664_a_path_that_turns_into_a_link_during_cp_does_not_lead_to_the_host() {
    let host = Host::new();
    let engine = host.open().await;
    let canary = Canary::new(&host);
    let race = format!(
        "busybox mkdir /x; busybox ln -s {} /y; echo ready > /ready; \
         while :; do busybox mv /x /z; busybox mv /y /x; busybox mv /x /y; busybox mv /z /x; done",
        canary.path()
    );
    let id = start(&engine, "racer", script(&race)).await;
    let ready = || async { get(&engine, &id, "/ready").await.is_ok() };
    common::until("it races", ready).await;
    let file = tar(&[(tar::EntryType::Regular, "f", "overwritten"), (tar::EntryType::Regular, "g", "planted")]);
    let deadline = Instant::now() + Duration::from_secs(4);
    let mut reached = 0;
    while Instant::now() < deadline {
        // Either may fail in the middle of the race; neither may reach the host.
        reached += usize::from(put(&engine, &id, "/x", file.clone()).await.is_ok());
        for path in ["/x/f", "/x", "/y/f"] {
            let read = get(&engine, &id, path).await.unwrap_or_default();
            assert!(!holds(&read, SECRET), "{path} showed a file of the host");
        }
    }
    assert!(reached > 0, "the race was never won by the copy: nothing was tried");
    canary.assert_untouched();
    host.finish(engine).await;
}

/// CVE-2019-14271: libraries of the container loaded into the daemon's helper during `docker cp`.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_14271_cp_loads_nothing_from_the_container() {
    let host = Host::new();
    let engine = host.open().await;
    let marker = host.dir.join("loaded");
    let prepare = "for d in lib lib64 usr/lib lib/x86_64-linux-gnu lib/aarch64-linux-gnu; do busybox mkdir -p /$d; \
         for l in libnss_files.so.2 libnss_compat.so.2 libc.so.6; do echo not a library > /$d/$l; done; done; \
         echo 'passwd: files evil' > /etc/nsswitch.conf; busybox mkfifo /etc/localtime; echo ready > /ready; sleep 300";
    let mut body = script(prepare);
    body.config.user = "root".into();
    let id = start(&engine, "trap", body).await;
    common::until("the trap is set", || async { get(&engine, &id, "/ready").await.is_ok() }).await;
    for path in ["/etc", "/lib"] {
        within(get(&engine, &id, path)).await.expect("copied out");
    }
    let file = tar(&[(tar::EntryType::Regular, "in", "x")]);
    // With owners mapped by name: where Docker's helper looked names up.
    let put = engine.archive_put(&id, "/tmp".into(), false, true, stream::iter([Ok(file)]).boxed());
    within(put).await.expect("copied in");
    let maps = fs::read_to_string("/proc/self/maps").expect("own maps");
    let inside = maps.lines().filter(|l| l.contains("/merged/") || l.contains("libnss_evil")).collect::<Vec<_>>();
    assert!(inside.is_empty() && !marker.exists(), "mapped from the container: {inside:?}");
    host.finish(engine).await;
}

fn fingerprint(path: &Path) -> (u64, u64, Vec<u8>) {
    let meta = fs::metadata(path).expect("program");
    (meta.ino(), meta.len(), fs::read(path).expect("readable"))
}

/// CVE-2019-5736: a container has the runtime executed inside of it and overwrites that program through `/proc/PID/exe`.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2019_5736_neither_runtime_nor_shim_can_be_overwritten_from_inside() {
    let host = Host::new();
    let engine = host.open().await;
    let runc = ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc", "/usr/local/bin/runc"];
    let runc = runc.map(Path::new).into_iter().find(|p| p.exists()).expect("runc is installed");
    let programs = [runc, common::shim()];
    let before = programs.map(fingerprint);
    let hunt = "while :; do for p in /proc/[0-9]*; do case $(busybox readlink $p/exe) in */busybox) ;; *) \
         (echo owned > $p/exe) 2>/dev/null && echo WROTE $p; \
         (exec 3<$p/exe; echo owned > /proc/self/fd/3) 2>/dev/null && echo WROTE $p ;; esac; done; done";
    let mut body = script(hunt);
    body.host_config.init = Some(true);
    let id = start(&engine, "hunter", body).await;
    for _ in 0..5 {
        // The command that makes the runtime execute itself within the container's reach.
        exec(&engine, &id, ExecConfig { cmd: words(&["/proc/self/exe"]), ..ExecConfig::default() }).await;
        exec(&engine, &id, ExecConfig { cmd: words(&["true"]), ..ExecConfig::default() }).await;
    }
    let init = "(echo owned > /sbin/docker-init) 2>&1; (echo owned > /proc/1/exe) 2>&1; true";
    let said = exec(&engine, &id, ExecConfig { cmd: words(&["sh", "-c", init]), ..ExecConfig::default() }).await;
    assert_eq!(said.lines().count(), 2, "both writes fail: {said}");
    let mut logs =
        engine.container_logs(&id, Logs { stdout: true, stderr: true, ..Logs::default() }).await.expect("logs").lines;
    assert!(logs.next().await.is_none(), "it wrote to a program");
    assert!(programs.map(fingerprint) == before, "a program of the host was changed");
    host.finish(engine).await;
}

/// CVE-2024-21626: a working directory that is a leaked descriptor of the host's file system.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_21626_no_descriptor_of_the_host_is_left_open_nor_reached_as_working_directory() {
    let host = Host::new();
    let engine = host.open().await;
    let canary = Canary::new(&host);
    let climb = format!(
        "cat ../../../../../../../..{}/f 2>/dev/null; ls ../../../../../.. 2>/dev/null | grep -c canary-host",
        canary.path()
    );
    let id = start(&engine, "target", command(&["sleep", "300"])).await;
    for fd in 3..16 {
        for at in [format!("/proc/self/fd/{fd}"), format!("/proc/1/fd/{fd}")] {
            let mut body = script(&climb);
            body.config.working_dir = at.clone();
            let created = engine.container_create(None, String::new(), body).await;
            if let Ok(created) = created {
                if engine.container_start(&created.id).await.is_ok() {
                    let wait = engine.container_wait(&created.id, muster_calls::WaitCondition::NotRunning).await;
                    within(wait.expect("waits")).await.expect("ended");
                    let options = Logs { stdout: true, stderr: true, ..Logs::default() };
                    let lines = engine.container_logs(&created.id, options).await.expect("logs").lines;
                    let text: Vec<_> = lines.map(|l| l.expect("line").data).collect().await;
                    assert!(!holds(&text.concat(), SECRET), "{at} led to the host");
                }
                engine.container_remove(&created.id, ALL).await.expect("removed");
            }
            if fd < 10 {
                let cmd = words(&["sh", "-c", &climb]);
                let said =
                    exec(&engine, &id, ExecConfig { cmd, working_dir: at.clone(), ..ExecConfig::default() }).await;
                assert!(!said.contains(SECRET), "{at} led to the host in an exec");
            }
        }
    }
    let open =
        "ls -l /proc/self/fd 2>/dev/null | grep -v ' -> \\(pipe\\|socket\\|/dev/null\\|/proc/\\)' | grep -c -- '->'";
    assert_eq!(run(&engine, None, script(open)).await.stdout.trim(), "0");
    let said = exec(&engine, &id, ExecConfig { cmd: words(&["sh", "-c", open]), ..ExecConfig::default() }).await;
    assert_eq!(said.trim(), "0");
    canary.assert_untouched();
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_climbs_or_goes_through_links_stays_in_the_container() {
    use tar::EntryType::{Link, Regular, Symlink};
    let host = Host::new();
    let engine = host.open().await;
    let canary = Canary::new(&host);
    let id = start(&engine, "target", command(&["sleep", "300"])).await;
    let up = format!("../../../../../../../..{}/g", canary.path());
    let deep = format!("{}/g", canary.path());
    let target = format!("{}/f", canary.path());
    for entries in [
        vec![(Regular, up.as_str(), "planted")],
        vec![(Regular, deep.as_str(), "planted")],
        vec![(Symlink, "l", canary.path()), (Regular, "l/g", "planted")],
        vec![(Symlink, "m", "../../../../../../.."), (Regular, "m/g", "planted")],
        vec![(Link, "h", target.as_str()), (Regular, "h", "overwritten")],
        vec![(Symlink, "s", target.as_str()), (Regular, "s", "overwritten")],
    ] {
        // Whether it is refused or kept inside: the host's folder stays as it is.
        let _ = within(put(&engine, &id, "/tmp", tar(&entries))).await;
        canary.assert_untouched();
    }
    let pid = inspect(&engine, &id).await.state.pid;
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    symlink(canary.path(), root.join("tmp/away")).expect("link");
    let read = get(&engine, &id, "/tmp/away/f").await.unwrap_or_default();
    assert!(!holds(&read, SECRET));
    let exported = engine.container_export(&id).await.expect("exported");
    let bytes: Vec<Bytes> = exported.try_collect().await.expect("whole");
    assert!(!holds(&bytes.concat(), SECRET));
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_filled_from_the_image_and_never_from_the_host() {
    let host = Host::new();
    let engine = host.open().await;
    let canary = Canary::new(&host);
    // An image whose mount point is a link to a folder of the host.
    let prepare =
        format!("busybox ln -s {} /data; busybox mkdir /deep; busybox ln -s {} /deep/er", canary.path(), canary.path());
    let made = run(&engine, None, script(&prepare)).await;
    let commit =
        muster_calls::Commit { container: made.id, repo: "hostile".into(), tag: "1".into(), ..Default::default() };
    engine.commit(commit, None).await.expect("committed");
    for target in ["/data", "/deep/er", "/deep"] {
        let mut body = script(&format!("cat {target}/f {target}/er/f 2>/dev/null; true"));
        body.config.image = "hostile:1".into();
        body.host_config.binds = vec![format!("fill{}:{target}", target.replace('/', "-"))];
        let id = engine.container_create(None, String::new(), body).await.expect("created").id;
        // The runtime may refuse a link as a mount point; what counts is what was copied.
        let _ = engine.container_start(&id).await;
    }
    let copied = fs::read_dir(host.dir.join("data/volumes")).expect("volumes").flatten();
    for volume in copied {
        let inside = volume.path().join("_data/f");
        assert!(fs::symlink_metadata(&inside).is_err(), "{} came from the host", inside.display());
    }
    canary.assert_untouched();
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_turns_up_in_a_volume_is_not_followed_by_a_subpath() {
    let host = Host::new();
    let engine = host.open().await;
    let canary = Canary::new(&host);
    let race = format!(
        "cd /v; busybox mkdir a; busybox ln -s {} b; while :; do busybox mv a c; busybox mv b a; busybox mv a b; busybox mv c a; done",
        canary.path()
    );
    let mut racer = script(&race);
    racer.host_config.binds = vec!["raced:/v".into()];
    start(&engine, "racer", racer).await;
    let deadline = Instant::now() + Duration::from_secs(4);
    while Instant::now() < deadline {
        let mut body = script("cat /p/f 2>/dev/null; echo x > /p/g");
        let options = muster_model::engine::VolumeOptions { subpath: "a".into(), ..Default::default() };
        body.host_config.mounts = vec![Mount {
            kind: "volume".into(),
            source: "raced".into(),
            target: "/p".into(),
            volume_options: Some(options),
            ..Mount::default()
        }];
        let id = engine.container_create(None, String::new(), body).await.expect("created").id;
        if engine.container_start(&id).await.is_ok() {
            let wait = engine.container_wait(&id, muster_calls::WaitCondition::NotRunning).await.expect("waits");
            within(wait).await.expect("ended");
        }
        engine.container_remove(&id, RemoveContainer { force: true, volumes: false }).await.expect("removed");
        canary.assert_untouched();
    }
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_bytes_in_a_line_forge_no_other_line() {
    let host = Host::new();
    let engine = host.open().await;
    let forged = r#"{\"log\":\"forged\\n\",\"stream\":\"stdout\",\"time\":\"2020-01-01T00:00:00Z\"}"#;
    let text = format!(r#"printf 'a\r\033[2Jb\0c\n'; printf '%s\n' "{forged}"; printf '\377\376 end\n'"#);
    let id = engine.container_create(None, String::new(), script(&text)).await.expect("created").id;
    let ended = engine.container_wait(&id, muster_calls::WaitCondition::NextExit).await.expect("waits");
    engine.container_start(&id).await.expect("started");
    within(ended).await.expect("ended");
    let options = Logs { stdout: true, stderr: true, ..Logs::default() };
    let lines = engine.container_logs(&id, options).await.expect("logs").lines;
    let lines: Vec<_> = lines.map(|l| l.expect("line")).collect().await;
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(&lines[0].data[..], b"a\r\x1b[2Jb\0c\n");
    assert!(holds(&lines[1].data, "forged") && lines[1].data.starts_with(b"{"), "{lines:?}");
    assert!(lines[1].time > muster_model::Timestamp::from_millis(1_700_000_000_000), "its own time");
    assert_eq!(&lines[2].data[..], "\u{fffd}\u{fffd} end\n".as_bytes());
    host.finish(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_cannot_change_its_own_limits_nor_the_kernels_settings() {
    let host = Host::new();
    let engine = host.open().await;
    // On v1 the folder of the hierarchies itself is memory of the container's own: what counts are the hierarchies.
    let text = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do [ -e $d/cgroup.procs ] || continue; echo $d >> /tmp/found; \
         busybox mkdir $d/x 2>/dev/null && echo made $d/x; (echo 1 > $d/cgroup.procs) 2>/dev/null && echo moved $d; done; \
         [ -s /tmp/found ] || echo no hierarchy to try; \
         for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /proc/sys/kernel/core_pattern \
         /proc/sysrq-trigger /sys/kernel/uevent_helper; do [ -e $f ] && (echo 1 > $f) 2>/dev/null && echo wrote $f; done; \
         busybox mount -t tmpfs x /tmp 2>/dev/null && echo mounted; busybox unshare -U true 2>/dev/null && echo unshared; \
         busybox mknod /tmp/sda b 8 0 && (exec 3</tmp/sda) 2>/dev/null && echo opened; true";
    assert_eq!(run(&engine, None, script(text)).await.stdout, "");
    host.finish(engine).await;
}
