//! The host that leads is lost for good, and nothing else goes wrong: when the others take writes and run its tasks.

use crate::check::Broken;
use crate::script::Script;
use crate::time::{SECOND, Time};
use crate::world::World;

/// When it is lost: the cluster is founded, and its service runs.
const AT: Time = 15 * SECOND;
/// Longer than anything here may take.
const PATIENCE: Time = 60 * SECOND;

/// How long it took, in microseconds of virtual time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss {
    /// Until a client had the answer that its change is done.
    pub accepted_us: Time,
    /// Until the service had all of its replicas, on hosts that live.
    pub moved_us: Time,
}

impl World {
    pub(crate) fn lose_leader(&mut self) -> Result<Loss, Broken> {
        self.script = Script::around_a_loss(self.hosts.len(), AT);
        for host in 0..self.hosts.len() {
            self.boot(host)?;
        }
        self.start_script();
        while self.now < AT {
            self.next_event()?;
        }
        let leader =
            (0..self.hosts.len()).find(|at| self.is_leader(*at)).ok_or("nobody leads a cluster without faults")?;
        if let Some(why) = self.not_running() {
            return Err(format!("{} s after the beginning {why}", AT / SECOND));
        }
        self.crash(leader, true);
        let (mut accepted, mut moved) = (None, None);
        while let (None, _) | (_, None) = (accepted, moved) {
            self.next_event()?;
            let passed = self.now - AT;
            if passed > PATIENCE {
                return Err(format!("after {} s: accepted {accepted:?}, moved {moved:?}", PATIENCE / SECOND));
            }
            accepted = accepted.or_else(|| self.script.is_done().then_some(passed));
            moved = moved.or_else(|| self.not_running().is_none().then_some(passed));
        }
        Ok(Loss { accepted_us: accepted.unwrap_or_default(), moved_us: moved.unwrap_or_default() })
    }
}
