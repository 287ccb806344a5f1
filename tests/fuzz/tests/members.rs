//! What members of the cluster send each other: a member may be broken or taken over, and must not take the others with it.
//!
//! The first byte of an input says what the rest is; so the fields behind the protobuf are reached, too.

#[path = "../../../controller/core/tests/cluster/mod.rs"]
mod cluster;
#[path = "../../../controller/src/wire.rs"]
#[allow(dead_code, reason = "it is read only, here")]
mod wire;

use cluster::{Cluster, node_id, service};
use muster_agent_core::{Input as WorkerInput, Worker, view};
use muster_controller_core::{Call, Input, Token};
use muster_fuzz::{Counting, Target, fuzz};
use muster_model::{NodeId, Timestamp};
use muster_proto::{FromAgent, FromLeader, v1};
use prost::Message as _;
use std::cell::Cell;

#[global_allocator]
static MEMORY: Counting = Counting;

/// Words of the records, as MessagePack and JSON have them.
const WORDS: &[&str] = &[
    "\u{a6}status",
    "\u{a5}state",
    "Running",
    "Failed",
    "Orphaned",
    "Preparing",
    "\u{a4}task",
    "\u{a5}error",
    "Whole",
    "Delta",
    "generation",
    "removed",
    "names",
    "null",
    "shop",
    "web",
    "\"hostname\":",
    "10.0.0.1",
    "::1",
    "[]",
    "{}",
];

/// An agent's message: the whole, or one of a kind with this content.
fn of_agent(input: &[u8]) -> Option<v1::AgentMessage> {
    use v1::agent_message::Of;
    let (kind, rest) = input.split_first()?;
    let bytes = rest.to_vec();
    let of = match kind % 5 {
        0 => Of::Reports(v1::Reports { reports: bytes.into(), sequence: 1 }),
        1 => Of::Attach(v1::Attach { requests: bytes.into() }),
        2 => Of::Hello(v1::Hello { description: bytes.into() }),
        3 => Of::Detach(v1::Detach { ids: String::from_utf8_lossy(rest).lines().map(str::to_owned).collect() }),
        _ => return v1::AgentMessage::decode(rest).ok(),
    };
    Some(v1::AgentMessage { of: Some(of) })
}

/// A leader with one agent, a network and a service of two tasks that run.
fn leader() -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(1);
    cluster.network("shop");
    cluster.create(service("web", 2));
    cluster.settle();
    (cluster, node_id(2))
}

#[test]
fn what_an_agent_says_is_refused_or_its_leader_lives_with_it() {
    let target = Target { name: "agent", runs: 20_000, words: WORDS, repair: None, most_memory: 32 << 20 };
    let (taken, refused) = (Cell::new(0_u32), Cell::new(0_u32));
    fuzz(&target, |input| {
        let Some(message) = of_agent(input) else { return };
        let said = match FromAgent::read(message) {
            Ok(Some(said)) => said,
            Ok(None) => return,
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::InvalidArgument);
                return refused.set(refused.get() + 1);
            }
        };
        taken.set(taken.get() + 1);
        let (mut cluster, node) = leader();
        let session = cluster.agents[&node].session.expect("it has a session");
        match said {
            FromAgent::Reports { reports, .. } => {
                cluster.input(Input::Reports { node, session, token: Token(1 << 40), reports });
            }
            FromAgent::Attach(requests) => {
                for request in requests {
                    let _ = cluster.call(Call::Attach { node, request: Box::new(request) });
                }
            }
            FromAgent::Detach(ids) => drop(cluster.call(Call::Detach { node, ids })),
            FromAgent::Hello(description) => cluster.input(Input::SessionOpened { node, session, description }),
            FromAgent::Heartbeat => cluster.input(Input::Heartbeat { node, session }),
            FromAgent::NeedWhole => cluster.input(Input::Resync { node, session }),
            FromAgent::Leaving => drop(cluster.call(Call::Leave { node, force: false })),
        }
        // It goes on leading: time passes, and it takes calls.
        cluster.pass(cluster::SECOND * 3);
        cluster.create(service("next", 1));
        cluster.settle();
    });
    assert!(taken.get() > 100 && refused.get() > 100, "{} were taken, {} refused", taken.get(), refused.get());
}

