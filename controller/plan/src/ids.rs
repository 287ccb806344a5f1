//! Where new ids come from: a generator seeded by bits that the shell drew.

use muster_model::{Id, id::Kind};

/// xoshiro256** (Blackman and Vigna): statistically sound, not secret. Ids name things, they guard nothing.
#[derive(Clone, Debug)]
pub struct IdSource {
    s: [u64; 4],
}

impl IdSource {
    /// Equal seeds give equal ids: two managers, or two lives of one, must never be given the same.
    pub fn new(seed: [u64; 4]) -> Self {
        let mut source = Self { s: [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 1] };
        source.mix(seed);
        source
    }

    /// Adds random bits to those it has.
    pub fn mix(&mut self, bits: [u64; 4]) {
        for (s, b) in self.s.iter_mut().zip(bits) {
            *s ^= b;
        }
        if self.s == [0; 4] {
            self.s[0] = 1;
        }
        // Neighbouring seeds must not give neighbouring ids.
        for _ in 0..16 {
            self.next();
        }
    }

    fn next(&mut self) -> u64 {
        let result = self.s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = self.s[1] << 17;
        self.s[2] ^= self.s[0];
        self.s[3] ^= self.s[1];
        self.s[1] ^= self.s[2];
        self.s[0] ^= self.s[3];
        self.s[2] ^= t;
        self.s[3] = self.s[3].rotate_left(45);
        result
    }

    /// 128 bits, never zero.
    pub fn draw(&mut self) -> u128 {
        (u128::from(self.next()) << 64 | u128::from(self.next())).max(1)
    }

    pub fn id<K: Kind>(&mut self) -> Id<K> {
        Id::from_u128(self.draw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::TaskId;

    #[test]
    fn equal_seeds_give_equal_ids_and_neighbouring_ones_do_not() {
        let draw = |seed| IdSource::new(seed).id();
        let a: TaskId = draw([1, 2, 3, 4]);
        assert_eq!(a, draw([1, 2, 3, 4]));
        assert_ne!(a, draw([1, 2, 3, 5]));
        assert_ne!(draw([0; 4]), TaskId::default());
    }
}
