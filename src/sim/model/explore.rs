//! Breadth first through all states.

use super::bounds::Bounds;
use super::fingerprint::Table;
use super::steps::Successor;
use super::story;
use super::violation::Violation;
use super::witness::Witnesses;
use super::world::{State, World};

/// When to give up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Distinct states.
    pub states_max: usize,
    /// Estimated memory of the search.
    pub memory_bytes_max: usize,
    /// Length of a path.
    pub depth_max: u32,
}

/// How far a search is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Distinct states found.
    pub states: usize,
    /// States whose successors are still to be found.
    pub waiting: usize,
    /// Length of the paths being extended.
    pub depth: u32,
    /// Estimated memory in bytes.
    pub memory_bytes: usize,
}

/// Why a search ended.
#[derive(Clone, Debug)]
pub enum Ending {
    /// Every state within the bounds was seen.
    Exhausted,
    /// Something does not hold.
    Violated(Box<Finding>),
    /// As many states as were allowed.
    TooManyStates,
    /// As much memory as was allowed.
    TooMuchMemory,
    /// Paths as long as were allowed.
    TooDeep,
    /// The caller did not want to go on.
    Interrupted,
}

/// A violation and how to get there.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What does not hold.
    pub violation: Violation,
    /// How many steps lead there; no path is shorter.
    pub steps: usize,
    /// Those steps, a paragraph each.
    pub story: String,
}

/// What came of a search.
#[derive(Clone, Debug)]
pub struct Report {
    /// Why it ended.
    pub ending: Ending,
    /// Distinct states.
    pub states: usize,
    /// Steps taken, those that led to known states included.
    pub transitions: u64,
    /// Length of the longest shortest path.
    pub depth: u32,
    /// Different states of a single node.
    pub nodes: usize,
    /// Different messages.
    pub messages: usize,
    /// How often the core was called upon for something new.
    pub reactions: usize,
    /// Interchangeable numberings of the nodes.
    pub numberings: usize,
    /// What was seen on the way.
    pub witnesses: Witnesses,
    /// Estimated memory in bytes.
    pub memory_bytes: usize,
}

impl Report {
    /// An upper bound of the probability that a state was taken for another.
    #[must_use]
    pub fn omission(&self) -> f64 {
        let states = self.states as f64;
        states * states / 2f64.powi(65)
    }
}

/// Searches. `go_on` is asked every few thousand states.
#[must_use]
pub fn explore(bounds: &Bounds, limits: Limits, go_on: &mut dyn FnMut(Progress) -> bool) -> Report {
    let mut search = Search::new(bounds, limits);
    let ending = search.run(go_on);
    let (nodes, messages, reactions) = search.world.counts();
    Report {
        ending,
        states: search.fingerprints.len(),
        transitions: search.transitions,
        depth: search.depth,
        nodes,
        messages,
        reactions,
        numberings: search.world.numberings(),
        witnesses: search.world.witnesses.clone(),
        memory_bytes: search.memory_bytes(),
    }
}

struct Search {
    world: World,
    limits: Limits,
    /// Of every state, in the order found: its fingerprint and its parent.
    fingerprints: Vec<u64>,
    parents: Vec<u32>,
    seen: Table,
    /// States of this depth, and of the next.
    current: Frontier,
    next: Frontier,
    transitions: u64,
    depth: u32,
}

/// States waiting, packed: the number of each and its words.
#[derive(Default)]
struct Frontier {
    words: Vec<u32>,
    starts: Vec<(usize, u32)>,
}

impl Frontier {
    fn push(&mut self, number: u32, state: &State) {
        self.starts.push((self.words.len(), number));
        state.pack(&mut self.words);
    }

    fn state(&self, position: usize, nodes: usize) -> (u32, State) {
        let (start, number) = self.starts[position];
        let end = self
            .starts
            .get(position + 1)
            .map_or(self.words.len(), |(end, _)| *end);
        (number, State::unpack(&self.words[start..end], nodes))
    }
}

