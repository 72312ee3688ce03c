//! The observers of a cluster; a violation panics with the property's name.

use holdfast::sim::history::{History, Observer, Verdict};
use holdfast::sim::spec::Refinement;

/// Watches everything that happens in a cluster. `HOLDFAST_ONLY=spec` or
/// `=history` leaves one observer, to see what it finds alone.
#[derive(Debug)]
pub struct Watch {
    /// The story invents messages: nothing follows from them for the cluster.
    pub is_off: bool,
    history: Option<History>,
    specification: Option<Refinement>,
}

impl Default for Watch {
    fn default() -> Self {
        let only = std::env::var("HOLDFAST_ONLY").ok();
        let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
        Self {
            is_off: false,
            history: wanted("history").then(History::default),
            specification: wanted("spec").then(Refinement::default),
        }
    }
}

impl Watch {
    /// A message was made up: nothing explains it, or what comes of it.
    pub fn invented(&mut self) {
        self.specification = None;
    }

    /// Tells every observer.
    pub fn tell(&mut self, event: impl Fn(&mut dyn Observer) -> Verdict) {
        if self.is_off {
            return;
        }
        let history = self.history.as_mut().map(|one| one as &mut dyn Observer);
        let specification = self
            .specification
            .as_mut()
            .map(|one| one as &mut dyn Observer);
        for observer in history.into_iter().chain(specification) {
            if let Err(violation) = event(observer) {
                panic!("{violation}");
            }
        }
    }
}
