//! What a run is like, drawn from its seed ("swarm testing": each fault is off
//! in some runs, so that others get the room to go far, and rough in some).

use super::clock::TRUE_RATE;
use super::dice::Dice;

/// The shape of the cluster, its settings and its weather.
#[derive(Clone, Debug)]
pub struct Options {
    /// Voters at the start.
    pub voters: usize,
    /// Learners at the start.
    pub learners: usize,
    /// Servers that are no members at first.
    pub joiners: usize,
    /// How long faults go on, in seconds.
    pub rough_seconds: u64,
    /// Settings of every node.
    pub node: NodeSettings,
    /// What every link is like.
    pub link: LinkWeather,
    /// What every disk is like.
    pub disk: DiskWeather,
    /// What every clock is like.
    pub clock: ClockWeather,
    /// Clients and their keys.
    pub load: Load,
    /// Faults a minute, by kind.
    pub faults: FaultRates,
}

/// Settings of every node, drawn small so that limits are met.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// Appends in flight to a peer.
    pub inflight_messages_max: usize,
    /// Bytes in flight to a peer.
    pub inflight_bytes_max: usize,
    /// Bytes in an append.
    pub message_bytes_max: usize,
    /// Uncommitted bytes of a leader.
    pub uncommitted_bytes_max: usize,
    /// Bytes of entries kept in memory.
    pub cache_bytes_max: usize,
    /// Entries kept before a snapshot.
    pub trailing_entries: u64,
    /// Entries between snapshots.
    pub snapshot_entries: u64,
    /// Entries between digests of the state.
    pub checkpoint_interval: u64,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// The log is appended to through a map.
    pub maps_log: bool,
    /// Bytes of a snapshot chunk on the network.
    pub chunk_bytes: usize,
    /// Leaders read under a lease that holds up to this drift between two
    /// clocks, in thousandths; 0: a quorum confirms each read.
    pub lease_drift: u32,
    /// Milliseconds after which a write that is not durable means a stall.
    pub stall_milliseconds: u64,
    /// Milliseconds a learner must be well before it is promoted.
    pub stabilization_milliseconds: i64,
}

/// What links do. Delays in microseconds, chances in a thousand.
#[derive(Clone, Debug)]
pub struct LinkWeather {
    /// Shortest delay.
    pub delay_min: u64,
    /// Longest ordinary delay.
    pub delay_max: u64,
    /// How often a message is much later.
    pub straggle: u64,
    /// Longest such delay.
    pub straggle_max: u64,
    /// How often a message is lost.
    pub loss: u64,
    /// How often it comes twice.
    pub duplication: u64,
    /// Whether messages may overtake.
    pub reorders: bool,
    /// How often a sender learns that a message did not arrive.
    pub notices: u64,
}

/// What disks do. Times in microseconds.
#[derive(Clone, Debug)]
pub struct DiskWeather {
    /// Shortest durable write.
    pub write_min: u64,
    /// Longest ordinary durable write.
    pub write_max: u64,
    /// How often one takes up to a hundred times as long, in a thousand.
    pub hiccup: u64,
    /// Time to write a snapshot, at most.
    pub snapshot_max: u64,
}

/// What clocks do.
#[derive(Clone, Debug)]
pub struct ClockWeather {
    /// Slowest rate, in local microseconds a true second.
    pub rate_min: u64,
    /// Fastest.
    pub rate_max: u64,
    /// A tick is late by this many microseconds, at most.
    pub lateness_max: u64,
    /// Time between something happening and the thread seeing it, at most.
    pub wake_max: u64,
}

/// What clients do.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many.
    pub clients: usize,
    /// Operations a second, all together.
    pub rate: u64,
    /// Keys.
    pub keys: u64,
    /// Milliseconds before a client gives up.
    pub patience: u64,
    /// How often a request goes to a follower, in a hundred.
    pub astray: u64,
}

/// How often what goes wrong, in events a minute; 0 switches it off.
#[derive(Clone, Debug)]
pub struct FaultRates {
    /// Processes end between two effects.
    pub crash: u64,
    /// In the middle of a disk call.
    pub power: u64,
    /// Processes stand still.
    pub pause: u64,
    /// Networks part.
    pub partition: u64,
    /// One link fails, in one direction.
    pub one_way: u64,
    /// A node sends and does not receive.
    pub deaf: u64,
    /// A link gets slow.
    pub slow: u64,
    /// Disks stall.
    pub stall: u64,
    /// Disk calls fail.
    pub eio: u64,
    /// Disks fill up.
    pub full: u64,
    /// Bits rot.
    pub rot: u64,
    /// Data directories are lost.
    pub wipe: u64,
    /// Clocks change their rate.
    pub clock: u64,
    /// Clocks jump ahead.
    pub clock_jump: u64,
    /// Snapshot streams are cut.
    pub cut_stream: u64,
    /// Memberships change.
    pub membership: u64,
    /// Leadership is handed over.
    pub transfer: u64,
}

