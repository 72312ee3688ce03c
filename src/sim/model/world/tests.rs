use super::super::bounds::{Elections, Wish};
use super::super::fingerprint::hash;
use super::super::local::Outcome;
use super::*;

/// Every state within the bounds, or the first few hundred.
fn wander(bounds: &Bounds, states_max: usize) -> World {
    let mut world = World::new(bounds);
    let initial = world.initial().expect("a sound start");
    let mut seen = std::collections::BTreeSet::from([world.fingerprint(&initial)]);
    let mut waiting = std::collections::VecDeque::from([initial]);
    while let Some(state) = waiting.pop_front() {
        let mut found = Vec::new();
        world.successors(&state, &mut found);
        for (action, after) in found {
            let after = after.unwrap_or_else(|violation| panic!("{action:?}: {violation}"));
            if seen.len() < states_max && seen.insert(world.fingerprint(&after)) {
                waiting.push_back(after);
            }
        }
    }
    world
}

/// What a node does, without clocks, and without the order in which it sends.
fn canonical(came: Result<Outcome, Violation>) -> (Hash, Vec<String>) {
    let outcome = match came {
        Ok(outcome) => outcome,
        Err(violation) => return (0, vec![violation.to_string()]),
    };
    let identity = &numberings(&[])[0];
    let outputs = outcome.outputs.iter().map(|output| format!("{output:?}"));
    let events = outcome.events.iter().map(|event| format!("{event:?}"));
    let mut all: Vec<String> = outputs.chain(events).collect();
    all.sort();
    (hash(&outcome.next.tree(), identity), all)
}

/// What every reaction left behind, clocks and all: most of these nodes were
/// known already, from elsewhere and by other clocks.
fn twins(world: &World) -> Vec<Local> {
    let parcels = (0..world.parcels.count() as u32).map(|parcel| PARCEL + parcel);
    let codes: Vec<u32> = (0..world.menu_count()).chain(parcels).collect();
    let mut twins = Vec::new();
    for local in 0..world.locals.count() as u32 {
        for (code, prompt) in codes
            .iter()
            .flat_map(|code| [(*code, true), (*code, false)])
        {
            if world.reaction_of.find(key(local, code, prompt)).is_some() {
                let node = world.locals.value(local);
                let came = node.react(&world.stimulus_of(code), prompt, &world.bounds);
                twins.extend(came.map(|outcome| outcome.next));
            }
        }
    }
    twins
}

/// The canonical form leaves out nothing that matters: nodes with the same form
/// answer alike to whatever happened to either, clocks and all. Returns how
/// many answers were compared.
fn check_twins(bounds: &Bounds) -> usize {
    let mut world = wander(bounds, 800);
    let twins = twins(&world);
    let parcels: Vec<u32> = (0..world.parcels.count() as u32).collect();
    let mut compared = 0;
    for twin in &twins {
        let (tree, node) = (twin.tree(), twin.id);
        let number = world
            .locals
            .number(twin.clone(), &tree, &world.numberings.clone());
        let known = world.locals.value(number).clone();
        let mut codes: Vec<u32> = (0..world.menu_count()).collect();
        let addressed = parcels.iter().filter(|parcel| {
            let parcel = world.parcel(**parcel);
            parcel.to() == node && matches!(parcel.content, Output::Message { .. })
        });
        // All would take long; a few, others each time, do.
        codes.extend(addressed.skip(compared % 7).step_by(7).map(|p| PARCEL + p));
        for code in codes {
            let stimulus = world.stimulus_of(code);
            // Follower clocks never stop at a heartbeat.
            let leads = known.raft.role() == Role::Leader;
            if stimulus == Stimulus::Heartbeat && !leads {
                continue;
            }
            compared += 1;
            let one = canonical(known.react(&stimulus, true, bounds));
            let other = canonical(twin.react(&stimulus, true, bounds));
            assert_eq!(one, other, "{node:?} {stimulus:?}");
        }
    }
    compared
}

#[test]
fn nodes_of_one_form_answer_alike() {
    let elections = Bounds {
        term_max: 3,
        proposals: 1,
        crashes: 1,
        slow_writes: 1,
        heartbeats: 1,
        abdications: 1,
        ..Bounds::new(3, 0)
    };
    let others = Bounds {
        term_max: 3,
        reads: 1,
        changes: 1,
        transfers: 1,
        snapshots: 1,
        wishes: vec![Wish::Replace],
        elections: Elections::AtOnce,
        round_trips: true,
        ..Bounds::new(2, 1)
    };
    assert!(1000 < check_twins(&elections));
    assert!(1000 < check_twins(&others));
}
