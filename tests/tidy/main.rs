//! House rules that a machine can check, each a test of its own beside a test
//! that the rule sees a planted violation. Text only: no compiler is involved,
//! so a rule is right about this code base, not about all of Rust.

mod argument;
mod files;
mod imports;
mod lengths;
mod names;
mod reachable;
mod source;
mod specification;

/// Fails with every violation, one a line.
#[track_caller]
fn assert_none(rule: &str, violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{rule}: {} violations\n{}",
        violations.len(),
        violations.join("\n")
    );
}
