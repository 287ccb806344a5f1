//! Time and chance for the pure cores, read here and nowhere else.

use crate::StartError;
use muster_controller_core::Now;
use std::time::{Duration, Instant};

/// Both clocks of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: self.origin.elapsed(), wall: muster_mtls::now() }
    }

    /// The moment that [`Now::mono`] names.
    pub(crate) fn instant(&self, mono: Duration) -> Instant {
        self.origin + mono
    }
}

pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StartError::Random)?;
    Ok(bytes)
}

pub(crate) fn random_seed() -> Result<[u64; 4], StartError> {
    let bytes: [u8; 32] = random_bytes()?;
    let mut seed = [0; 4];
    for (word, chunk) in seed.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    Ok(seed)
}

/// A fresh id's bits; never 0, which means "none".
pub(crate) fn random_id() -> Result<u128, StartError> {
    Ok(u128::from_le_bytes(random_bytes()?).max(1))
}