#[test]
fn what_a_leader_says_is_refused_or_its_agent_lives_with_it() {
    let target = Target { name: "leader", runs: 20_000, words: WORDS, repair: None, most_memory: 32 << 20 };
    let (taken, refused) = (Cell::new(0_u32), Cell::new(0_u32));
    fuzz(&target, |input| {
        let Some((kind, rest)) = input.split_first() else { return };
        let message = match kind % 2 {
            0 => {
                let of = v1::Assignments { update: rest.to_vec().into() };
                v1::ManagerMessage { of: Some(v1::manager_message::Of::Assignments(of)) }
            }
            _ => match v1::ManagerMessage::decode(rest) {
                Ok(message) => message,
                Err(_) => return,
            },
        };
        match FromLeader::read(message) {
            Ok(Some(FromLeader::Assignments(update))) => {
                taken.set(taken.get() + 1);
                assigned(update);
            }
            Ok(_) => {}
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::InvalidArgument);
                refused.set(refused.get() + 1);
            }
        }
    });
    assert!(taken.get() > 100 && refused.get() > 100, "{} were taken, {} refused", taken.get(), refused.get());
}

/// Everything that a host makes of its assignments before it acts.
fn assigned(update: muster_model::assignment::AssignmentUpdate) {
    let (me, now, mut out) = (node_id(1), Timestamp::from_millis(1_700_000_000_000), Vec::new());
    let mut set = muster_model::assignment::AssignmentSet::default();
    let _ = set.apply(update.clone());
    let _ = (view::node_view(me, &set, &[], 1450), view::names(&set, &[]), view::peers(me, &set));
    let mut worker = Worker::default();
    worker.handle(now, WorkerInput::SessionOpened, &mut out);
    worker.handle(now, WorkerInput::Update(update), &mut out);
    let prepared: Vec<_> = worker.tasks().map(|(task, ..)| task.id).collect();
    for task in prepared {
        worker.handle(now, WorkerInput::Prepared { task, result: Ok("container".to_owned()) }, &mut out);
        worker.handle(now, WorkerInput::Started { task, result: Ok(1) }, &mut out);
        worker.handle(now, WorkerInput::Exited { task, exit_code: 1, error: String::new() }, &mut out);
    }
    drop(worker.ledger());
}

#[test]
fn what_another_manager_sends_is_read_or_refused() {
    let target = Target { name: "raft", runs: 40_000, words: &[], repair: None, most_memory: 16 << 20 };
    let read = Cell::new(0_u32);
    fuzz(&target, |input| {
        let Ok(batch) = v1::RaftBatch::decode(input) else { return };
        for message in batch.messages {
            for entry in &message.entries {
                let _ = muster_state::Entry::decode(&entry.data);
            }
            if let Ok(message) = wire::from_wire(message) {
                read.set(read.get() + 1);
                assert_eq!(wire::from_wire(wire::to_wire(&message)), Ok(message));
            }
        }
    });
    assert!(read.get() > 100, "{} messages were read", read.get());
}

#[test]
fn an_entry_of_the_log_is_read_or_refused_and_a_state_lives_with_it() {
    let target = Target { name: "entry", runs: 10_000, words: WORDS, repair: None, most_memory: 32 << 20 };
    let read = Cell::new(0_u32);
    fuzz(&target, |input| {
        let Ok(entry) = muster_state::Entry::decode(input) else { return };
        read.set(read.get() + 1);
        let _ = muster_state::State::new().apply(1, &entry);
    });
    assert!(read.get() > 100, "{} entries were read", read.get());
}
