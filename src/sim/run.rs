//! One run, from plan to verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::agenda::Moment;
use super::clients::ClientOperation;
use super::coverage::Coverage;
use super::plan::Plan;
use super::story::Story;
use super::world::{Event, Failure, Step, World};

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was violated, if anything.
    pub failure: Option<Failure>,
    /// What clients did and were told: for the linearizability checker.
    pub history: Vec<ClientOperation>,
    /// What happened at least once.
    pub coverage: Coverage,
    /// The story, if it was asked for.
    pub story: String,
    /// Simulated time.
    pub simulated: Moment,
    /// Events handled.
    pub steps: u64,
    /// The highest position committed.
    pub commits: u64,
}

/// Runs a plan. A panic of the code under test is a failure like any other;
/// its message goes to standard error as well, unless a hook keeps it.
#[must_use]
pub fn run(plan: &Plan, is_told: bool) -> Outcome {
    let mut world = World::new(plan.clone(), Story::new(is_told));
    let ended = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let failure = match ended {
        Ok(step) => step.err(),
        Err(panic) => Some(failure_of(panic.as_ref())),
    };
    if let Some(failure) = &failure {
        let details = failure.details.clone();
        world.story.tell(world.now, || details);
    }
    Outcome {
        failure,
        history: world.clients.history(),
        coverage: world.coverage.clone(),
        simulated: world.now,
        steps: world.steps,
        commits: world.history.highest_commit().0,
        story: world.story.into_text(),
    }
}

fn live(world: &mut World) -> Step {
    let acts = world.plan.acts.iter().map(|planned| planned.at);
    for (number, at) in acts.enumerate().collect::<Vec<_>>() {
        world.agenda.add(at, Event::Act(number));
    }
    world.found()?;
    world.begin_care();
    world.run_until(world.plan.rough_end())?;
    world.calm_down()
}

/// The panic's message, without the numbers, names the kind.
fn failure_of(panic: &(dyn std::any::Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    let words = text.chars().filter(|letter| !letter.is_ascii_digit());
    Failure {
        kind: format!("panic: {}", words.take(80).collect::<String>()),
        details: text.to_owned(),
    }
}
