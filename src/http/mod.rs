//! The HTTP API: a minimal router on hyper, one file a resource, one table
//! from error to status (`errors`).
//!
//! It parses, bounds and formats; the vault decides. It must never put a
//! token or a body into a log line, execute a request twice that may have been
//! executed, or forward one that was forwarded already.

mod body;
mod errors;
mod fields;
pub mod forward;
mod health;
mod init;
pub mod json;
mod leader;
mod logical;
mod path;
mod patience;
mod raft;
mod reply;
mod request;
mod router;
mod seal;
pub mod server;
mod service;
mod snapshot;
pub mod tls;
mod urlencoded;

pub use body::{Body, BodyError};
pub use reply::{Reply, rfc3339};
pub use request::Arrival;
pub use router::{Identity, Router};
pub use service::{ArchiveWriter, Token, VaultService};
pub(crate) use urlencoded::boolean as boolean_word;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
