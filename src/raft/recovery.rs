//! The first moment of a core: from what the disk held, or for the very first
//! node of a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::raft::digest::Digests;
use crate::raft::durability::Durability;
use crate::raft::held::Held;
use crate::raft::log::Log;
use crate::raft::memberships::Memberships;
use crate::raft::output::Outbox;
use crate::raft::read::Reads;
use crate::raft::rng::SplitMix64;
use crate::raft::{Config, Raft, ReadMode, RecoverError, Recovered, State, change};
use crate::types::{
    Entry, EntryPayload, HardState, LogIndex, LogWrite, Membership, Millis, NodeId, Term,
};

/// The first write of a new cluster: its membership is the first entry, and by
/// definition committed. Every founder writes the same; who joins later starts
/// with an empty log instead.
///
/// # Panics
/// If the membership is not one a cluster can start with.
#[must_use]
pub fn bootstrap(membership: Membership) -> LogWrite {
    assert!(
        change::is_consistent(&membership),
        "bootstrap {membership:?}: sets do not fit"
    );
    assert!(!membership.voters.is_empty(), "bootstrap without a voter");
    assert!(
        !membership.is_joint(),
        "bootstrap in the middle of a change"
    );
    let (index, term) = (LogIndex(1), Term(1));
    let payload = EntryPayload::Membership(Arc::new(membership));
    LogWrite {
        hard_state: Some(HardState {
            term,
            vote: None,
            commit_index: index,
        }),
        entries: vec![Entry {
            index,
            term,
            payload,
        }],
        ..LogWrite::default()
    }
}

impl Raft {
    /// A core that continues from what the disk held.
    ///
    /// # Errors
    /// When that contradicts itself, with the numbers that do: the node must
    /// not start, and nothing is cut to fit.
    pub fn new(config: Config, recovered: Recovered, now: Millis) -> Result<Self, RecoverError> {
        check_config(&config)?;
        let Recovered {
            hard_state,
            snapshot,
            entries,
            applied_index,
        } = recovered;
        let memberships = find_memberships(snapshot.as_ref(), &entries)?;
        let mut log = Log::recover(snapshot.as_ref(), entries, config.cache_bytes_max)?;
        check_positions(&log, hard_state, applied_index)?;
        let commit = hard_state
            .commit_index
            .max(log.snapshot().index)
            .max(applied_index);
        log.start_at(commit, applied_index);
        let mut rng = SplitMix64::new(config.seed ^ config.id.0);
        let reads = Reads::new(rng.next());
        let mut raft = Self {
            now,
            rng,
            term: hard_state.term,
            vote: hard_state.vote,
            state: State::Follower,
            leader: None,
            heard_at: now,
            election_deadline: now,
            accepted_term: log.last().term,
            leader_commit: LogIndex(0),
            log,
            memberships,
            announced: None,
            restoring: None,
            was_member: false,
            removed: false,
            shown_out: LogIndex(0),
            digests: Digests::default(),
            held: Held::default(),
            durability: Durability::new(hard_state),
            streams: BTreeMap::new(),
            reads,
            outbox: Outbox::default(),
            config,
        };
        raft.was_member = raft.memberships.names(raft.config.id);
        raft.memberships.commit(commit);
        // A node that is alone need not wait for anybody.
        let alone = [raft.config.id].into();
        if raft.memberships.active().membership.voters != alone {
            raft.reset_election_deadline();
        }
        Ok(raft)
    }

    /// An operator has lost a quorum for good and says who is left, to each of
    /// them alike: this membership counts from here on in place of whatever the
    /// log says, until a leader has written and committed it. Call it before
    /// the first step, after every start until then. `since` is the term of
    /// this node when it was first told.
    ///
    /// Nothing becomes committed by it. All voters named must grant the first
    /// election, so the most complete log among them leads, in a term that none
    /// of them knew: terms are raised here, so that no leader of the lost quorum
    /// has the same one. Safe only if those left out never run again under the
    /// old membership; entries that only they held are lost.
    ///
    /// # Errors
    /// The membership is not one that a cluster can have, or is joint.
    pub fn force_membership(
        &mut self,
        membership: &Arc<Membership>,
        since: Term,
    ) -> Result<(), RecoverError> {
        let is_sound = change::is_consistent(membership) && !membership.voters.is_empty();
        if !is_sound || membership.is_joint() {
            let index = self.memberships.committed().index;
            return Err(RecoverError::BadMembership { index });
        }
        let log = &self.log;
        self.memberships
            .force(membership, since, |index| log.term_at(index));
        if self.memberships.unwritten_force().is_some() {
            self.term = self.term.next();
            self.vote = None;
        }
        self.was_member = true;
        self.note_removal();
        Ok(())
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.id
    }
}

