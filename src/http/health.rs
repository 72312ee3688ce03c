//! `sys/health`: a load balancer's question, answered by the status code.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::{Method, StatusCode};
use serde::Serialize;

use super::reply::{Reply, bare, errors};
use super::request::Call;
use super::router::{Router, wrong_method};
use super::urlencoded;
use crate::vault::Health;

pub(super) async fn serve(router: &Router, call: Call) -> Reply {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return wrong_method();
    }
    let Some(codes) = Codes::parse(call.uri.query().unwrap_or_default()) else {
        return errors(StatusCode::BAD_REQUEST, &[]);
    };
    let health = router.vault.health().await;
    let status = codes.status(&health);
    bare(status, &body(health, &router.identity.version))
}

/// The status for each state, as the query asks for it.
#[derive(Clone, Copy, Debug)]
struct Codes {
    active: StatusCode,
    standby: StatusCode,
    sealed: StatusCode,
    uninitialized: StatusCode,
    removed: StatusCode,
    standby_is_ok: bool,
}

impl Codes {
    /// `None` if a value is no status code or no boolean.
    fn parse(query: &str) -> Option<Self> {
        let query = urlencoded::query(query);
        let code = |name: &str, default: u16| match query.get(name) {
            None => StatusCode::from_u16(default).ok(),
            Some(text) => {
                let code = text.parse().ok().filter(|code| *code >= 200)?;
                StatusCode::from_u16(code).ok()
            }
        };
        // Codes of roles there are not here; a bad value is refused all the same.
        for absent in [
            "drsecondarycode",
            "performancestandbycode",
            "haunhealthycode",
        ] {
            code(absent, 200)?;
        }
        let flag = |name: &str| match query.get(name).map(String::as_str) {
            None => Some(false),
            Some("") => Some(true),
            Some(text) => urlencoded::boolean(text),
        };
        flag("perfstandbyok")?;
        Some(Self {
            active: code("activecode", 200)?,
            standby: code("standbycode", 429)?,
            sealed: code("sealedcode", 503)?,
            uninitialized: code("uninitcode", 501)?,
            removed: code("removedcode", 530)?,
            standby_is_ok: flag("standbyok")?,
        })
    }

    fn status(&self, health: &Health) -> StatusCode {
        if !health.initialized {
            self.uninitialized
        } else if health.removed {
            self.removed
        } else if health.sealed {
            self.sealed
        } else if health.standby && !self.standby_is_ok {
            self.standby
        } else {
            self.active
        }
    }
}

fn body(health: Health, version: &str) -> HealthBody {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mode = |unsealed| if health.sealed { "unknown" } else { unsealed };
    HealthBody {
        initialized: health.initialized,
        sealed: health.sealed,
        standby: health.standby,
        performance_standby: false,
        replication_performance_mode: mode("primary"),
        replication_dr_mode: mode("disabled"),
        server_time_utc: now.unwrap_or_default().as_secs(),
        version: version.to_owned(),
        enterprise: false,
        cluster_name: health.cluster_name,
        cluster_id: health.cluster_id,
        echo_duration_ms: 0,
        clock_skew_ms: 0,
        replication_primary_canary_age_ms: 0,
        removed_from_cluster: health.removed,
    }
}

/// What OpenBao and Vault answer, together: some clients insist on fields that
/// only one of them has.
#[derive(Serialize)]
struct HealthBody {
    initialized: bool,
    sealed: bool,
    standby: bool,
    performance_standby: bool,
    replication_performance_mode: &'static str,
    replication_dr_mode: &'static str,
    server_time_utc: u64,
    version: String,
    enterprise: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    echo_duration_ms: u64,
    clock_skew_ms: u64,
    replication_primary_canary_age_ms: u64,
    removed_from_cluster: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_over_states_and_queries() {
        let state = |initialized, sealed, standby, removed| Health {
            initialized,
            sealed,
            standby,
            removed,
            ..Health::default()
        };
        let uninitialized = state(false, true, true, false);
        let sealed = state(true, true, true, false);
        let standby = state(true, false, true, false);
        let active = state(true, false, false, false);
        let removed = state(true, true, true, true);
        for (query, health, expected) in [
            ("", &uninitialized, Some(501)),
            ("", &sealed, Some(503)),
            ("", &standby, Some(429)),
            ("", &active, Some(200)),
            ("", &removed, Some(530)),
            ("uninitcode=200", &uninitialized, Some(200)),
            ("standbyok=true&sealedcode=200", &uninitialized, Some(501)),
            ("sealedcode=473", &sealed, Some(473)),
            ("standbyok=true", &sealed, Some(503)),
            ("standbyok=true", &standby, Some(200)),
            ("standbyok", &standby, Some(200)),
            ("standbyok=true&activecode=299", &standby, Some(299)),
            ("standbycode=204", &standby, Some(204)),
            ("removedcode=599", &removed, Some(599)),
            ("standbycode=abc", &active, None),
            ("standbyok=maybe", &active, None),
            ("activecode=99", &active, None),
            ("activecode=1000", &active, None),
            ("drsecondarycode=x", &active, None),
        ] {
            let status = Codes::parse(query).map(|codes| codes.status(health).as_u16());
            assert_eq!(status, expected, "{query}");
        }
    }
}
