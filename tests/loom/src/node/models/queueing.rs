//! The queue between threads, and the bounds on what is queued.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Model;
use crate::node::event::{Event, EventSender};
use crate::physical::PhysicalError;
use crate::sync::permits::Permits;
use crate::sync::queue::{self, Closed};
use crate::sync::thread::spawn;

use super::scene::put;

pub const MODELS: &[Model] = &[
    Model {
        name: "queue_gives_every_item_once_in_order",
        preemptions: 3,
        scene: every_item_once,
    },
    Model {
        name: "queue_closed_while_sent_to_gives_back_or_refuses",
        preemptions: 4,
        scene: closed_while_sent_to,
    },
    Model {
        name: "queue_wakes_when_the_last_sender_goes",
        preemptions: 4,
        scene: last_sender_goes,
    },
    Model {
        name: "permits_are_never_exceeded_and_all_come_back",
        preemptions: 4,
        scene: permits,
    },
    Model {
        name: "proposals_hold_their_permit_until_answered",
        preemptions: 3,
        scene: proposals_hold_permits,
    },
];

fn every_item_once() {
    let (sender, receiver) = queue::channel();
    let senders: Vec<_> = [0, 10]
        .map(|first| {
            let sender = sender.clone();
            spawn(move || {
                sender.send(first).expect("open");
                sender.send(first + 1).expect("open");
            })
        })
        .into();
    drop(sender);
    let received: Vec<i32> = std::iter::from_fn(|| receiver.recv()).collect();
    let of = |first: i32| {
        received
            .iter()
            .filter(move |item| **item / 10 == first / 10)
    };
    assert!(of(0).eq(&[0, 1]), "{received:?}");
    assert!(of(10).eq(&[10, 11]), "{received:?}");
    for sender in senders {
        sender.join().expect("sent");
    }
}

fn closed_while_sent_to() {
    let (sender, receiver) = queue::channel();
    let sending = spawn(move || [1, 2].map(|item| sender.send(item)));
    let mut received: Vec<i32> = receiver.try_recv().into_iter().collect();
    received.extend(receiver.close());
    let sent = sending.join().expect("sends");
    let accepted = [1, 2].into_iter().zip(sent).filter_map(|(item, sent)| {
        // Who is refused has his item back.
        assert!(sent.is_ok() || sent == Err(Closed(item)));
        sent.is_ok().then_some(item)
    });
    assert!(accepted.eq(received));
}

fn last_sender_goes() {
    let (sender, receiver) = queue::channel::<i32>();
    let other = sender.clone();
    let going = spawn(move || drop(sender));
    let sending = spawn(move || other.send(1));
    assert_eq!(receiver.recv(), Some(1));
    assert_eq!(receiver.recv(), None);
    going.join().expect("went");
    sending.join().expect("sent").expect("open");
}

fn permits() {
    let permits = Permits::new(1);
    let holders = Arc::new(AtomicUsize::new(0));
    let work = |permits: Permits, holders: Arc<AtomicUsize>| {
        move || {
            if let Some(permit) = permits.take() {
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                loom::thread::yield_now();
                holders.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
            }
        }
    };
    let other = spawn(work(permits.clone(), Arc::clone(&holders)));
    work(permits.clone(), holders)();
    other.join().expect("worked");
    assert!(permits.take().is_some());
}

/// With room for one caller, a second is told at once that the node is busy;
/// nobody is refused once the first has its answer.
fn proposals_hold_permits() {
    let (events, queue) = EventSender::bounded(1, 1);
    let other = events.clone();
    let caller = spawn(move || match other.propose(&put("a")) {
        Ok(answer) => answer.blocking_recv().expect("answered").map(drop),
        Err(error) => Err(error),
    });
    let own = events.propose(&put("b"));
    let queued: Vec<Event> = std::iter::from_fn(|| queue.try_recv().ok()).collect();
    assert!(queued.len() <= 1, "two in flight");
    let answered = queued
        .into_iter()
        .filter_map(|event| match event {
            Event::Propose(proposal) => Some(proposal.reply),
            _ => None,
        })
        .map(|reply| reply.finish(Err(PhysicalError::NotLeader)))
        .count();
    let own_was_taken = own.is_ok();
    if let Ok(answer) = own {
        assert!(matches!(
            answer.blocking_recv(),
            Ok(Err(PhysicalError::NotLeader))
        ));
        assert!(answered >= 1);
    } else {
        assert!(matches!(own, Err(PhysicalError::Busy)));
    }
    // The caller may come only now.
    for event in queue_until_closed(events, &queue) {
        if let Event::Propose(proposal) = event {
            proposal.reply.finish(Err(PhysicalError::NotLeader));
        }
    }
    match caller.join().expect("told") {
        Err(PhysicalError::NotLeader) => {}
        Err(PhysicalError::Busy) => assert!(own_was_taken),
        other => panic!("{other:?}"),
    }
}

fn queue_until_closed(
    events: EventSender,
    queue: &queue::Receiver<Event>,
) -> impl Iterator<Item = Event> {
    drop(events);
    std::iter::from_fn(|| queue.recv())
}
