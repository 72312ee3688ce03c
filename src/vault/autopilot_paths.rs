//! `sys/storage/raft/autopilot/…`: how the members are doing, and the policy
//! about them. The policy is an entry of the barrier, where OpenBao has it, so
//! that it comes to every node and into every archive.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::router::data;
use super::seal_state::Unsealed;
use super::storage::{Committed, Session};
use super::sys_paths::only;
use super::unseal::bad;
use super::{Method, Request, Response, Vault, VaultError, lock, object, rfc3339};
use crate::membership::{
    AutopilotConfig, AutopilotUpdate, ClusterHealth, GoDuration, ServerHealth,
};
use crate::types::StoredValue;

/// The policy, JSON.
pub(super) const AUTOPILOT: &str = "core/raft/autopilot/configuration";

impl Vault {
    /// `None` asks for another try.
    pub(super) async fn autopilot_path(
        &self,
        session: &Session,
        path: &str,
        request: &Request,
    ) -> Result<Option<Response>, VaultError> {
        match (path, request.method) {
            ("state", _) => {
                only(request, Method::Read)?;
                let health = self.backend.cluster_health()?;
                Ok(Some(data(state_json(&health, &self.options.version))))
            }
            ("configuration", Method::Read) => {
                let (config, _) = self.autopilot_config(session).await?;
                let config = serde_json::to_value(config).expect("plain fields always encode");
                Ok(Some(data(object(config))))
            }
            ("configuration", _) => {
                only(request, Method::Update)?;
                self.update_autopilot(session, request).await
            }
            _ => Err(VaultError::UnsupportedPath),
        }
    }

    // Until somebody has set one, the configuration file's counts.
    async fn autopilot_config(
        &self,
        session: &Session,
    ) -> Result<(AutopilotConfig, Option<StoredValue>), VaultError> {
        match session.stored(AUTOPILOT).await? {
            None => Ok((self.autopilot_initial.clone(), None)),
            Some(stored) => {
                let json = session.decrypt(AUTOPILOT, &stored)?;
                let config = parse(&json).unwrap_or_else(|| {
                    tracing::warn!("the stored autopilot configuration makes no sense: kept back");
                    self.backend.autopilot()
                });
                Ok((config, Some(stored)))
            }
        }
    }

    async fn update_autopilot(
        &self,
        session: &Session,
        request: &Request,
    ) -> Result<Option<Response>, VaultError> {
        let update = update_of(Fields::of(request.body.as_ref()))?;
        let (present, stored) = self.autopilot_config(session).await?;
        let config = match update.applied_to(&present) {
            Ok(config) => config,
            Err(error) => return bad(error.to_string()),
        };
        let mut batch = session.batch();
        batch.expect(AUTOPILOT, stored.as_deref());
        batch.put(AUTOPILOT, &encode(&config));
        match self.commit(batch).await? {
            Committed::Conflict => Ok(None),
            Committed::Applied => {
                tracing::info!(?config, "autopilot configured");
                self.follow_autopilot(&session.unsealed).await;
                Ok(Some(Response::default()))
            }
        }
    }

    /// Uses the policy that storage holds by now, here too: this node may lead
    /// next, or a restore may have brought another.
    pub(super) async fn follow_autopilot(&self, unsealed: &Arc<Unsealed>) {
        // One at a time, each over a newer picture than the one before.
        let _turn = self.autopilot_turn.lock().await;
        let session = &Session {
            reader: self.backend.local(),
            unsealed: Arc::clone(unsealed),
        };
        let Ok(stored) = session.stored(AUTOPILOT).await else {
            return;
        };
        let followed = {
            let mut state = lock(&self.active_state);
            std::mem::replace(&mut state.autopilot, stored.clone())
        };
        if followed == stored {
            return;
        }
        match self.autopilot_config(session).await {
            Ok((config, _)) => self.backend.set_autopilot(config),
            Err(error) => tracing::warn!(%error, "read the autopilot configuration"),
        }
    }
}

/// As it is stored.
pub(super) fn encode(config: &AutopilotConfig) -> Vec<u8> {
    serde_json::to_vec(config).expect("plain fields always encode")
}

/// `None` also when no request would have been allowed to set it.
fn parse(json: &[u8]) -> Option<AutopilotConfig> {
    let config: AutopilotConfig = serde_json::from_slice(json).ok()?;
    config.validate().is_ok().then_some(config)
}

fn update_of(fields: Fields<'_>) -> Result<AutopilotUpdate, VaultError> {
    // Known and without effect, as in OpenBao.
    fields.boolean("disable_upgrade_migration")?;
    Ok(AutopilotUpdate {
        cleanup_dead_servers: fields.boolean("cleanup_dead_servers")?,
        dead_server_last_contact_threshold: fields.seconds("dead_server_last_contact_threshold")?,
        last_contact_threshold: fields.seconds("last_contact_threshold")?,
        max_trailing_logs: fields.count("max_trailing_logs")?,
        min_quorum: fields.count("min_quorum")?,
        server_stabilization_time: fields.seconds("server_stabilization_time")?,
    })
}

