//! Every property finds the violation that it is there for.
//!
//! Each story below is honest up to its last event, and the event breaks one
//! rule. [`stories`] names a story for every property, so a new property does
//! not compile without one.

mod teller;

use std::sync::Arc;

use super::{Life, Observer, Property, Verdict, Violation};
use crate::raft::message::{AppendResult, Message};
use crate::raft::{Effect, Input, PeerStatus, Rejection, RequestId, Role};
use crate::types::{EntryPayload, Incarnation, LogIndex, LogWrite, NodeId, SnapshotMeta, Term};
use teller::{Teller, ack, appended, choice, command, entry, grant, life, voters};

type Story = fn() -> Verdict;

/// The violations of one property, each with what happens.
fn stories(property: Property) -> Vec<(&'static str, Story)> {
    match property {
        Property::ElectionSafety => vec![("two leaders of a term", two_leaders)],
        Property::VoteOnce => vec![("two grants in a term", two_grants)],
        Property::VoteDurable => vec![
            ("a grant leaves before it is on disk", volatile_vote),
            (
                "a campaign leaves before its vote is on disk",
                volatile_candidacy,
            ),
        ],
        Property::TermMonotone => vec![("an older term is written", falling_term)],
        Property::VoteMonotone => vec![("a vote is written over", changed_vote)],
        Property::TermDurable => vec![("a message names a volatile term", volatile_term)],
        Property::WriteOrder => vec![
            ("a write leaves a gap", gap),
            ("a commit index beyond the log", commit_beyond_the_log),
        ],
        Property::LeaderAppendOnly => vec![("a leader cuts its log", leader_cuts)],
        Property::LogMatching => vec![
            ("two entries of one name", two_entries_of_one_name),
            ("one entry after two prefixes", two_prefixes),
        ],
        Property::CommittedImmutable => vec![
            ("another entry is committed", committed_twice),
            (
                "a snapshot ends in another term",
                snapshot_of_another_history,
            ),
        ],
        Property::LeaderCompleteness => vec![
            ("a leader without a committed entry", incomplete_leader),
            (
                "Fig. 8: a leader commits what a later one lacks",
                late_commit,
            ),
        ],
        Property::CommittedDurable => vec![
            ("a commit by memory", commit_by_memory),
            (
                "a commit on the disk of another life",
                commit_by_another_life,
            ),
        ],
        Property::QuorumIntersection => vec![
            ("a leap to other voters", leap_of_membership),
            ("two electable halves", two_electable_halves),
        ],
        Property::StateMachine => vec![
            ("a position is executed twice", executed_twice),
            ("an uncommitted position is executed", executed_too_early),
            ("two states at one position", two_states),
        ],
        Property::Order => vec![
            ("commit beyond the end", commit_beyond_the_end),
            ("a purge without a snapshot", purge_without_snapshot),
            ("match beyond next", match_beyond_next),
        ],
        Property::MatchDurable => vec![("a peer counts without a disk", match_in_memory)],
        Property::AckDurable => vec![("an acknowledgement before the disk", volatile_ack)],
        Property::VerifiedCommit => vec![("a commit by hearsay", unverified_commit)],
        Property::ReadValid => vec![
            ("a read before what was committed", stale_read),
            ("an answer to no question", unasked_read),
        ],
        Property::Session => vec![
            ("one proposal, two effects", doubled_command),
            ("a refused command happens", refused_command),
        ],
        Property::Recovery => vec![
            ("a durable entry is gone after a restart", lost_entry),
            ("a durable vote is gone after a restart", lost_vote),
            (
                "a commit index that the log notes is forgotten",
                forgotten_commit,
            ),
            ("a restart finds what was never written", invented_entry),
        ],
        Property::NackHonesty => vec![("an entry that is there is denied", denied_entry)],
        // Found by the specification: see `sim::spec`.
        Property::Refinement => Vec::new(),
    }
}

