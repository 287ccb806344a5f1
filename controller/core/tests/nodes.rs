//! Nodes that come, go and change; leaders that change.

mod cluster;

use cluster::{Cluster, SECOND, description, node_id, registration, service};
use muster_controller_core::{Call, CallError, CloseReason, Input, PeerChange, Refusal, SessionId, Token};
use muster_model::{
    assignment::{AssignmentKey, TaskReport},
    cluster::{NodeState, TaskState, TaskStatus},
    spec::{Availability, Role},
};
use std::time::Duration;

#[test]
fn tasks_of_a_lost_node_run_elsewhere_within_the_timeout() {
    let mut c = Cluster::new(2);
    let web = c.create(service("web", 6));
    c.settle();
    c.disconnect(3);
    c.pass(Duration::from_millis(4_500));
    assert_eq!(c.running(web).get(&node_id(3)), Some(&2), "it may come back");
    c.pass(SECOND);
    c.settle();
    assert_eq!(c.state().node(node_id(3)).expect("known").status.state, NodeState::Down);
    assert_eq!(c.running(web).into_iter().collect::<Vec<_>>(), [(node_id(1), 3), (node_id(2), 3)]);
}

#[test]
fn a_shorter_timeout_counts_a_silent_node_down_sooner_and_blames_nobody_for_the_time_before() {
    let mut c = Cluster::new(2);
    let web = c.create(service("web", 6));
    c.settle();
    let state = |c: &Cluster, n| c.state().node(node_id(n)).expect("known").status.state;
    c.disconnect(3);
    c.pass(SECOND * 3);
    let now = c.state().cluster().expect("founded").clone();
    let spec = now.spec.clone().with_node_timeout(SECOND * 2);
    c.ok(Call::ClusterUpdate { version: now.meta.version, spec: spec.clone() });
    c.pass(Duration::from_millis(1_750));
    assert_ne!(state(&c, 3), NodeState::Down, "it may come back");
    c.pass(Duration::from_millis(250));
    assert_eq!((state(&c, 2), state(&c, 3)), (NodeState::Ready, NodeState::Down));
    c.disconnect(2);
    c.pass(SECOND * 2);
    c.settle();
    assert_eq!(state(&c, 2), NodeState::Down);
    assert_eq!(c.running(web).into_iter().collect::<Vec<_>>(), [(node_id(1), 6)]);

    let stale = c.call(Call::ClusterUpdate { version: now.meta.version, spec: spec.clone() });
    assert!(matches!(stale, Err(CallError::OutOfSequence { .. })), "{stale:?}");
    let version = c.state().cluster().expect("founded").meta.version;
    for bad in [Duration::from_millis(1), Duration::MAX] {
        let refused = c.call(Call::ClusterUpdate { version, spec: spec.clone().with_node_timeout(bad) });
        assert!(matches!(&refused, Err(CallError::Invalid(e)) if e.field == "NodeTimeout"), "{refused:?}");
    }
}

#[test]
fn a_node_that_returns_is_told_to_stop_what_was_replaced_and_its_orphans_are_forgotten() {
    let mut c = Cluster::new(2);
    let web = c.create(service("web", 6));
    c.settle();
    let orphans: Vec<_> = c.state().tasks_on_node(node_id(3)).map(|t| t.id).collect();
    c.disconnect(3);
    c.pass(SECOND * 7);
    c.settle();
    c.connect(3);
    let told = &c.agents[&node_id(3)].set.items;
    for id in &orphans {
        let Some(muster_model::assignment::Assignment::Task(t)) = told.get(&AssignmentKey::Task(*id)) else {
            panic!("not told")
        };
        assert!(t.desired >= TaskState::Shutdown);
    }
    c.settle();
    assert!(orphans.iter().all(|id| c.state().task(*id).is_none()), "their end is certain now");
    assert_eq!(c.agents[&node_id(3)].told_besides_nodes(), []);
    assert_eq!(c.running(web).into_values().sum::<usize>(), 6);
    assert_eq!(c.state().node(node_id(3)).expect("known").status.state, NodeState::Ready);
}

#[test]
fn a_drained_node_is_emptied_and_a_paused_one_keeps_what_it_has() {
    let mut c = Cluster::new(2);
    let web = c.create(service("web", 6));
    c.settle();
    let set = |c: &mut Cluster, availability| {
        let node = c.state().node(node_id(2)).expect("known").clone();
        let spec = muster_model::spec::NodeSpec { availability, ..node.spec.clone() };
        c.ok(Call::NodeUpdate { id: node.id, version: node.meta.version, spec });
        c.settle();
    };
    set(&mut c, Availability::Pause);
    assert_eq!(c.running(web).get(&node_id(2)), Some(&2));
    set(&mut c, Availability::Drain);
    assert_eq!(c.running(web).get(&node_id(2)), None);
    assert_eq!(c.running(web).into_values().sum::<usize>(), 6);
}

