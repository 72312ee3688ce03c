//! What ends a server or makes it read its files again.

use std::io::Read;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Why a server was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// The process that started this one is gone.
    Orphaned,
}

/// The signals of this process.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    /// Never cancelled if the parent is not watched.
    parent_gone: CancellationToken,
}

impl Signals {
    /// Listens from now on. With `watches_parent`, the end of standard input
    /// counts too.
    ///
    /// # Errors
    /// Of the system.
    pub fn listen(watches_parent: bool) -> std::io::Result<Self> {
        let parent_gone = CancellationToken::new();
        if watches_parent {
            let gone = parent_gone.clone();
            std::thread::spawn(move || {
                await_end_of_input();
                gone.cancel();
            });
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            parent_gone,
        })
    }

    /// Waits for the next wish.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hang_up.recv() => Wish::Reload,
            () = self.parent_gone.cancelled() => Wish::Orphaned,
        }
    }
}

fn await_end_of_input() {
    let mut discarded = [0; 64];
    let mut input = std::io::stdin().lock();
    while matches!(input.read(&mut discarded), Ok(length) if length > 0) {}
}
