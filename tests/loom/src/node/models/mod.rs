//! The models. Each is a small scene with two to four threads, all of them
//! production code but the callers; loom runs it through every interleaving
//! with at most `preemptions` switches that a thread did not ask for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::sync::thread::spawn;

mod scene;

mod applying;
mod failing;
mod logging;
mod queueing;
mod receiving;
mod showing;
mod stopping;

/// A scene and its bound.
pub struct Model {
    name: &'static str,
    preemptions: usize,
    scene: fn(),
}

/// All of them.
fn all() -> impl Iterator<Item = &'static Model> {
    let subjects: [&[Model]; 7] = [
        queueing::MODELS,
        showing::MODELS,
        failing::MODELS,
        receiving::MODELS,
        logging::MODELS,
        applying::MODELS,
        stopping::MODELS,
    ];
    subjects.into_iter().flatten()
}

/// Runs those whose name contains `only`; the process fails with the first
/// that does.
pub fn run(only: Option<&str>) {
    let mut count = 0;
    for model in all().filter(|model| model.name.contains(only.unwrap_or_default())) {
        count += 1;
        let interleavings = Arc::new(AtomicUsize::new(0));
        let mut builder = loom::model::Builder::new();
        let bound = builder.preemption_bound.unwrap_or(model.preemptions);
        builder.preemption_bound = Some(bound);
        builder.max_branches = BRANCHES_MAX;
        let (scene, counter) = (model.scene, Arc::clone(&interleavings));
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            builder.check(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                // On a thread of its own: loom's first has a stack of 32 KiB.
                spawn(scene).join().expect("a panic ends the model");
            });
        }));
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!(
            "{:52} {verdict:6} preemptions {bound} · {:7} interleavings · {:6.2} s",
            model.name,
            interleavings.load(Ordering::Relaxed),
            begun.elapsed().as_secs_f64()
        );
        if result.is_err() {
            std::process::exit(1);
        }
    }
    // A name that fits nothing must not pass for a success.
    assert!(count > 0, "no model is called {}", only.unwrap_or_default());
}

/// Switches of one run, at most: none of the scenes comes near.
const BRANCHES_MAX: usize = 20_000;
