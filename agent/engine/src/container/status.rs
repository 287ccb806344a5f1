//! The state of a container in words: `Up 2 seconds (healthy)`. Pure.

use crate::record::{Phase, Record};
use muster_model::{Timestamp, engine::Health};
use std::time::Duration;

/// Docker's text for lists.
pub(super) fn words(record: &Record, health: Option<&Health>, now: Timestamp) -> String {
    let state = &record.state;
    let ago = human(now.since(state.finished_at));
    match state.phase {
        Phase::Running if state.paused => format!("Up {} (Paused)", human(now.since(state.started_at))),
        Phase::Running => {
            let up = format!("Up {}", human(now.since(state.started_at)));
            match health.map(|h| h.status.as_str()) {
                Some("starting") => format!("{up} (health: starting)"),
                Some(status @ ("healthy" | "unhealthy")) => format!("{up} ({status})"),
                _ => up,
            }
        }
        Phase::Restarting => format!("Restarting ({}) {ago} ago", state.exit_code),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Creating | Phase::Created => "Created".to_owned(),
        Phase::Starting | Phase::Exited if state.started_at.is_zero() => "Created".to_owned(),
        Phase::Starting | Phase::Exited => format!("Exited ({}) {ago} ago", state.exit_code),
    }
}

/// A length of time as Docker says it (go-units' `HumanDuration`).
pub(super) fn human(d: Duration) -> String {
    let (seconds, minutes, hours) = (d.as_secs(), d.as_secs() / 60, (d.as_secs_f64() / 3600.0).round() as u64);
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", d.as_secs() / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_as_docker_says_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 20, "2 weeks"),
            (86_400 * 90, "3 months"),
            (86_400 * 365 * 3, "3 years"),
        ] {
            assert_eq!(human(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_state_is_told_with_its_time_and_health() {
        let mut record = Record::default();
        record.state.phase = Phase::Created;
        let now = Timestamp(100_000_000_000);
        assert_eq!(words(&record, None, now), "Created");
        record.state.phase = Phase::Running;
        record.state.started_at = Timestamp(98_000_000_000);
        let health = Health { status: "healthy".into(), ..Health::default() };
        assert_eq!(words(&record, Some(&health), now), "Up 2 seconds (healthy)");
        record.state.paused = true;
        assert_eq!(words(&record, None, now), "Up 2 seconds (Paused)");
        record.state.phase = Phase::Exited;
        record.state.exit_code = 4;
        record.state.finished_at = Timestamp(95_000_000_000);
        assert_eq!(words(&record, None, now), "Exited (4) 5 seconds ago");
    }
}
