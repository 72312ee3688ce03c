//! Growing, jittered pauses between attempts to reach a peer.

use std::time::Duration;

/// Doubles from `min` to `max`; each pause is drawn between half of the
/// present step and all of it, so that peers do not call in step.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    step: Duration,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        assert!(min <= max, "shortest pause exceeds the longest");
        Self {
            min,
            max,
            step: min,
        }
    }

    /// The attempt succeeded: the next pause is short again.
    pub(super) fn reset(&mut self) {
        self.step = self.min;
    }

    /// The next pause; `random` decides within the step.
    pub(super) fn pause(&mut self, random: u32) -> Duration {
        let half = self.step / 2;
        let pause = half + half.mul_f64(f64::from(random) / f64::from(u32::MAX));
        self.step = (self.step * 2).min(self.max);
        pause
    }
}

/// Jitter needs no secrecy, but the one source of randomness will do.
pub(super) fn jitter() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness the pauses are merely even.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        let pauses: Vec<_> = (0..4).map(|_| backoff.pause(u32::MAX)).collect();
        assert_eq!(pauses, [ms(100), ms(200), ms(350), ms(350)]);
        backoff.reset();
        assert_eq!(backoff.pause(0), ms(50));
    }
}
