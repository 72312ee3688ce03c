//! What clients were told, and whether the servers stand by it. Pure.
//!
//! Every write carries a value nobody else writes. The ledger keeps, for each
//! key, what became of each write: acknowledged, refused, or unknown. A client
//! owns its keys and writes each of them one request at a time, so the
//! acknowledgements of a key are ordered.
//!
//! The rule: a key must hold its last acknowledged value, or the value of a
//! write whose fate is unknown. An unknown write may take effect at any later
//! time, hence clients retire a key after one (see `load`): otherwise a late
//! effect over newer acknowledged writes could not be told from a loss.

use std::collections::BTreeMap;

/// What the client learned about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged: it must be there.
    Ok,
    /// Provably without effect: it must not be there.
    Fail(String),
    /// It may be there, or appear later.
    Info(String),
}

/// All writes of one experiment.
#[derive(Debug, Default)]
pub struct Ledger {
    keys: BTreeMap<String, Vec<Write>>,
}

#[derive(Debug)]
struct Write {
    value: String,
    outcome: Outcome,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key read.
    pub key: String,
    /// Through which node.
    pub node: String,
    /// What is wrong with the value found.
    pub fault: Fault,
}

/// What is wrong with the value found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The last acknowledged write is gone; `found` is what was read instead.
    LostWrite {
        /// The value promised.
        acknowledged: String,
        /// An older value, or nothing.
        found: Option<String>,
    },
    /// A write that was refused took effect.
    RefusedWriteApplied {
        /// Its value.
        found: String,
    },
    /// Nobody wrote this to this key.
    ForeignValue {
        /// The value.
        found: String,
    },
}

/// How many writes had which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Acknowledged.
    pub ok: usize,
    /// Refused.
    pub fail: usize,
    /// Unknown.
    pub info: usize,
}

impl Ledger {
    /// Records one finished write. Calls for one key come in the order in
    /// which its owner sent the writes.
    pub fn record(&mut self, key: &str, value: &str, outcome: Outcome) {
        let write = Write {
            value: value.to_owned(),
            outcome,
        };
        match self.keys.get_mut(key) {
            Some(writes) => writes.push(write),
            None => {
                self.keys.insert(key.to_owned(), vec![write]);
            }
        }
    }

    /// Takes over another client's writes; no key may be in both.
    pub fn merge(&mut self, other: Ledger) {
        for (key, writes) in other.keys {
            let previous = self.keys.insert(key, writes);
            assert!(previous.is_none(), "a key has exactly one owner");
        }
    }

    /// Every key with a write that may be there.
    pub fn keys_to_read(&self) -> Vec<String> {
        let readable = |writes: &Vec<Write>| {
            writes
                .iter()
                .any(|write| !matches!(write.outcome, Outcome::Fail(_)))
        };
        self.keys
            .iter()
            .filter(|(_, writes)| readable(writes))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// How many writes had which outcome.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for write in self.keys.values().flatten() {
            match write.outcome {
                Outcome::Ok => counts.ok += 1,
                Outcome::Fail(_) => counts.fail += 1,
                Outcome::Info(_) => counts.info += 1,
            }
        }
        counts
    }

    /// The distinct reasons of refusals and unknown fates, with their counts.
    pub fn reasons(&self) -> BTreeMap<String, usize> {
        let mut reasons = BTreeMap::new();
        for write in self.keys.values().flatten() {
            if let Outcome::Fail(reason) | Outcome::Info(reason) = &write.outcome {
                *reasons.entry(reason.clone()).or_insert(0) += 1;
            }
        }
        reasons
    }

    /// Judges the value found under `key` through `node` once nothing writes
    /// any more (`None`: the server says there is nothing).
    pub fn check(&self, key: &str, node: &str, found: Option<&str>) -> Option<Violation> {
        let writes = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        let last_acknowledged = writes
            .iter()
            .rfind(|write| write.outcome == Outcome::Ok)
            .map(|write| write.value.as_str());
        let fault = judge(writes, last_acknowledged, found)?;
        Some(Violation {
            key: key.to_owned(),
            node: node.to_owned(),
            fault,
        })
    }
}

