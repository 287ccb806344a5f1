//! What the leader's rooms share in one turn, and the time that it decides by.

use crate::{Effect, Effects, Now, Reply, Token, call::CallError, members::Members};
use muster_model::Timestamp;
use muster_plan::IdSource;
use muster_state::State;
use std::time::Duration;

/// The halves of a manager that a turn of its leader works with.
pub(crate) struct Desk<'a> {
    pub state: &'a State,
    pub ids: &'a mut IdSource,
    pub members: &'a mut Members,
    /// `wall` is the office's time, see [`Clock`].
    pub now: Now,
    pub out: &'a mut Effects,
}

impl Desk<'_> {
    pub fn reply(&mut self, token: Token, result: Result<Reply, CallError>) {
        self.out.push(Effect::Reply { token, result });
    }
}

/// The time of decisions and entries. It is never before what the state has seen, whoever led then and however wrong that
/// clock was, and from there it passes as time does: a delay of five seconds takes five seconds, also when this host's
/// clock is an hour behind or is set back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    at: Timestamp,
    mono: Duration,
}

impl Clock {
    pub fn new(state: &State, now: Now) -> Self {
        Self { at: now.wall.max(state.time()), mono: now.mono }
    }

    /// `now` with the office's time as its wall time.
    pub fn read(&self, state: &State, now: Now) -> Now {
        let passed = self.at.after(now.mono.saturating_sub(self.mono));
        Now { mono: now.mono, wall: now.wall.max(passed).max(state.time()) }
    }

    pub fn advance(&mut self, state: &State, now: Now) -> Now {
        let now = self.read(state, now);
        *self = Self { at: now.wall, mono: now.mono };
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_state::Entry;

    fn at(mono: u64, wall: i64) -> Now {
        Now { mono: Duration::from_secs(mono), wall: Timestamp::from_millis(wall * 1000) }
    }

    #[test]
    fn time_passes_though_the_clock_is_behind_or_set_back() {
        let mut state = State::new();
        let entry = Entry { time: Timestamp::from_millis(5_000_000), ..Entry::default() };
        state.apply(1, &entry).expect("applied");
        let mut clock = Clock::new(&state, at(10, 1000));
        assert_eq!(clock.advance(&state, at(15, 1005)).wall, Timestamp::from_millis(5_005_000));
        assert_eq!(
            clock.advance(&state, at(16, 9000)).wall,
            Timestamp::from_millis(9_000_000),
            "a clock that is ahead is followed"
        );
        assert_eq!(clock.advance(&state, at(18, 1)).wall, Timestamp::from_millis(9_002_000));
    }
}
