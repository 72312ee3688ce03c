//! The checker against histories with known verdicts, against the other
//! algorithm, and against every order (brute force) on tiny histories.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::read::{ModelName, parse_for_tests, read_file};
use super::*;

fn verdict_of(text: &str) -> Verdict {
    let (model, history) = parse_for_tests(text, "edn", ModelName::CasRegister);
    check(model, &history, Budget::default()).verdict
}

fn is_legal(text: &str) -> bool {
    verdict_of(text) == Verdict::Linearizable
}

#[test]
fn a_read_of_an_overwritten_value_is_illegal_and_the_witness_is_small() {
    let verdict = verdict_of(
        "[{:process 0 :type :invoke :f :write :value 1} {:process 0 :type :ok :f :write :value 1}
          {:process 1 :type :invoke :f :read :value nil} {:process 1 :type :ok :f :read :value 1}
          {:process 0 :type :invoke :f :write :value 2} {:process 0 :type :ok :f :write :value 2}
          {:process 1 :type :invoke :f :read :value nil} {:process 1 :type :ok :f :read :value 1}
          {:process 2 :type :invoke :f :read :value nil} {:process 2 :type :ok :f :read :value 2}]",
    );
    let Verdict::Illegal { witness, .. } = verdict else {
        panic!("a stale read was accepted: {verdict:?}");
    };
    assert_eq!(
        witness.len(),
        3,
        "two writes and the stale read: {witness:#?}"
    );
}

#[test]
fn an_open_write_may_take_effect_late_or_never() {
    let open = "{:process 0 :type :invoke :f :write :value 7}";
    let read = |value: &str| {
        format!(
            "{{:process 1 :type :invoke :f :read :value nil}} \
             {{:process 1 :type :ok :f :read :value {value}}}"
        )
    };
    assert!(is_legal(&format!("[{open} {} {}]", read("0"), read("7"))));
    assert!(is_legal(&format!("[{open} {} {}]", read("0"), read("0"))));
    assert!(!is_legal(&format!("[{open} {} {}]", read("7"), read("0"))));
}

#[test]
fn a_failed_write_never_happened() {
    assert!(!is_legal(
        "[{:process 0 :type :invoke :f :write :value 3} {:process 0 :type :fail :f :write :value 3}
          {:process 1 :type :invoke :f :read :value nil} {:process 1 :type :ok :f :read :value 3}]"
    ));
}

#[test]
fn a_witness_order_is_held_against_replies_and_real_time() {
    let (model, history) = parse_for_tests(
        "[{:process 0 :type :invoke :f :write :value 1} {:process 0 :type :ok :f :write :value 1}
          {:process 1 :type :invoke :f :read :value nil} {:process 1 :type :ok :f :read :value 1}]",
        "edn",
        ModelName::CasRegister,
    );
    let operations = history.operations();
    assert_eq!(check_witness(model, operations, &[0, 1]), Ok(()));
    assert!(matches!(
        check_witness(model, operations, &[1, 0]),
        Err(WitnessFault::Reply { operation: 1, .. })
    ));
    assert!(matches!(
        check_witness(model, operations, &[0]),
        Err(WitnessFault::NotAPermutation { operation: 1 })
    ));
    let (model, history) = parse_for_tests(
        "[{:process 0 :type :invoke :f :write :value 1} {:process 0 :type :ok :f :write :value 1}
          {:process 1 :type :invoke :f :write :value 2} {:process 1 :type :ok :f :write :value 2}]",
        "edn",
        ModelName::CasRegister,
    );
    assert_eq!(
        check_witness(model, history.operations(), &[1, 0]),
        Err(WitnessFault::RealTime {
            earlier: 1,
            later: 0
        })
    );
}

/// A small generator of its own, so that a failure names one number.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn history(&mut self, operations: u64) -> History {
        let list = (0..operations).map(|process| {
            let call = self.below(20) * 100 + process * 2;
            let returned = (self.below(5) != 0).then(|| call + 1 + self.below(8) * 100);
            let value: Value = Some(self.below(3).to_string().into());
            let other: Value = Some(self.below(3).to_string().into());
            let action = match self.below(4) {
                0 => Action::Write(value),
                1 => Action::Cas {
                    from: value,
                    to: other,
                    succeeded: true,
                },
                _ => Action::Read(Some(value)),
            };
            Operation {
                process,
                key: String::new(),
                call,
                returned,
                action,
            }
        });
        History::new(list.collect())
    }
}