const PROPERTIES: [Property; 23] = [
    Property::ElectionSafety,
    Property::VoteOnce,
    Property::VoteDurable,
    Property::TermMonotone,
    Property::VoteMonotone,
    Property::TermDurable,
    Property::WriteOrder,
    Property::LeaderAppendOnly,
    Property::LogMatching,
    Property::CommittedImmutable,
    Property::LeaderCompleteness,
    Property::CommittedDurable,
    Property::QuorumIntersection,
    Property::StateMachine,
    Property::Order,
    Property::MatchDurable,
    Property::AckDurable,
    Property::VerifiedCommit,
    Property::ReadValid,
    Property::Session,
    Property::Recovery,
    Property::NackHonesty,
    Property::Refinement,
];

#[test]
fn every_property_finds_its_violation() {
    for property in PROPERTIES {
        for (title, story) in stories(property) {
            let violation = story().expect_err(title);
            assert_eq!(violation.property, property, "{title}: {violation}");
        }
    }
}

#[test]
fn honest_cluster_violates_nothing() {
    let mut teller = with_committed_entry();
    let tell = |teller: &mut Teller| -> Verdict {
        teller
            .history
            .executed(life(1), LogIndex(1), LogIndex(2), 7)?;
        teller.store(life(2), &choice(2, Some(1)))?;
        teller.history.sent(life(2), NodeId(1), &ack(2, 2))?;
        teller.elect(2, 3, 3)?;
        teller.replicate(&[2, 3], &entry(3, 3, EntryPayload::Noop))?;
        teller.commit(2, 3)?;
        teller.history.crashed(life(3))?;
        let mut found = Teller::first_entry();
        found.hard_state = choice(3, Some(2)).hard_state.expect("a choice");
        found.entries.push(entry(2, 2, EntryPayload::Noop));
        found.entries.push(entry(3, 3, EntryPayload::Noop));
        teller.start(life(3), &found)
    };
    tell(&mut teller).unwrap_or_else(|violation| panic!("{violation}"));
}

/// Node 1 leads term 2 and has not written anything.
fn with_leader() -> Teller {
    let mut teller = Teller::cluster();
    teller.elect(1, 2, 2).expect("an honest election");
    teller
}

/// Everybody has the first entry of node 1's term 2, and node 1 committed it.
fn with_committed_entry() -> Teller {
    let mut teller = with_leader();
    teller
        .store(life(3), &choice(2, None))
        .expect("an honest term");
    let first = entry(2, 2, EntryPayload::Noop);
    teller
        .replicate(&[1, 2, 3], &first)
        .expect("an honest append");
    teller.commit(1, 2).expect("an honest commit");
    teller
}

fn two_leaders() -> Verdict {
    let mut teller = with_leader();
    teller.store(life(3), &choice(2, Some(3)))?;
    teller.lead(3)
}

fn two_grants() -> Verdict {
    let mut teller = with_leader();
    // The disk is as forgetful as the node: only the history remembers.
    teller.history.node(life(2)).disk.durable.hard_state.vote = Some(NodeId(3));
    teller.history.sent(life(2), NodeId(3), &grant(2))
}

fn volatile_vote() -> Verdict {
    let mut teller = Teller::cluster();
    teller.store(life(2), &choice(2, None))?;
    teller.write(life(2), &choice(2, Some(1)))?;
    teller.history.sent(life(2), NodeId(1), &grant(2))
}

fn volatile_candidacy() -> Verdict {
    let mut teller = Teller::cluster();
    teller.store(life(1), &choice(2, None))?;
    teller.write(life(1), &choice(2, Some(1)))?;
    let request = Message::VoteRequest {
        term: Term(2),
        pre: false,
        last_index: LogIndex(1),
        last_term: Term(1),
        transfer: false,
    };
    teller.history.sent(life(1), NodeId(2), &request)
}

fn falling_term() -> Verdict {
    let mut teller = Teller::cluster();
    teller.store(life(2), &choice(3, None))?;
    teller.store(life(2), &choice(2, None))
}