fn check_config(config: &Config) -> Result<(), RecoverError> {
    let (min, max) = (config.election_timeout_min, config.election_timeout_max);
    let bad = if min >= max {
        "the shortest election timeout must be below the longest"
    } else if config.heartbeat_interval.0 == 0 || config.heartbeat_interval >= min {
        "the heartbeat interval must be above 0 and below the election timeout"
    } else if config.inflight_messages_max == 0 {
        "at least one message must be allowed in flight"
    } else if config.disk_stall_timeout < min {
        "a disk is not stalled before the shortest election timeout"
    } else if matches!(config.read_mode, ReadMode::Lease { drift_permille } if DRIFT_MAX < drift_permille)
    {
        "a lease between clocks that may differ tenfold is none: read with a quorum"
    } else {
        return Ok(());
    };
    Err(RecoverError::BadConfig(bad))
}

/// Clocks that differ by more are broken.
const DRIFT_MAX: u32 = 9000;

fn check_positions(
    log: &Log,
    hard_state: HardState,
    applied: LogIndex,
) -> Result<(), RecoverError> {
    let last = log.last();
    if last.index < hard_state.commit_index {
        let commit = hard_state.commit_index;
        return Err(RecoverError::CommitBeyondLog {
            commit,
            last: last.index,
        });
    }
    if hard_state.term < last.term {
        let (last_term, term) = (last.term, hard_state.term);
        return Err(RecoverError::TermBeyondHardState { last_term, term });
    }
    let snapshot = log.snapshot().index;
    if applied < snapshot || last.index < applied {
        return Err(RecoverError::AppliedOutside {
            applied,
            snapshot,
            last: last.index,
        });
    }
    Ok(())
}

