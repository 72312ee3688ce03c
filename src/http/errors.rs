//! The one table from a refusal to a status and its texts.
//!
//! Real servers spell the same refusal in two ways: endpoints that are not
//! logical paths answer with the bare text, logical ones wrap what an engine
//! or storage said into "1 error occurred: …". Scripts match both.

use hyper::StatusCode;
use hyper::header::{HeaderValue, RETRY_AFTER};

use super::body::ReadError;
use super::json::JsonError;
use super::reply::{Reply, errors};
use crate::physical::PhysicalError;
use crate::vault::VaultError;

/// How the path that was asked spells errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// `sys/init`, `sys/unseal`, `sys/storage/raft/join` …
    Bare,
    /// Everything routed to an engine.
    Logical,
}

/// What clients match when nobody is active.
pub const NO_ACTIVE_NODE: &str = "local node not active but active cluster node not found";

/// The reply to a refusal.
#[must_use]
pub fn reply(error: &VaultError, spelling: Spelling) -> Reply {
    let (status, texts) = table(error, spelling);
    let mut reply = errors(status, &texts);
    if matches!(error, VaultError::Physical(PhysicalError::Busy)) {
        reply
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    reply
}

fn table(error: &VaultError, spelling: Spelling) -> (StatusCode, Vec<String>) {
    use StatusCode as S;
    let wrapped = |text: String| match spelling {
        Spelling::Bare => vec![text],
        Spelling::Logical => vec![multierror(&text)],
    };
    let text = error.to_string();
    match error {
        VaultError::Sealed => (S::SERVICE_UNAVAILABLE, vec![text]),
        VaultError::NotInitialized | VaultError::AlreadyInitialized => (S::BAD_REQUEST, vec![text]),
        VaultError::PermissionDenied => (S::FORBIDDEN, vec![text]),
        VaultError::NotFound => (S::NOT_FOUND, Vec::new()),
        VaultError::NoRoute { .. } => (S::NOT_FOUND, vec![text]),
        VaultError::UnsupportedPath => (S::NOT_FOUND, wrapped(text)),
        VaultError::UnsupportedOperation => (S::METHOD_NOT_ALLOWED, wrapped(text)),
        VaultError::BadRequest(_) => (S::BAD_REQUEST, vec![text]),
        VaultError::Internal(_) => (S::INTERNAL_SERVER_ERROR, wrapped(text)),
        VaultError::Standby | VaultError::NoActiveNode => {
            (S::INTERNAL_SERVER_ERROR, vec![NO_ACTIVE_NODE.into()])
        }
        VaultError::Physical(physical) => match physical {
            PhysicalError::NotLeader => (S::INTERNAL_SERVER_ERROR, vec![NO_ACTIVE_NODE.into()]),
            // Certainly not done: 503 tells a client that it may try again.
            PhysicalError::Unavailable { .. } | PhysicalError::Busy => {
                (S::SERVICE_UNAVAILABLE, wrapped(text))
            }
            PhysicalError::DiskFull { .. } | PhysicalError::MemoryFull { .. } => {
                (S::INSUFFICIENT_STORAGE, wrapped(text))
            }
            PhysicalError::NotRunning => {
                (S::SERVICE_UNAVAILABLE, vec![VaultError::Sealed.to_string()])
            }
            PhysicalError::CostsQuorum { .. } => (S::BAD_REQUEST, wrapped(text)),
            PhysicalError::OutcomeUnknown { .. }
            | PhysicalError::ValueTooLarge { .. }
            | PhysicalError::KeyTooLarge { .. }
            | PhysicalError::Failed { .. }
            | PhysicalError::UnknownServer { .. }
            | PhysicalError::Refused { .. } => (S::INTERNAL_SERVER_ERROR, wrapped(text)),
        },
    }
}

/// The reply to a body that was not taken.
#[must_use]
pub fn unread(error: &ReadError) -> Reply {
    let status = match error {
        ReadError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ReadError::TimedOut => StatusCode::REQUEST_TIMEOUT,
        ReadError::Broken(_) => StatusCode::BAD_REQUEST,
        ReadError::Spool(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    errors(status, &[error.to_string()])
}

/// The reply to a body that is not what the path takes.
#[must_use]
pub fn malformed(error: &JsonError) -> Reply {
    errors(StatusCode::BAD_REQUEST, &[error.to_string()])
}

/// One error as Go's multierror prints it.
#[must_use]
pub fn multierror(text: &str) -> String {
    format!("1 error occurred:\n\t* {text}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_statuses_and_texts_as_recorded() {
        let physical = VaultError::Physical;
        let cases: Vec<(VaultError, Spelling, u16, Option<&str>)> = vec![
            (
                VaultError::Sealed,
                Spelling::Logical,
                503,
                Some("Vault is sealed"),
            ),
            (
                VaultError::NotInitialized,
                Spelling::Bare,
                400,
                Some("Vault is not initialized"),
            ),
            (
                VaultError::PermissionDenied,
                Spelling::Logical,
                403,
                Some("permission denied"),
            ),
            (VaultError::NotFound, Spelling::Logical, 404, None),
            (
                VaultError::NoRoute {
                    path: "nope/foo".into(),
                },
                Spelling::Logical,
                404,
                Some("no handler for route \"nope/foo\". route entry not found."),
            ),
            (
                VaultError::UnsupportedPath,
                Spelling::Logical,
                404,
                Some("1 error occurred:\n\t* unsupported path\n\n"),
            ),
            (
                VaultError::UnsupportedOperation,
                Spelling::Logical,
                405,
                Some("1 error occurred:\n\t* unsupported operation\n\n"),
            ),
            (
                VaultError::BadRequest("missing data fields".into()),
                Spelling::Logical,
                400,
                Some("missing data fields"),
            ),
            (
                VaultError::Internal("failed to join raft cluster: x".into()),
                Spelling::Bare,
                500,
                Some("failed to join raft cluster: x"),
            ),
            (
                VaultError::Standby,
                Spelling::Logical,
                500,
                Some(NO_ACTIVE_NODE),
            ),
            (
                physical(PhysicalError::ValueTooLarge {
                    bytes: 2_097_258,
                    max: 1_048_576,
                }),
                Spelling::Logical,
                500,
                Some(
                    "1 error occurred:\n\t* put failed due to value being too large; \
                     got 2097258 bytes, max: 1048576 bytes\n\n",
                ),
            ),
            (
                physical(PhysicalError::NotRunning),
                Spelling::Logical,
                503,
                Some("Vault is sealed"),
            ),
        ];
        for (error, spelling, status, text) in cases {
            let (found, texts) = table(&error, spelling);
            assert_eq!(found.as_u16(), status, "{error}");
            assert_eq!(texts.first().map(String::as_str), text, "{error}");
        }
    }
}
