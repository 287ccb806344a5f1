//! One worker for each piece of content: a second pull of the same layer waits for the first and finds its work done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::Digest;

/// Who works on what.
#[derive(Default)]
pub(crate) struct Flights {
    busy: Mutex<HashMap<Digest, watch::Receiver<()>>>,
}

/// The right to make one piece of content; given back when dropped.
pub(crate) struct Flight {
    flights: Arc<Flights>,
    digest: Digest,
    /// Dropping it wakes those who wait.
    _done: watch::Sender<()>,
}

impl Flights {
    /// Waits until nobody else works on any of `digests` and claims them all.
    ///
    /// They are claimed in the order of the digests, so that two claims that overlap cannot wait for each other.
    pub(crate) async fn claim(self: &Arc<Self>, mut digests: Vec<Digest>) -> Vec<Flight> {
        digests.sort();
        digests.dedup();
        let mut claimed = Vec::with_capacity(digests.len());
        for digest in digests {
            loop {
                match self.try_claim(digest) {
                    Ok(flight) => break claimed.push(flight),
                    // An error says that the sender is gone: try again.
                    Err(mut busy) => while busy.changed().await.is_ok() {},
                }
            }
        }
        claimed
    }

    fn try_claim(self: &Arc<Self>, digest: Digest) -> Result<Flight, watch::Receiver<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(receiver) = busy.get(&digest) {
            return Err(receiver.clone());
        }
        let (done, receiver) = watch::channel(());
        busy.insert(digest, receiver);
        Ok(Flight { flights: self.clone(), digest, _done: done })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}