#[test]
fn a_new_leader_gives_nodes_time_and_keeps_the_tasks() {
    let mut c = Cluster::new(2);
    let web = c.create(service("web", 6));
    c.settle();
    c.input(Input::Following { leader: None });
    assert!(c.closed.iter().any(|(_, why)| *why == CloseReason::NotLeader));
    let refused = c.call(Call::ServiceRemove { name: "web".into() });
    assert!(matches!(refused, Err(CallError::NotLeader { .. })));
    c.input(Input::Leading { term: 2 });
    let unknown = c.state().nodes().filter(|n| n.status.state == NodeState::Unknown).count();
    assert_eq!(unknown, 3);
    c.pass(SECOND * 4);
    for n in 1..=3 {
        c.connect(n);
    }
    c.pass(SECOND * 10);
    c.settle();
    assert!(c.state().nodes().all(|n| n.status.state == NodeState::Ready));
    assert_eq!(c.state().task_count(), 6, "nothing was replaced");
    assert_eq!(c.running(web).into_values().sum::<usize>(), 6);
}

#[test]
fn a_call_in_flight_when_the_leadership_ends_has_an_unknown_outcome() {
    let mut c = Cluster::new(0);
    c.auto = false;
    let token = c.begin(Call::ServiceCreate { spec: Box::new(service("web", 1)) });
    c.input(Input::Following { leader: Some(node_id(9)) });
    assert_eq!(c.replies[&token], Err(CallError::Interrupted));
    assert_eq!(c.manager.leader(), Some(node_id(9)));
}

#[test]
fn reports_are_answered_when_the_state_holds_them() {
    let mut c = Cluster::new(0);
    c.create(service("web", 1));
    let task = c.state().tasks().next().expect("one").id;
    let session = c.agents[&node_id(1)].session.expect("open");
    c.auto = false;
    let status = TaskStatus { state: TaskState::Running, at: c.now.wall, ..Default::default() };
    let token = Token(900);
    let reports = vec![TaskReport { task, status }];
    c.input(Input::Reports { node: node_id(1), session, token, reports: reports.clone() });
    assert!(!c.replies.contains_key(&token));
    c.commit_next();
    assert!(c.replies[&token].is_ok());
    assert_eq!(c.state().task(task).expect("exists").status.state, TaskState::Running);
    let foreign = Token(901);
    c.input(Input::Reports { node: node_id(1), session: SessionId(77), token: foreign, reports });
    assert!(matches!(c.replies[&foreign], Err(CallError::Unavailable(_))));
}

#[test]
fn what_arrives_while_reports_are_in_flight_joins_the_next_proposal() {
    let mut c = Cluster::new(0);
    c.create(service("web", 30));
    c.auto = false;
    let session = c.agents[&node_id(1)].session.expect("open");
    let tasks: Vec<_> = c.state().tasks().map(|t| t.id).collect();
    let before = c.proposals.len();
    for (n, task) in tasks.iter().enumerate() {
        let status = TaskStatus { state: TaskState::Running, at: c.now.wall, ..Default::default() };
        let reports = vec![TaskReport { task: *task, status }];
        c.input(Input::Reports { node: node_id(1), session, token: Token(1000 + n as u64), reports });
    }
    assert_eq!(c.proposals.len(), before + 1);
    c.auto = true;
    c.commit_next();
    assert_eq!(c.proposals.len(), before + 2);
    assert!((0..30).all(|n| c.replies[&Token(1000 + n)].is_ok()));
}

#[test]
fn a_plan_that_consensus_does_not_take_is_made_again() {
    let mut c = Cluster::new(0);
    c.auto = false;
    c.begin(Call::ServiceCreate { spec: Box::new(service("web", 1)) });
    c.commit_next();
    let plan = c.log.pop_front().expect("the plan");
    let proposal = muster_controller_core::ProposalId(plan.origin.number);
    c.input(Input::ProposalFailed { proposal, why: Refusal::Overloaded });
    assert!(c.log.is_empty(), "not at once");
    c.auto = true;
    c.pass(SECOND);
    c.settle();
    assert_eq!(c.state().tasks().filter(|t| t.status.state == TaskState::Running).count(), 1);
}

