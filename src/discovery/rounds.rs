//! When to ask, and whom: pure; randomness is passed in.

use std::collections::BTreeSet;
use std::time::Duration;

use super::target::{JoinStanza, Origin};

/// First pause between two rounds.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// Longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// The schedule of a node that looks for its cluster.
#[derive(Clone, Debug)]
pub struct Rounds {
    stanzas: Vec<JoinStanza>,
    own: Option<Origin>,
    step: Duration,
}

impl Rounds {
    /// A schedule over these stanzas. Those that name `own_api_address` are
    /// left out, as are repetitions: every node may carry the same list.
    #[must_use]
    pub fn new(stanzas: &[JoinStanza], own_api_address: &str) -> Self {
        let own = Origin::parse(own_api_address);
        let mut seen = BTreeSet::new();
        let stanzas = stanzas.iter().filter(|stanza| {
            match Origin::parse(&stanza.leader_api_addr) {
                Some(origin) => Some(&origin) != own.as_ref() && seen.insert(origin),
                // Kept: its error is reported in every round.
                None => true,
            }
        });
        Self {
            stanzas: stanzas.cloned().collect(),
            own: own.clone(),
            step: PAUSE_MIN,
        }
    }

    /// Whom to ask in the next round: all of them at once.
    #[must_use]
    pub fn targets(&self) -> &[JoinStanza] {
        &self.stanzas
    }

    /// This node's own API address, if it is one.
    #[must_use]
    pub fn own(&self) -> Option<&Origin> {
        self.own.as_ref()
    }

    /// How long to wait after a round without success: doubles from 0.5 s to
    /// 15 s, each drawn between half of it and all of it by `random`, so that
    /// nodes started together do not ask together.
    pub fn next_pause(&mut self, random: u32) -> Duration {
        let half = self.step / 2;
        let pause = half + half.mul_f64(f64::from(random) / f64::from(u32::MAX));
        self.step = (self.step * 2).min(PAUSE_MAX);
        pause
    }

    /// Something changed (a share was given, the configuration was reloaded):
    /// the next pause is short again.
    pub fn reset(&mut self) {
        self.step = PAUSE_MIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanza(address: &str) -> JoinStanza {
        JoinStanza {
            leader_api_addr: address.to_owned(),
            ..JoinStanza::default()
        }
    }

    #[test]
    fn self_and_repetitions_are_left_out() {
        let list = [
            stanza("https://a:8200"),
            stanza("https://B:8200/"),
            stanza("https://b:8200"),
            stanza("nonsense"),
            stanza("http://b:8200"),
        ];
        let rounds = Rounds::new(&list, "https://A:8200");
        let addresses: Vec<_> = rounds
            .targets()
            .iter()
            .map(|stanza| stanza.leader_api_addr.as_str())
            .collect();
        assert_eq!(addresses, ["https://B:8200/", "nonsense", "http://b:8200"]);
        assert_eq!(Rounds::new(&list, "").targets().len(), 4);
    }

    #[test]
    fn pauses_grow_to_a_limit_and_start_again() {
        let mut rounds = Rounds::new(&[], "");
        let pauses: Vec<_> = (0..7)
            .map(|_| rounds.next_pause(u32::MAX).as_millis())
            .collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 15000, 15000]);
        rounds.reset();
        assert_eq!(rounds.next_pause(0), Duration::from_millis(250));
    }
}
