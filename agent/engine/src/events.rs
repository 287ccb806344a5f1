//! What happened: a ring of the last events, live listeners, and the filter of `docker events`.

use crate::clock;
use futures_util::{StreamExt, stream};
use muster_calls::{Error, EventsQuery, Result, Stream};
use muster_model::{
    Timestamp,
    engine::{EventActor, EventMessage, Filters, Strings},
};
use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
};
use tokio::sync::broadcast;

/// Events remembered for `since`; dockerd keeps 256.
const RING: usize = 1024;
/// Events a slow listener may be behind before it is cut off.
const LISTENER_LAG: usize = 1024;

/// Filters of events that an engine knows.
pub const EVENT_FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// The events of one engine.
#[derive(Debug)]
pub(crate) struct Events {
    ring: Mutex<VecDeque<EventMessage>>,
    live: broadcast::Sender<EventMessage>,
    /// Time of the newest event: times only grow, so that `since` cuts cleanly.
    newest: AtomicI64,
}

impl Events {
    pub fn new() -> Self {
        Self { ring: Mutex::default(), live: broadcast::channel(LISTENER_LAG).0, newest: AtomicI64::new(0) }
    }

    /// How many listen now.
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
    }

    /// Tells everybody.
    pub fn publish(&self, kind: &str, action: impl Into<String>, id: impl Into<String>, attributes: Strings) {
        self.publish_of("local", String::new(), kind, (action.into(), id.into()), attributes);
    }

    /// As [`Events::publish`], of something that happened in the cluster. `entry`: [`EventMessage::entry`].
    pub fn publish_cluster(&self, entry: String, kind: &str, action: &str, id: String, attributes: Strings) {
        self.publish_of("swarm", entry, kind, (action.to_owned(), id), attributes);
    }

    fn publish_of(&self, scope: &str, entry: String, kind: &str, (action, id): (String, String), attributes: Strings) {
        let old_form = matches!(kind, "container" | "image");
        let mut event = EventMessage {
            status: if old_form { action.clone() } else { String::new() },
            id: if old_form { id.clone() } else { String::new() },
            from: if kind == "container" {
                attributes.get("image").cloned().unwrap_or_default()
            } else {
                String::new()
            },
            kind: kind.to_owned(),
            action,
            actor: EventActor { id, attributes },
            scope: scope.to_owned(),
            entry,
            ..EventMessage::default()
        };
        let mut ring = self.ring.lock().unwrap_or_else(|e| e.into_inner());
        let now = clock::now().0.max(self.newest.load(Ordering::Relaxed) + 1);
        self.newest.store(now, Ordering::Relaxed);
        (event.time, event.time_nano) = (Timestamp(now).as_secs(), now);
        if ring.len() == RING {
            ring.pop_front();
        }
        ring.push_back(event.clone());
        // Under the lock: a listener that copied the ring before sees this live, and one after finds it in the ring.
        let _ = self.live.send(event); // No listener is no error.
    }

    /// The containers that were removed last and not before `since`: at most so many.
    pub fn last_removed(&self, since: Timestamp, most: usize) -> impl Iterator<Item = String> {
        let ring = self.ring.lock().unwrap_or_else(|e| e.into_inner());
        let removed = ring.iter().rev().take_while(|e| e.time_nano >= since.0);
        let removed = removed.filter(|e| e.kind == "container" && e.action == "destroy");
        removed.take(most).map(|e| e.actor.id.clone()).collect::<Vec<_>>().into_iter()
    }

    /// Events from `since` on out of the ring, then live ones until `until`.
    ///
    /// # Errors
    /// `Invalid` for an unknown filter.
    pub fn query(&self, query: EventsQuery) -> Result<Stream<EventMessage>> {
        query.filters.allow(EVENT_FILTERS).map_err(|e| Error::invalid(e.to_string()))?;
        let (past, live) = {
            let ring = self.ring.lock().unwrap_or_else(|e| e.into_inner());
            let since = if query.since.is_zero() { i64::MAX } else { query.since.0 };
            let past: Vec<_> = ring.iter().filter(|e| e.time_nano >= since).cloned().collect();
            (past, self.live.subscribe())
        };
        let (until, filters) = (query.until, query.filters);
        let before_until = move |e: &EventMessage| until.is_zero() || e.time_nano < until.0;
        let past = stream::iter(past.into_iter().map(Ok));
        let events = past
            .chain(live_until(live, until))
            .take_while(move |e| std::future::ready(e.as_ref().map_or(true, &before_until)));
        Ok(events.filter(move |e| std::future::ready(e.as_ref().map_or(true, |e| passes(&filters, e)))).boxed())
    }
}

/// The live events, ended at `until`; a listener that fell behind is told so and cut off.
fn live_until(live: broadcast::Receiver<EventMessage>, until: Timestamp) -> Stream<EventMessage> {
    let left = until.since(clock::now());
    if !until.is_zero() && left.is_zero() {
        return stream::empty().boxed();
    }
    let deadline = (!until.is_zero()).then(|| tokio::time::Instant::now() + left);
    stream::unfold(Some(live), move |live| async move {
        let mut live = live?;
        let next = match deadline {
            Some(at) => tokio::time::timeout_at(at, live.recv()).await.ok()?,
            None => live.recv().await,
        };
        match next {
            Ok(event) => Some((Ok(event), Some(live))),
            Err(broadcast::error::RecvError::Closed) => None,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                Some((Err(Error::internal(format!("the listener is too slow: {missed} events were missed"))), None))
            }
        }
    })
    .boxed()
}