fn state_json(health: &ClusterHealth, version: &str) -> Map<String, Value> {
    let names = |votes: bool| -> Vec<&str> {
        let servers = health.servers.iter();
        let such = servers.filter(|server| server.is_voter == votes);
        such.map(|server| server.node_id.as_str()).collect()
    };
    let servers: Map<String, Value> = health
        .servers
        .iter()
        .map(|server| (server.node_id.clone(), server_json(server, version)))
        .collect();
    let mut state = object(json!({
        "healthy": health.healthy,
        "failure_tolerance": health.failure_tolerance,
        "leader": health.leader,
        "voters": names(true),
        "servers": servers,
    }));
    let non_voters = names(false);
    if !non_voters.is_empty() {
        state.insert("non_voters".to_owned(), json!(non_voters));
    }
    state
}

fn server_json(server: &ServerHealth, version: &str) -> Value {
    let silence = i64::try_from(server.last_contact.0).unwrap_or(i64::MAX);
    let stable_since = SystemTime::now().checked_sub(Duration::from_millis(server.stable_for.0));
    let mut json = json!({
        "id": server.node_id,
        "name": server.node_id,
        "address": server.address,
        "node_status": if server.is_dead { "left" } else { "alive" },
        "last_contact": GoDuration::from_milliseconds(silence).to_string(),
        "last_term": server.last_term.0,
        "last_index": server.last_index.0,
        "healthy": server.healthy,
        "stable_since": rfc3339(stable_since.unwrap_or(SystemTime::UNIX_EPOCH)),
        "status": match (server.is_leader, server.is_voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "non-voter",
        },
        "version": version,
        "node_type": if server.is_permanent_non_voter { "non-voter" } else { "voter" },
    });
    // Holdfast's own, only when there is something to tell.
    if server.receives_snapshot {
        json["receives_snapshot"] = Value::Bool(true);
    }
    if let Some(ask) = server.repair {
        json["repair"] = json!({
            "first_index": ask.first.0,
            "last_index": ask.last.0,
            "log_end": ask.anchor.0.0,
        });
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogIndex, Millis, RepairAsk, Term};

    #[test]
    fn stored_policy_that_nobody_could_have_set_is_not_used() {
        let sound = AutopilotConfig::default();
        assert_eq!(parse(&encode(&sound)), Some(sound.clone()));
        let unsound = AutopilotConfig {
            cleanup_dead_servers: true,
            min_quorum: 0,
            ..sound
        };
        assert_eq!(parse(&encode(&unsound)), None);
        assert_eq!(parse(b"no"), None);
    }

    #[test]
    fn state_has_the_fields_that_were_recorded_and_no_others() {
        let leader = ServerHealth {
            node_id: "node1".into(),
            address: "127.0.0.1:18201".into(),
            last_term: Term(4),
            last_index: LogIndex(265),
            healthy: true,
            is_leader: true,
            is_voter: true,
            ..ServerHealth::default()
        };
        let health = ClusterHealth {
            healthy: true,
            failure_tolerance: 1,
            leader: "node1".into(),
            servers: vec![leader],
        };
        let mut state = state_json(&health, "2.7.2");
        let since = state["servers"]["node1"]["stable_since"].take();
        assert!(since.as_str().is_some_and(|since| since.ends_with('Z')));
        let expected = json!({
            "failure_tolerance": 1, "healthy": true, "leader": "node1", "voters": ["node1"],
            "servers": {"node1": {
                "id": "node1", "name": "node1", "address": "127.0.0.1:18201",
                "node_status": "alive", "last_contact": "0s", "last_term": 4, "last_index": 265,
                "healthy": true, "stable_since": null, "status": "leader", "version": "2.7.2",
                "node_type": "voter",
            }},
        });
        assert_eq!(Value::Object(state), expected);
    }

    #[test]
    fn non_voters_and_what_goes_on_with_them_are_told() {
        let newcomer = ServerHealth {
            node_id: "n2".into(),
            is_dead: true,
            last_contact: Millis(4_706),
            receives_snapshot: true,
            repair: Some(RepairAsk {
                first: LogIndex(5),
                last: LogIndex(9),
                anchor: (LogIndex(20), Term(2)),
                first_term: None,
            }),
            ..ServerHealth::default()
        };
        let forever = ServerHealth {
            node_id: "n3".into(),
            is_permanent_non_voter: true,
            ..ServerHealth::default()
        };
        let health = ClusterHealth {
            servers: vec![newcomer, forever],
            ..ClusterHealth::default()
        };
        let state = state_json(&health, "2.7.2");
        assert_eq!(state["non_voters"], json!(["n2", "n3"]));
        assert_eq!(state["voters"], json!([]));
        let newcomer = &state["servers"]["n2"];
        assert_eq!(newcomer["status"], "non-voter");
        assert_eq!(newcomer["node_type"], "voter", "it is to become one");
        assert_eq!(newcomer["node_status"], "left");
        assert_eq!(newcomer["last_contact"], "4.706s");
        assert_eq!(newcomer["receives_snapshot"], true);
        assert_eq!(
            newcomer["repair"],
            json!({"first_index": 5, "last_index": 9, "log_end": 20})
        );
        assert_eq!(state["servers"]["n3"]["node_type"], "non-voter");
    }
}
