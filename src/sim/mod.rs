//! Deterministic simulation: whole clusters in one thread, with invented
//! networks, disks and clocks, watched by checkers that remember everything.
//!
//! What it must never do: read a clock, draw randomness that no seed gave,
//! iterate over a hash, touch a file. One seed is one story, byte for byte.
//!
//! Compiled only with the feature `sim`; the binary carries nothing of it.

pub mod history;
pub mod model;
pub mod notation;

pub mod spec;

mod agenda;

mod dice;

mod clock;

mod options;

mod plan;

mod world;

mod server;

mod processes;
mod repairs;

mod network;

mod streams;

mod clients;

mod troubles;

mod operator;

mod calm;

mod impostors;

mod coverage;

mod story;

mod tale;

mod run;

pub use agenda::Moment;
pub use clients::{ClientAction, ClientOperation, ClientValue};
pub use coverage::{Coverage, Mark};
pub use dice::Dice;
pub use options::{
    ClockWeather, DiskWeather, FaultRates, LinkWeather, Load, NodeSettings, Options,
};
pub use plan::{Act, Finale, Plan, Planned};
pub use run::{Outcome, run};
pub use story::Story;
pub use world::Failure;
