//! A manager's disk and its snapshots: what is written when, and what that lets out.

use crate::check::Broken;
use crate::faults::Fault;
use crate::time::{MS, Time};
use crate::world::{Event, World, trace};
use muster_consensus::{Body, Message, PeerId, Persist, SnapshotMeta, SnapshotOrder};
use muster_controller_core::Input;
use muster_state::State;

/// Entries applied between two checkpoints.
const CHECKPOINT_EVERY: u64 = 24;
/// Entries kept in memory behind a checkpoint, for peers that blinked.
const SLACK: u64 = 8;

impl World {
    pub(crate) fn persist(&mut self, host: usize, number: u64, persist: Persist) -> Result<(), Broken> {
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        let mut install = None;
        if let Some(meta) = &persist.snapshot {
            let arrived = half.arrived.take().filter(|(found, _)| found == meta);
            let Some((_, state)) = arrived else {
                return Err(format!("host {host}: the state of the snapshot at {} is not at hand", meta.index));
            };
            install = Some(state.snapshot());
            half.since_checkpoint = 0;
            self.checker.state(host, &state)?;
            self.input(host, Input::Restored(Box::new(state)))?;
            self.tell_membership(host)?;
        }
        let delay = self.write_time(host);
        let target = &mut self.hosts[host];
        let done = target.disk.busy_until.max(self.now) + delay;
        target.disk.busy_until = done;
        target.disk.write(number, persist, install);
        let life = target.life;
        if self.options.acknowledge_before_disk {
            let messages = self.hosts[host].manager.as_mut().map(|half| half.consensus.persisted(number));
            self.send(host, messages.unwrap_or_default());
        }
        self.after(done - self.now, Event::DiskDone { host, life, number });
        if let Some(power) = self.hosts[host].crash_in_write.take() {
            // Just before the write is done, so that others may have heard of what it is about.
            self.after((done - self.now).saturating_sub(1), Event::Fault(Fault::Crash { host, power }));
            let away = self.rng.between(50, 3000) * MS;
            self.after(done - self.now + away, Event::Fault(Fault::Boot { host }));
        }
        Ok(())
    }

    pub(crate) fn write_time(&mut self, host: usize) -> Time {
        let stalled = self.hosts[host].stalled_until > self.now;
        if stalled { self.rng.between(100 * MS, 900 * MS) } else { self.rng.between(200, 8 * MS) }
    }

    pub(crate) fn disk_done(&mut self, host: usize, number: u64) -> Result<(), Broken> {
        self.hosts[host].disk.done(number);
        if self.options.acknowledge_before_disk {
            return Ok(());
        }
        let Some(half) = &mut self.hosts[host].manager else { return Ok(()) };
        let messages = half.consensus.persisted(number);
        self.send(host, messages);
        self.pump(host)
    }

    pub(crate) fn send_snapshot(&mut self, host: usize, order: SnapshotOrder) {
        let life = self.hosts[host].life;
        let (to, peer) = (self.host_of_peer(order.to), order.to);
        trace!(self, "{} sends the state at {} to {peer:x}", self.hosts[host].name, order.meta.index);
        let Some(half) = &self.hosts[host].manager else { return };
        // As the wire carries it.
        let state = State::restore(half.manager.state().pairs());
        let delay = self.rng.between(5 * MS, 300 * MS);
        match (to, state) {
            (Some(to), Ok(state)) if self.net.reaches(host, to) && !self.rng.ppm(self.net.quality.loss) => {
                let event = Event::Snapshot { from: host, life, to, message: order.message, state: Box::new(state) };
                self.after(delay, event);
            }
            _ => self.after(delay, Event::SnapshotEnd { host, life, to: peer, arrived: false }),
        }
    }

    pub(crate) fn snapshot(
        &mut self,
        from: usize,
        life: u64,
        to: usize,
        message: Message,
        state: State,
    ) -> Result<(), Broken> {
        let peer = message.to;
        let arrived = self.hosts[to].up && self.net.reaches(from, to);
        self.after(MS, Event::SnapshotEnd { host: from, life, to: peer, arrived });
        if !arrived {
            return Ok(());
        }
        if let Body::Snapshot(meta) = &message.body {
            trace!(self, "{} has received the state at {}", self.hosts[to].name, meta.index);
            let Some(half) = &mut self.hosts[to].manager else { return Ok(()) };
            half.arrived = Some((meta.clone(), state));
        }
        self.step(to, message)?;
        self.pump(to)
    }

    pub(crate) fn snapshot_end(&mut self, host: usize, to: PeerId, arrived: bool) -> Result<(), Broken> {
        if let Some(half) = &mut self.hosts[host].manager {
            half.consensus.report_snapshot(to, arrived);
        }
        self.pump(host)
    }

    pub(crate) fn checkpoint_if_due(&mut self, host: usize) {
        let life = self.hosts[host].life;
        let Some(half) = &mut self.hosts[host].manager else { return };
        if half.since_checkpoint < CHECKPOINT_EVERY || half.checkpointing {
            return;
        }
        half.since_checkpoint = 0;
        half.checkpointing = true;
        let meta = half.consensus.applied().clone();
        let state = Box::new(half.manager.state().snapshot());
        let delay = self.rng.between(10 * MS, 400 * MS);
        self.after(delay, Event::Checkpointed { host, life, meta, state });
    }

    pub(crate) fn checkpointed(&mut self, host: usize, meta: SnapshotMeta, state: State) {
        let floor = meta.index.saturating_sub(SLACK);
        self.hosts[host].disk.checkpointed(meta, state);
        if let Some(half) = &mut self.hosts[host].manager {
            half.checkpointing = false;
            half.consensus.compact(floor);
        }
    }
}
