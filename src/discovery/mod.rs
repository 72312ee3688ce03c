//! Finding the leader to join: the `retry_join` stanzas, when to ask whom, and
//! the HTTP client that asks.
//!
//! Every target is asked in each round, all at once; the node itself is left
//! out; rounds come at growing, jittered intervals. Each target that fails
//! says why (name, TCP, TLS, HTTP), for an operator to read.
//!
//! Absent here: what is done with an answer (`vault` opens the challenge and
//! joins).

pub mod auto_join;
mod body;
pub mod client;
mod exchange;
pub mod rounds;
pub mod search;
mod self_signed;
pub mod target;
mod tls;

pub use auto_join::{AutoJoin, AutoJoinError};
pub use client::{Answer, AnswerRequest, Challenge, ClientError, LeaderClient, PeerRecord};
pub use rounds::Rounds;
pub use search::{Failure, SearchError, find_leader};
pub use target::{JoinStanza, JoinTarget, TargetError};

#[cfg(test)]
mod tests;
