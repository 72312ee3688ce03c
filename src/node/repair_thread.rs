//! The life of a repair (D-030): from a damaged directory to one that opens.
//!
//! The thread takes the same queue that the raft thread would: words of peers
//! come by it, and the order to stop. Messages of consensus are dropped, as if
//! this node were down.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::raft::Recovered;
use crate::snapshot::{SnapshotError, SnapshotInfo};
use crate::store::Store;
use crate::sync::queue::{Nothing, Receiver};
use crate::sync::{Mutex, MutexGuard};
use crate::types::{
    ClusterId, EntryPayload, LogIndex, Membership, NodeId, RepairMessage, SnapshotMeta, Term,
};
use crate::wal::{Position, Salvage, WalError, WalOptions, salvage};

use super::error::NodeError;
use super::event::Event;
use super::identity::DirectoryIdentity;
use super::peers::Peers;
use super::repair::{Nowhere, Repair, RepairProgress};
use super::snapshots::Snapshots;
use super::wal_thread::chain;

/// A directory whose damage can be repaired.
pub(super) struct Patient {
    pub repair: Repair,
    pub cluster: ClusterId,
    /// The newest membership that is known for certain, and where.
    pub membership: (LogIndex, Arc<Membership>),
    /// What is known of the log: of its entries, the memberships.
    pub known: Recovered,
}

impl Patient {
    /// An operator says who is left of the cluster: nobody else is asked.
    pub fn follow(&mut self, own: NodeId, survivors: Membership) {
        tracing::warn!(
            ?survivors,
            "an operator says who is left of the cluster: nobody else is asked for what is lost"
        );
        let others = survivors.members.keys().copied();
        self.repair.only_among(others.filter(|id| *id != own));
        self.membership.1 = Arc::new(survivors);
    }
}

/// Whether a node that does not open for this reason may be repaired.
pub(super) fn is_damage(error: &NodeError) -> bool {
    matches!(
        error,
        NodeError::Log(WalError::Damaged(_)) | NodeError::Gap { .. }
    )
}

/// Looks at a damaged directory: sets aside snapshots that cannot be read,
/// brings `store` (empty, or what this process already applied) as far as is
/// certain. The log is not touched. Blocks.
///
/// # Errors
/// [`NodeError::Unrepairable`]; another node's log, the disk.
pub(super) fn examine(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    identity: &DirectoryIdentity,
    options: &WalOptions,
    snapshots: &Snapshots,
    store: &mut Store,
) -> Result<Patient, NodeError> {
    let salvage = salvage(&**disk, directory, None).map_err(unrepairable)?;
    let owner = salvage.identity();
    if owner.node != identity.id || owner.incarnation != identity.incarnation {
        return Err(NodeError::ForeignLog {
            directory: directory.display().to_string(),
        });
    }
    let snapshot = newest_snapshot(snapshots, store)?;
    let position = snapshot.map_or(NO_SNAPSHOT, |it| (it.index, it.term));
    salvage.check(position, options).map_err(unrepairable)?;
    apply_certain(&salvage, position, store);
    let known = what_is_known(&salvage, snapshots, position, store.applied_index());
    let membership = newest_membership(&known);
    let peers = membership.1.members.keys().copied();
    let peers: Vec<NodeId> = peers.filter(|id| *id != identity.id).collect();
    if peers.is_empty() && !salvage.missing(position).is_empty() {
        let reason = "no other member of the cluster is known";
        return Err(NodeError::Unrepairable(reason.into()));
    }
    Ok(Patient {
        repair: Repair::new(salvage, position, peers.into_iter()),
        cluster: owner.cluster,
        membership,
        known,
    })
}

/// Damage that peers cannot help with, or a log too long to be written anew.
fn unrepairable(error: WalError) -> NodeError {
    match error {
        WalError::Damaged(_) | WalError::TooLarge { .. } => {
            NodeError::Unrepairable(error.to_string())
        }
        error => NodeError::Log(error),
    }
}

const NO_SNAPSHOT: Position = (LogIndex(0), Term(0));

