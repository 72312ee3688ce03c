//! One round: every target asked at once, the first challenge counts.

use tokio::task::JoinSet;

use super::client::{Challenge, ClientError, LeaderClient};
use super::target::{JoinStanza, JoinTarget, TargetError};

/// Why one target gave no challenge.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The stanza cannot be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// It was asked in vain.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A target that failed.
#[derive(Debug)]
pub struct Failure {
    /// The address in the stanza.
    pub leader_api_addr: String,
    /// Why.
    pub error: SearchError,
}

/// Asks every target for a challenge for `server_id`; the first to give one
/// wins, the others are no longer waited for.
///
/// # Errors
/// Every target failed, each for its reason (none, when there are no targets).
pub async fn find_leader(
    stanzas: &[JoinStanza],
    server_id: &str,
) -> Result<(LeaderClient, Challenge), Vec<Failure>> {
    let mut asked = JoinSet::new();
    for stanza in stanzas {
        let (stanza, server_id) = (stanza.clone(), server_id.to_owned());
        asked.spawn(async move {
            let address = stanza.leader_api_addr.clone();
            (address, ask(&stanza, &server_id).await)
        });
    }
    let mut failures = Vec::new();
    while let Some(joined) = asked.join_next().await {
        match joined {
            Ok((_, Ok(found))) => return Ok(found),
            Ok((leader_api_addr, Err(error))) => failures.push(Failure {
                leader_api_addr,
                error,
            }),
            Err(_) => tracing::error!("a task that asked a leader died"),
        }
    }
    Err(failures)
}

async fn ask(
    stanza: &JoinStanza,
    server_id: &str,
) -> Result<(LeaderClient, Challenge), SearchError> {
    let client = LeaderClient::new(JoinTarget::new(stanza)?);
    let challenge = client.challenge(server_id).await?;
    Ok((client, challenge))
}
