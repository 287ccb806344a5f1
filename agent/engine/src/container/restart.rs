//! Whether and when a container that has ended is started again. Pure.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// First wait before a restart; doubled at each one that follows quickly.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest wait.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A container that ran so long starts again with the first wait.
const STEADY: Duration = Duration::from_secs(10);

/// A container's restart policy (Docker's `HostConfig.RestartPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    No,
    Always,
    /// As `Always`, except that a container stopped by a user stays so when the daemon starts.
    UnlessStopped,
    /// At an exit code other than 0; at most so many times, 0 for no bound.
    OnFailure(u32),
}

impl Policy {
    /// Reads Docker's pair of name and count.
    ///
    /// # Errors
    /// A text for the user, in Docker's words.
    pub fn parse(name: &str, maximum_retry_count: i64) -> Result<Self, String> {
        let policy = match name {
            "" | "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => {
                let count = u32::try_from(maximum_retry_count)
                    .map_err(|_| "invalid restart policy: maximum retry count cannot be negative".to_owned())?;
                return Ok(Self::OnFailure(count));
            }
            other => {
                return Err(format!(
                    "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
                ));
            }
        };
        match maximum_retry_count {
            0 => Ok(policy),
            _ => Err("invalid restart policy: maximum retry count can only be used with 'on-failure'".to_owned()),
        }
    }
}

/// Counts one container's restarts since it was last started by a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    delay: Option<Duration>,
    restarts: u32,
}

impl Backoff {
    /// Decides after an exit: how long to wait before the next start, or `None` to leave it ended.
    pub fn after_exit(
        &mut self,
        policy: Policy,
        exit_code: i32,
        ran: Duration,
        stopped_by_user: bool,
    ) -> Option<Duration> {
        let wanted = !stopped_by_user
            && match policy {
                Policy::No => false,
                Policy::Always | Policy::UnlessStopped => true,
                Policy::OnFailure(most) => exit_code != 0 && (most == 0 || self.restarts < most),
            };
        if !wanted {
            return None;
        }
        let delay = match self.delay {
            Some(last) if ran < STEADY => (last * 2).min(LONGEST_DELAY),
            _ => FIRST_DELAY,
        };
        self.delay = Some(delay);
        self.restarts += 1;
        Some(delay)
    }
}

/// Whether a container that is not running shall run when the daemon has started: `ran` says that it ran when the daemon
/// was last there.
pub fn at_daemon_start(policy: Policy, ran: bool, stopped_by_user: bool, exit_code: i32) -> bool {
    match policy {
        Policy::No => false,
        Policy::Always => true,
        Policy::UnlessStopped => !stopped_by_user,
        Policy::OnFailure(_) => ran && !stopped_by_user && exit_code != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(5);

    #[test]
    fn delays_double_up_to_a_minute_and_start_anew_after_a_steady_run() {
        let mut backoff = Backoff::default();
        let delays: Vec<u128> =
            (0..12).map(|_| backoff.after_exit(Policy::Always, 0, SHORT, false).expect("always").as_millis()).collect();
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[11], 60_000);
        assert_eq!(backoff.after_exit(Policy::Always, 0, STEADY, false), Some(FIRST_DELAY));
    }

    #[test]
    fn on_failure_counts_failures_and_leaves_success_alone() {
        let mut backoff = Backoff::default();
        let policy = Policy::OnFailure(2);
        assert_eq!(backoff.after_exit(policy, 0, SHORT, false), None);
        assert!(backoff.after_exit(policy, 1, SHORT, false).is_some());
        assert!(backoff.after_exit(policy, 1, SHORT, false).is_some());
        assert_eq!(backoff.after_exit(policy, 1, SHORT, false), None);
    }

    #[test]
    fn what_a_user_stopped_stays_stopped_but_always_comes_back_with_the_daemon() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after_exit(Policy::Always, 137, SHORT, true), None);
        assert!(at_daemon_start(Policy::Always, false, true, 0));
        assert!(!at_daemon_start(Policy::UnlessStopped, true, true, 0));
        assert!(at_daemon_start(Policy::UnlessStopped, true, false, 0));
        assert!(!at_daemon_start(Policy::No, true, false, 0));
    }

    #[test]
    fn policies_are_refused_by_name() {
        assert_eq!(Policy::parse("on-failure", 3), Ok(Policy::OnFailure(3)));
        assert!(Policy::parse("always", 1).expect_err("count").contains("on-failure"));
        assert!(Policy::parse("sometimes", 0).expect_err("name").contains("sometimes"));
    }
}
