//! Shows that the models bite: each plant is a mistake in the threads' code
//! that compiles, looks harmless, and must make its model fail.
//!
//! `plants` builds a copy of the sources with all of them, each asleep until
//! its number is called, and runs each against its model; `plants NAME` those
//! whose name contains NAME; `plants --check` only sees that every one still
//! finds its place.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, io};

/// A mistake.
struct Plant {
    name: &'static str,
    /// The model that must fail.
    model: &'static str,
    file: &'static str,
    /// Occurs once in the file.
    right: &'static str,
    /// In its stead; `PLANTED` is true when this plant is the one awake.
    wrong: &'static str,
}

const PLANTS: &[Plant] = &[
    Plant {
        name: "applied index before the view",
        model: "board_shows_no_older_view",
        file: "src/node/board.rs",
        right: "let old = self.newest.swap(view);",
        wrong: "if PLANTED {\n            self.applied.store(applied, Ordering::Release);\n        }\n        let old = self.newest.swap(view);",
    },
    Plant {
        name: "applied index stored relaxed",
        model: "board_shows_no_older_view",
        file: "src/node/board.rs",
        right: "store(applied, Ordering::Release)",
        wrong: "store(applied, if PLANTED { Ordering::Relaxed } else { Ordering::Release })",
    },
    Plant {
        name: "applied index read relaxed",
        model: "board_shows_no_older_view",
        file: "src/node/board.rs",
        right: "load(Ordering::Acquire)",
        wrong: "load(if PLANTED { Ordering::Relaxed } else { Ordering::Acquire })",
    },
    Plant {
        name: "status time stored relaxed",
        model: "status_is_at_least_as_new",
        file: "src/node/standing.rs",
        right: "store(now.0, Ordering::Release)",
        wrong: "store(now.0, if PLANTED { Ordering::Relaxed } else { Ordering::Release })",
    },
    Plant {
        name: "last sender goes without a word",
        model: "queue_wakes_when_the_last_sender_goes",
        file: "src/sync/queue.rs",
        right: "if is_last {",
        wrong: "if is_last && !PLANTED {",
    },
    Plant {
        name: "queue emptied but not closed",
        model: "queue_closed_while_sent_to",
        file: "src/sync/queue.rs",
        right: "state.closed = true;",
        wrong: "state.closed = !PLANTED;",
    },
    Plant {
        name: "queue checked, then filled under another lock",
        model: "queue_closed_while_sent_to",
        file: "src/sync/queue.rs",
        right: "state.items.push_back(item);",
        wrong: "if PLANTED {\n            drop(state);\n            state = self.shared.state();\n        }\n        state.items.push_back(item);",
    },
    Plant {
        name: "permit counted, then taken",
        model: "permits_are_never_exceeded",
        file: "src/sync/permits.rs",
        right: "let taken = self.taken.fetch_update(set, fetch, more);",
        wrong: "let taken = if PLANTED {\n            let taken = more(self.taken.load(set)).ok_or(0);\n            taken.map(|_| self.taken.fetch_add(1, set))\n        } else {\n            self.taken.fetch_update(set, fetch, more)\n        };",
    },
    Plant {
        name: "permit given back before the answer",
        model: "proposals_hold_their_permit",
        file: "src/node/event.rs",
        right: "outcome, Some(permit))?;",
        wrong: "outcome, Some(permit).filter(|_| !PLANTED))?;",
    },
    Plant {
        name: "every failure calls the hook",
        model: "failure_is_latched_once",
        file: "src/node/failure.rs",
        right: "(self.on_failure)(reason);\n        }",
        wrong: "(self.on_failure)(reason);\n        } else if PLANTED {\n            (self.on_failure)(reason);\n        }",
    },
    Plant {
        name: "durable said before it is written",
        model: "log_write_said_durable",
        file: "src/node/wal_thread.rs",
        right: "match self.wal.append(&group.writes) {",
        wrong: "if PLANTED {\n                self.events.send(Event::Durable(mark));\n            }\n            match self.wal.append(&group.writes) {",
    },
    Plant {
        name: "core stopped before the failure is latched",
        model: "log_write_that_fails",
        file: "src/node/wal_thread.rs",
        right: "self.failure.report(&reason);",
        wrong: "if PLANTED {\n                self.events.send(Event::Stop);\n            }\n            self.failure.report(&reason);",
    },
    Plant {
        name: "failed disk tells nobody",
        model: "node_whose_disk_fails",
        file: "src/node/wal_thread.rs",
        right: "self.events.send(Event::Stop);",
        wrong: "if !PLANTED {\n                self.events.send(Event::Stop);\n            }",
    },
    Plant {
        name: "purged from the list under another lock",
        model: "log_read_while_purged",
        file: "src/wal/mod.rs",
        right: "published.index.drop_before(sequence + 1);\n                published.segments.remove(&sequence)",
        wrong: "if PLANTED {\n                    let removed = published.segments.remove(&sequence);\n                    drop(published);\n                    let mut published = self.shared.published();\n                    published.index.drop_before(sequence + 1);\n                    removed\n                } else {\n                    published.index.drop_before(sequence + 1);\n                    published.segments.remove(&sequence)\n                }",
    },
    Plant {
        name: "read answered before its index is applied",
        model: "read_waits_for_its_index",
        file: "src/node/ports.rs",
        right: "if self.board.applied() < index {",
        wrong: "if self.board.applied() < index && !PLANTED {",
    },
    Plant {
        name: "answered before the view is published",
        model: "read_waits_for_its_index",
        file: "src/node/apply_thread.rs",
        right: "self.publish();\n        self.answer();",
        wrong: "if PLANTED {\n            self.answer();\n        }\n        self.publish();\n        self.answer();",
    },
    Plant {
        name: "apply thread not told that the core ended",
        model: "read_of_an_index_never_applied",
        file: "src/node/ports.rs",
        right: "let _ = self.apply.send(ApplyCommand::Stop);",
        wrong: "if !PLANTED {\n            let _ = self.apply.send(ApplyCommand::Stop);\n        }",
    },
    Plant {
        name: "failed apply thread tells nobody",
        model: "apply_that_fails",
        file: "src/node/apply_thread.rs",
        right: "self.events.send(Event::Stop);",
        wrong: "if !PLANTED {\n                    self.events.send(Event::Stop);\n                }",
    },
    Plant {
        name: "snapshot promised but not kept",
        model: "snapshot_once_claimed",
        file: "src/node/snapshots.rs",
        right: "state.claimed.insert(wanted, staged);",
        wrong: "if PLANTED {\n                    state.staged = Some(staged);\n                } else {\n                    state.claimed.insert(wanted, staged);\n                }",
    },
    Plant {
        name: "queue drained at the end, not closed",
        model: "core_that_stops_answers_all",
        file: "src/node/raft_thread.rs",
        right: "in self.events.close() {",
        wrong: "in if PLANTED {\n            std::iter::from_fn(|| self.events.try_recv().ok()).collect()\n        } else {\n            self.events.close()\n        } {",
    },
    Plant {
        name: "those in the core forgotten at the end",
        model: "core_that_stops_answers_all",
        file: "src/node/raft_thread.rs",
        right: "self.ports.pending.close(&error);",
        wrong: "if !PLANTED {\n            self.ports.pending.close(&error);\n        }",
    },
    Plant {
        name: "what is in the log called undone at the end",
        model: "node_sealed_while_it_writes",
        file: "src/node/ports.rs",
        right: "waiter.reply.finish(Err(PhysicalError::OutcomeUnknown {\n                reason: format!(\"the node stopped before it was committed: {error}\"),\n            }));",
        wrong: "if PLANTED {\n                waiter.reply.finish(Err(error.clone()));\n            } else {\n                waiter.reply.finish(Err(PhysicalError::OutcomeUnknown {\n                reason: format!(\"the node stopped before it was committed: {error}\"),\n            }));\n            }",
    },
];

