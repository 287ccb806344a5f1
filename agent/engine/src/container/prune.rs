//! `docker container prune`, and the time filter that all prunes share.

use super::Command;
use crate::{clock, engine::Shared};
use muster_calls::{Error, Filters, Kind, RemoveContainer, Result};
use muster_model::{
    Timestamp,
    engine::{PruneReport, Strings},
};
use std::time::Duration;

/// `until` of prune filters: a time, seconds since 1970, or a Go duration before now.
///
/// # Errors
/// `Invalid` for several or an unreadable one.
pub fn until(filters: &Filters) -> Result<Option<Timestamp>> {
    let mut values = filters.values("until");
    let (Some(text), None) = (values.next(), values.next()) else {
        return if filters.contains("until") {
            Err(Error::invalid("more than one until filter specified"))
        } else {
            Ok(None)
        };
    };
    let seconds = || text.parse::<f64>().ok().filter(|s| s.is_finite()).map(|s| Timestamp((s * 1e9) as i64));
    let ago = || {
        go_duration(text)
            .map(|d| Timestamp(clock::now().0.saturating_sub(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))))
    };
    let time = seconds()
        .or_else(ago)
        .or_else(|| Timestamp::parse_rfc3339(text))
        .or_else(|| Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")));
    time.map(Some).ok_or_else(|| Error::invalid(format!("invalid filter 'until={text}'")))
}

/// A duration as Go reads it: `1h30m`, `1.5s`, `10ms`.
pub fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let factor = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * factor;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok())?
}

/// Whether labels pass both `label` and `label!`.
pub fn labels_pass(filters: &Filters, labels: &Strings) -> bool {
    filters.matches_labels("label", labels) && filters.excludes_labels("label!", labels)
}

impl Shared {
    /// Removes containers that do not run.
    pub(crate) async fn prune_containers(&self, filters: &Filters) -> Result<PruneReport> {
        filters.allow(&["until", "label", "label!"]).map_err(|e| Error::invalid(e.to_string()))?;
        let until = until(filters)?;
        let (mut deleted, mut reclaimed) = (Vec::new(), 0u64);
        for handle in self.containers.all() {
            let record = handle.record();
            let idle = matches!(record.state.word(), "created" | "exited");
            if !idle || until.is_some_and(|t| record.created >= t) || !labels_pass(filters, &record.config.labels) {
                continue;
            }
            let size = self.roots.written(&record.id).await.unwrap_or(0);
            let options = RemoveContainer::default();
            match handle.ask(|reply| Command::Remove { options, reply }).await {
                Ok(()) => {
                    deleted.push(record.id.clone());
                    reclaimed = reclaimed.saturating_add(size);
                }
                // Started or removed since: no longer what a prune is for.
                Err(e) if matches!(e.kind, Kind::Conflict | Kind::NotFound) => {}
                // As dockerd: one that will not go holds up no other.
                Err(e) => tracing::warn!(container.id = %record.id, error = %e, "cannot prune a container"),
            }
        }
        let attributes = [("reclaimed".to_owned(), reclaimed.to_string())].into();
        self.events.publish("container", "prune", "", attributes);
        Ok(PruneReport { containers_deleted: Some(deleted), space_reclaimed: reclaimed, ..PruneReport::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_a_time_or_a_duration_before_now() {
        let of = |text: &str| {
            let mut filters = Filters::default();
            filters.add("until", text);
            until(&filters)
        };
        assert_eq!(of("100").expect("seconds"), Some(Timestamp(100_000_000_000)));
        assert_eq!(of("1970-01-02").expect("date"), Some(Timestamp(86_400_000_000_000)));
        let hour_ago = of("1h").expect("duration").expect("given");
        assert!(clock::now().since(hour_ago).as_secs().abs_diff(3600) < 60);
        assert!(of("yesterday").is_err());
        assert_eq!(go_duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(go_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(go_duration("5x"), None);
    }
}
