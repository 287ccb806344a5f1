//! Figures, printed on demand: `cargo test -p muster-runtime --release --test figures -- --ignored --nocapture`.

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Host, container, shims_of};
use muster_runtime::{AttachOptions, Runtime};

fn median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[0], times[times.len() / 2])
}

#[tokio::test]
#[ignore = "measures; prints"]
async fn what_a_container_costs() {
    let host = Host::new().await;
    let rounds = 30;
    let (mut floor, mut ours, mut create, mut start, mut delete, mut exec) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    let spec = host.create_spec("f", &host.input("f", "true"));
    let keeper = host.create_spec("keep", &host.input("keep", "exec sleep 1000"));
    host.runtime.create(&keeper).await.expect("created");
    host.runtime.start("keep").await.expect("started");
    let bundle = host.path("bundle");
    fs::create_dir(&bundle).expect("folder");
    fs::write(bundle.join("config.json"), serde_json::to_vec(&spec.spec).expect("JSON")).expect("file");
    for round in 0..rounds {
        let begin = Instant::now();
        let runc = Command::new("runc")
            .arg("--root")
            .arg(host.path("bare"))
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg("bare")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(runc.expect("runc runs").success());
        floor.push(begin.elapsed());
        let begin = Instant::now();
        host.runtime.create(&spec).await.expect("created");
        create.push(begin.elapsed());
        let mark = Instant::now();
        host.runtime.start("f").await.expect("started");
        start.push(mark.elapsed());
        host.runtime.wait(container("f")).await.expect("ended");
        let mark = Instant::now();
        host.runtime.delete("f", false).await.expect("deleted");
        delete.push(mark.elapsed());
        ours.push(begin.elapsed());
        let name = format!("e{round}");
        let process = host.exec_spec(
            &keeper,
            &muster_runtime::spec::ExecInput { args: vec!["/bin/true".into()], ..Default::default() },
        );
        let begin = Instant::now();
        host.exec(&keeper, &name, &process).await;
        exec.push(begin.elapsed());
    }
    println!("(min, median)\nrunc run           {:?}", median(floor));
    println!("create..delete    {:?}", median(ours));
    println!("  create          {:?}\n  start           {:?}", median(create), median(start));
    println!("  delete          {:?}\nexec              {:?}", median(delete), median(exec));
    host.runtime.delete("keep", true).await.expect("deleted");
}

#[tokio::test]
#[ignore = "measures; prints"]
async fn what_a_shim_weighs_and_how_fast_it_logs() {
    let host = Host::new().await;
    for number in 0..10 {
        host.run(&format!("w{number}"), "exec sleep 1000").await;
    }
    let shims = shims_of(&host.dir.path().to_string_lossy());
    let sum = |key: &str| -> u64 {
        let of = |pid: &u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("memory");
            let line = text.lines().find(|line| line.starts_with(key)).expect("a key").to_owned();
            line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).expect("kB")
        };
        shims.iter().map(of).sum::<u64>() / shims.len() as u64
    };
    println!(
        "{} shims, kB each: Rss {} Pss {} Private_Dirty {}",
        shims.len(),
        sum("Rss:"),
        sum("Pss:"),
        sum("Private_Dirty:")
    );
    for number in 0..10 {
        host.runtime.delete(&format!("w{number}"), true).await.expect("deleted");
    }
    let line = "x".repeat(99);
    let spec = host.create_spec("chat", &host.input("chat", &format!("yes {line} | head -c 200000000")));
    host.runtime.create(&spec).await.expect("created");
    let begin = Instant::now();
    host.runtime.start("chat").await.expect("started");
    let shim = shims_of(&host.dir.path().to_string_lossy())[0];
    let ticks = || -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{shim}/stat")).ok()?;
        let words: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
        Some(words.get(11)?.parse::<u64>().ok()? + words.get(12)?.parse::<u64>().ok()?)
    };
    let mut used = 0;
    let ended = host.runtime.wait(container("chat"));
    tokio::pin!(ended);
    while tokio::time::timeout(Duration::from_millis(20), &mut ended).await.is_err() {
        used = ticks().unwrap_or(used);
    }
    println!("200 MB of 100-byte lines logged in {:?}, shim's CPU {} ms", begin.elapsed(), used * 10);
    host.runtime.delete("chat", false).await.expect("deleted");
    let spec = host.create_spec("att", &host.input("att", &format!("yes {line} | head -c 200000000")));
    let spec = muster_runtime::CreateSpec { log: muster_runtime::LogConfig::none(), ..spec };
    host.runtime.create(&spec).await.expect("created");
    let mut attached = host.runtime.attach(container("att"), AttachOptions::output()).await.expect("attached");
    let begin = Instant::now();
    host.runtime.start("att").await.expect("started");
    while attached.output.next().await.expect("output").is_some() {}
    println!("200 MB attached in {:?}", begin.elapsed());
    host.runtime.delete("att", false).await.expect("deleted");
}
