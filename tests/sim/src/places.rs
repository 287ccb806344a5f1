//! Containers of no service on a network that spans hosts: each host's users start and end some, the daemon asks for their
//! places and gives them back. Containers live on while the daemon is away, and are gone when the power was.
//!
//! What must hold: nobody that runs shares its address or has it changed ([`World::take_place`]), and in the end each that
//! runs has its place and no place is kept that nobody claims ([`World::places`]).

use crate::agents::Up;
use crate::check::Broken;
use crate::rng::Rng;
use crate::time::{MS, SECOND, Time};
use crate::world::{Event, FOUNDED, World, trace};
use muster_agent_core::attach::{Act, Given};
use muster_model::{AttachmentId, cluster::AttachRequest};
use muster_state::State;
use std::net::Ipv4Addr;

/// The network that takes them.
pub const NETWORK: &str = "open";
/// Its subnet begins with these.
pub const SUBNET: [u8; 4] = [10, 99, 0, 0];

/// A container that was started.
#[derive(Clone, Debug)]
pub struct Boxed {
    pub request: AttachRequest,
    /// `None`: its start waits for a place, and ends with the daemon.
    pub ip: Option<Ipv4Addr>,
}

/// When users start and end containers, host by host.
pub fn draw(rng: &mut Rng, hosts: usize, heal_at: Time) -> Vec<(Time, Event)> {
    let mut out = Vec::new();
    for host in 0..hosts {
        for n in 0..rng.below(4) {
            let id = AttachmentId::from_u128(((host as u128 + 1) << 64) + u128::from(n));
            let begin = rng.between(FOUNDED + SECOND / 2, heal_at - MS);
            // Few addresses, so that some are asked for twice.
            let ip = rng.percent(30).then(|| Ipv4Addr::from([10, 99, 0, 20 + rng.below(3) as u8]));
            let name = format!("box{}-{n}", host + 1);
            let request = AttachRequest {
                id,
                network: NETWORK.into(),
                container: name.clone(),
                names: vec![name],
                ip,
                mac: None,
            };
            out.push((begin, Event::Begin { host, request: Box::new(request) }));
            if rng.percent(60) {
                out.push(((begin + rng.between(50, 5000) * MS).min(heal_at), Event::End { host, id }));
            }
        }
    }
    out
}

impl World {
    pub(crate) fn begin_box(&mut self, host: usize, request: AttachRequest) -> Result<(), Broken> {
        // Nobody takes the user's word while the daemon is away.
        if self.hosts[host].agent.is_none() {
            return Ok(());
        }
        trace!(self, "{} starts {}, {:?}", self.hosts[host].name, request.container, request.ip);
        let boxed = Boxed { request: request.clone(), ip: None };
        self.hosts[host].boxes.insert(request.id, boxed);
        self.with_places(host, |places, out| places.want(request, out))
    }

    pub(crate) fn end_box(&mut self, host: usize, id: AttachmentId) -> Result<(), Broken> {
        let Some(boxed) = self.hosts[host].boxes.remove(&id) else { return Ok(()) };
        trace!(self, "{} has {} no more", self.hosts[host].name, boxed.request.container);
        self.with_places(host, |places, out| places.drop_want(id, out))
    }

    /// The daemon is back: containers that run claim what they have.
    pub(crate) fn boot_places(&mut self, host: usize) -> Result<(), Broken> {
        let running: Vec<AttachRequest> = self.hosts[host].boxes.values().map(|b| b.request.clone()).collect();
        self.with_places(host, |places, out| running.into_iter().for_each(|request| places.want(request, out)))?;
        self.places_assigned(host)
    }

    /// The assignments may be others now.
    pub(crate) fn places_assigned(&mut self, host: usize) -> Result<(), Broken> {
        let Some(agent) = &self.hosts[host].agent else { return Ok(()) };
        let (set, current) = (agent.worker.assignments().clone(), agent.current);
        self.with_places(host, |places, out| places.assigned(&set, current, out))
    }

    /// The leader does not give a place.
    pub(crate) fn refuse_place(&mut self, host: usize, id: AttachmentId) -> Result<(), Broken> {
        if self.hosts[host].boxes.get(&id).is_some_and(|b| b.ip.is_none()) {
            trace!(self, "{} starts no {}", self.hosts[host].name, id.short());
            self.hosts[host].boxes.remove(&id);
        }
        self.with_places(host, |places, _| places.refused(id))
    }

    fn with_places(
        &mut self,
        host: usize,
        act: impl FnOnce(&mut muster_agent_core::attach::Attachments, &mut Vec<Act>),
    ) -> Result<(), Broken> {
        let mut acts = Vec::new();
        if let Some(agent) = &mut self.hosts[host].agent {
            act(&mut agent.places, &mut acts);
        }
        for act in acts {
            match act {
                Act::Ask(requests) => self.up(host, Up::Attach(requests)),
                Act::GiveBack(ids) => self.up(host, Up::Detach(ids)),
                Act::Given(given) => self.take_place(host, &given)?,
                Act::Denied { id, why } => match self.hosts[host].boxes.remove(&id) {
                    Some(Boxed { ip: Some(ip), request }) => {
                        return Err(format!("{} runs with {ip} and is told: {why}", request.container));
                    }
                    _ => trace!(self, "{} starts no {}: {why}", self.hosts[host].name, id.short()),
                },
            }
        }
        Ok(())
    }

    fn take_place(&mut self, host: usize, given: &Given) -> Result<(), Broken> {
        let Some(ip) = given.place.ip else { return Err(format!("place {} was given no address", given.place.id)) };
        let id = given.place.id;
        let others = self.hosts.iter().flat_map(|h| &h.boxes).filter(|(other, _)| **other != id);
        if let Some((_, other)) = others.into_iter().find(|(_, b)| b.ip == Some(ip)) {
            return Err(format!("{} is given {ip}, which {} uses", given.place.container, other.request.container));
        }
        let Some(boxed) = self.hosts[host].boxes.get_mut(&id) else { return Ok(()) };
        match boxed.ip {
            Some(before) if before != ip => {
                return Err(format!("{} runs with {before} and is given {ip}", boxed.request.container));
            }
            Some(_) => return Ok(()),
            None => boxed.ip = Some(ip),
        }
        if boxed.request.ip.is_some_and(|wanted| wanted != ip) {
            return Err(format!("{} asked for {:?} and is given {ip}", boxed.request.container, boxed.request.ip));
        }
        self.report.places += 1;
        trace!(self, "{} runs {} with {ip}", self.hosts[host].name, given.place.container);
        Ok(())
    }

    /// The first place that is not as it should be in the end.
    pub(crate) fn places(&self, state: &State) -> Option<String> {
        for host in &self.hosts {
            for (id, boxed) in &host.boxes {
                let place = state.attachment(*id).filter(|a| a.node == host.node && a.ip == boxed.ip);
                if boxed.ip.is_none() || place.is_none() {
                    return Some(format!("{} on {} has no place", boxed.request.container, host.name));
                }
            }
        }
        let claimed = |id: &AttachmentId| self.hosts.iter().any(|h| h.boxes.contains_key(id));
        let kept = state.attachments().find(|a| !claimed(&a.id))?;
        Some(format!("the place of {} is kept, and nobody claims it", kept.container))
    }
}
