//! Everything that will be done to a cluster, drawn before it starts: so a
//! failing run can be shrunk by leaving acts out.

use std::fmt;

use super::agenda::Moment;
use super::dice::Dice;
use super::options::Options;

/// A whole run: the same plan gives the same run, byte for byte.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where all other choices come from.
    pub seed: u64,
    /// The cluster and its weather.
    pub options: Options,
    /// What is done to it, by time.
    pub acts: Vec<Planned>,
    /// How it ends.
    pub finale: Finale,
}

/// An act and when it is done.
#[derive(Clone, Debug)]
pub struct Planned {
    /// When.
    pub at: Moment,
    /// What.
    pub act: Act,
    /// Whom it hits, and other details, are drawn from this.
    pub dice: Dice,
}

/// Something done to the cluster from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// A client asks for something.
    Request,
    /// A process ends between two effects, and starts again.
    Crash,
    /// The power fails in the middle of a disk call.
    PowerCut,
    /// A process stands still for a while.
    Pause,
    /// The network parts into two for a while.
    Partition,
    /// It parts into two that one node still connects.
    Bridge,
    /// One link fails in one direction.
    OneWay,
    /// A node, the leader often, sends and does not receive.
    Deaf,
    /// A node's links get slow.
    Slow,
    /// A node's disk takes seconds.
    Stall,
    /// A disk call fails.
    DiskError,
    /// A disk has no room for a while.
    DiskFull,
    /// A durable block decays, or is overwritten by another.
    Rot,
    /// A data directory is lost.
    Wipe,
    /// A clock changes its rate.
    ClockRate,
    /// A clock jumps ahead.
    ClockJump,
    /// A snapshot stream is cut.
    CutStream,
    /// Somebody wishes another membership.
    Membership,
    /// Somebody wishes another leader.
    Transfer,
}

/// What is demanded once the faults end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finale {
    /// Everything is healed (L0).
    HealAll,
    /// First only a quorum is healed, and must serve (L1).
    HealCore,
    /// First only one node reaches all others (L2).
    Bridge,
    /// First the leader's disk stalls, and writes must move (L3).
    StalledLeader,
    /// First a copy of a member's directory starts beside it.
    Copy,
    /// First a member's directory is replaced by an older state of itself.
    Rollback,
}

impl Plan {
    /// Draws the run of this seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let options = Options::draw(seed);
        let mut dice = Dice::new(seed, 2);
        let mut acts = Vec::new();
        let end = options.rough_seconds * 1_000_000;
        for (purpose, (act, per_minute)) in rates(&options).into_iter().enumerate() {
            let mut dice = Dice::new(seed, 100 + purpose as u64);
            let mut at = 0;
            let Some(mean_gap) = 60_000_000_u64.checked_div(per_minute) else {
                continue;
            };
            loop {
                at += dice.within(1, 2 * mean_gap);
                if at >= end {
                    break;
                }
                acts.push(Planned {
                    at: Moment(at),
                    act,
                    dice: Dice::new(dice.roll(), 0),
                });
            }
        }
        acts.sort_by_key(|planned| (planned.at, planned.act));
        let finale = dice.pick(&[
            Finale::HealAll,
            Finale::HealAll,
            Finale::HealCore,
            Finale::Bridge,
            Finale::StalledLeader,
            Finale::Copy,
            Finale::Rollback,
        ]);
        Self {
            seed,
            options,
            acts,
            finale,
        }
    }

    /// When the faults end.
    #[must_use]
    pub fn rough_end(&self) -> Moment {
        Moment(self.options.rough_seconds * 1_000_000)
    }
}

fn rates(options: &Options) -> [(Act, u64); 19] {
    let faults = &options.faults;
    [
        (Act::Request, options.load.rate * 60),
        (Act::Crash, faults.crash),
        (Act::PowerCut, faults.power),
        (Act::Pause, faults.pause),
        (Act::Partition, faults.partition),
        (Act::Bridge, faults.partition / 2),
        (Act::OneWay, faults.one_way),
        (Act::Deaf, faults.deaf),
        (Act::Slow, faults.slow),
        (Act::Stall, faults.stall),
        (Act::DiskError, faults.eio),
        (Act::DiskFull, faults.full),
        (Act::Rot, faults.rot),
        (Act::Wipe, faults.wipe),
        (Act::ClockRate, faults.clock),
        (Act::ClockJump, faults.clock_jump),
        (Act::CutStream, faults.cut_stream),
        (Act::Membership, faults.membership),
        (Act::Transfer, faults.transfer),
    ]
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.at, self.act)
    }
}