#[test]
fn a_stranger_is_refused_and_a_second_session_replaces_the_first() {
    let mut c = Cluster::new(1);
    let stranger = node_id(99);
    c.input(Input::SessionOpened { node: stranger, session: SessionId(500), description: Box::new(description(9)) });
    assert_eq!(c.closed.pop(), Some((stranger, CloseReason::NotMember)));
    c.connect(2);
    assert_eq!(c.closed.pop(), Some((node_id(2), CloseReason::Replaced)));
}

#[test]
fn managers_join_as_learners_and_vote_when_they_have_caught_up() {
    let mut c = Cluster::new(0);
    c.ok(Call::Register(registration(2, Role::Manager)));
    assert!(matches!(c.peers.pop(), Some(PeerChange::AddLearner { node, .. }) if node == node_id(2)));
    c.input(Input::Membership { voters: vec![1], learners: vec![2] });
    assert!(c.peers.is_empty(), "not before it has the log");
    c.input(Input::Progress { peer: 2, caught_up: true, active: true });
    assert!(matches!(c.peers.pop(), Some(PeerChange::AddVoter { node, .. }) if node == node_id(2)));
    c.input(Input::Membership { voters: vec![1, 2], learners: vec![] });
    assert!(c.peers.is_empty());
}

#[test]
fn a_demoted_manager_leaves_consensus_and_becomes_a_worker() {
    let mut c = Cluster::new(0);
    for n in [2, 3] {
        c.ok(Call::Register(registration(n, Role::Manager)));
    }
    c.peers.clear();
    c.input(Input::Membership { voters: vec![1, 2, 3], learners: vec![] });
    for peer in [2, 3] {
        c.input(Input::Progress { peer, caught_up: true, active: true });
    }
    c.ok(Call::Demote { name: node_id(3).to_string() });
    assert_eq!(c.peers.pop(), Some(PeerChange::Remove { peer: 3 }));
    c.input(Input::Membership { voters: vec![1, 2], learners: vec![] });
    let node = c.state().node(node_id(3)).expect("known");
    assert_eq!((node.role, node.manager_addr), (Role::Worker, None));
}

#[test]
fn the_last_manager_stays_and_a_leader_hands_over_before_it_goes() {
    let mut c = Cluster::new(0);
    let last = c.call(Call::Demote { name: "n1".into() });
    assert!(matches!(last, Err(CallError::Conflict(text)) if text.contains("last manager")));
    c.ok(Call::Register(registration(2, Role::Manager)));
    c.input(Input::Membership { voters: vec![1, 2], learners: vec![] });
    c.pass(SECOND * 3);
    let unsafe_now = c.call(Call::Demote { name: "n1".into() });
    assert!(matches!(unsafe_now, Err(CallError::NoMajorityWithout(_))), "the other does not answer");
    c.input(Input::Progress { peer: 2, caught_up: true, active: true });
    c.ok(Call::Demote { name: "n1".into() });
    assert_eq!(c.transfers.pop(), Some(node_id(2)));
}

/// Three managers of which this one has just been elected.
fn new_in_office() -> Cluster {
    let mut c = Cluster::new(0);
    for n in [2, 3] {
        c.ok(Call::Register(registration(n, Role::Manager)));
    }
    c.input(Input::Membership { voters: vec![1, 2, 3], learners: vec![] });
    c.pass(SECOND * 10);
    c.input(Input::Following { leader: Some(node_id(2)) });
    c.input(Input::Leading { term: 3 });
    c
}

#[test]
fn a_new_leader_demotes_once_it_has_heard_from_the_others() {
    let mut c = new_in_office();
    let demote = c.begin(Call::Demote { name: "n3".into() });
    assert!(!c.replies.contains_key(&demote), "it does not know whether the second answers");
    c.input(Input::Progress { peer: 2, caught_up: true, active: false });
    assert!(!c.replies.contains_key(&demote), "it has sent too little to know");
    c.input(Input::Progress { peer: 2, caught_up: true, active: true });
    assert_eq!(c.replies.remove(&demote), Some(Ok(muster_controller_core::Reply::Done)));
    assert_eq!(c.state().node(node_id(3)).expect("known").spec.role, Role::Worker);
}