fn changed_vote() -> Verdict {
    let mut teller = Teller::cluster();
    teller.store(life(2), &choice(3, Some(1)))?;
    teller.store(life(2), &choice(3, Some(3)))
}

fn volatile_term() -> Verdict {
    let mut teller = Teller::cluster();
    teller.write(life(2), &choice(5, None))?;
    let answer = Message::VoteResponse {
        term: Term(5),
        pre: false,
        granted: false,
    };
    teller.history.sent(life(2), NodeId(1), &answer)
}

fn gap() -> Verdict {
    let mut teller = Teller::cluster();
    let beyond = entry(3, 1, EntryPayload::Noop);
    teller.store(life(2), &appended(&[beyond]))
}

fn commit_beyond_the_log() -> Verdict {
    let mut teller = Teller::cluster();
    let mut write = choice(1, None);
    write.hard_state.as_mut().expect("a choice").commit_index = LogIndex(9);
    teller.store(life(2), &write)
}

fn leader_cuts() -> Verdict {
    let mut teller = with_leader();
    teller.replicate(&[1], &entry(2, 2, EntryPayload::Noop))?;
    let cut = LogWrite {
        truncate_from: Some(LogIndex(2)),
        ..appended(&[entry(2, 2, command("another"))])
    };
    teller.store(life(1), &cut)
}

fn two_entries_of_one_name() -> Verdict {
    let mut teller = with_leader();
    teller.replicate(&[1], &entry(2, 2, command("one")))?;
    teller.replicate(&[2], &entry(2, 2, command("another")))
}

fn two_prefixes() -> Verdict {
    let mut teller = with_leader();
    let noop = |index, term| entry(index, term, EntryPayload::Noop);
    teller.store(life(2), &choice(3, None))?;
    teller.store(life(3), &choice(3, None))?;
    teller.store(life(2), &appended(&[noop(2, 2), noop(3, 3)]))?;
    teller.store(life(3), &appended(&[noop(2, 1), noop(3, 3)]))
}

fn committed_twice() -> Verdict {
    let mut teller = with_committed_entry();
    teller.store(life(3), &choice(3, None))?;
    let other = LogWrite {
        truncate_from: Some(LogIndex(2)),
        ..appended(&[entry(2, 3, command("another"))])
    };
    teller.store(life(3), &other)?;
    teller.commit(3, 2)
}

fn snapshot_of_another_history() -> Verdict {
    let mut teller = with_committed_entry();
    let meta = SnapshotMeta {
        index: LogIndex(2),
        term: Term(1),
        membership: Arc::new(voters(1..=3)),
        membership_index: LogIndex(1),
    };
    let reset = LogWrite {
        reset_to: Some(meta),
        ..LogWrite::default()
    };
    teller.store(life(3), &reset)
}

/// Node 3 slept through the committed entry and leads all the same.
fn incomplete_leader() -> Verdict {
    let mut teller = with_leader();
    teller.replicate(&[1, 2], &entry(2, 2, EntryPayload::Noop))?;
    teller.commit(1, 2)?;
    teller.elect(3, 3, 2)
}

/// Leader 1 counts its entry of term 2 in term 4, as Fig. 8 forbids, while
/// node 3 leads term 5 with an entry of term 3 in its place.
fn late_commit() -> Verdict {
    let mut teller = with_leader();
    let noop = |term| entry(2, term, EntryPayload::Noop);
    teller.replicate(&[1], &noop(2))?;
    teller.elect(3, 3, 2)?;
    teller.replicate(&[3], &noop(3))?;
    teller.elect(1, 4, 2)?;
    teller.replicate(&[2], &noop(2))?;
    teller.elect(3, 5, 2)?;
    teller.commit(1, 2)
}

fn commit_by_memory() -> Verdict {
    let mut teller = with_leader();
    let first = entry(2, 2, EntryPayload::Noop);
    teller.replicate(&[1], &first)?;
    teller.write(life(2), &appended(&[first]))?;
    teller.commit(1, 2)
}