/// Every subset of the open operations in every order.
fn brute_force(model: Model, operations: &[Operation], placed: u32, state: &Value) -> bool {
    let unplaced = |at: usize| placed & (1 << at) == 0;
    if (0..operations.len()).all(|at| !unplaced(at) || operations[at].returned.is_none()) {
        return true;
    }
    (0..operations.len()).filter(|&at| unplaced(at)).any(|at| {
        let earliest = (0..operations.len())
            .filter(|&other| unplaced(other))
            .filter_map(|other| operations[other].returned)
            .min()
            .unwrap_or(u64::MAX);
        operations[at].call <= earliest
            && model
                .step(state, &operations[at].action)
                .is_some_and(|next| brute_force(model, operations, placed | (1 << at), &next))
    })
}

#[test]
fn both_algorithms_agree_with_brute_force_on_random_histories() {
    let model = Model::CasRegisterZero;
    let mut illegal = 0;
    for seed in 0..4000 {
        let size = 2 + seed % 7;
        let history = Random(seed).history(size);
        let expected = brute_force(model, history.operations(), 0, &model.initial());
        let report = check(model, &history, Budget::default());
        assert_eq!(
            report.verdict == Verdict::Linearizable,
            expected,
            "WGL, seed {seed}: {history:#?}"
        );
        assert_eq!(
            check_by_configurations(model, &history, 1 << 20),
            Some(expected),
            "configurations, seed {seed}: {history:#?}"
        );
        illegal += u64::from(!expected);
        if let Verdict::Illegal { witness, .. } = report.verdict {
            let smaller = History::new(witness);
            let again = check(model, &smaller, Budget::default()).verdict;
            assert_ne!(
                again,
                Verdict::Linearizable,
                "seed {seed}: the witness is legal"
            );
        }
    }
    assert!(
        (400..3600).contains(&illegal),
        "one-sided inputs: {illegal} illegal"
    );
}

/// Writes of one value at once, and a read of another: every order must be
/// tried before that is illegal.
fn exhausting(key: &str, first_process: u64) -> Vec<Operation> {
    let writers = (0..16).map(|process| Operation {
        process: first_process + process,
        key: key.into(),
        call: process,
        returned: Some(100 + process),
        action: Action::Write(Some(process.to_string().into())),
    });
    let reader = Operation {
        process: first_process + 99,
        key: key.into(),
        call: 200,
        returned: Some(201),
        action: Action::Read(Some(Some("never written".into()))),
    };
    writers.chain([reader]).collect()
}

#[test]
fn check_that_runs_out_says_of_what_and_never_guesses() {
    let history = History::new(exhausting("a", 0));
    for (budget, resource) in [
        (
            Budget {
                steps: 1000,
                ..Budget::default()
            },
            "steps",
        ),
        (
            Budget {
                time: Duration::ZERO,
                ..Budget::default()
            },
            "time",
        ),
        (
            Budget {
                cache_bytes: 10_000,
                ..Budget::default()
            },
            "memory",
        ),
    ] {
        match check(Model::CasRegister, &history, budget).verdict {
            Verdict::Unknown { reason } => assert!(reason.contains(resource), "{reason}"),
            verdict => panic!("{resource}: {verdict:?}"),
        }
    }
}

#[test]
fn check_that_runs_out_on_one_key_still_finds_the_illegal_other() {
    let mut operations = exhausting("a", 0);
    // Larger than the exhausting key, so that its turn comes second.
    operations.extend((0..20).map(|turn| Operation {
        process: 200,
        key: "b".into(),
        call: 300 + 2 * turn,
        returned: Some(301 + 2 * turn),
        action: Action::Read(Some((turn == 19).then(|| "x".into()))),
    }));
    let budget = Budget {
        steps: 2000,
        ..Budget::default()
    };
    let verdict = check(Model::CasRegister, &History::new(operations), budget).verdict;
    assert!(
        matches!(&verdict, Verdict::Illegal { key, .. } if key == "b"),
        "{verdict:?}"
    );
}

