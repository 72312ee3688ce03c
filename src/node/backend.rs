//! The node as the layers above see it: `physical::Physical` and `Backend`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::membership::{AutopilotConfig, ClusterHealth, Forecast};
use crate::physical::{
    ArchiveSource, Backend, BoxFuture, JoinGrant, JoinRequest, KEY_BYTES_MAX, Leadership,
    MemberWish, Physical, PhysicalError, RaftStatus, Reader, RepairStatus, RestoreEntries,
    ServerInfo, TRANSACTION_BYTES_MAX, VALUE_BYTES_MAX,
};
use crate::store::View;
use crate::types::{Command, Operation, Outcome, Transaction};

use super::handle::{Inner, RaftNode};
use super::standing::servers_of;

impl Physical for RaftNode {
    fn confirmed(&self) -> BoxFuture<'_, Result<Arc<dyn Reader>, PhysicalError>> {
        Box::pin(async {
            let view: Arc<dyn Reader> = self.inner.confirmed_view().await?;
            Ok(view)
        })
    }

    fn local(&self) -> Arc<dyn Reader> {
        self.inner.board.newest()
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<Outcome, PhysicalError>> {
        Box::pin(self.inner.commit(transaction))
    }
}

impl Inner {
    async fn confirmed_view(&self) -> Result<Arc<View>, PhysicalError> {
        let _permit = self
            .readers
            .try_acquire()
            .map_err(|_| PhysicalError::Busy)?;
        let deadline = Instant::now() + READ_WAIT;
        loop {
            let answer = self.running()?.events.read()?;
            let error = match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(Ok(view))) => return Ok(view),
                Ok(Ok(Err(error))) => error,
                Ok(Err(_)) => return Err(self.stopped()),
                Err(_) => PhysicalError::Unavailable {
                    reason: "no quorum confirmed the read in time".into(),
                },
            };
            // An election may be under way: a read is safe to try again.
            let again = matches!(error, PhysicalError::Unavailable { .. });
            if !again || deadline < Instant::now() + READ_PAUSE {
                return Err(error);
            }
            tokio::time::sleep(READ_PAUSE).await;
        }
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, PhysicalError> {
        check_bounds(&transaction)?;
        self.space.check(&transaction, &self.board.newest())?;
        let answer = self
            .running()?
            .events
            .propose(&Command::Transaction(transaction))?;
        match tokio::time::timeout(COMMIT_WAIT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                // It may be in the log: whatever ended the node, this is open.
                Err(PhysicalError::OutcomeUnknown {
                    reason: format!("the node stopped before it was applied: {}", self.stopped()),
                })
            }
            Err(_) => Err(PhysicalError::OutcomeUnknown {
                reason: format!("not committed within {} s", COMMIT_WAIT.as_secs()),
            }),
        }
    }

    async fn archive_source(&self) -> Result<ArchiveSource, PhysicalError> {
        let view = self.confirmed_view().await?;
        let (status, _) = self.status.newest();
        let picture = Arc::clone(&view);
        Ok(ArchiveSource {
            index: view.applied_index().0,
            term: view.applied_term().0,
            servers: servers_of(view.membership(), status.leader),
            membership_index: view.membership_index().0,
            entries: Arc::new(move || Box::new(picture.scan())),
        })
    }

    fn raft_status(&self) -> RaftStatus {
        let (status, at) = self.status.newest();
        let name = |id| {
            let member = status.membership.members.get(id);
            member.map_or_else(|| format!("{id}"), |member| member.name.clone())
        };
        let repair = self.repair.newest().map(|progress| RepairStatus {
            lost: progress.lost,
            missing: progress.missing,
            fetched: progress.fetched,
        });
        RaftStatus {
            repair,
            commit_index: status.commit_index.0,
            applied_index: self.board.applied().0,
            term: status.term.0,
            peers: status
                .peers
                .iter()
                .map(|(id, peer)| {
                    let silence = peer
                        .last_contact
                        .map(|contact| at.0.saturating_sub(contact.0));
                    (name(id), (peer.match_index.0, silence))
                })
                .collect(),
        }
    }
}

/// Refuses what is over a limit, with OpenBao's words.
fn check_bounds(transaction: &Transaction) -> Result<(), PhysicalError> {
    let mut total: usize = 0;
    let mut check_key = |key: &String| {
        total += key.len();
        if key.len() > KEY_BYTES_MAX {
            return Err(PhysicalError::KeyTooLarge {
                bytes: key.len(),
                max: KEY_BYTES_MAX,
            });
        }
        Ok(())
    };
    for precondition in &transaction.preconditions {
        check_key(&precondition.key)?;
    }
    for operation in &transaction.operations {
        let (Operation::Put { key, .. } | Operation::Delete { key }) = operation;
        check_key(key)?;
    }
    for operation in &transaction.operations {
        if let Operation::Put { value, .. } = operation {
            total += value.len();
            if value.len() > VALUE_BYTES_MAX {
                return Err(PhysicalError::ValueTooLarge {
                    bytes: value.len(),
                    max: VALUE_BYTES_MAX,
                });
            }
        }
    }
    total += transaction
        .preconditions
        .iter()
        .filter_map(|precondition| precondition.expected.as_ref().map(Vec::len))
        .sum::<usize>();
    if total > TRANSACTION_BYTES_MAX {
        return Err(PhysicalError::ValueTooLarge {
            bytes: total,
            max: TRANSACTION_BYTES_MAX,
        });
    }
    Ok(())
}