fn main() -> ExitCode {
    let only = env::args().nth(1).unwrap_or_default();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let lost = PLANTS.iter().filter(|plant| place(plant, &root).is_none());
    let lost: Vec<&str> = lost.map(|plant| plant.name).collect();
    if !lost.is_empty() {
        println!("their places in the code are gone, or not the only ones: {lost:?}");
        return ExitCode::FAILURE;
    }
    if only == "--check" {
        println!("{} plants find their places", PLANTS.len());
        return ExitCode::SUCCESS;
    }
    let program = env::current_exe().expect("this program has a place");
    let target = program.ancestors().nth(2).expect("it lies in target/debug");
    let models = match build(&root, target) {
        Ok(models) => models,
        Err(reason) => {
            println!("the planted sources do not build:\n{reason}");
            return ExitCode::FAILURE;
        }
    };
    let mut alive = 0;
    for (number, plant) in PLANTS.iter().enumerate() {
        if plant.name.contains(&only) {
            let verdict = run(plant, number, &models);
            println!("{:46} {:38} {verdict}", plant.name, plant.model);
            alive += usize::from(!verdict.starts_with("killed"));
        }
    }
    ExitCode::from(u8::from(alive > 0))
}

/// Where in its file a plant belongs.
fn place(plant: &Plant, root: &Path) -> Option<usize> {
    let text = fs::read_to_string(root.join(plant.file)).ok()?;
    let mut places = text.match_indices(plant.right);
    let place = places.next()?.0;
    places.next().is_none().then_some(place)
}

