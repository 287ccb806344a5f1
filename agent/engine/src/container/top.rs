//! `docker top`: `ps` of the host, cut down to the processes of one container.

use crate::{engine::Shared, error};
use muster_calls::{Error, Result};
use muster_model::engine::TopResult;
use std::collections::BTreeSet;

impl Shared {
    pub(crate) async fn top(&self, id: &str, ps_args: &str) -> Result<TopResult> {
        let record = self.find(id)?.record();
        if !record.state.is_running() {
            return Err(Error::conflict(format!("container {} is not running", record.id)));
        }
        let args = if ps_args.is_empty() { "-ef" } else { ps_args };
        check(args)?;
        let pids: BTreeSet<u32> =
            self.config.runtime.processes(&record.id).await.map_err(error::runtime)?.into_iter().collect();
        let ps =
            tokio::process::Command::new("ps").args(args.split_ascii_whitespace()).kill_on_drop(true).output().await;
        let ps = ps.map_err(|e| Error::internal(format!("error running ps: {e}")))?;
        if !ps.status.success() {
            let words = String::from_utf8_lossy(&ps.stderr);
            return Err(Error::invalid(format!("ps: {}", words.lines().next().unwrap_or_default())));
        }
        let table = select(&String::from_utf8_lossy(&ps.stdout), &pids)?;
        self.container_event(&record, "top", &[]);
        Ok(table)
    }
}

/// `ps -o pid=...` would hide the column that tells which process is whose.
fn check(args: &str) -> Result<()> {
    let words: Vec<&str> = args.split_ascii_whitespace().collect();
    if words.iter().any(|w| w.contains("pid=")) {
        return Err(Error::invalid(format!("specifying \"{args}\" is not allowed: it renames the PID column")));
    }
    Ok(())
}

/// The lines of `ps` whose PID is among `pids`; the last column keeps its spaces.
fn select(text: &str, pids: &BTreeSet<u32>) -> Result<TopResult> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines.next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    let at = titles
        .iter()
        .position(|t| t == "PID")
        .ok_or_else(|| Error::internal("couldn't find PID field in ps output"))?;
    let rows = lines.filter_map(|line| {
        let row = columns(line, titles.len());
        row.get(at)?.parse().is_ok_and(|pid| pids.contains(&pid)).then_some(row)
    });
    Ok(TopResult { processes: rows.collect(), titles })
}

fn columns(line: &str, count: usize) -> Vec<String> {
    let mut rest = line.trim();
    let mut row = Vec::with_capacity(count);
    while row.len() + 1 < count {
        let Some((word, tail)) = rest.split_once(|c: char| c.is_ascii_whitespace()) else { break };
        row.push(word.to_owned());
        rest = tail.trim_start();
    }
    row.push(rest.to_owned());
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_shown_and_commands_keep_their_spaces() {
        let text = "UID PID PPID C STIME TTY TIME CMD\nroot 7 1 0 09:09 ? 00:00:00 sleep 500\nroot 70 1 0 09:09 ? 00:00:00 other\n";
        let top = select(text, &BTreeSet::from([7])).expect("has PID");
        assert_eq!(top.processes, [["root", "7", "1", "0", "09:09", "?", "00:00:00", "sleep 500"]]);
        assert!(select("UID CMD\n", &BTreeSet::new()).is_err());
        assert!(check("-eo pid=x").is_err() && check("aux").is_ok());
    }
}
