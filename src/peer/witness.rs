//! What this node has seen of its peers' data directories: the newest run of
//! each, and the furthest that each has acknowledged. It tells a process from
//! its copy, and a directory from a restored older state of itself.
//!
//! | the caller's run is | and | verdict |
//! |---|---|---|
//! | unknown, or of another incarnation | | met |
//! | the one known | | met |
//! | of a lower number | | refused: a copy, or left behind by one |
//! | of the same number, with another id | | refused: two copies started |
//! | of a higher number | the known one still answers | refused: a copy |
//! | of a higher number | it does not | met: a restart |
//!
//! Whoever passes must also still hold what it acknowledged to this node: its
//! durable end may not be below the furthest of its answers. Answers leave a
//! node only when what they say is durable, so an honest directory never fails
//! this, however it crashed.
//!
//! Invariant: for one incarnation, the number of the known run and the
//! acknowledged end never go back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::hello::{DurableEnd, Goodbye, Hello, Printable, Run};
use crate::raft::message::{AppendResult, Message};
use crate::types::{Incarnation, LogIndex, NodeId, Term};

/// Peers remembered, at most; the membership is smaller.
const SEEN_MAX: usize = 256;

/// What is known of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// The newest run of that directory.
    pub run: Run,
    /// The furthest it acknowledged to this node.
    pub acknowledged: DurableEnd,
}

/// Remembers peers. Shared by all connections, and outlives the transport.
#[derive(Debug, Default)]
pub struct Witness {
    seen: Mutex<BTreeMap<NodeId, Seen>>,
    runs_changed: AtomicU64,
    acknowledged_changed: AtomicU64,
}

/// What was remembered when a conversation began. Who greets composes its
/// greeting later, so its durable end covers every answer received before.
pub(super) struct Picture(BTreeMap<NodeId, Seen>);

/// What to make of a greeting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// Speak with it.
    Met,
    /// It claims to follow a run that may still answer: find out.
    Contested {
        /// The run known so far.
        older: Run,
    },
}

impl Witness {
    /// Begins with what was remembered before.
    #[must_use]
    pub fn new(seen: BTreeMap<NodeId, Seen>) -> Self {
        Self {
            seen: Mutex::new(seen),
            ..Self::default()
        }
    }