/// How often the caller is asked whether to go on.
const ASK_EVERY: usize = 4096;

impl Search {
    fn new(bounds: &Bounds, limits: Limits) -> Self {
        Self {
            world: World::new(bounds),
            limits,
            fingerprints: Vec::new(),
            parents: Vec::new(),
            seen: Table::new(),
            current: Frontier::default(),
            next: Frontier::default(),
            transitions: 0,
            depth: 0,
        }
    }

    fn run(&mut self, go_on: &mut dyn FnMut(Progress) -> bool) -> Ending {
        let initial = match self.world.initial() {
            Ok(state) => state,
            Err(violation) => {
                let finding = Finding {
                    story: format!("at the start: {violation}\n"),
                    violation,
                    steps: 0,
                };
                return Ending::Violated(Box::new(finding));
            }
        };
        self.visit(&initial, 0);
        let mut found = Vec::new();
        while !self.next.starts.is_empty() {
            self.current = std::mem::take(&mut self.next);
            for position in 0..self.current.starts.len() {
                if let Some(ending) = self.expand(position, &initial, &mut found) {
                    return ending;
                }
                if position % ASK_EVERY == 0
                    && let Some(ending) = self.give_up(position, go_on)
                {
                    return ending;
                }
            }
            if !self.next.starts.is_empty() {
                self.depth += 1;
            }
            if self.limits.depth_max <= self.depth {
                return Ending::TooDeep;
            }
        }
        Ending::Exhausted
    }

    /// Finds the successors of a waiting state.
    fn expand(
        &mut self,
        position: usize,
        initial: &State,
        found: &mut Vec<Successor>,
    ) -> Option<Ending> {
        let (number, state) = self.current.state(position, self.world.node_count());
        self.world.successors(&state, found);
        for (_, after) in found.drain(..) {
            self.transitions += 1;
            match after {
                Ok(after) => self.visit(&after, number),
                Err(violation) => {
                    let path = self.path(number);
                    let (steps, story) = story::tell(&mut self.world, initial, &path, &violation);
                    return Some(Ending::Violated(Box::new(Finding {
                        violation,
                        steps,
                        story,
                    })));
                }
            }
        }
        None
    }

    fn visit(&mut self, state: &State, parent: u32) {
        let fingerprint = self.world.fingerprint(state);
        if self.seen.find(fingerprint).is_some() {
            return;
        }
        let number = self.fingerprints.len() as u32;
        self.seen.insert(fingerprint, number);
        self.fingerprints.push(fingerprint);
        self.parents.push(parent);
        self.next.push(number, state);
    }

    fn give_up(&self, position: usize, go_on: &mut dyn FnMut(Progress) -> bool) -> Option<Ending> {
        let progress = Progress {
            states: self.fingerprints.len(),
            waiting: self.current.starts.len() - position + self.next.starts.len(),
            depth: self.depth,
            memory_bytes: self.memory_bytes(),
        };
        if self.limits.states_max <= progress.states {
            Some(Ending::TooManyStates)
        } else if self.limits.memory_bytes_max <= progress.memory_bytes {
            Some(Ending::TooMuchMemory)
        } else {
            (!go_on(progress)).then_some(Ending::Interrupted)
        }
    }

    fn memory_bytes(&self) -> usize {
        let frontiers = [&self.current, &self.next].map(|frontier| {
            frontier.words.capacity() * size_of::<u32>()
                + frontier.starts.capacity() * size_of::<(usize, u32)>()
        });
        self.fingerprints.capacity() * size_of::<u64>()
            + self.parents.capacity() * size_of::<u32>()
            + self.seen.bytes()
            + frontiers.iter().sum::<usize>()
            + self.world.memory_bytes()
    }

    /// The fingerprints from the first step to a state.
    fn path(&self, number: u32) -> Vec<u64> {
        let mut path = Vec::new();
        let mut number = number;
        while number != 0 {
            path.push(self.fingerprints[number as usize]);
            number = self.parents[number as usize];
        }
        path.reverse();
        path
    }
}
