//! Who answers: active, standby, removed; and the task that notices changes
//! nobody asked about.

use std::sync::Weak;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::{Health, LeaderStatus, Vault, VaultError, lock};
use crate::physical::{Leadership, PhysicalError};
use crate::types::StoredValue;

/// How often restores by others are looked for.
const POLL: Duration = Duration::from_millis(500);
/// How long the last share waits for somebody to be active.
pub(super) const SERVING_WITHIN: Duration = Duration::from_secs(10);
/// How long a leader that must seal keeps replicating what made it so.
const REPLICATE_FOR: Duration = Duration::from_millis(1500);
/// How long handing over leadership may delay sealing.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(2);

/// What the watcher remembers.
#[derive(Default)]
pub(super) struct ActiveState {
    active_since: Option<SystemTime>,
    // The node says so only when it is certain, and never takes it back.
    removed: bool,
    // Sealed, but still replicating what it was sealed for.
    stop_due: bool,
    // The stored membership policy that is in force here.
    pub(super) autopilot: Option<StoredValue>,
}

/// Follows leadership and storage until the vault is gone.
pub(super) async fn watch(vault: Weak<Vault>, mut leadership: watch::Receiver<Leadership>) {
    loop {
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(POLL) => {}
        }
        let Some(vault) = vault.upgrade() else { return };
        let seen = leadership.borrow_and_update().clone();
        vault.notice(&seen).await;
    }
}

impl Vault {
    async fn notice(&self, seen: &Leadership) {
        let unsealed = self.unsealed.load().is_some();
        let newly_removed = {
            let mut state = lock(&self.active_state);
            match (unsealed && seen.is_leader, state.active_since) {
                (true, None) => state.active_since = Some(SystemTime::now()),
                (false, Some(_)) => state.active_since = None,
                _ => {}
            }
            let known = std::mem::replace(&mut state.removed, seen.removed);
            seen.removed && !known
        };
        if newly_removed {
            tracing::warn!("this node was removed from the cluster: sealing");
            let _guard = self.lifecycle.lock().await;
            self.close_barrier();
            self.backend.stop().await;
            return;
        }
        let Some(held) = self.unsealed.load_full() else {
            return;
        };
        let reader = self.backend.local();
        match self.fresh(held, reader.as_ref()).await {
            Ok(unsealed) => self.follow_autopilot(&unsealed).await,
            Err(error) => tracing::warn!(%error, "check of the keyring in storage"),
        }
    }

    /// Whether a committed membership excludes this node.
    pub(super) fn is_removed(&self) -> bool {
        self.backend.leadership().borrow().removed
    }

    /// `GET sys/health`.
    pub async fn health(&self) -> Health {
        let unsealed = self.unsealed.load_full();
        Health {
            initialized: self.initialized().await,
            sealed: unsealed.is_none(),
            standby: !self.is_active(),
            removed: self.is_removed(),
            cluster_name: unsealed.as_ref().map(|keys| keys.cluster.name.clone()),
            cluster_id: unsealed.as_ref().map(|keys| keys.cluster.id.clone()),
        }
    }

    /// `GET sys/leader`.
    ///
    /// # Errors
    /// `Sealed`.
    pub async fn leader(&self) -> Result<LeaderStatus, VaultError> {
        if self.unsealed.load().is_none() {
            return Err(VaultError::Sealed);
        }
        let seen = self.backend.leadership().borrow().clone();
        let status = self.backend.status();
        let leader = seen.leader.unwrap_or_default();
        let cluster_address = if seen.is_leader && leader.cluster_address.is_empty() {
            self.options.cluster_address.clone()
        } else {
            leader.cluster_address
        };
        Ok(LeaderStatus {
            is_self: seen.is_leader,
            active_time: seen.is_leader.then(|| self.active_since()),
            leader_address: if seen.is_leader {
                self.options.api_address.clone()
            } else {
                leader.api_address
            },
            leader_cluster_address: as_url(&cluster_address),
            raft_committed_index: status.commit_index,
            raft_applied_index: status.applied_index,
        })
    }

    pub(super) fn active_since(&self) -> SystemTime {
        let mut state = lock(&self.active_state);
        *state.active_since.get_or_insert_with(SystemTime::now)
    }

    /// `PUT sys/step-down`: hands leadership to another voter.
    ///
    /// # Errors
    /// `Sealed`; `Standby` when this node is not active; `PermissionDenied`.
    pub async fn step_down(&self, token: Option<&str>) -> Result<(), VaultError> {
        if self.unsealed.load().is_none() {
            return Err(VaultError::Sealed);
        }
        if !self.is_active() {
            return Err(VaultError::Standby);
        }
        let session = self.session().await?;
        self.authenticate(&session, token).await?;
        match self.backend.step_down().await {
            // Nobody to take over, or it happened already: as a real server,
            // which simply stands again.
            Ok(()) | Err(PhysicalError::Refused { .. } | PhysicalError::NotLeader) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// `PUT sys/seal`, on this node only. Without a cluster or already sealed
    /// there is nothing to protect: no token is asked for. A joiner that still
    /// answers its leader stops that, and forgets the unseal key.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub async fn seal(&self, token: Option<&str>) -> Result<(), VaultError> {
        if self.unsealed.load().is_none() {
            self.give_up_answering().await;
            return Ok(());
        }
        // Without a quorum nobody can confirm a read; closing must still work.
        let session = match self.session().await {
            Err(VaultError::Physical(_)) => self.session_over(self.backend.local()).await?,
            session => session?,
        };
        self.authenticate(&session, token).await?;
        self.shutdown().await;
        Ok(())
    }

    /// Hands over leadership, seals, takes no part any longer.
    pub async fn shutdown(&self) {
        let _guard = self.lifecycle.lock().await;
        if self.is_active() {
            let handed_over = tokio::time::timeout(HAND_OVER_WITHIN, self.backend.step_down());
            if let Ok(Err(error)) = handed_over.await {
                tracing::info!(%error, "seal without handing over leadership");
            }
        }
        self.close_barrier();
        lock(&self.active_state).stop_due = false;
        self.backend.stop().await;
        tracing::info!("vault is sealed");
    }

    /// After storage was replaced: the log entry that did it must still reach
    /// the others, or they would wait for a quorum that never returns.
    pub(super) fn stop_after_replacement(&self) {
        lock(&self.active_state).stop_due = true;
        let this = self.this.clone();
        tokio::spawn(async move {
            tokio::time::sleep(REPLICATE_FOR).await;
            let Some(vault) = this.upgrade() else { return };
            let _guard = vault.lifecycle.lock().await;
            vault.stop_if_due().await;
        });
    }

    /// Whoever unseals before the delay is over ends it. The caller holds the
    /// lifecycle lock.
    pub(super) async fn stop_if_due(&self) {
        if std::mem::take(&mut lock(&self.active_state).stop_due) {
            self.backend.stop().await;
        }
    }

    /// Waits until this node is active or knows who is; not forever.
    pub(super) async fn wait_until_serving(&self) {
        let mut leadership = self.backend.leadership();
        let serving = leadership.wait_for(|seen| seen.is_leader || seen.leader.is_some());
        // Late is not wrong: the caller reports what there is.
        let _ = tokio::time::timeout(SERVING_WITHIN, serving).await;
    }
}

pub(super) fn as_url(cluster_address: &str) -> String {
    if cluster_address.is_empty() {
        return String::new();
    }
    format!("https://{cluster_address}")
}
