//! Events of all nodes in one stream.
//!
//! Each event of a node says which: `node.name` and `node.id` among the actor's attributes. What happens in the cluster is
//! told by every manager and passed on once (`once.rs`). A node that goes away does not end the stream: an event of type
//! `node` says so, and another when it is back; what happened meanwhile follows out of its ring. Nodes that join later are
//! taken in. What the nodes remember comes first, in the order of its time; what happens comes as it is heard.

use super::{
    WholeEngine,
    lists::names_of,
    once::{Once, entry_of},
    warnings,
};
use crate::directory::Place;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::FuturesUnordered};
use muster_calls::*;
use muster_model::{
    NodeId, Timestamp,
    engine::{EventActor, EventMessage, Filters, Strings},
};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;

/// Events that wait for a slow listener before the nodes' streams are left unread; then back-pressure reaches the nodes.
const WAITING: usize = 64;
/// Between two attempts at a node that is away.
const AGAIN: Duration = Duration::from_secs(2);

impl WholeEngine {
    pub(super) fn events_of_all(&self, mut query: EventsQuery) -> Result<Stream<EventMessage>> {
        let only = query.filters.0.remove("node").unwrap_or_default();
        query.filters.allow(muster_engine::EVENT_FILTERS).map_err(|e| Error::invalid(e.to_string()))?;
        self.places()?;
        let (events, heard) = mpsc::channel(WAITING);
        let gatherer = Gatherer { whole: self.clone(), query, only, events, once: Mutex::default() };
        // Ends when nobody listens any more, and with the daemon.
        let task = AbortOnDrop(tokio::spawn(gatherer.run()));
        let stream = tokio_stream::wrappers::ReceiverStream::new(heard);
        Ok(stream
            .map(move |event| {
                let _owned = &task;
                event
            })
            .boxed())
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Gatherer {
    whole: WholeEngine,
    query: EventsQuery,
    /// Names or ids of the nodes that are listened to; empty: all.
    only: BTreeSet<String>,
    events: mpsc::Sender<Result<EventMessage>>,
    /// What was told of the cluster. Never held across an await.
    once: Mutex<Once>,
}

impl Gatherer {
    async fn run(self) {
        let mut listening: BTreeSet<NodeId> = BTreeSet::new();
        let mut nodes = FuturesUnordered::new();
        let mut changed = self.whole.host.member().map(|m| m.directory().watch());
        let Some(past) = self.tell_past().await else { return };
        // Nodes that are there from the start answer `since`; those that come later only tell what is new.
        let mut query = self.query.clone();
        loop {
            // An error passes: of this host's credential, for one.
            let places = self.whole.places();
            let unknown = places.is_err();
            for place in places.into_iter().flatten() {
                if self.asks(&place, &query).is_some() && listening.insert(place.id) {
                    let mut query = query.clone();
                    if past.told.contains(&place.id) {
                        query.since = past.until;
                    }
                    nodes.push(self.listen(place, query));
                }
            }
            if !unknown {
                query.since = Timestamp::ZERO;
            }
            tokio::select! {
                ended = nodes.next(), if !(unknown && nodes.is_empty()) => match ended {
                    Some(Ended::Until) if nodes.is_empty() => return,
                    Some(Ended::Until) => {}
                    // Taken in anew if it joins once more.
                    Some(Ended::Gone(id)) => drop(listening.remove(&id)),
                    Some(Ended::Deaf) | None => return,
                },
                () = next_change(&mut changed) => {}
                () = tokio::time::sleep(AGAIN), if unknown => {}
            }
        }
    }

    fn wants(&self, place: &Place) -> bool {
        self.only.is_empty() || self.is_named(&place.hostname, &place.id.to_string())
    }

    fn is_named(&self, name: &str, id: &str) -> bool {
        self.only.contains(name) || self.only.contains(id)
    }

    /// What a node is asked; `None`: nothing, for the listener wants to hear of other nodes only. One that is not listened to
    /// may still tell, as a manager, what happens to those that are.
    fn asks(&self, place: &Place, query: &EventsQuery) -> Option<EventsQuery> {
        if self.wants(place) {
            let filters = names_of(place, "container", &query.filters)?;
            return Some(EventsQuery { filters, ..query.clone() });
        }
        let asked = |key, value| query.filters.matches_exactly(key, value);
        (asked("scope", "swarm") && asked("type", "node")).then(|| {
            let mut query = query.clone();
            query.filters.0.insert("scope".to_owned(), ["swarm".to_owned()].into());
            query.filters.0.insert("node".to_owned(), self.only.clone());
            query
        })
    }

    /// An event as it is passed on; `None`: it is not.
    fn heard(&self, mut event: EventMessage, place: &Place) -> Option<EventMessage> {
        let Some(entry) = entry_of(&event) else {
            return self.wants(place).then(|| of_node(event, place));
        };
        let name = event.actor.attributes.get("name").map_or("", String::as_str);
        let wanted = self.only.is_empty() || (event.kind == "node" && self.is_named(name, &event.actor.id));
        event.entry.clear();
        (wanted && self.once.lock().unwrap_or_else(PoisonError::into_inner).is_new(entry)).then_some(event)
    }

    /// Tells what happened until now, if that is asked for: all nodes' in one order. Each remembers a bounded number of
    /// events. `None`: nobody listens, or a node finds fault with the question.
    async fn tell_past(&self) -> Option<Past> {
        let mut past = Past { told: BTreeSet::new(), until: muster_mtls::now() };
        if self.query.since.is_zero() {
            return Some(past);
        }
        if !self.query.until.is_zero() {
            past.until = past.until.min(self.query.until);
        }
        let until_now = EventsQuery { until: past.until, ..self.query.clone() };
        let Ok(mut places) = self.whole.places() else { return Some(past) };
        places.retain(|place| self.asks(place, &until_now).is_some());
        let ask = |place: &Place| {
            let query = self.asks(place, &until_now).unwrap_or_else(|| until_now.clone());
            let engine = place.engine.clone();
            async move { engine.events(query).await?.try_collect::<Vec<_>>().await }
        };
        // Nodes that do not answer are asked for all of it later.
        let (answers, _) = match self.whole.gather_from(places, super::PATIENCE, ask).await {
            Ok(answers) => answers,
            Err(e) => {
                let _ = self.events.send(Err(e)).await; // Who went needs no answer.
                return None;
            }
        };
        let mut events = Vec::new();
        for (place, list) in answers {
            past.told.insert(place.id);
            events.extend(list.into_iter().filter_map(|event| self.heard(event, &place)));
        }
        events.sort_by_key(|event| event.time_nano);
        for event in events {
            self.events.send(Ok(event)).await.ok()?;
        }
        Some(past)
    }

    /// Passes one node's events on until the query's end, the node's leaving the cluster, or the listener's going.
    async fn listen(&self, mut place: Place, mut query: EventsQuery) -> Ended {
        let mut away = false;
        loop {
            let (_, answer) = {
                let query = self.asks(&place, &query).unwrap_or_else(|| query.clone());
                self.whole.ask(place.clone(), move |e| {
                    let query = query.clone();
                    async move { e.events(query).await }
                })
            }
            .await;
            let why = match answer {
                Ok(mut stream) => {
                    if away && self.tell(&place, "reconnect", "").await.is_err() {
                        return Ended::Deaf;
                    }
                    away = false;
                    loop {
                        match stream.next().await {
                            None => return Ended::Until,
                            Some(Err(e)) => break e.message,
                            Some(Ok(event)) => {
                                query.since = Timestamp(event.time_nano + 1);
                                let Some(event) = self.heard(event, &place) else { continue };
                                if self.events.send(Ok(event)).await.is_err() {
                                    return Ended::Deaf;
                                }
                            }
                        }
                    }
                }
                Err(e) if e.kind == Kind::Invalid => {
                    let _ = self.events.send(Err(e)).await; // Who went needs no answer.
                    return Ended::Deaf;
                }
                Err(e) => e.message,
            };
            if !away && self.tell(&place, "disconnect", &why).await.is_err() {
                return Ended::Deaf;
            }
            away = true;
            if query.since.is_zero() {
                query.since = muster_mtls::now();
            }
            place = match self.again(place.id, query.until).await {
                Ok(place) => place,
                Err(ended) => return ended,
            };
        }
    }

    /// Waits until a node that is away can be asked once more: as who is asked may have changed with this host's role or its
    /// credential, and one that is of no use keeps the node away.
    async fn again(&self, id: NodeId, until: Timestamp) -> Result<Place, Ended> {
        loop {
            tokio::time::sleep(AGAIN).await;
            if !until.is_zero() && muster_mtls::now() >= until {
                return Err(Ended::Until);
            }
            let known = || self.whole.host.member().is_some_and(|m| m.directory().knows(id));
            match self.whole.place(id) {
                Ok(place) if place.id == id => return Ok(place),
                Ok(_) => return Err(Ended::Gone(id)), // It is this host that left.
                Err(_) if !known() => return Err(Ended::Gone(id)),
                Err(error) => tracing::debug!(node.id = %id, %error, "a node's events cannot be asked for now"),
            }
        }
    }

    /// Says that a node went or came back, unless such events are filtered out.
    async fn tell(&self, place: &Place, action: &str, why: &str) -> Result<(), ()> {
        let asked = |f: &Filters| f.matches_exactly("type", "node") && f.matches_exactly("event", action);
        if !self.wants(place) || !asked(&self.query.filters) || !only_kinds(&self.query.filters) {
            return Ok(());
        }
        let now = muster_mtls::now();
        let mut attributes = Strings::from([("name".to_owned(), place.hostname.clone())]);
        if !why.is_empty() {
            let away = Unreached { node: place.hostname.clone(), reason: why.to_owned() };
            attributes.extend(warnings(vec![away]).map(|text| ("reason".to_owned(), text)));
        }
        let event = EventMessage {
            kind: "node".to_owned(),
            action: action.to_owned(),
            actor: EventActor { id: place.id.to_string(), attributes },
            scope: "swarm".to_owned(),
            time: now.as_secs(),
            time_nano: now.0,
            ..EventMessage::default()
        };
        self.events.send(Ok(of_node(event, place))).await.map_err(drop)
    }
}

/// What was told before anybody was listened to.
struct Past {
    /// The nodes whose past was told.
    told: BTreeSet<NodeId>,
    /// Until when.
    until: Timestamp,
}

/// Why a node is listened to no more.
enum Ended {
    /// The query's end came.
    Until,
    /// It left the cluster.
    Gone(NodeId),
    /// Nobody listens to us.
    Deaf,
}

/// Whether a filter asks for kinds of events alone, and not for one object's.
fn only_kinds(filters: &Filters) -> bool {
    filters.0.keys().all(|key| matches!(key.as_str(), "type" | "event" | "scope"))
}

fn of_node(mut event: EventMessage, place: &Place) -> EventMessage {
    event.actor.attributes.insert("node.name".to_owned(), place.hostname.clone());
    event.actor.attributes.insert("node.id".to_owned(), place.id.to_string());
    event
}

async fn next_change(changed: &mut Option<tokio::sync::watch::Receiver<()>>) {
    match changed {
        Some(rx) => {
            if rx.changed().await.is_err() {
                *changed = None;
            }
        }
        None => std::future::pending().await,
    }
}
