//! What watches a history, and the notation of the transcripts.

#[path = "../../../../src/sim/history/mod.rs"]
pub mod history;
#[path = "../../../../src/sim/notation.rs"]
pub mod notation;
#[path = "../../../../src/sim/spec/mod.rs"]
pub mod spec;
