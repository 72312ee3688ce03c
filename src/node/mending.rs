//! Repairing the log of a running node, when scrubbing finds that a closed
//! segment has decayed (D-031).
//!
//! The state in memory is sound, so nothing is lost yet: a new snapshot makes
//! all that the closed segments hold superfluous. If the log can be written anew
//! then (a copy of it is salvaged to find out), the node hands leadership over, stops consensus, and starts again as after a restart: the log is found
//! damaged, and written anew behind the snapshot before consensus begins. Peers
//! are asked only for what the snapshot does not cover, which is nothing, unless
//! the newest entries decay in the same moment.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep};

use crate::physical::PhysicalError;
use crate::types::LogIndex;
use crate::wal::{Damage, Position, rehearse};

use super::event::Event;
use super::handle::{Inner, Running};
use super::wal_thread::chain;

impl Inner {
    /// Mends the log whenever a flaw is found in it, until the node stops.
    pub(super) fn mend(
        node: Weak<Self>,
        mut flaws: UnboundedReceiver<Damage>,
    ) -> BoxFuture<'static, ()> {
        // Boxed: mending starts the node, which begins to be mended.
        Box::pin(async move {
            while let Some(flaw) = flaws.recv().await {
                let Some(node) = node.upgrade() else { return };
                if !node.scrub.begin_repair(flaw.segment) {
                    continue;
                }
                if let Err(reason) = node.mend_log().await {
                    tracing::warn!(
                        reason,
                        "the damaged log is not repaired now: when it is read again, or at the \
                         next start"
                    );
                    node.scrub.postpone_repair(flaw.segment);
                }
            }
        })
    }

    async fn mend_log(self: &Arc<Self>) -> Result<(), String> {
        let text = |error: PhysicalError| chain(&error);
        let running = self.running().map_err(text)?;
        self.cover_log(&running).await?;
        self.rehearse().await?;
        self.hand_over(&running).await?;
        let mut lifecycle = self.lifecycle.lock().await;
        let Some(network) = &running.network else {
            return Err("the node runs alone".into());
        };
        self.check_runs(&running)?;
        tracing::warn!("consensus stops for a moment: the log is written anew");
        let keyring = network.keyring.load_full();
        drop(running);
        self.stop_threads(&mut lifecycle).await;
        let started = self.start_network(&mut lifecycle, &keyring, &[]).await;
        if let Err(error) = started {
            // It took itself out of service: it must not stay so unnoticed.
            let reason = format!("start again on a log to be repaired: {}", chain(&error));
            self.failure.report(&reason);
            return Err(reason);
        }
        self.scrub.add_repaired();
        Ok(())
    }

    /// Whether this is still what runs.
    fn check_runs(&self, running: &Arc<Running>) -> Result<(), String> {
        match self.running.load_full() {
            Some(now) if Arc::ptr_eq(&now, running) => Ok(()),
            _ => Err("the node was stopped".into()),
        }
    }

    /// Has a snapshot taken that covers every entry there is now. One that is
    /// being written takes as long as it takes.
    async fn cover_log(&self, running: &Arc<Running>) -> Result<(), String> {
        let last = self.status.newest().0.last_index;
        let mut deadline = Instant::now() + PATIENCE;
        let mut is_asked = false;
        loop {
            self.check_runs(running)?;
            if self.snapshots.is_writing() {
                deadline = Instant::now() + PATIENCE;
            }
            if last <= self.newest_snapshot() {
                if last <= self.newest_sound_snapshot().await? {
                    return Ok(());
                }
                is_asked = false;
            }
            if deadline < Instant::now() {
                return Err(format!("entries up to {last} are not in a snapshot yet"));
            }
            if !is_asked && last <= self.board.applied() {
                is_asked = running.events.send(Event::TakeSnapshot);
            }
            sleep(PAUSE).await;
        }
    }

    fn newest_snapshot(&self) -> LogIndex {
        let newest = self.snapshots.directory().newest();
        newest.map_or(LogIndex(0), |info| info.meta.index)
    }

    /// It may have decayed, too: a node alone has nobody else to ask.
    async fn newest_sound_snapshot(&self) -> Result<LogIndex, String> {
        let directory = self.snapshots.directory().clone();
        let verified = tokio::task::spawn_blocking(move || directory.newest_verified());
        let verified = verified.await.map_err(|error| chain(&error))?;
        let newest = verified.map_err(|error| chain(&error))?;
        Ok(newest.map_or(LogIndex(0), |info| info.meta.index))
    }

    /// Whether the node would come back: what cannot be salvaged or has no room
    /// would keep it out of service for good. Tried more than once, since the
    /// log is being written meanwhile.
    async fn rehearse(&self) -> Result<(), String> {
        let mut outcome = self.rehearse_once().await;
        for _ in 1..REHEARSALS_MAX {
            if outcome.is_ok() {
                break;
            }
            sleep(PAUSE).await;
            outcome = self.rehearse_once().await;
        }
        outcome
    }

    async fn rehearse_once(&self) -> Result<(), String> {
        let (disk, path) = (Arc::clone(&self.disk), self.wal_path.clone());
        let options = self.options.wal;
        let newest = self.snapshots.directory().newest();
        let snapshot =
            newest.map_or_else(Position::default, |info| (info.meta.index, info.meta.term));
        let rehearsed = tokio::task::spawn_blocking(move || {
            let rehearsal = rehearse(&*disk, &path, snapshot, &options);
            let rehearsal = rehearsal.map_err(|error| chain(&error))?;
            if let Some(wanted) = rehearsal.missing.first() {
                return Err(format!("entry {} is in no snapshot", wanted.first));
            }
            let free = disk.free_bytes(&path).map_err(|error| chain(&error))?;
            match rehearsal.bytes <= free {
                true => Ok(()),
                false => Err(format!(
                    "the new log takes {} bytes, and {free} are free",
                    rehearsal.bytes
                )),
            }
        });
        rehearsed.await.map_err(|error| chain(&error))?
    }

    /// Has another member lead, if there is one that can.
    async fn hand_over(&self, running: &Arc<Running>) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while self.leadership.borrow().is_leader {
            self.check_runs(running)?;
            if self.status.newest().0.membership.voters.len() == 1 {
                return Ok(());
            }
            if deadline < Instant::now() {
                return Err("nobody takes over leadership".into());
            }
            if let Ok(answer) = running.events.transfer(None) {
                // Refused: it is asked again.
                let _ = answer.await;
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// For a snapshot to begin, and for a successor.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tries to find the log between two writes.
const REHEARSALS_MAX: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);
