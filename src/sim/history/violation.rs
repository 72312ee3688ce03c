//! What an observer found wrong, as a value: a simulation prints it, compares
//! it with that of a shorter run, and stops.

use std::fmt;

use crate::sim::history::Life;

/// What must hold, by the names used in DESIGN.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Property {
    /// A term never has two leaders, at whatever distance in time.
    ElectionSafety,
    /// One life grants its vote to one candidate a term, across crashes.
    VoteOnce,
    /// A vote is durable when its grant leaves.
    VoteDurable,
    /// The durable term never falls.
    TermMonotone,
    /// The durable vote of a term never changes.
    VoteMonotone,
    /// A term is durable when a message names it (a pre-vote names none).
    TermDurable,
    /// A write leaves no gap, no commit index beyond the log and no entry of a
    /// term that is not written.
    WriteOrder,
    /// A leader overwrites and deletes nothing of its log.
    LeaderAppendOnly,
    /// Index and term name one entry, and one prefix.
    LogMatching,
    /// What is committed at an index is so everywhere and for ever.
    CommittedImmutable,
    /// A leader holds whatever leaders of earlier terms committed.
    LeaderCompleteness,
    /// When an entry is committed, a majority of each half of the membership
    /// has it on disk, or had it there when that disk was lost.
    CommittedDurable,
    /// Quorums of adjacent memberships, and of memberships under which two
    /// nodes could be elected now, intersect.
    QuorumIntersection,
    /// Stores execute position after position, and agree.
    StateMachine,
    /// Positions of one node are ordered.
    Order,
    /// A leader counts only what the peer has on disk in this life.
    MatchDurable,
    /// What is acknowledged, or advertised in a campaign, is durable.
    AckDurable,
    /// A follower commits only what this term's leader vouched for.
    VerifiedCommit,
    /// A read sees everything that was committed when it was asked.
    ReadValid,
    /// A command has as many effects as it was proposed times, at most.
    Session,
    /// A restart finds the writes issued before it up to one of them, with all
    /// that were reported durable.
    Recovery,
    /// Only who lacks an entry says so.
    NackHonesty,
    /// The executable specification allows the step.
    Refinement,
}

/// A property that does not hold, with both sides of the contradiction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// Which property. Two runs fail alike when this is equal.
    pub property: Property,
    /// On which node it showed.
    pub life: Life,
    /// What was known.
    pub known: String,
    /// What contradicts it.
    pub found: String,
}

/// What an observer says of an event.
pub type Verdict = Result<(), Box<Violation>>;

impl Violation {
    /// Complains unless something holds; the sides (what was known, what was
    /// found) are written down only then.
    pub(in crate::sim) fn unless(
        holds: bool,
        property: Property,
        life: Life,
        sides: impl FnOnce() -> (String, String),
    ) -> Verdict {
        if holds {
            return Ok(());
        }
        let (known, found) = sides();
        Err(Box::new(Self {
            property,
            life,
            known,
            found,
        }))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            property,
            life,
            known,
            found,
        } = self;
        write!(f, "{property:?} on {life:?}: {known}, but {found}")
    }
}
