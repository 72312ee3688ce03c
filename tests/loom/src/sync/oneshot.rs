//! One message, or the news that none will come.

use std::sync::{Arc, PoisonError};

use super::{Condvar, Mutex, MutexGuard};

/// Sends once.
pub struct Sender<T>(Arc<Shared<T>>);

/// Receives once.
pub struct Receiver<T>(Arc<Shared<T>>);

/// The sender is gone without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvError;

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    message: Option<T>,
    sender_is_gone: bool,
    receiver_is_gone: bool,
}

/// A new pair.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            message: None,
            sender_is_gone: false,
            receiver_is_gone: false,
        }),
        changed: Condvar::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Sends; gives the message back when nobody waits.
    pub fn send(self, message: T) -> Result<(), T> {
        let mut state = self.0.state();
        if state.receiver_is_gone {
            return Err(message);
        }
        state.message = Some(message);
        Ok(())
    }

    /// Nobody waits any more.
    pub fn is_closed(&self) -> bool {
        self.0.state().receiver_is_gone
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state().sender_is_gone = true;
        self.0.changed.notify_one();
    }
}

impl<T> Receiver<T> {
    /// Waits.
    pub fn blocking_recv(self) -> Result<T, RecvError> {
        let mut state = self.0.state();
        while state.message.is_none() && !state.sender_is_gone {
            let waited = self.0.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.message.take().ok_or(RecvError)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.state().receiver_is_gone = true;
    }
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
