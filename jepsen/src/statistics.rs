//! Quantiles of measured durations. Pure.

use std::time::Duration;

/// Measured durations, sorted.
#[derive(Clone, Debug, Default)]
pub struct Durations {
    sorted: Vec<Duration>,
}

impl Durations {
    /// Sorts the samples.
    pub fn new(mut samples: Vec<Duration>) -> Durations {
        samples.sort_unstable();
        Durations { sorted: samples }
    }

    /// The nearest-rank quantile, `0.0 <= fraction <= 1.0`; zero without samples.
    pub fn quantile(&self, fraction: f64) -> Duration {
        assert!((0.0..=1.0).contains(&fraction));
        let count = self.sorted.len();
        let rank = (fraction * count as f64).ceil() as usize;
        let position = rank.clamp(1, count.max(1)) - 1;
        self.sorted.get(position).copied().unwrap_or_default()
    }

    /// Minimum, median, 90 % and maximum in seconds, for a person.
    pub fn summary(&self) -> String {
        format!(
            "n={} min {:.2} s, median {:.2} s, p90 {:.2} s, max {:.2} s",
            self.sorted.len(),
            self.quantile(0.0).as_secs_f64(),
            self.quantile(0.5).as_secs_f64(),
            self.quantile(0.9).as_secs_f64(),
            self.quantile(1.0).as_secs_f64(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_rank() {
        let durations = Durations::new((1..=10).rev().map(Duration::from_secs).collect());
        assert_eq!(durations.quantile(0.0), Duration::from_secs(1));
        assert_eq!(durations.quantile(0.5), Duration::from_secs(5));
        assert_eq!(durations.quantile(0.9), Duration::from_secs(9));
        assert_eq!(durations.quantile(1.0), Duration::from_secs(10));
    }

    #[test]
    fn quantile_of_nothing_is_zero() {
        assert_eq!(Durations::default().quantile(0.5), Duration::ZERO);
    }
}
