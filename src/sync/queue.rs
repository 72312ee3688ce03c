//! A queue from many threads to one. It never blocks a sender: whoever uses it
//! bounds what is sent.
//!
//! The standard library's would do but for two things: loom cannot see into
//! it, and it cannot be closed and emptied in one step, so that what is sent at
//! the last moment would be dropped instead of answered.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Condvar, Mutex, MutexGuard};

/// The sending side; clones send to the same queue.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The receiving side. Dropping it closes the queue.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// The queue is closed; here is what was not sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed<T>(pub T);

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// Not yet.
    Yet,
    /// Never: every sender is gone.
    Ever,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Told when something comes, and when the last sender goes.
    changed: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    senders: usize,
    /// Invariant: nothing is in a closed queue.
    closed: bool,
}

/// A new queue.
#[must_use]
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            items: VecDeque::new(),
            senders: 1,
            closed: false,
        }),
        changed: Condvar::new(),
    });
    let sender = Sender {
        shared: Arc::clone(&shared),
    };
    (sender, Receiver { shared })
}

impl<T> Sender<T> {
    /// Appends. What is accepted is received, or handed out by
    /// [`Receiver::close`], or dropped with the receiver.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn send(&self, item: T) -> Result<(), Closed<T>> {
        let mut state = self.shared.state();
        if state.closed {
            return Err(Closed(item));
        }
        state.items.push_back(item);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.state().senders += 1;
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.senders -= 1;
        let is_last = state.senders == 0;
        drop(state);
        if is_last {
            self.shared.changed.notify_one();
        }
    }
}

impl<T> Receiver<T> {
    /// The next item; waits for one. `None` when every sender is gone.
    pub fn recv(&self) -> Option<T> {
        let mut state = self.shared.state();
        loop {
            match state.next() {
                Ok(item) => return Some(item),
                Err(Nothing::Ever) => return None,
                Err(Nothing::Yet) => {
                    let waited = self.shared.changed.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The next item; waits for one, `timeout` at most and perhaps less.
    ///
    /// # Errors
    /// [`Nothing`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, Nothing> {
        let mut state = self.shared.state();
        if let Err(Nothing::Yet) = state.next_is_there() {
            let waited = self.shared.changed.wait_timeout(state, timeout);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.next()
    }

    /// The next item, if one is there.
    ///
    /// # Errors
    /// [`Nothing`].
    pub fn try_recv(&self) -> Result<T, Nothing> {
        self.shared.state().next()
    }

    /// Refuses whatever is sent from now on; gives back what was sent before
    /// and not received.
    pub fn close(&self) -> Vec<T> {
        let mut state = self.shared.state();
        state.closed = true;
        std::mem::take(&mut state.items).into()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        // Freed after the lock: an item may own a sender of this queue.
        drop(self.close());
    }
}

impl<T> State<T> {
    fn next_is_there(&self) -> Result<(), Nothing> {
        match (self.items.is_empty(), self.senders) {
            (false, _) => Ok(()),
            (true, 0) => Err(Nothing::Ever),
            (true, _) => Err(Nothing::Yet),
        }
    }

    fn next(&mut self) -> Result<T, Nothing> {
        self.next_is_there()?;
        self.items.pop_front().ok_or(Nothing::Yet)
    }
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Every change is one step: a panic elsewhere left it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_keeps_the_order() {
        let (sender, receiver) = channel();
        assert_eq!(receiver.try_recv(), Err(Nothing::Yet));
        for item in 0..3 {
            sender.clone().send(item).expect("open");
        }
        drop(sender);
        assert_eq!(receiver.recv(), Some(0));
        assert_eq!(receiver.recv_timeout(Duration::MAX), Ok(1));
        assert_eq!(receiver.try_recv(), Ok(2));
        assert_eq!(receiver.recv(), None);
    }

    #[test]
    fn queue_without_items_times_out() {
        let (sender, receiver) = channel::<u8>();
        let millisecond = Duration::from_millis(1);
        assert_eq!(receiver.recv_timeout(millisecond), Err(Nothing::Yet));
        drop(sender);
        assert_eq!(receiver.recv_timeout(millisecond), Err(Nothing::Ever));
    }

    #[test]
    fn closed_queue_gives_back_and_refuses() {
        let (sender, receiver) = channel();
        sender.send(1).expect("open");
        assert_eq!(receiver.close(), [1]);
        assert_eq!(sender.send(2), Err(Closed(2)));
        assert_eq!(receiver.try_recv(), Err(Nothing::Yet));
        assert!(receiver.close().is_empty());
    }

    #[test]
    fn queue_refuses_once_the_receiver_is_gone() {
        let (sender, receiver) = channel();
        drop(receiver);
        assert_eq!(sender.send(1), Err(Closed(1)));
    }
}
