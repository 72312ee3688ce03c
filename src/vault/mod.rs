//! Init, unseal, mounts, router, tokens, KV engines: what a request means.

mod api;

pub use api::*;