/// The recorded histories lie beside the project, not in it.
fn recorded_histories() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/histories");
    root.is_dir().then_some(root)
}

fn expected_verdicts(root: &Path) -> Vec<(PathBuf, ModelName, bool)> {
    let mut found = Vec::new();
    let mut add = |folder: &str, name: ModelName, verdict: &dyn Fn(&str) -> Option<bool>| {
        let folder = root.join(folder);
        for entry in std::fs::read_dir(&folder).expect("a folder of recorded histories") {
            let path = entry.expect("a readable folder").path();
            let file = path
                .file_name()
                .and_then(|f| f.to_str())
                .unwrap_or("")
                .to_owned();
            if let Some(expected) = verdict(&file) {
                found.push((path, name, expected));
            }
        }
    };
    let index = std::fs::read_to_string(root.join("INDEX.md")).expect("the index of verdicts");
    let indexed = |file: &str| {
        let row = index
            .lines()
            .find(|line| line.starts_with(&format!("| {file} |")))?;
        Some(row.split('|').nth(2)?.trim() == "true")
    };
    add("porcupine/jepsen", ModelName::CasRegister, &indexed);
    add("porcupine/kv", ModelName::Kv, &|file| {
        Some(file.contains("ok"))
    });
    for folder in ["knossos/cas-register", "knossos/mutex", "inline/register"] {
        for (name, expected) in [("good", true), ("bad", false)] {
            let folder = format!("{folder}/{name}");
            if root.join(&folder).is_dir() {
                add(&folder, ModelName::CasRegister, &|_| Some(expected));
            }
        }
    }
    found
}

#[test]
fn recorded_histories_get_their_known_verdicts() {
    let Some(root) = recorded_histories() else {
        // Past the test's capture: a comparison with nothing must be noticed.
        let note = "NOTE: ../shared/histories is absent: the checker was compared with no recorded verdict\n";
        std::io::stderr()
            .write_all(note.as_bytes())
            .expect("stderr is open");
        return;
    };
    let files = expected_verdicts(&root);
    assert!(
        100 <= files.len(),
        "only {} recorded histories found",
        files.len()
    );
    let mut slowest = (Duration::ZERO, PathBuf::new());
    for (path, name, expected) in &files {
        let started = Instant::now();
        let (model, history) = read_file(path, *name).expect("a recorded history");
        let verdict = check(model, &history, Budget::default()).verdict;
        assert_eq!(
            verdict == Verdict::Linearizable,
            *expected,
            "{}: {verdict:?}",
            path.display()
        );
        assert!(
            !matches!(verdict, Verdict::Unknown { .. }),
            "{}",
            path.display()
        );
        let took = started.elapsed();
        assert!(took < EACH_MAX, "{}: {took:?}", path.display());
        if slowest.0 < took {
            slowest = (took, path.clone());
        }
    }
    println!(
        "{} recorded histories agree; the slowest took {:?}: {}",
        files.len(),
        slowest.0,
        slowest.1.display()
    );
}

/// What knossos' own tests say of these files: the client and the value of the
/// read that no order explains. Our witness must end with it.
#[test]
fn witnesses_of_recorded_histories_end_with_the_known_offender() {
    let Some(root) = recorded_histories() else {
        return;
    };
    for (file, process, value) in [
        ("bad-analysis", 21, "2"),
        ("cas-failure", 70, "0"),
        ("immediate-failure", 1, "3"),
        ("rethink-fail-minimal", 1, "3"),
    ] {
        let path = root.join(format!("knossos/cas-register/bad/{file}.edn"));
        let (model, history) = read_file(&path, ModelName::CasRegister).expect("it is recorded");
        let verdict = check(model, &history, Budget::default()).verdict;
        let Verdict::Illegal { witness, .. } = verdict else {
            panic!("{file}: {verdict:?}");
        };
        let last = witness
            .iter()
            .filter(|operation| operation.returned.is_some())
            .max_by_key(|operation| operation.returned)
            .expect("a witness has a returned operation");
        assert_eq!(last.process, process, "{file}: {witness:#?}");
        let read = Action::Read(Some(Some(value.into())));
        assert_eq!(last.action, read, "{file}: {witness:#?}");
    }
}

/// For one recorded history, in an unoptimised build too.
const EACH_MAX: Duration = Duration::from_secs(5);