/// The membership names the directory that was wiped; what took its place has
/// the entry, and no vote.
fn commit_by_another_life() -> Verdict {
    let mut teller = with_leader();
    let first = entry(2, 2, EntryPayload::Noop);
    teller.replicate(&[1], &first)?;
    let newcomer = Life {
        incarnation: Incarnation(99),
        ..life(2)
    };
    let mut found = Teller::first_entry();
    found.hard_state.term = Term(2);
    found.entries.push(first);
    teller.start(newcomer, &found)?;
    teller.commit(1, 2)
}

fn leap_of_membership() -> Verdict {
    let mut teller = with_leader();
    let others = EntryPayload::Membership(Arc::new(voters([1, 4, 5])));
    teller.store(life(1), &appended(&[entry(2, 2, others)]))
}

/// The single-server bug of 2015: two changes of one membership, neither of
/// which knows the other. Voters 1, 4, 5 and voters 2, 3 can each elect.
fn two_electable_halves() -> Verdict {
    let mut teller = with_leader();
    let membership = |ids: &[u64]| EntryPayload::Membership(Arc::new(voters(ids.iter().copied())));
    let four = entry(2, 2, membership(&[1, 2, 3, 4]));
    let five = entry(3, 2, membership(&[1, 2, 3, 4, 5]));
    let three = entry(3, 3, membership(&[2, 3, 4]));
    teller.store(life(3), &choice(2, None))?;
    teller.replicate(&[1, 2, 3], &four)?;
    let mut found = Teller::first_entry();
    found.hard_state.term = Term(2);
    found.entries.push(four);
    teller.start(life(4), &found)?;
    found.entries.push(five.clone());
    teller.start(life(5), &found)?;
    teller.replicate(&[1], &five)?;
    teller.elect(3, 3, 2)?;
    teller.replicate(&[3], &three)?;
    teller.store(life(3), &choice(4, Some(3)))?;
    teller.step(life(3), &[], &[], |status| status.role = Role::Candidate)
}

fn executed_twice() -> Verdict {
    let mut teller = with_committed_entry();
    teller
        .history
        .executed(life(1), LogIndex(1), LogIndex(2), 7)?;
    teller
        .history
        .executed(life(1), LogIndex(2), LogIndex(2), 7)
}

fn executed_too_early() -> Verdict {
    let mut teller = with_leader();
    teller.replicate(&[1], &entry(2, 2, EntryPayload::Noop))?;
    teller
        .history
        .executed(life(1), LogIndex(1), LogIndex(2), 7)
}

fn two_states() -> Verdict {
    let mut teller = with_committed_entry();
    teller
        .history
        .executed(life(1), LogIndex(1), LogIndex(2), 7)?;
    teller
        .history
        .executed(life(2), LogIndex(1), LogIndex(2), 8)
}

fn commit_beyond_the_end() -> Verdict {
    let mut teller = with_leader();
    teller.commit(1, 5)
}

fn purge_without_snapshot() -> Verdict {
    let mut teller = with_committed_entry();
    let purge = Effect::Purge {
        through: LogIndex(1),
    };
    teller.step(life(1), &[], &[purge], |_| ())
}

fn match_beyond_next() -> Verdict {
    counted(&mut with_committed_entry(), 2, 2)
}

fn match_in_memory() -> Verdict {
    let mut teller = with_leader();
    let first = entry(2, 2, EntryPayload::Noop);
    teller.replicate(&[1], &first)?;
    teller.write(life(2), &appended(&[first]))?;
    counted(&mut teller, 2, 3)
}

/// Leader 1 shows what it thinks of node 2.
fn counted(teller: &mut Teller, match_index: u64, next_index: u64) -> Verdict {
    let peer = PeerStatus {
        match_index: LogIndex(match_index),
        next_index: LogIndex(next_index),
        ..PeerStatus::default()
    };
    teller.step(life(1), &[], &[], |status| {
        status.peers.insert(NodeId(2), peer);
    })
}

