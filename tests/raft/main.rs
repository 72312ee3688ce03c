//! The consensus core in whole clusters, in memory: told stories (transcripts)
//! and random walks, both watched by the same observers.

mod cluster;
mod disk;
mod leases;
mod nonsense;
mod random;
mod script;
mod transcripts;
mod watch;