impl Backend for RaftNode {
    fn is_member(&self) -> bool {
        self.inner.is_member()
    }

    fn node_id(&self) -> String {
        self.inner.identity.name.clone()
    }

    fn incarnation(&self) -> u64 {
        self.inner.identity.incarnation.0
    }

    fn bootstrap(&self, cluster_id: [u8; 16]) -> BoxFuture<'_, Result<(), PhysicalError>> {
        let inner = Arc::clone(&self.inner);
        // In a task of its own: a caller that gives up must not leave the node
        // between two states.
        uninterrupted(async move { inner.bootstrap(cluster_id).await })
    }

    fn start(&self, tls_keyring: Vec<u8>) -> BoxFuture<'_, Result<(), PhysicalError>> {
        let inner = Arc::clone(&self.inner);
        uninterrupted(async move { inner.start(tls_keyring).await })
    }

    fn start_joined(&self, grant: JoinGrant) -> BoxFuture<'_, Result<(), PhysicalError>> {
        let inner = Arc::clone(&self.inner);
        uninterrupted(async move { inner.start_joined(grant).await })
    }

    fn set_tls_keyring(&self, tls_keyring: Vec<u8>) -> Result<(), PhysicalError> {
        self.inner.set_tls_keyring(&tls_keyring)
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        let inner = Arc::clone(&self.inner);
        let stopped = uninterrupted(async move {
            inner.stop().await;
            Ok(())
        });
        Box::pin(async {
            if let Err(error) = stopped.await {
                tracing::error!(%error, "stopping raft failed");
            }
        })
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    fn servers(&self) -> (u64, Vec<ServerInfo>) {
        let (status, _) = self.inner.status.newest();
        if status.membership_index.0 == 0 {
            // Not running yet: what was applied from the disk.
            let view = self.inner.board.newest();
            return (
                view.membership_index().0,
                servers_of(view.membership(), None),
            );
        }
        (
            status.membership_index.0,
            servers_of(&status.membership, status.leader),
        )
    }

    fn status(&self) -> RaftStatus {
        self.inner.raft_status()
    }

    fn cluster_id(&self) -> Option<[u8; 16]> {
        self.inner.cluster().map(|cluster| cluster.0)
    }

    fn admit(&self, joiner: JoinRequest) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(self.inner.admit(joiner))
    }

    fn remove(&self, node_id: String, force: bool) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move { self.inner.remove(&node_id, force).await })
    }

    fn change_vote(
        &self,
        node_id: String,
        votes: bool,
        force: bool,
    ) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move {
            match votes {
                true => self.inner.promote(&node_id, force).await,
                false => self.inner.demote(&node_id, force).await,
            }
        })
    }

    fn forecast(&self, node_id: &str, wish: MemberWish) -> Result<Forecast, PhysicalError> {
        self.inner.forecast(node_id, wish)
    }

    fn step_down(&self) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(self.inner.hand_over_to(None))
    }

    fn hand_over(&self, node_id: String) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move { self.inner.hand_over_to_named(&node_id).await })
    }

    fn committed_servers(&self) -> BoxFuture<'_, Result<(u64, Vec<ServerInfo>), PhysicalError>> {
        Box::pin(async {
            let view = self.inner.confirmed_view().await?;
            let (status, _) = self.inner.status.newest();
            let servers = servers_of(view.membership(), status.leader);
            Ok((view.membership_index().0, servers))
        })
    }

    fn autopilot(&self) -> AutopilotConfig {
        self.inner.autopilot()
    }

    fn set_autopilot(&self, config: AutopilotConfig) {
        self.inner.set_autopilot(config);
    }

    fn cluster_health(&self) -> Result<ClusterHealth, PhysicalError> {
        self.inner.cluster_health()
    }

    fn archive_source(&self) -> BoxFuture<'_, Result<ArchiveSource, PhysicalError>> {
        Box::pin(self.inner.archive_source())
    }

    fn restore(&self, entries: RestoreEntries) -> BoxFuture<'_, Result<(), PhysicalError>> {
        Box::pin(async move {
            let events = self.inner.leading()?;
            self.inner.space.check_restore(&self.inner.board.newest())?;
            super::restore::restore(events, entries).await
        })
    }
}

/// Runs to its end whatever becomes of the caller.
fn uninterrupted<'a>(
    work: impl Future<Output = Result<(), PhysicalError>> + Send + 'static,
) -> BoxFuture<'a, Result<(), PhysicalError>> {
    Box::pin(async {
        tokio::spawn(work).await.unwrap_or_else(|error| {
            Err(PhysicalError::Failed {
                reason: format!("a task of the node ended early: {error}"),
            })
        })
    })
}

/// For a read to be confirmed, elections included.
const READ_WAIT: Duration = Duration::from_secs(5);
/// Before a refused read is tried again.
const READ_PAUSE: Duration = Duration::from_millis(50);
/// For a commit's outcome to be known.
const COMMIT_WAIT: Duration = Duration::from_secs(10);