fn volatile_ack() -> Verdict {
    let mut teller = with_leader();
    teller.write(life(2), &appended(&[entry(2, 2, EntryPayload::Noop)]))?;
    teller.history.sent(life(2), NodeId(1), &ack(2, 2))
}

/// The tail is a former leader's: that the new one has committed so far proves
/// nothing of it.
fn unverified_commit() -> Verdict {
    let mut teller = with_committed_entry();
    teller.store(life(3), &choice(3, None))?;
    teller.commit(3, 2)
}

fn stale_read() -> Verdict {
    let mut teller = with_committed_entry();
    let id = RequestId(5);
    let answer = Effect::ReadReady {
        id,
        index: LogIndex(1),
    };
    teller.step(life(3), &[Input::ReadIndex { id }], &[answer], |_| ())
}

fn unasked_read() -> Verdict {
    let mut teller = with_committed_entry();
    let answer = Effect::ReadReady {
        id: RequestId(6),
        index: LogIndex(2),
    };
    teller.step(life(3), &[], &[answer], |_| ())
}

/// A client's command, proposed at leader 1 and committed at position 2.
fn with_command() -> Teller {
    let mut teller = with_leader();
    let propose = Input::Propose {
        id: RequestId(1),
        payload: command("once"),
    };
    let tell = |teller: &mut Teller| -> Verdict {
        teller.step(life(1), &[propose], &[], |_| ())?;
        teller.replicate(&[1, 2], &entry(2, 2, command("once")))
    };
    tell(&mut teller).expect("an honest proposal");
    teller
}

fn doubled_command() -> Verdict {
    let mut teller = with_command();
    teller.replicate(&[1, 2], &entry(3, 2, command("once")))?;
    teller.commit(1, 3)
}

fn refused_command() -> Verdict {
    let mut teller = with_command();
    let refusal = Effect::Rejected {
        id: RequestId(1),
        reason: Rejection::NotLeader { leader: None },
    };
    teller.step(life(1), &[], &[refusal], |_| ())?;
    teller.commit(1, 2)
}

fn lost_entry() -> Verdict {
    let mut teller = with_committed_entry();
    teller.history.crashed(life(2))?;
    let mut found = Teller::first_entry();
    found.hard_state = choice(2, Some(1)).hard_state.expect("a choice");
    teller.start(life(2), &found)
}

fn lost_vote() -> Verdict {
    let mut teller = with_leader();
    teller.history.crashed(life(2))?;
    let mut found = Teller::first_entry();
    found.hard_state = choice(2, None).hard_state.expect("a choice");
    teller.start(life(2), &found)
}

fn forgotten_commit() -> Verdict {
    let mut teller = with_leader();
    teller.history.crashed(life(2))?;
    let mut found = Teller::first_entry();
    found.hard_state = choice(2, Some(1)).hard_state.expect("a choice");
    found.hard_state.commit_index = LogIndex(0);
    teller.start(life(2), &found)
}

fn invented_entry() -> Verdict {
    let mut teller = with_leader();
    teller.history.crashed(life(2))?;
    let mut found = Teller::first_entry();
    found.hard_state = choice(2, Some(1)).hard_state.expect("a choice");
    found.entries.push(entry(2, 2, command("from nowhere")));
    teller.start(life(2), &found)
}

fn denied_entry() -> Verdict {
    let mut teller = with_committed_entry();
    let probe = Input::Message {
        from: NodeId(1),
        incarnation: Incarnation(1),
        message: Message::AppendEntries {
            term: Term(2),
            prev_index: LogIndex(2),
            prev_term: Term(2),
            entries: Vec::new(),
            commit_index: LogIndex(2),
            read_context: 0,
        },
    };
    let denial = Effect::Send {
        to: NodeId(1),
        message: Message::AppendResponse {
            term: Term(2),
            result: AppendResult::Rejected {
                prev_index: LogIndex(2),
                hint_index: LogIndex(1),
                hint_term: Term(1),
            },
            read_context: 0,
        },
        after: None,
    };
    teller.step(life(3), &[probe], &[denial], |_| ())
}
