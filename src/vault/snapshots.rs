//! placeholder
pub struct SnapshotSource;
