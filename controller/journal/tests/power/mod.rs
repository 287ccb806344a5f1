//! A file system that remembers every call, so that the disk can be shown as a power cut would have left it.
//!
//! [`fs`] is a FUSE file system in memory which writes down what it was asked to do; [`replay`] turns any prefix of that
//! into the image of a disk that kept what was synced and some of the rest. One run of the real code so gives as many
//! cuts as wanted, at any call.

pub mod fs;
pub mod replay;

/// Splitmix64: the tests' only source of chance.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..n.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}