/// Loads the newest snapshot that can be read, unless the store is past it;
/// sets aside all that cannot. Once one is sound, no older one stands in the
/// way.
fn newest_snapshot(
    snapshots: &Snapshots,
    store: &mut Store,
) -> Result<Option<SnapshotMeta>, NodeError> {
    let mut newest = None;
    for info in snapshots.newest_first() {
        match keep_if_sound(snapshots, &info) {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) if newest.is_some() => {
                tracing::warn!(error = chain(&error), "an older snapshot was not looked at");
                continue;
            }
            Err(error) => return Err(NodeError::Snapshots(error)),
        }
        if newest.is_none() && store.applied_index() < info.meta.index {
            match snapshots.load_into(store, &info.meta) {
                Ok(_former) => {}
                Err(error) if error.is_damage() => {
                    let set_aside = snapshots.set_aside(&info, error);
                    set_aside.map_err(NodeError::Snapshots)?;
                    continue;
                }
                Err(error) => return Err(NodeError::Load(chain(&error))),
            }
        }
        newest.get_or_insert(info.meta);
    }
    Ok(newest)
}

/// Whether a snapshot is sound to the last byte; one that is not is set aside.
fn keep_if_sound(snapshots: &Snapshots, info: &SnapshotInfo) -> Result<bool, SnapshotError> {
    match snapshots.directory().verify(info) {
        Ok(()) => Ok(true),
        Err(error) if error.is_about_content() => {
            snapshots.directory().set_aside(info, &error)?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Executes what is committed and here, up to the first loss: enough, with
/// luck, to unseal this node.
fn apply_certain(salvage: &Salvage, snapshot: Position, store: &mut Store) {
    let commit = salvage.hard_state().commit_index;
    if !salvage.continues(snapshot) {
        return;
    }
    while store.applied_index() < commit
        && let Some(entry) = salvage.entry(store.applied_index().next())
    {
        store.apply(entry);
    }
}

/// What anything readable tells of the log, a snapshot whose content is lost
/// included: it says who the members are, no more.
fn what_is_known(
    salvage: &Salvage,
    snapshots: &Snapshots,
    snapshot: Position,
    applied_index: LogIndex,
) -> Recovered {
    let covers = snapshots.directory().covers().into_iter();
    let behind = (snapshot.0.0 + 1..=salvage.last().0.0).map(LogIndex);
    let entries = behind.filter_map(|index| salvage.entry(index));
    let memberships = entries.filter(|it| matches!(it.payload, EntryPayload::Membership(_)));
    Recovered {
        hard_state: salvage.hard_state(),
        snapshot: covers.max_by_key(|meta| meta.index),
        entries: memberships.cloned().collect(),
        applied_index,
    }
}

fn newest_membership(known: &Recovered) -> (LogIndex, Arc<Membership>) {
    let covered = known.snapshot.iter();
    let covered = covered.map(|meta| (meta.membership_index, &meta.membership));
    let entries = known.entries.iter().filter_map(|it| match &it.payload {
        EntryPayload::Membership(membership) => Some((it.index, membership)),
        _ => None,
    });
    let newest = covered.chain(entries).max_by_key(|(index, _)| *index);
    newest.map_or_else(Default::default, |(index, it)| (index, Arc::clone(it)))
}

/// Where a repair shows how far it is.
#[derive(Default)]
pub(super) struct RepairBoard(Mutex<Option<RepairProgress>>);

impl RepairBoard {
    /// `None`: nothing is being repaired.
    pub fn newest(&self) -> Option<RepairProgress> {
        *self.lock()
    }

    pub fn set(&self, progress: Option<RepairProgress>) {
        *self.lock() = progress;
    }

    fn lock(&self) -> MutexGuard<'_, Option<RepairProgress>> {
        // Every change is one store: a panic elsewhere left it whole.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Everything the thread owns.
pub(super) struct RepairThread {
    pub repair: Repair,
    pub events: Receiver<Event>,
    pub peers: Arc<dyn Peers>,
    pub snapshots: Arc<Snapshots>,
    pub board: Arc<RepairBoard>,
    pub disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    pub options: WalOptions,
}

/// How a repair ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The directory opens.
    Whole,
    /// The node is being sealed.
    Stopped,
}

impl RepairThread {
    /// Asks until nothing is missing, then writes the log anew.
    ///
    /// # Errors
    /// The disk failed; the damaged log is as it was.
    pub fn run(mut self) -> Result<Ending, String> {
        let mut next_round = Instant::now();
        while !self.repair.is_whole() {
            let now = Instant::now();
            if next_round <= now {
                next_round = now + ROUND;
                self.round()?;
                continue;
            }
            match self.events.recv_timeout(next_round - now) {
                Ok(Event::Stop) | Err(Nothing::Ever) => return Ok(Ending::Stopped),
                Ok(event) => self.handle(event)?,
                Err(Nothing::Yet) => {}
            }
        }
        self.finish()?;
        Ok(Ending::Whole)
    }

    /// Asks everybody again, and takes a snapshot that has arrived.
    ///
    /// # Errors
    /// The disk failed, or what is known by now cannot be written anew.
    pub fn round(&mut self) -> Result<(), String> {
        if let Some(meta) = self.snapshots.publish_staged(self.repair.snapshot().0)? {
            tracing::info!(index = meta.index.0, "a snapshot of a peer is here");
            self.repair.use_snapshot((meta.index, meta.term));
        }
        let (salvage, snapshot) = (self.repair.salvage(), self.repair.snapshot());
        salvage
            .check(snapshot, &self.options)
            .map_err(|error| chain(&unrepairable(error)))?;
        match self.repair.settle_lost() {
            None => {}
            Some(Nowhere::Cut(first)) => tracing::error!(
                first = first.0,
                "no server that is left has this entry: the log ends before it"
            ),
            Some(Nowhere::Committed(first)) => {
                return Err(NodeError::NoSurvivorHas(first).to_string());
            }
        }
        let words = self.repair.round();
        self.send(words);
        let progress = self.repair.progress();
        self.show(progress);
        if progress.idle_rounds > 0 && progress.idle_rounds.is_multiple_of(LONG_ROUNDS) {
            tracing::warn!(
                %progress,
                "{IDLE_ADVICE}"
            );
        }
        Ok(())
    }

    /// Something was queued.
    ///
    /// # Errors
    /// This node was removed from its cluster: nobody will help it.
    pub fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Repair {
                from,
                message: RepairMessage::AskSnapshot,
                ..
            } => self.peers.stream_snapshot(from, LogIndex(0)),
            Event::Repair { from, message, .. } => {
                let words = self.repair.handle(from, message);
                self.send(words);
                self.show(self.repair.progress());
            }
            Event::Excluded(proof) if self.repair.salvage().last().0 < proof.index => {
                return Err(format!(
                    "this node is damaged, and was removed from its cluster by the membership at \
                     log position {}: empty its data directory and let it join again",
                    proof.index
                ));
            }
            // As if this node were down.
            _ => {}
        }
        Ok(())
    }

    /// Writes the log anew; blocks.
    ///
    /// # Errors
    /// The disk failed, or has no room; the damaged log is as it was.
    pub fn finish(&self) -> Result<(), String> {
        let (salvage, snapshot) = (self.repair.salvage(), self.repair.snapshot());
        let progress = self.repair.progress();
        tracing::info!(%progress, last = salvage.last().0.0, "writing the repaired log");
        salvage
            .rewrite(&self.disk, &self.directory, snapshot, &self.options)
            .map_err(|error| chain(&unrepairable(error)))
    }

    fn send(&self, words: super::repair::Words) {
        for (to, message) in words {
            self.peers.send_repair(to, message);
        }
    }

    fn show(&self, progress: RepairProgress) {
        let before = self.board.newest();
        if before.map(|before| before.missing) != Some(progress.missing) {
            tracing::info!(%progress, "repairing the log from peers");
        }
        self.board.set(Some(progress));
    }
}

/// What helps if nobody has what is lost.
const IDLE_ADVICE: &str = "\
no peer gives what this node lost: start the other members. If its other copies are lost for good \
and the others have a leader, remove this node from the cluster (`operator raft remove-peer`), \
empty its data directory, and let it join again. If there is no leader without this node (other \
members are lost, or lost the same), stop it and make a cluster of the members whose logs are \
whole: `holdfast operator recover`. If none is, or this one holds what they lack, name it in their \
raft/peers.json too: it then asks only those named, and gives up what none of them has";

/// How often everybody is asked again.
pub(super) const ROUND: Duration = Duration::from_millis(200);
/// After so many rounds without progress it is said aloud.
const LONG_ROUNDS: u64 = 150;
