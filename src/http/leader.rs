//! `sys/leader`.

use hyper::{Method, StatusCode};
use serde::Serialize;

use super::errors::{self, Spelling};
use super::reply::{Reply, bare, rfc3339};
use super::request::Call;
use super::router::{Router, wrong_method};

pub(super) async fn serve(router: &Router, call: Call) -> Reply {
    if call.method != Method::GET {
        return wrong_method();
    }
    match router.vault.leader().await {
        // Clients match this refusal's text to tell sealed from broken.
        Err(error) => errors::reply(&error, Spelling::Bare),
        Ok(leader) => bare(
            StatusCode::OK,
            &LeaderBody {
                ha_enabled: true,
                is_self: leader.is_self,
                active_time: leader.active_time.map(rfc3339),
                leader_address: leader.leader_address,
                leader_cluster_address: leader.leader_cluster_address,
                performance_standby: false,
                performance_standby_last_remote_wal: 0,
                raft_committed_index: leader.raft_committed_index,
                raft_applied_index: leader.raft_applied_index,
            },
        ),
    }
}

#[derive(Serialize)]
struct LeaderBody {
    ha_enabled: bool,
    is_self: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_time: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    leader_address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    leader_cluster_address: String,
    performance_standby: bool,
    performance_standby_last_remote_wal: u64,
    raft_committed_index: u64,
    raft_applied_index: u64,
}
