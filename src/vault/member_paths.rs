//! `sys/storage/raft/{remove-peer,promote,demote,transfer-leader}`: what an
//! operator wants of a member, and what it would cost.
//!
//! With `dry_run` nothing is done and the quorum before and after is told.
//! What would cost the quorum is refused unless `force` is set.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fields::Fields;
use super::router::data;
use super::sys_paths::only;
use super::unseal::bad;
use super::{Method, Request, Response, Vault, VaultError, object};
use crate::membership::autopilot::HERE_WITHIN;
use crate::membership::{Forecast, Quorum, ServerHealth};
use crate::physical::{MemberWish, PhysicalError};

/// A leader has heard of everybody that answers by then.
const HEARD_OF_WITHIN: Duration = Duration::from_secs(3);
/// Before a new leader is asked again.
const FORECAST_PAUSE: Duration = Duration::from_millis(50);

struct Ask {
    server_id: String,
    dry_run: bool,
    force: bool,
}

impl Ask {
    fn of(request: &Request) -> Result<Self, VaultError> {
        let fields = Fields::of(request.body.as_ref());
        Ok(Self {
            server_id: fields.text("server_id")?,
            dry_run: fields.boolean("dry_run")?.unwrap_or(false),
            force: fields.boolean("force")?.unwrap_or(false),
        })
    }
}

impl Vault {
    pub(super) async fn change_member(
        &self,
        wish: MemberWish,
        request: &Request,
    ) -> Result<Response, VaultError> {
        only(request, Method::Update)?;
        let ask = Ask::of(request)?;
        if ask.server_id.is_empty() {
            return bad("no server id provided");
        }
        let forecast = match self.settled_forecast(&ask.server_id, wish).await {
            Ok(forecast) => forecast,
            // It is gone, as asked: nothing to complain about.
            Err(PhysicalError::UnknownServer { .. }) if wish == MemberWish::Remove => {
                return Ok(match ask.dry_run {
                    true => nothing_to_do(),
                    false => Response::default(),
                });
            }
            Err(error) => return Err(error.into()),
        };
        if ask.dry_run {
            return Ok(data(object(forecast_json(forecast))));
        }
        if forecast.after.voters == 0 {
            let text = "need at least one voter in configuration: {[]}";
            return Err(VaultError::Internal(text.to_owned()));
        }
        if let (Some(objection), false) = (forecast.objection(), ask.force) {
            return refused(wish, &objection);
        }
        let (server_id, force) = (ask.server_id.clone(), ask.force);
        let changed = match wish {
            MemberWish::Remove => self.backend.remove(server_id, force).await,
            MemberWish::Promote => self.backend.change_vote(server_id, true, force).await,
            MemberWish::Demote => self.backend.change_vote(server_id, false, force).await,
        };
        match changed {
            // Another change came between.
            Err(PhysicalError::CostsQuorum { reason }) => return refused(wish, &reason),
            changed => changed?,
        }
        tracing::info!(node_id = ask.server_id, ?wish, "membership changed");
        Ok(Response::default())
    }

    // A new leader has not heard of everybody yet: that is no silence.
    async fn settled_forecast(
        &self,
        server_id: &str,
        wish: MemberWish,
    ) -> Result<Forecast, PhysicalError> {
        let asked = Instant::now();
        loop {
            let forecast = self.backend.forecast(server_id, wish)?;
            let leads_for = self.active_since().elapsed().unwrap_or_default();
            let is_settled = HEARD_OF_WITHIN < leads_for.max(asked.elapsed());
            if forecast.objection().is_none() || is_settled {
                return Ok(forecast);
            }
            tokio::time::sleep(FORECAST_PAUSE).await;
        }
    }

    pub(super) async fn transfer_leader(&self, request: &Request) -> Result<Response, VaultError> {
        only(request, Method::Update)?;
        let ask = Ask::of(request)?;
        let (_, servers) = self.backend.servers();
        let server = servers
            .iter()
            .find(|server| server.node_id == ask.server_id);
        if !ask.server_id.is_empty() {
            let Some(server) = server else {
                let node_id = ask.server_id;
                return Err(PhysicalError::UnknownServer { node_id }.into());
            };
            if !server.voter {
                return bad(format!(
                    "server {} is a non-voter and cannot lead: promote it first",
                    ask.server_id
                ));
            }
        }
        if ask.dry_run {
            let own = self.backend.node_id();
            let forecast = self.backend.forecast(&own, MemberWish::Promote)?;
            let mut told = forecast_json(forecast);
            let health = self.backend.cluster_health()?;
            let target = |server: &&ServerHealth| server.node_id == ask.server_id;
            let target = health.servers.iter().find(target);
            if target.is_some_and(|server| HERE_WITHIN <= server.last_contact) {
                let objection = format!("server {} does not answer", ask.server_id);
                told["allowed"] = Value::Bool(false);
                told["objection"] = Value::String(objection);
            }
            return Ok(data(object(told)));
        }
        if ask.server_id.is_empty() {
            self.backend.step_down().await?;
        } else {
            self.backend.hand_over(ask.server_id).await?;
        }
        Ok(Response::default())
    }
}

// A learner that does not answer is given no vote by force either.
fn refused<T>(wish: MemberWish, objection: &str) -> Result<T, VaultError> {
    match wish {
        MemberWish::Promote => bad(objection),
        MemberWish::Remove | MemberWish::Demote => {
            bad(format!("{objection}; set force to do it all the same"))
        }
    }
}

/// Vault documents the field for disaster recovery secondaries: there is no
/// token on those. Here there are none, and the field must not pass for one.
pub(super) fn refuse_dr_operation_token(request: &Request) -> Result<(), VaultError> {
    let body = request.body.as_ref();
    let given = body.and_then(|body| body.get("dr_operation_token"));
    match given {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(text)) if text.is_empty() => Ok(()),
        Some(_) => bad(
            "dr_operation_token is for disaster recovery secondaries, and this cluster is none: \
             authenticate with a token instead",
        ),
    }
}

fn nothing_to_do() -> Response {
    data(object(
        json!({"dry_run": true, "allowed": true, "changes": false}),
    ))
}

fn forecast_json(forecast: Forecast) -> Value {
    let quorum = |quorum: Quorum| {
        json!({
            "voters": quorum.voters,
            "voters_in_contact": quorum.voters_in_contact,
            "quorum": quorum.needed(),
            "failure_tolerance": quorum.failure_tolerance(),
        })
    };
    let objection = forecast.objection();
    json!({
        "dry_run": true,
        "allowed": objection.is_none(),
        "objection": objection,
        "changes": forecast.before != forecast.after,
        "before": quorum(forecast.before),
        "after": quorum(forecast.after),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forecast_tells_the_quorum_before_and_after() {
        let quorum = |voters, voters_in_contact| Quorum {
            voters,
            voters_in_contact,
        };
        let forecast = Forecast {
            before: quorum(3, 2),
            after: quorum(2, 1),
        };
        let text = "the cluster would lose its quorum: 1 of 2 voters would be in contact, \
                    2 are needed";
        assert_eq!(
            forecast_json(forecast),
            json!({
                "dry_run": true, "allowed": false, "changes": true, "objection": text,
                "before": {"voters": 3, "voters_in_contact": 2, "quorum": 2, "failure_tolerance": 0},
                "after": {"voters": 2, "voters_in_contact": 1, "quorum": 2, "failure_tolerance": 0},
            })
        );
    }
}
