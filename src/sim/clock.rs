//! A node's monotonic clock: it runs at a rate of its own, from an origin of
//! its own, and never goes back.

use crate::types::Millis;

use super::agenda::Moment;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Where the present rate began, in true and in local microseconds.
    since: Moment,
    local_since: u64,
    /// Local microseconds in a true second.
    rate: u64,
}

/// The rate of a clock that is right.
pub(super) const TRUE_RATE: u64 = 1_000_000;

impl Clock {
    pub fn new(now: Moment, origin_milliseconds: u64, rate: u64) -> Self {
        Self {
            since: now,
            local_since: origin_milliseconds * 1000,
            rate,
        }
    }

    /// Runs at another rate from now on.
    pub fn set_rate(&mut self, now: Moment, rate: u64) {
        self.local_since = self.local(now);
        self.since = now;
        self.rate = rate;
    }

    /// Jumps ahead.
    pub fn jump(&mut self, milliseconds: u64) {
        self.local_since += milliseconds * 1000;
    }

    pub fn read(&self, now: Moment) -> Millis {
        Millis(self.local(now) / 1000)
    }

    /// The first moment at which the clock shows `local`, from `now` on.
    pub fn when(&self, now: Moment, local: Millis) -> Moment {
        let wanted = local.0.saturating_mul(1000);
        let missing = wanted.saturating_sub(self.local_since);
        let microseconds = u128::from(missing) * u128::from(TRUE_RATE);
        let elapsed = microseconds.div_ceil(u128::from(self.rate));
        self.since
            .plus(u64::try_from(elapsed).unwrap_or(u64::MAX))
            .max(now)
    }

    fn local(&self, now: Moment) -> u64 {
        let elapsed = now.0.saturating_sub(self.since.0);
        let local = u128::from(elapsed) * u128::from(self.rate) / u128::from(TRUE_RATE);
        self.local_since + u64::try_from(local).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_shows_what_was_waited_for_at_every_rate() {
        for rate in [500_000, 999_999, TRUE_RATE, 1_700_001] {
            let mut clock = Clock::new(Moment(77), 5, rate);
            let now = Moment(123_456);
            let when = clock.when(now, Millis(900));
            assert_eq!(clock.read(when), Millis(900), "rate {rate}");
            let before = clock.read(now);
            clock.set_rate(now, TRUE_RATE);
            assert_eq!(clock.read(now), before);
        }
    }
}
