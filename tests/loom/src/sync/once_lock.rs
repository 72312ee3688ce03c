//! A cell that is set once.

use super::Mutex;
use super::atomic::{AtomicBool, Ordering};

/// As `std::sync::OnceLock`.
pub struct OnceLock<T> {
    setting: Mutex<()>,
    is_set: AtomicBool,
    value: std::sync::OnceLock<T>,
}

impl<T> OnceLock<T> {
    /// Not set.
    pub fn new() -> Self {
        Self {
            setting: Mutex::new(()),
            is_set: AtomicBool::new(false),
            value: std::sync::OnceLock::new(),
        }
    }

    /// Sets it; gives the value back when another came first, which is then
    /// visible.
    pub fn set(&self, value: T) -> Result<(), T> {
        let _setting = self.setting.lock().expect("nobody panics while holding it");
        self.value.set(value)?;
        self.is_set.store(true, Ordering::Release);
        Ok(())
    }

    /// The value, once it is set.
    pub fn get(&self) -> Option<&T> {
        let is_set = self.is_set.load(Ordering::Acquire);
        is_set.then(|| self.value.get()).flatten()
    }
}
