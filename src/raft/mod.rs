//! The consensus core: decides, performs nothing.

mod api;
pub mod message;

pub use api::*;
