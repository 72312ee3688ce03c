//! What readers are shown: views of the store, the core's status.

use std::sync::Arc;

use super::Model;
use super::scene::view;
use crate::node::board::Board;
use crate::node::standing::StatusBoard;
use crate::raft::Status;
use crate::sync::thread::spawn;
use crate::types::{LogIndex, Millis};

pub const MODELS: &[Model] = &[
    Model {
        name: "board_shows_no_older_view_than_it_said",
        preemptions: 4,
        scene: board,
    },
    Model {
        name: "status_is_at_least_as_new_as_its_time",
        preemptions: 4,
        scene: status,
    },
];

/// A reader beside the apply thread: told an index, it finds a view at least as
/// new, and never an older one after it.
fn board() {
    let board = Arc::new(Board::new(view(0)));
    let publisher = {
        let board = Arc::clone(&board);
        spawn(move || {
            for index in 1..=3 {
                let old = board.publish(Arc::new(view(index)));
                assert_eq!(old.applied_index(), LogIndex(index - 1));
            }
        })
    };
    let mut seen = LogIndex(0);
    for _ in 0..3 {
        let told = board.applied();
        let view = board.newest().applied_index();
        assert!(told <= view, "told {told:?}, shown {view:?}");
        assert!(seen <= view, "shown {view:?} after {seen:?}");
        seen = view;
    }
    publisher.join().expect("published");
}

fn status() {
    let board = Arc::new(StatusBoard::new());
    let publisher = {
        let board = Arc::clone(&board);
        spawn(move || {
            for now in 1..=2 {
                let status = Status {
                    commit_index: LogIndex(now),
                    ..Status::default()
                };
                board.publish(Arc::new(status), Millis(now));
            }
        })
    };
    let mut seen = Millis(0);
    for _ in 0..2 {
        let (status, at) = board.newest();
        assert!(at.0 <= status.commit_index.0);
        assert!(seen <= at);
        seen = at;
    }
    publisher.join().expect("published");
}