    /// Everything remembered, to be kept.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<NodeId, Seen> {
        self.lock().clone()
    }

    /// Counts changes of runs and of acknowledged ends: while both stay, what
    /// was kept is current.
    #[must_use]
    pub fn changes(&self) -> (u64, u64) {
        let runs = self.runs_changed.load(Ordering::Acquire);
        (runs, self.acknowledged_changed.load(Ordering::Acquire))
    }

    /// Judges a greeting and settles at once whether an older run of the same
    /// directory is gone: where no connection takes time to find that out.
    ///
    /// # Errors
    /// The goodbye to answer with.
    #[cfg(feature = "sim")]
    pub(crate) fn greet(
        &self,
        hello: &Hello,
        answers: impl FnOnce(Run) -> bool,
    ) -> Result<(), Goodbye> {
        match self.meet(&self.picture(), hello)? {
            Meeting::Met => Ok(()),
            Meeting::Contested { older } if answers(older) => Err(copied(hello, older, true)),
            Meeting::Contested { older } => self.succeed(hello, older),
        }
    }

    /// Forgets the others: they are no members any more, and not spoken with.
    pub(crate) fn retain(&self, keep: impl Fn(NodeId) -> bool) {
        let mut seen = self.lock();
        let before = seen.len();
        seen.retain(|id, _| keep(*id));
        if seen.len() != before {
            self.runs_changed.fetch_add(1, Ordering::Release);
        }
    }

    /// What is remembered now.
    pub(super) fn picture(&self) -> Picture {
        Picture(self.lock().clone())
    }

    /// Judges a greeting against what is known, and remembers a new run.
    /// `before` was taken before the other composed it.
    ///
    /// # Errors
    /// The goodbye to answer with.
    pub(super) fn meet(&self, before: &Picture, hello: &Hello) -> Result<Meeting, Goodbye> {
        before.check_durable(hello)?;
        let mut seen = self.lock();
        let known = seen.get(&hello.node).copied();
        let known = known.filter(|known| known.incarnation == hello.incarnation);
        match known.map(|known| known.run) {
            Some(run) if run == hello.run => Ok(Meeting::Met),
            Some(run) if hello.run.number <= run.number => Err(copied(hello, run, false)),
            Some(older) => Ok(Meeting::Contested { older }),
            None => {
                self.remember(&mut seen, hello);
                Ok(Meeting::Met)
            }
        }
    }

    /// The contested greeting is settled: the older run answers no more.
    ///
    /// # Errors
    /// Another run came first meanwhile.
    pub(super) fn succeed(&self, hello: &Hello, older: Run) -> Result<(), Goodbye> {
        let mut seen = self.lock();
        match seen.get(&hello.node).map(|known| known.run) {
            Some(run) if run != older && run != hello.run => Err(copied(hello, run, false)),
            _ => {
                self.remember(&mut seen, hello);
                Ok(())
            }
        }
    }

    /// Notes what a message proves durable at its sender.
    pub(crate) fn note(&self, hello: &Hello, message: &Message) {
        let Some(end) = proved_durable(message) else {
            return;
        };
        if let Some(known) = self.lock().get_mut(&hello.node)
            && known.incarnation == hello.incarnation
            && known.acknowledged < end
        {
            known.acknowledged = end;
            self.acknowledged_changed.fetch_add(1, Ordering::Release);
        }
    }

    /// Keeps the acknowledged end when only the run changes.
    fn remember(&self, seen: &mut BTreeMap<NodeId, Seen>, hello: &Hello) {
        if SEEN_MAX <= seen.len() && !seen.contains_key(&hello.node) {
            return;
        }
        let known = seen.get(&hello.node);
        let known = known.filter(|known| known.incarnation == hello.incarnation);
        let acknowledged = known.map_or_else(DurableEnd::default, |known| known.acknowledged);
        let now = Seen {
            incarnation: hello.incarnation,
            run: hello.run,
            acknowledged,
        };
        if seen.insert(hello.node, now) != Some(now) {
            self.runs_changed.fetch_add(1, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Seen>> {
        // Every change is one insertion: a panic elsewhere left it whole.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Picture {
    fn check_durable(&self, hello: &Hello) -> Result<(), Goodbye> {
        match self.0.get(&hello.node) {
            Some(known)
                if known.incarnation == hello.incarnation && hello.durable < known.acknowledged =>
            {
                Err(Goodbye::RolledBack {
                    name: Printable::new(&hello.name).to_string(),
                    acknowledged: known.acknowledged,
                    found: hello.durable,
                })
            }
            _ => Ok(()),
        }
    }
}

/// The refusal of a run beside another of the same directory.
pub(super) fn copied(hello: &Hello, other: Run, answers: bool) -> Goodbye {
    Goodbye::Copied {
        name: Printable::new(&hello.name).to_string(),
        incarnation: hello.incarnation,
        refused: hello.run,
        other,
        answers,
    }
}

/// The durable end that a message proves; `None` for messages that leave
/// before anything is durable. Within a term no acknowledged entry is ever
/// truncated, so the order by term, then index, is the order of time.
fn proved_durable(message: &Message) -> Option<DurableEnd> {
    let (term, index) = match message {
        Message::AppendResponse {
            term,
            result: AppendResult::Matched { match_index },
            ..
        }
        | Message::InstallSnapshotResponse {
            term, match_index, ..
        } => (*term, *match_index),
        Message::AppendResponse { term, .. }
        | Message::HeartbeatResponse { term, .. }
        | Message::VoteResponse {
            term, pre: false, ..
        }
        | Message::VoteRequest {
            term, pre: false, ..
        } => (*term, LogIndex(0)),
        _ => return None,
    };
    (Term(0) < term).then_some(DurableEnd { term, index })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterId;

    fn run(number: u64, id: u64) -> Run {
        Run { number, id }
    }

    fn end(term: u64, index: u64) -> DurableEnd {
        DurableEnd {
            term: Term(term),
            index: LogIndex(index),
        }
    }

    fn hello(run: Run, durable: DurableEnd) -> Hello {
        Hello {
            cluster: ClusterId([1; 16]),
            node: NodeId(2),
            name: "n2".to_owned(),
            incarnation: Incarnation(20),
            run,
            durable,
            api_address: String::new(),
            cluster_address: "127.0.0.1:1".to_owned(),
            version: String::new(),
            membership_index: LogIndex(0),
        }
    }

    fn matched(term: u64, index: u64) -> Message {
        Message::AppendResponse {
            term: Term(term),
            result: AppendResult::Matched {
                match_index: LogIndex(index),
            },
            read_context: 0,
        }
    }

    fn meet(witness: &Witness, hello: &Hello) -> Result<Meeting, Goodbye> {
        witness.meet(&witness.picture(), hello)
    }

    #[test]
    fn runs_are_judged_as_the_table_says() {
        let witness = Witness::default();
        let known = hello(run(5, 50), end(3, 9));
        assert_eq!(meet(&witness, &known), Ok(Meeting::Met));
        assert_eq!(meet(&witness, &known), Ok(Meeting::Met));

        let with_run = |run| hello(run, end(3, 9));
        for other in [run(4, 50), run(4, 40), run(5, 51)] {
            let refused = meet(&witness, &with_run(other));
            let expected = copied(&with_run(other), run(5, 50), false);
            assert_eq!(refused, Err(expected), "{other:?}");
        }
        let newer = with_run(run(6, 60));
        let older = run(5, 50);
        assert_eq!(meet(&witness, &newer), Ok(Meeting::Contested { older }));
        assert_eq!(meet(&witness, &known), Ok(Meeting::Met), "not settled yet");
        witness.succeed(&newer, older).expect("settled");
        assert!(meet(&witness, &known).is_err());
        assert_eq!(meet(&witness, &newer), Ok(Meeting::Met));

        let mut reborn = with_run(run(1, 70));
        reborn.incarnation = Incarnation(21);
        assert_eq!(meet(&witness, &reborn), Ok(Meeting::Met));
    }

    #[test]
    fn two_that_follow_one_run_are_not_both_met() {
        let witness = Witness::default();
        let older = run(5, 50);
        meet(&witness, &hello(older, end(1, 1))).expect("met");
        let (one, two) = (hello(run(6, 60), end(1, 1)), hello(run(6, 61), end(1, 1)));
        assert_eq!(meet(&witness, &one), Ok(Meeting::Contested { older }));
        assert_eq!(meet(&witness, &two), Ok(Meeting::Contested { older }));
        witness.succeed(&one, older).expect("first");
        witness
            .succeed(&one, older)
            .expect("again, by its other connection");
        assert!(witness.succeed(&two, older).is_err());
    }

    #[test]
    fn directory_that_lost_what_it_acknowledged_is_refused() {
        let witness = Witness::default();
        let before = witness.picture();
        let now = hello(run(5, 50), end(3, 90));
        meet(&witness, &now).expect("met");
        witness.note(&now, &matched(3, 90));
        for (term, index, ok) in [(3, 90, true), (4, 0, true), (3, 89, false), (2, 99, false)] {
            let returned = hello(run(6, 60), end(term, index));
            let verdict = meet(&witness, &returned);
            assert_eq!(verdict.is_ok(), ok, "{term} {index}: {verdict:?}");
        }
        // Answers that arrive while it composes its greeting prove nothing.
        let early = hello(run(5, 50), end(3, 10));
        assert_eq!(witness.meet(&before, &early), Ok(Meeting::Met));
        let text = meet(&witness, &early).expect_err("refused").to_string();
        assert!(
            text.contains("term 3, entry 90") && text.contains("term 3, entry 10"),
            "{text}"
        );
    }

    #[test]
    fn votes_count_and_questions_do_not() {
        let witness = Witness::default();
        let peer = hello(run(1, 1), end(2, 5));
        meet(&witness, &peer).expect("met");
        let acknowledged = || witness.seen()[&NodeId(2)].acknowledged;
        let vote = |pre| Message::VoteResponse {
            term: Term(9),
            pre,
            granted: true,
        };
        witness.note(&peer, &vote(true));
        assert_eq!(acknowledged(), DurableEnd::default());
        witness.note(&peer, &vote(false));
        assert_eq!(acknowledged(), end(9, 0));
        witness.note(&peer, &matched(8, 70));
        assert_eq!(acknowledged(), end(9, 0), "never goes back");
        let mut former = peer.clone();
        former.incarnation = Incarnation(19);
        witness.note(&former, &matched(9, 70));
        assert_eq!(acknowledged(), end(9, 0), "another life's answer");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let witness = Witness::default();
        for node in 0..2 * SEEN_MAX as u64 {
            let mut stranger = hello(run(1, 1), end(1, 1));
            stranger.node = NodeId(node);
            meet(&witness, &stranger).expect("met");
        }
        assert_eq!(witness.seen().len(), SEEN_MAX);
    }
}
