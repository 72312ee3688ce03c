//! The raft connections that stand, by peer and run of its process: whether a
//! run still speaks, and ending those of a run that was succeeded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::hello::Run;
use crate::types::NodeId;

/// Between two looks at a line.
const LOOK: Duration = Duration::from_millis(20);

/// One standing connection, of either direction; it stands until dropped.
#[derive(Debug)]
pub(super) struct Line {
    run: Run,
    frames: AtomicU64,
    /// Cancelled to end the connection.
    pub(super) cut: CancellationToken,
}

impl Line {
    /// A frame arrived on it.
    pub(super) fn heard(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }
}

/// All lines that stand.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<BTreeMap<NodeId, Vec<Weak<Line>>>>);

impl Lines {
    /// Notes a new line; `cut` is a token of its own.
    pub(super) fn register(&self, peer: NodeId, run: Run, cut: CancellationToken) -> Arc<Line> {
        let line = Arc::new(Line {
            run,
            frames: AtomicU64::new(0),
            cut,
        });
        let mut lines = self.lock();
        let of_peer = lines.entry(peer).or_default();
        of_peer.retain(|line| line.strong_count() != 0);
        of_peer.push(Arc::downgrade(&line));
        lines.retain(|_, of_peer| !of_peer.is_empty());
        line
    }

    /// Waits until `run` is heard (true), has no line left, or was silent for
    /// `patience`.
    pub(super) async fn answers(&self, peer: NodeId, run: Run, patience: Duration) -> bool {
        let before = self.frames(peer, run);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            match (self.frames(peer, run), before) {
                (None, _) => return false,
                (now, before) if now != before => return true,
                _ => sleep(LOOK).await,
            }
        }
        false
    }

    /// Whether any line of `peer` stands.
    pub(super) fn stand(&self, peer: NodeId) -> bool {
        let lines = self.of(peer);
        lines.iter().any(|line| !line.cut.is_cancelled())
    }

    /// Ends every line of `peer` that is not of `run`.
    pub(super) fn keep_only(&self, peer: NodeId, run: Run) {
        for line in self.of(peer).iter().filter(|line| line.run != run) {
            line.cut.cancel();
        }
    }

    /// Frames heard of a run so far; `None` without a line.
    fn frames(&self, peer: NodeId, run: Run) -> Option<u64> {
        let lines = self.of(peer);
        let mut of_run = lines
            .iter()
            .filter(|line| line.run == run && !line.cut.is_cancelled())
            .peekable();
        of_run.peek()?;
        Some(of_run.map(|line| line.frames.load(Ordering::Relaxed)).sum())
    }

    fn of(&self, peer: NodeId) -> Vec<Arc<Line>> {
        let lines = self.lock();
        let of_peer = lines.get(&peer).into_iter().flatten();
        of_peer.filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Vec<Weak<Line>>>> {
        // Every change is whole at each step: a panic elsewhere harmed nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);
    const PATIENCE: Duration = Duration::from_millis(100);

    fn run(number: u64) -> Run {
        Run { number, id: number }
    }

    #[tokio::test]
    async fn run_answers_only_when_it_is_heard_while_one_waits() {
        let lines = Lines::default();
        assert!(!lines.answers(PEER, run(1), PATIENCE).await);
        let line = lines.register(PEER, run(1), CancellationToken::new());
        line.heard();
        assert!(!lines.answers(PEER, run(1), PATIENCE).await, "heard before");
        let speaking = async {
            sleep(PATIENCE / 2).await;
            line.heard();
        };
        let (answers, ()) = tokio::join!(lines.answers(PEER, run(1), PATIENCE), speaking);
        assert!(answers);
        assert!(!lines.answers(PEER, run(2), PATIENCE).await);
    }

    #[tokio::test]
    async fn wait_ends_with_the_last_line() {
        let lines = Lines::default();
        let line = lines.register(PEER, run(1), CancellationToken::new());
        let started = Instant::now();
        let hanging_up = async {
            sleep(PATIENCE).await;
            drop(line);
        };
        let waiting = lines.answers(PEER, run(1), Duration::from_secs(60));
        let (answers, ()) = tokio::join!(waiting, hanging_up);
        assert!(!answers && started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn only_lines_of_other_runs_are_cut() {
        let lines = Lines::default();
        let kept = lines.register(PEER, run(2), CancellationToken::new());
        let cut = lines.register(PEER, run(1), CancellationToken::new());
        let other = lines.register(NodeId(3), run(1), CancellationToken::new());
        lines.keep_only(PEER, run(2));
        assert!(cut.cut.is_cancelled());
        assert!(!kept.cut.is_cancelled() && !other.cut.is_cancelled());
    }
}