fn judge(writes: &[Write], last_acknowledged: Option<&str>, found: Option<&str>) -> Option<Fault> {
    if found == last_acknowledged {
        return None;
    }
    let lost = |found: Option<&str>| {
        last_acknowledged.map(|acknowledged| Fault::LostWrite {
            acknowledged: acknowledged.to_owned(),
            found: found.map(str::to_owned),
        })
    };
    let Some(found) = found else {
        return lost(None);
    };
    match writes.iter().find(|write| write.value == found) {
        None => Some(Fault::ForeignValue {
            found: found.to_owned(),
        }),
        Some(write) => match write.outcome {
            Outcome::Info(_) => None,
            Outcome::Fail(_) => Some(Fault::RefusedWriteApplied {
                found: found.to_owned(),
            }),
            Outcome::Ok => lost(Some(found)),
        },
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} through {}: ", self.key, self.node)?;
        match &self.fault {
            Fault::LostWrite {
                acknowledged,
                found: Some(found),
            } => write!(
                formatter,
                "acknowledged {acknowledged}, found the older {found}"
            ),
            Fault::LostWrite {
                acknowledged,
                found: None,
            } => write!(formatter, "acknowledged {acknowledged}, found nothing"),
            Fault::RefusedWriteApplied { found } => {
                write!(formatter, "{found} was refused, yet it is there")
            }
            Fault::ForeignValue { found } => {
                write!(formatter, "{found} was never written to this key")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail() -> Outcome {
        Outcome::Fail("refused".into())
    }

    fn info() -> Outcome {
        Outcome::Info("timeout".into())
    }

    /// The fault reported for one key with these writes when `found` is read.
    fn check(writes: &[(&str, Outcome)], found: Option<&str>) -> Option<Fault> {
        let mut ledger = Ledger::default();
        for (value, outcome) in writes {
            ledger.record("k", value, outcome.clone());
        }
        ledger
            .check("k", "n1", found)
            .map(|violation| violation.fault)
    }

    fn lost(acknowledged: &str, found: Option<&str>) -> Option<Fault> {
        Some(Fault::LostWrite {
            acknowledged: acknowledged.into(),
            found: found.map(str::to_owned),
        })
    }

    #[test]
    fn last_acknowledged_value_is_accepted() {
        let writes = [("a", Outcome::Ok), ("b", Outcome::Ok), ("c", fail())];
        assert_eq!(check(&writes, Some("b")), None);
    }

    #[test]
    fn planted_lost_write_is_reported() {
        let writes = [("a", Outcome::Ok), ("b", Outcome::Ok)];
        assert_eq!(check(&writes, None), lost("b", None));
        assert_eq!(check(&writes, Some("a")), lost("b", Some("a")));
    }

    #[test]
    fn unknown_write_is_optional() {
        let writes = [("a", Outcome::Ok), ("b", info())];
        assert_eq!(check(&writes, Some("a")), None);
        assert_eq!(check(&writes, Some("b")), None);
        assert_eq!(check(&writes, None), lost("a", None));
    }

    #[test]
    fn only_unknown_writes_may_be_absent() {
        assert_eq!(check(&[("a", info())], None), None);
        assert_eq!(check(&[("a", info())], Some("a")), None);
    }

    #[test]
    fn refused_write_must_not_appear() {
        let found = check(&[("a", Outcome::Ok), ("b", fail())], Some("b"));
        let fault = Fault::RefusedWriteApplied { found: "b".into() };
        assert_eq!(found, Some(fault));
    }

    #[test]
    fn foreign_value_is_reported() {
        let fault = Fault::ForeignValue { found: "z".into() };
        assert_eq!(check(&[("a", Outcome::Ok)], Some("z")), Some(fault.clone()));
        assert_eq!(check(&[], Some("z")), Some(fault));
    }

    #[test]
    fn counts_reasons_and_keys_cover_every_write() {
        let mut ledger = Ledger::default();
        ledger.record("k1", "a", Outcome::Ok);
        ledger.record("k2", "b", fail());
        let mut other = Ledger::default();
        other.record("k3", "c", info());
        ledger.merge(other);
        let counts = Counts {
            ok: 1,
            fail: 1,
            info: 1,
        };
        assert_eq!(ledger.counts(), counts);
        assert_eq!(ledger.keys_to_read(), ["k1", "k3"]);
        assert_eq!(ledger.reasons().values().sum::<usize>(), 2);
    }
}
