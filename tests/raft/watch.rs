//! The observers of a cluster; a violation panics with the property's name.

use holdfast::sim::history::{History, Observer, Verdict};

/// Watches everything that happens in a cluster.
#[derive(Debug, Default)]
pub struct Watch {
    /// The story invents messages: nothing follows from them for the cluster.
    pub is_off: bool,
    history: History,
}

impl Watch {
    /// Tells every observer.
    pub fn tell(&mut self, event: impl Fn(&mut dyn Observer) -> Verdict) {
        if self.is_off {
            return;
        }
        let observers: [&mut dyn Observer; 1] = [&mut self.history];
        for observer in observers {
            if let Err(violation) = event(observer) {
                panic!("{violation}");
            }
        }
    }
}