/// The snapshot's membership, and those of the entries after it.
fn find_memberships(
    snapshot: Option<&crate::types::SnapshotMeta>,
    entries: &[Entry],
) -> Result<Memberships, RecoverError> {
    let check = |index: LogIndex, membership: &Membership| {
        if change::is_consistent(membership) {
            Ok(())
        } else {
            Err(RecoverError::BadMembership { index })
        }
    };
    let (index, membership, covered) = match snapshot {
        Some(meta) => (
            meta.membership_index,
            Arc::clone(&meta.membership),
            meta.index,
        ),
        None => (LogIndex(0), Arc::default(), LogIndex(0)),
    };
    check(index, &membership)?;
    for entry in entries {
        if let EntryPayload::Membership(membership) = &entry.payload {
            check(entry.index, membership)?;
        }
    }
    let mut memberships = Memberships::new(index, membership);
    let conflicts = snapshot.is_some_and(|meta| {
        !entries
            .iter()
            .any(|entry| entry.index == meta.index && entry.term == meta.term)
            && entries
                .first()
                .is_some_and(|first| first.index <= meta.index)
    });
    if !conflicts {
        let start = entries.partition_point(|entry| entry.index <= covered);
        memberships.append(&entries[start..]);
    }
    Ok(memberships)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::stage::{config, membership};
    use crate::raft::{Effect, Input, Role};
    use crate::types::SnapshotMeta;

    fn alone() -> Membership {
        membership(1, 0)
    }

    fn found(commit: u64, term: u64, terms: &[u64]) -> Recovered {
        let entry = |(index, term): (u64, &u64)| Entry {
            index: LogIndex(index),
            term: Term(*term),
            payload: EntryPayload::Noop,
        };
        Recovered {
            hard_state: HardState {
                term: Term(term),
                vote: None,
                commit_index: LogIndex(commit),
            },
            entries: (1..).zip(terms).map(entry).collect(),
            ..Recovered::default()
        }
    }

    fn refusal(recovered: Recovered) -> String {
        let refused = Raft::new(config(), recovered, Millis(0));
        refused.map(|_| ()).expect_err("contradictory").to_string()
    }

    #[test]
    fn founder_leads_and_commits_alone() {
        let write = bootstrap(alone());
        let hard_state = write.hard_state.expect("bootstrap writes one");
        let recovered = Recovered {
            hard_state,
            entries: write.entries,
            ..Recovered::default()
        };
        let mut raft = Raft::new(config(), recovered, Millis(0)).expect("consistent");
        assert_eq!(raft.next_deadline(), Millis(0), "nobody to wait for");
        let mut inputs = vec![Input::Tick];
        while let Some(input) = inputs.pop() {
            for effect in raft.step(Millis(0), input) {
                if let Effect::Persist { mark, .. } = effect {
                    inputs.push(Input::Durable(mark));
                }
            }
        }
        let status = raft.status();
        assert_eq!(
            (status.role, status.commit_index),
            (Role::Leader, LogIndex(2))
        );
        assert!(status.ready);
    }

    // The commit index is written lazily: a store that is ahead of it proves
    // what is committed (R19).
    #[test]
    fn store_ahead_of_the_written_commit_index_is_believed() {
        let ahead = Recovered {
            applied_index: LogIndex(3),
            ..found(1, 1, &[1, 1, 1])
        };
        let mut raft = Raft::new(config(), ahead, Millis(0)).expect("consistent");
        raft.step(Millis(0), Input::Applied(LogIndex(3)));
        assert_eq!(raft.status().commit_index, LogIndex(3));
    }

    #[test]
    fn lost_tail_is_refused_with_both_positions() {
        let message = refusal(found(7, 1, &[1, 1, 1]));
        assert!(
            message.contains("7 is committed") && message.contains("ends at 3"),
            "{message}"
        );
    }

    #[test]
    fn other_contradictions_are_refused() {
        assert!(refusal(found(1, 1, &[1, 2])).contains("ends in term 2"));
        assert!(refusal(found(1, 3, &[2, 1])).contains("followed by 2 of 1"));
        let ahead = Recovered {
            applied_index: LogIndex(9),
            ..found(1, 1, &[1])
        };
        assert!(refusal(ahead).contains("it holds 9"));
        let meta = SnapshotMeta {
            index: LogIndex(5),
            term: Term(2),
            ..SnapshotMeta::default()
        };
        let behind = Recovered {
            snapshot: Some(meta.clone()),
            ..found(1, 2, &[])
        };
        assert!(refusal(behind).contains("it holds 0"));
        let mut gap = found(1, 2, &[1, 1, 1, 1, 1, 1, 2, 2]);
        gap.entries.drain(..6);
        gap.snapshot = Some(meta);
        assert!(refusal(gap).contains("begins at 7"));
        let mut broken = alone();
        broken.learners.insert(NodeId(1));
        let mut odd = found(1, 1, &[1]);
        odd.entries[0].payload = EntryPayload::Membership(Arc::new(broken));
        assert!(refusal(odd).contains("membership at 1"));
    }

    #[test]
    fn only_a_membership_that_can_be_is_forced() {
        let forced = |membership: Membership| {
            let write = bootstrap(self::membership(3, 0));
            let recovered = Recovered {
                hard_state: write.hard_state.expect("bootstrap writes one"),
                entries: write.entries,
                ..Recovered::default()
            };
            let mut raft = Raft::new(config(), recovered, Millis(0)).expect("consistent");
            raft.force_membership(&Arc::new(membership), Term(1))
                .is_ok()
        };
        assert!(forced(membership(1, 1)));
        assert!(!forced(Membership::default()), "nobody");
        let joint = Membership {
            voters_outgoing: [NodeId(1)].into(),
            ..membership(2, 0)
        };
        assert!(!forced(joint), "in the middle of a change");
        let mut both = membership(2, 0);
        both.learners.insert(NodeId(2));
        assert!(!forced(both), "voter and learner");
    }

    /// The membership that is active after a restart.
    fn active(snapshot: &SnapshotMeta, entries: Vec<Entry>) -> (LogIndex, Membership) {
        let memberships = find_memberships(Some(snapshot), &entries).expect("consistent");
        let active = memberships.active();
        (active.index, (*active.membership).clone())
    }

    // A snapshot up to 5 of term 2, and a log that carries memberships at 4 and
    // at 7. Where the log agrees with the snapshot, or just continues it, what
    // comes after the snapshot counts. Where it contradicts the snapshot it will
    // be replaced, and nothing of it does.
    #[test]
    fn memberships_after_the_snapshot_count_unless_the_log_contradicts_it() {
        let meta = SnapshotMeta {
            index: LogIndex(5),
            term: Term(2),
            membership: Arc::new(membership(3, 0)),
            membership_index: LogIndex(4),
        };
        let log = |terms: &[u64]| {
            let mut entries = found(0, 0, terms).entries;
            for (index, voters) in [(4, 3), (7, 4)] {
                let payload = EntryPayload::Membership(Arc::new(membership(voters, 0)));
                entries[index - 1].payload = payload;
            }
            entries
        };
        let later = (LogIndex(7), membership(4, 0));
        let of_snapshot = (LogIndex(4), membership(3, 0));
        let agrees = log(&[1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(active(&meta, agrees.clone()), later, "it agrees");
        assert_eq!(active(&meta, agrees[4..].to_vec()), later, "from 5 on");
        assert_eq!(active(&meta, agrees[5..].to_vec()), later, "it continues");
        let contradicts = log(&[1, 1, 1, 1, 1, 2, 2]);
        assert_eq!(active(&meta, contradicts), of_snapshot);
        assert_eq!(
            active(&meta, agrees[..4].to_vec()),
            of_snapshot,
            "too short"
        );
    }

    #[test]
    fn impossible_parameters_are_refused() {
        let eager = Config {
            heartbeat_interval: Millis(100),
            ..config()
        };
        assert!(Raft::new(eager, Recovered::default(), Millis(0)).is_err());
        let equal = Config {
            election_timeout_min: Millis(200),
            ..config()
        };
        assert!(Raft::new(equal, Recovered::default(), Millis(0)).is_err());
        let stall = |milliseconds| {
            let hasty = Config {
                disk_stall_timeout: Millis(milliseconds),
                ..config()
            };
            Raft::new(hasty, Recovered::default(), Millis(0)).is_ok()
        };
        assert!(!stall(99) && stall(100) && stall(101));
    }
}
