//! Election timeouts without a random number generator, and almost without split votes.
//!
//! `raft` 0.7 draws a new timeout from the thread's generator whenever its state is reset. For runs that replay, each
//! call into it is followed by setting the timeout to a pure function of what the node knows.
//!
//! That function also does better than chance. All voters know each other, so each can tell its place in an order that the
//! term shuffles, and waits for its turn: the window is cut into one slot per voter. Two that lose the same leader do not
//! campaign in the same moment, and when the first in the order is away, the next follows one slot later.

use crate::types::PeerId;

/// The timeout in ticks, in `election_ticks..2 * election_ticks`. `voters` is sorted; who is not among them, or has more
/// fellows than the window has ticks, gets one by chance of `seed`.
pub(crate) fn timeout(seed: u64, id: PeerId, term: u64, voters: &[PeerId], election_ticks: u32) -> usize {
    let span = u64::from(election_ticks.max(1));
    let chance = mix(mix(seed, id), term);
    let count = voters.len() as u64;
    if count > span || !voters.contains(&id) {
        return (span + chance % span) as usize;
    }
    let place = |peer: PeerId| (mix(peer, term), peer);
    let before = voters.iter().filter(|peer| place(**peer) < place(id)).count() as u64;
    let (begin, end) = (before * span / count, (before + 1) * span / count);
    // Chance within the first half of the slot; the rest keeps the distance to the next.
    (span + begin + chance % ((end - begin) / 2).max(1)) as usize
}

/// One round of splitmix64 over the sum (Steele, Lea, Flood 2014): every input bit reaches every output bit.
fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_add(b.wrapping_mul(0xbf58_476d_1ce4_e5b9)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn voters_wait_for_their_turn_in_an_order_that_the_term_shuffles() {
        let voters = [3, 5, 9];
        let mut firsts = BTreeSet::new();
        for term in 0..40 {
            // Each has a seed of its own.
            let mut waits: Vec<(usize, u64)> =
                voters.iter().map(|id| (timeout(id * 77, *id, term, &voters, 10), *id)).collect();
            waits.sort_unstable();
            assert!(waits.iter().all(|(ticks, _)| (10..20).contains(ticks)));
            assert!(waits.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 2), "{waits:?} are too close");
            firsts.insert(waits[0].1);
        }
        assert_eq!(firsts.len(), 3, "everybody is first at times");
    }

    #[test]
    fn strangers_and_large_crowds_get_a_timeout_by_chance() {
        let crowd: Vec<u64> = (1..=30).collect();
        let drawn: BTreeSet<usize> = (1..=30).map(|id| timeout(1, id, 1, &crowd, 10)).collect();
        assert!(drawn.len() > 5 && drawn.iter().all(|ticks| (10..20).contains(ticks)));
        assert!((10..20).contains(&timeout(1, 7, 1, &[1, 2], 10)));
        assert!((1..2).contains(&timeout(1, 7, 1, &[7], 1)));
    }
}
