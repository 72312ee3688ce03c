//! The failure latch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Model;
use crate::node::event::{Event, EventSender};
use crate::node::failure::Failure;
use crate::sync::thread::spawn;

pub const MODELS: &[Model] = &[
    Model {
        name: "failure_is_latched_once_and_stays",
        preemptions: 4,
        scene: latched_once,
    },
    Model {
        name: "failure_is_known_to_whoever_is_stopped_by_it",
        preemptions: 4,
        scene: known_when_stopped,
    },
];

fn latched_once() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let hook = move |_: &str| {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    let failure = Arc::new(Failure::new(Arc::new(hook), Arc::new(|_| {})));
    let reporters = ["a", "b"].map(|reason| {
        let failure = Arc::clone(&failure);
        spawn(move || failure.report(reason))
    });
    let seen = failure.error();
    for reporter in reporters {
        reporter.join().expect("reported");
    }
    let last = failure.error().expect("two have failed").to_string();
    if let Some(seen) = seen {
        assert_eq!(seen.to_string(), last);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// The order that the WAL and apply threads keep: first the latch, then the
/// word to the core.
fn known_when_stopped() {
    let (events, queue) = EventSender::new();
    let failure = Arc::new(Failure::new(Arc::new(|_| {}), Arc::new(|_| {})));
    let reporter = {
        let failure = Arc::clone(&failure);
        spawn(move || {
            failure.report("bad sector");
            events.send(Event::Stop)
        })
    };
    assert!(matches!(queue.recv(), Some(Event::Stop)));
    assert!(failure.error().is_some());
    reporter.join().expect("reported");
}
