//! What happened at least once: a fault that never struck, or a path that was
//! never taken, proves nothing.

use std::fmt;

macro_rules! marks {
    ($($name:ident: $text:literal,)*) => {
        /// Something a campaign must have seen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark { $(#[doc = $text] $name,)* }

        impl Mark {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }

        impl fmt::Display for Mark {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)* })
            }
        }
    };
}

marks! {
    WriteDone: "write acknowledged",
    WriteRefused: "write refused",
    WriteUnknown: "write with unknown outcome",
    CasFailed: "precondition failed",
    FollowerRead: "read served by a follower",
    LearnerRead: "read served by a learner",
    ReadRefused: "read refused",
    ClientGaveUp: "client gave up waiting",
    Elected: "leader elected",
    CrashBetweenEffects: "process ended between two effects",
    LeaderCrashedBeforeAck: "leader ended between append and acknowledgement",
    PowerCut: "power failed in a disk call",
    PowerCutInWrite: "power failed with a log write under way",
    PowerCutInSnapshot: "power failed with a snapshot under way",
    TornTail: "torn log tail cut at start",
    Paused: "process stood still",
    LeaderPaused: "leader stood still",
    Partitioned: "network parted",
    LeaderIsolated: "leader in the minority of a partition",
    Bridged: "two sides connected by one node",
    OneWay: "link failed in one direction",
    DeafLeader: "leader could send and not receive",
    Slowed: "links of a node slow",
    Stalled: "disk stalled",
    LeaderStalled: "leader's disk stalled",
    DiskError: "disk call failed: node stopped",
    SnapshotGivenUp: "disk call failed: only a snapshot given up",
    DiskFull: "disk full",
    Rotten: "durable block decayed",
    Misdirected: "durable block overwritten by another",
    DamageDetected: "damage detected at start",
    RepairFetched: "lost entries fetched from a peer",
    RepairLocal: "damaged log written anew from what was there",
    RepairLeaderless: "lost entries fetched with no leader",
    RepairFromPatient: "lost entries given by a node that lost others",
    RepairSnapshot: "lost entries replaced by a peer's snapshot",
    RepairCrashed: "process ended during a repair",
    SnapshotSetAside: "rotten snapshot set aside, the one before it served",
    SentSnapshotSetAside: "rotten snapshot set aside after a peer did not take it",
    Wiped: "data directory lost",
    Copied: "copy of a directory started beside it",
    CopyRefused: "copy refused: its process ended for good",
    RolledBack: "directory replaced by an older state of itself",
    RollbackRefused: "older state refused: its process ended for good",
    Replaced: "lost member replaced by a new life",
    HelloRefused: "peer refused by the rule of greetings",
    ClockRate: "clock rate changed",
    ClockJump: "clock jumped",
    LostMessage: "message lost",
    DoubledMessage: "message doubled",
    OvertakenMessage: "message overtaken",
    SnapshotTaken: "snapshot written",
    SnapshotStreamed: "snapshot streamed and staged",
    SnapshotCut: "snapshot stream cut",
    SnapshotResumed: "snapshot stream resumed",
    SnapshotSuperseded: "snapshot stream replaced by a newer one",
    SnapshotRestored: "store restored from a received snapshot",
    ReadFromLog: "entries sent from the log on disk",
    LogPurged: "log purged",
    LogTruncated: "log truncated",
    MembershipChanged: "membership change completed",
    MembershipRefused: "membership change refused",
    JointEntered: "joint membership entered",
    JointLeftByOther: "joint membership left by another leader than entered it",
    AutopilotPromoted: "learner promoted by policy",
    Removed: "member learnt that it was removed",
    TransferStarted: "leadership transfer begun",
    TransferDone: "leadership transferred",
    TransferHeldWrite: "write refused during a transfer",
    RestartedWithSnapshot: "node restarted from a snapshot",
    CoreServed: "quorum served with the rest broken (L1)",
    BridgeServed: "leader found across a bridge (L2)",
    MajorityRepaired: "majority with damaged logs served again (L7)",
    StallMoved: "writes moved from a stalled leader (L3)",
    Converged: "healed cluster converged (L0)",
    Quiet: "quiescent cluster kept its term (L6)",
}

/// How often each mark was hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage([u64; Mark::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; Mark::ALL.len()])
    }
}

impl Coverage {
    pub(super) fn hit(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    /// How often that happened.
    #[must_use]
    pub fn count(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }
}