/// Docker's rules: values of one key are alternatives, keys must all agree, labels must all be there.
fn passes(filters: &Filters, event: &EventMessage) -> bool {
    let attributes = &event.actor.attributes;
    let is = |kind: &str| event.kind == kind;
    let named = |key: &str| {
        filters.matches_with(key, |given| {
            let name = attributes.get("name").is_some_and(|n| n == given || given.strip_prefix('/') == Some(n));
            let attribute = attributes.get(key).is_some_and(|v| v == given);
            (is(key) && (event.actor.id == given || name || (given.len() >= 4 && event.actor.id.starts_with(given))))
                || attribute
        })
    };
    filters.matches_with("event", |given| event.action == given || event.action.split(':').next() == Some(given))
        && filters.matches_exactly("type", &event.kind)
        && filters.matches_exactly("scope", &event.scope)
        && filters.matches_labels("label", attributes)
        && filters.matches_with("image", |given| image_matches(given, event))
        && ["container", "volume", "network", "daemon", "plugin", "service", "node", "secret", "config"]
            .iter()
            .all(|key| named(key))
}

fn image_matches(given: &str, event: &EventMessage) -> bool {
    let attribute = if event.kind == "image" { "name" } else { "image" };
    let untagged = |name: &str| name.rsplit_once(':').map(|(repo, _)| repo.to_owned());
    let name = event.actor.attributes.get(attribute);
    (event.kind == "image" && event.actor.id == given)
        || name.is_some_and(|n| n == given || untagged(n).as_deref() == Some(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(pairs: &[(&str, &str)]) -> Strings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    async fn actions(events: &Events, filters: Filters) -> Vec<String> {
        let query = EventsQuery { since: Timestamp(1), until: clock::now(), filters };
        let stream = events.query(query).expect("valid");
        stream.map(|e| e.expect("no lag").action).collect().await
    }

    #[tokio::test]
    async fn the_ring_gives_back_what_the_filter_lets_through_in_order() {
        let events = Events::new();
        events.publish("container", "create", "c1", labelled(&[("image", "busybox:e2e"), ("name", "web"), ("a", "b")]));
        events.publish("network", "connect", "n1", labelled(&[("container", "c1"), ("name", "bridge")]));
        events.publish("container", "exec_create: sh -c x", "c2", labelled(&[("image", "other"), ("name", "db")]));
        let with = |key: &str, value: &str| {
            let mut f = Filters::default();
            f.add(key, value);
            f
        };
        assert_eq!(actions(&events, Filters::default()).await.len(), 3);
        assert_eq!(actions(&events, with("type", "network")).await, ["connect"]);
        assert_eq!(actions(&events, with("event", "exec_create")).await, ["exec_create: sh -c x"]);
        assert_eq!(actions(&events, with("container", "web")).await, ["create"]);
        assert_eq!(actions(&events, with("container", "c1")).await, ["create", "connect"]);
        assert_eq!(actions(&events, with("image", "busybox")).await, ["create"]);
        assert_eq!(actions(&events, with("label", "a=b")).await, ["create"]);
        let refused = events.query(EventsQuery { filters: with("bogus", "1"), ..EventsQuery::default() });
        assert_eq!(refused.err().map(|e| e.message).as_deref(), Some("invalid filter 'bogus'"));
    }

    #[test]
    fn the_ring_tells_which_containers_were_removed_last() {
        let events = Events::new();
        let begun = clock::now();
        for id in ["c1", "c2", "c3"] {
            events.publish("container", "create", id, Strings::new());
            events.publish("container", "destroy", id, Strings::new());
        }
        events.publish("network", "destroy", "n1", Strings::new());
        assert_eq!(events.last_removed(begun, 2).collect::<Vec<_>>(), ["c3", "c2"]);
        assert_eq!(events.last_removed(Timestamp(i64::MAX), 2).count(), 0);
    }

    #[tokio::test]
    async fn what_happens_in_the_cluster_is_told_with_its_scope() {
        let events = Events::new();
        events.publish("network", "create", "n1", labelled(&[("name", "web")]));
        let node = labelled(&[("name", "host1"), ("state.new", "down")]);
        events.publish_cluster("7.0".to_owned(), "node", "update", "abcdef".to_owned(), node);
        events.publish_cluster("8.0".to_owned(), "service", "create", "s1".to_owned(), labelled(&[("name", "web")]));
        let with = |key: &str, value: &str| Filters([(key.to_owned(), [value.to_owned()].into())].into());
        assert_eq!(actions(&events, with("scope", "swarm")).await, ["update", "create"]);
        assert_eq!(actions(&events, with("scope", "local")).await, ["create"]);
        assert_eq!(actions(&events, with("service", "web")).await, ["create"]);
        assert_eq!(actions(&events, with("node", "host1")).await, ["update"]);
        assert_eq!(actions(&events, with("node", "abcd")).await, ["update"]);
        assert!(actions(&events, with("service", "other")).await.is_empty());
    }

    #[tokio::test]
    async fn a_listener_hears_live_events_once_and_in_order() {
        let events = Events::new();
        events.publish("volume", "create", "old", Strings::new());
        let mut stream = events.query(EventsQuery { since: Timestamp(1), ..EventsQuery::default() }).expect("valid");
        events.publish("volume", "create", "new", Strings::new());
        for expected in ["old", "new"] {
            let event = stream.next().await.expect("not ended").expect("no lag");
            assert_eq!(event.actor.id, expected);
        }
    }
}