/// Builds the models over a copy of the sources that holds every plant, each
/// asleep until its number is called.
fn build(root: &Path, target: &Path) -> Result<PathBuf, String> {
    let copy = target.join("planted");
    copy_sources(root, &copy).map_err(|error| error.to_string())?;
    let mut places: Vec<(usize, usize)> = PLANTS
        .iter()
        .enumerate()
        .filter_map(|(number, plant)| Some((place(plant, root)?, number)))
        .collect();
    // From the end, so that the places before stay where they are.
    places.sort_unstable_by(|left, right| right.cmp(left));
    for (place, number) in places {
        let plant = &PLANTS[number];
        let file = copy.join(plant.file);
        let mut text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let call = format!("crate::planted({number})");
        let wrong = plant.wrong.replace("PLANTED", &call);
        text.replace_range(place..place + plant.right.len(), &wrong);
        fs::write(&file, text).map_err(|error| error.to_string())?;
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "build",
            "--quiet",
            "--bin",
            "loom-models",
            "--manifest-path",
        ])
        .arg(copy.join("tests/loom/Cargo.toml"))
        .arg("--target-dir")
        .arg(target);
    let output = cargo.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    // Another build of the same name would take its place.
    let (built, models) = (target.join("debug/loom-models"), copy.join("models"));
    fs::rename(built, &models).map_err(|error| error.to_string())?;
    Ok(models)
}

fn run(plant: &Plant, number: usize, models: &Path) -> String {
    let mut models = Command::new(models);
    models
        .arg(plant.model)
        .env("PLANT", number.to_string())
        .env("RUST_BACKTRACE", "0");
    let output = match models.output() {
        Ok(output) => output,
        Err(error) => return format!("did not run: {error}"),
    };
    if output.status.success() {
        return "ALIVE".into();
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.lines().filter(|line| !line.is_empty()).nth(1);
    let complaint = complaint.unwrap_or_default();
    // loom ends the process when a panic unwinds through its primitives.
    let cost = said.split_once("FAILED").map_or("", |(_, cost)| cost);
    let interleavings = cost.split('·').nth(1).unwrap_or("an abort").trim();
    match output.status.code() {
        Some(1) | None => format!("killed after {interleavings}: {complaint}"),
        Some(code) => format!("ended with {code}: {complaint}"),
    }
}

fn copy_sources(root: &Path, copy: &Path) -> io::Result<()> {
    let _ = fs::remove_dir_all(copy);
    copy_folder(&root.join("src"), &copy.join("src"))?;
    copy_folder(&root.join("tests/loom"), &copy.join("tests/loom"))
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
