//! The network: delay, loss, doubling, partitions.

use crate::rng::Rng;
use crate::time::{MS, Time};
use std::collections::BTreeSet;

/// How bad the network is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quality {
    /// Of a million messages.
    pub loss: u32,
    pub doubling: u32,
    /// Extra delay of up to this for some: later ones overtake.
    pub jitter: Time,
}

/// Who can reach whom.
#[derive(Debug, Default)]
pub struct Net {
    pub quality: Quality,
    /// One-way cuts: nothing goes from the first to the second.
    cut: BTreeSet<(usize, usize)>,
}

impl Net {
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn reaches(&self, from: usize, to: usize) -> bool {
        from == to || !self.cut.contains(&(from, to))
    }

    pub fn delay(&self, rng: &mut Rng) -> Time {
        let base = rng.between(200, 2 * MS);
        if self.quality.jitter > 0 && rng.percent(20) { base + rng.below(self.quality.jitter) } else { base }
    }

    /// When the copies of a datagram arrive, if any.
    pub fn deliveries(&self, from: usize, to: usize, rng: &mut Rng) -> Vec<Time> {
        if !self.reaches(from, to) || rng.ppm(self.quality.loss) {
            return Vec::new();
        }
        let mut out = vec![self.delay(rng)];
        if rng.ppm(self.quality.doubling) {
            out.push(self.delay(rng) + rng.below(50 * MS));
        }
        out
    }
}
