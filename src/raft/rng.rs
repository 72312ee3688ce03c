//! A tiny seeded generator for election timeouts: the core must be a function
//! of its inputs, and timeouts need no unpredictability, only spread.
//! Algorithm: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).

use crate::types::Millis;

/// A deterministic stream of numbers.
#[derive(Clone, Debug)]
pub(super) struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The stream of this seed.
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Any number.
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A duration in `min..max`.
    pub(super) fn within(&mut self, min: Millis, max: Millis) -> Millis {
        assert!(min < max, "empty range of timeouts {min:?}..{max:?}");
        Millis(min.0 + self.next() % (max.0 - min.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_equals_published_vector() {
        let mut rng = SplitMix64::new(1_234_567);
        let numbers: Vec<u64> = (0..3).map(|_| rng.next()).collect();
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn within_stays_in_half_open_range() {
        let mut rng = SplitMix64::new(7);
        for _ in 0..1000 {
            let drawn = rng.within(Millis(10), Millis(12));
            assert!(drawn == Millis(10) || drawn == Millis(11));
        }
    }
}
