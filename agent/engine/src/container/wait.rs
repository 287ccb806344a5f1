//! Waiting for a container to end or to be gone.

use super::{actor::Command, handle::View};
use crate::{engine::Shared, record::Phase};
use muster_calls::{Error, Future, Result, WaitCondition};
use muster_model::engine::{WaitError, WaitResult};
use std::time::Duration;

/// How long a kill waits for the end that must come (dockerd: as long).
const KILLED_WITHIN: Duration = Duration::from_secs(10);

impl Shared {
    /// Sends a signal; one that cannot be survived is answered when the container has ended.
    ///
    /// # Errors
    /// `Conflict` when it does not run, `Internal` when it has not ended after ten seconds (a process that the kernel
    /// cannot end now).
    pub(crate) async fn kill(&self, id: &str, signal: i32) -> Result<()> {
        let handle = self.find(id)?;
        let mut watch = handle.watch();
        let seen = watch.borrow().exits;
        handle.ask(|reply| Command::Kill { signal, reply }).await?;
        if signal != libc::SIGKILL {
            return Ok(());
        }
        let ended = watch.wait_for(|view| view.removed || view.exits > seen);
        match tokio::time::timeout(KILLED_WITHIN, ended).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::unavailable("the engine is shutting down")),
            Err(_) => Err(Error::internal(format!(
                "container {id}: SIGKILL was sent, but it has not ended within {} s",
                KILLED_WITHIN.as_secs()
            ))),
        }
    }

    /// Registers a wait; what happens from now on is seen by it.
    pub(crate) fn wait(&self, id: &str, condition: WaitCondition) -> Result<Future<Result<WaitResult>>> {
        let handle = self.find(id)?;
        let mut watch = handle.watch();
        let seen = watch.borrow().exits;
        Ok(Box::pin(async move {
            let met = |view: &View| {
                view.removed
                    || match condition {
                        // As dockerd: an end that a restart follows is an end.
                        WaitCondition::NotRunning => !is_busy(view) || view.exits > seen,
                        WaitCondition::NextExit => view.exits > seen,
                        WaitCondition::Removed => false,
                    }
            };
            match watch.wait_for(met).await {
                Ok(view) => Ok(result(&view)),
                Err(_) => Err(Error::unavailable("the engine is shutting down")),
            }
        }))
    }
}

fn is_busy(view: &View) -> bool {
    matches!(view.record.state.phase, Phase::Running | Phase::Restarting | Phase::Starting)
}

fn result(view: &View) -> WaitResult {
    let message = &view.exit_error;
    let error = (!message.is_empty()).then(|| WaitError { message: message.clone() });
    WaitResult { status_code: view.record.state.exit_code.into(), error }
}