#[test]
fn a_new_leader_that_hears_nobody_refuses_in_time_and_one_that_is_deposed_passes_on() {
    let mut c = new_in_office();
    let demote = c.begin(Call::Demote { name: "n3".into() });
    c.pass(SECOND * 3);
    assert_eq!(c.replies.remove(&demote), Some(Err(CallError::NoMajorityWithout(node_id(3)))));
    let mut c = new_in_office();
    let demote = c.begin(Call::Demote { name: "n3".into() });
    c.input(Input::Following { leader: Some(node_id(2)) });
    assert_eq!(c.replies.remove(&demote), Some(Err(CallError::NotLeader { leader: None })), "nothing was done");
}

#[test]
fn only_a_node_that_is_down_is_removed_and_its_tasks_go_with_it() {
    let mut c = Cluster::new(1);
    let web = c.create(service("web", 4));
    c.settle();
    let live = c.call(Call::NodeRemove { name: "n2".into(), force: false });
    assert!(matches!(live, Err(CallError::Conflict(_))));
    c.disconnect(2);
    c.pass(SECOND * 6);
    c.ok(Call::NodeRemove { name: "n2".into(), force: false });
    c.settle();
    assert_eq!(c.running(web).into_iter().collect::<Vec<_>>(), [(node_id(1), 4)]);
    assert_eq!(c.state().tasks_on_node(node_id(2)).count(), 0);
}

#[test]
fn a_session_that_opens_while_the_node_is_called_unknown_wins() {
    let mut c = Cluster::new(1);
    c.auto = false;
    c.input(Input::Following { leader: None });
    c.input(Input::Leading { term: 2 });
    assert_eq!(c.log.len(), 1, "the nodes are unknown, says the entry in flight");
    for n in 1..=2 {
        c.connect(n);
    }
    c.auto = true;
    c.commit_next();
    assert!(c.state().nodes().all(|n| n.status.state == NodeState::Ready));
}

#[test]
fn a_node_that_leaves_is_down_at_once_and_its_tasks_move() {
    let mut c = Cluster::new(1);
    let web = c.create(service("web", 2));
    c.settle();
    c.ok(Call::Leave { node: node_id(2), force: false });
    assert_eq!(c.closed.pop(), Some((node_id(2), CloseReason::Left)));
    c.settle();
    assert_eq!(c.running(web).into_iter().collect::<Vec<_>>(), [(node_id(1), 2)]);
}

#[test]
fn nobody_is_blamed_for_the_time_that_the_leader_stood_still() {
    let mut c = Cluster::new(1);
    c.pass(SECOND);
    c.now.mono += SECOND * 60;
    c.input(Input::Tick);
    assert!(c.closed.is_empty());
    c.disconnect(2);
    c.pass(SECOND * 7);
    assert_eq!(c.state().node(node_id(2)).expect("known").status.state, NodeState::Down);
}

#[test]
fn a_sixth_manager_is_refused() {
    let mut c = Cluster::new(6);
    for n in 2..=5 {
        c.ok(Call::Promote { name: node_id(n).to_string() });
    }
    let sixth = c.call(Call::Promote { name: node_id(6).to_string() });
    assert!(matches!(sixth, Err(CallError::Conflict(_))), "{sixth:?}");
}

#[test]
fn the_host_of_a_lost_leader_is_given_no_longer_than_any_other() {
    let mut c = Cluster::new(2);
    let web = c.create(service("web", 3));
    c.settle();
    c.input(Input::Following { leader: Some(node_id(2)) });
    c.input(Input::Following { leader: None });
    c.now.mono += SECOND * 2;
    c.input(Input::Leading { term: 3 });
    c.connect(1);
    c.connect(3);
    c.pass(Duration::from_millis(2_500));
    assert_ne!(c.state().node(node_id(2)).expect("known").status.state, NodeState::Down, "it may come back");
    c.pass(SECOND);
    c.settle();
    assert_eq!(c.state().node(node_id(2)).expect("known").status.state, NodeState::Down);
    assert_eq!(c.running(web).into_values().sum::<usize>(), 3);
    assert_eq!(c.running(web).get(&node_id(2)), None);
}

#[test]
fn a_leader_that_was_slow_has_half_of_the_timeout_to_come_to_the_new_one() {
    let mut c = Cluster::new(2);
    c.input(Input::Following { leader: Some(node_id(2)) });
    c.input(Input::Following { leader: None });
    c.now.mono += SECOND * 20;
    c.input(Input::Leading { term: 3 });
    c.pass(SECOND * 2);
    for n in 1..=3 {
        c.connect(n);
    }
    c.pass(SECOND * 10);
    assert!(c.state().nodes().all(|n| n.status.state == NodeState::Ready));
}
