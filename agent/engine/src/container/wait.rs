//! Waiting for a container to end or to be gone.

use super::handle::View;
use crate::{engine::Shared, record::Phase};
use muster_calls::{Error, Future, Result, WaitCondition};
use muster_model::engine::{WaitError, WaitResult};

impl Shared {
    /// Registers a wait; what happens from now on is seen by it.
    pub(crate) fn wait(&self, id: &str, condition: WaitCondition) -> Result<Future<Result<WaitResult>>> {
        let handle = self.find(id)?;
        let mut watch = handle.watch();
        let seen = watch.borrow().exits;
        Ok(Box::pin(async move {
            let met = |view: &View| {
                view.removed
                    || match condition {
                        WaitCondition::NotRunning => !is_busy(view),
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
