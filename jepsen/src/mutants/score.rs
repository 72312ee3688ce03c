//! What came out, as lines and as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write;
use std::time::Duration;

use super::catalogue::Mutant;
use super::layer::LayerName;

/// What became of a mutant.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Noticed; every cheaper layer was not enough.
    Killed {
        /// The cheapest layer that notices.
        layer: LayerName,
        /// The test that failed first, or that time was up.
        how: String,
        /// How long that layer's tests ran.
        test_time: Duration,
    },
    /// Nobody noticed.
    Survived,
    /// It could not be tried.
    Error(String),
}

/// What is said of tests that never end.
pub const HUNG: &str = "no end within";

impl Verdict {
    /// Whether nothing was noticed but that the tests do not end.
    #[must_use]
    pub fn is_hung(&self) -> bool {
        matches!(self, Self::Killed { how, .. } if how.starts_with(HUNG))
    }
}

/// One mutant's line.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its number.
    pub id: String,
    /// What it does wrong.
    pub bug: String,
    /// What that breaks.
    pub breaks: String,
    /// Where it was seen.
    pub source: String,
    /// Who should notice.
    pub expected: LayerName,
    /// Who did.
    pub verdict: Verdict,
    /// The layers asked before, which noticed nothing.
    pub passed: Vec<LayerName>,
    /// Whether the executable specification notices alone; `None`: not asked.
    pub specification: Option<bool>,
    /// Building and testing, all layers tried.
    pub took: Duration,
}

impl Row {
    /// Of a mutant that nobody has noticed yet.
    #[must_use]
    pub fn of(mutant: &Mutant) -> Self {
        Self {
            id: mutant.id.clone(),
            bug: mutant.bug.clone(),
            breaks: mutant.breaks.join(", "),
            source: mutant.source.clone(),
            expected: mutant.expected,
            verdict: Verdict::Survived,
            passed: Vec::new(),
            specification: None,
            took: Duration::ZERO,
        }
    }

    /// The layers asked before, by name.
    pub fn passed_names(&self) -> Vec<String> {
        self.passed.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        match &self.verdict {
            Verdict::Killed { layer, how, .. } => {
                write!(f, "{:<4} {layer:<10} {seconds:>6.1} s  {how}", self.id)?;
                if self.specification == Some(true) {
                    write!(f, "  (and the specification alone)")?;
                }
                if *layer != self.expected {
                    write!(f, "  (expected: {})", self.expected)?;
                }
                Ok(())
            }
            Verdict::Survived => write!(
                f,
                "{:<4} SURVIVED   {seconds:>6.1} s  {}",
                self.id, self.bug
            ),
            Verdict::Error(error) => {
                write!(f, "{:<4} ERROR      {seconds:>6.1} s  {error}", self.id)
            }
        }
    }
}

/// The whole result, in Markdown.
#[must_use]
pub fn table(rows: &[Row], inapplicable: &BTreeMap<String, String>, took: Duration) -> String {
    let mut text = String::from(
        "| mutant | bug | source | breaks | killed by | not by | tests, s | with builds, s | specification alone | noticed by |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut by_layer: BTreeMap<LayerName, usize> = BTreeMap::new();
    for row in rows {
        let (layer, tests, how) = match &row.verdict {
            Verdict::Killed {
                layer,
                how,
                test_time,
            } => {
                *by_layer.entry(*layer).or_default() += 1;
                (
                    layer.to_string(),
                    format!("{:.1}", test_time.as_secs_f64()),
                    how.as_str(),
                )
            }
            Verdict::Survived => ("**nobody**".to_owned(), String::new(), ""),
            Verdict::Error(_) => ("**error**".to_owned(), String::new(), ""),
        };
        let seconds = row.took.as_secs_f64();
        let alone = match row.specification {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let (id, bug, source, breaks) = (&row.id, &row.bug, &row.source, &row.breaks);
        let passed = row.passed_names().join(", ");
        writeln!(
            text,
            "| {id} | {bug} | {source} | {breaks} | {layer} | {passed} | {tests} | {seconds:.1} | {alone} | {how} |"
        )
        .expect("into memory");
    }
    let killed: usize = by_layer.values().sum();
    let asked = rows.iter().filter(|row| row.specification.is_some());
    let alone = rows.iter().filter(|row| row.specification == Some(true));
    let unseen = rows.iter().filter(|row| row.specification == Some(false));
    let unseen: Vec<&str> = unseen.map(|row| row.id.as_str()).collect();
    let layers: Vec<String> = by_layer
        .iter()
        .map(|(layer, count)| format!("{layer} {count}"))
        .collect();
    writeln!(
        text,
        "\n{killed} of {} killed in {} s ({}); {} of {} in the core by the specification alone \
         (not: {}); {} of the catalogue have no place here.",
        rows.len(),
        took.as_secs(),
        layers.join(", "),
        alone.count(),
        asked.count(),
        unseen.join(", "),
        inapplicable.len(),
    )
    .expect("into memory");
    text
}