impl Options {
    /// Draws everything.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 1);
        let dice = &mut dice;
        let voters = dice.pick(&[1, 2, 3, 3, 3, 3, 5, 5, 7]);
        let mut faults = FaultRates::draw(dice);
        let node = NodeSettings::draw(dice);
        let clock = ClockWeather::draw(dice, node.lease_drift);
        if node.lease_drift > 0 {
            // A clock that jumps runs faster than any bound.
            faults.clock_jump = 0;
        }
        Self {
            voters,
            learners: dice.pick(&[0, 0, 1, 2]),
            joiners: dice.pick(&[0, 1, 2]),
            rough_seconds: dice.pick(&[10, 20, 20, 40]),
            node,
            link: LinkWeather::draw(dice),
            disk: DiskWeather::draw(dice),
            clock,
            load: Load::draw(dice),
            faults,
        }
    }

    /// Servers in all.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.voters + self.learners + self.joiners
    }
}

impl NodeSettings {
    fn draw(dice: &mut Dice) -> Self {
        Self {
            inflight_messages_max: dice.pick(&[1, 2, 8, 64]),
            inflight_bytes_max: dice.pick(&[200, 2000, 1 << 20]),
            message_bytes_max: dice.pick(&[1, 200, 1000, 1 << 20]),
            uncommitted_bytes_max: dice.pick(&[1000, 10_000, 1 << 20]),
            cache_bytes_max: dice.pick(&[0, 500, 5000, 1 << 20]),
            trailing_entries: dice.pick(&[0, 2, 10, 50]),
            snapshot_entries: dice.pick(&[3, 10, 30, 100]),
            checkpoint_interval: dice.pick(&[1, 16, 256]),
            segment_bytes: dice.pick(&[16 << 10, 32 << 10, 128 << 10]),
            maps_log: dice.percent(30),
            chunk_bytes: dice.pick(&[1000, 5000, 1 << 19]),
            lease_drift: dice.pick(&[0, 0, 100]),
            stall_milliseconds: dice.pick(&[1000, 3000]),
            stabilization_milliseconds: dice.pick(&[500, 2000]),
        }
    }
}

impl LinkWeather {
    fn draw(dice: &mut Dice) -> Self {
        let delay_min = dice.pick(&[50, 200, 1000]);
        Self {
            delay_min,
            delay_max: delay_min + dice.pick(&[50, 500, 5000, 40_000]),
            straggle: dice.pick(&[0, 0, 5, 50]),
            straggle_max: dice.pick(&[200_000, 2_000_000]),
            loss: dice.pick(&[0, 0, 2, 20, 150]),
            duplication: dice.pick(&[0, 0, 5, 50]),
            reorders: dice.percent(50),
            notices: dice.pick(&[0, 500, 1000]),
        }
    }
}

impl DiskWeather {
    fn draw(dice: &mut Dice) -> Self {
        let write_min = dice.pick(&[20, 100, 1000]);
        Self {
            write_min,
            write_max: write_min + dice.pick(&[50, 1000, 10_000]),
            hiccup: dice.pick(&[0, 0, 5, 30]),
            snapshot_max: dice.pick(&[1000, 50_000, 1_000_000]),
        }
    }
}

impl ClockWeather {
    fn draw(dice: &mut Dice, lease_drift: u32) -> Self {
        let drift = if lease_drift > 0 {
            // Two clocks drift apart by twice what each is wrong by.
            dice.pick(&[0, 100, u64::from(lease_drift) * 1000 * 10 / 21])
        } else {
            dice.pick(&[0, 100, 10_000, 200_000])
        };
        Self {
            rate_min: TRUE_RATE - drift,
            rate_max: TRUE_RATE + drift + 1,
            lateness_max: dice.pick(&[0, 1000, 30_000]),
            wake_max: dice.pick(&[1, 100, 3000]),
        }
    }
}

impl Load {
    fn draw(dice: &mut Dice) -> Self {
        Self {
            clients: dice.pick(&[1, 3, 5]),
            rate: dice.pick(&[2, 8, 20]),
            keys: dice.pick(&[1, 3, 5]),
            patience: dice.pick(&[500, 2000]),
            astray: dice.pick(&[0, 10, 50]),
        }
    }
}

impl FaultRates {
    fn draw(dice: &mut Dice) -> Self {
        let mut rate = |rates: &[u64]| {
            if dice.percent(40) {
                0
            } else {
                dice.pick(rates)
            }
        };
        Self {
            crash: rate(&[2, 6, 20]),
            power: rate(&[2, 6, 20]),
            pause: rate(&[1, 4, 10]),
            partition: rate(&[1, 4, 10]),
            one_way: rate(&[1, 4, 10]),
            deaf: rate(&[1, 3]),
            slow: rate(&[1, 5]),
            stall: rate(&[1, 4]),
            eio: rate(&[1, 3]),
            full: rate(&[1, 3]),
            rot: rate(&[1, 3]),
            wipe: rate(&[1, 3]),
            clock: rate(&[1, 5]),
            clock_jump: rate(&[1, 3]),
            cut_stream: rate(&[5, 30]),
            membership: rate(&[2, 8, 30]),
            transfer: rate(&[1, 6]),
        }
    }
}
