//! Rows of figures: what was measured, beside its limit and its aim; as a table for people and
//! as JSON for programs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::options::Options;

/// Writes a line to standard output.
pub(crate) fn say(text: &str) {
    // Nobody is left to be told if it fails.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// One number from each round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// The value below which this share of the samples lies.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let at = share * last as f64;
        let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        low + (high - low) * at.fract()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Times in microseconds.
pub(crate) fn micros(times: &[Duration]) -> Samples {
    times.iter().map(|t| t.as_secs_f64() * 1e6).collect()
}

/// What a figure is to be.
#[expect(clippy::enum_variant_names, reason = "they read as they are said")]
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Aim {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// At most this many times the limit.
    AtMostTimes(f64),
    /// At least this share of the limit.
    AtLeastTimes(f64),
}

impl Aim {
    fn met(self, value: f64, limit: Option<f64>) -> bool {
        let limit = limit.unwrap_or(f64::NAN);
        match self {
            Self::AtMost(aim) => value <= aim,
            Self::AtLeast(aim) => value >= aim,
            Self::AtMostTimes(times) => value <= times * limit,
            Self::AtLeastTimes(times) => value >= times * limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(aim) => format!("≤ {}", number(aim)),
            Self::AtLeast(aim) => format!("≥ {}", number(aim)),
            Self::AtMostTimes(times) => format!("≤ {times:.2} ×"),
            Self::AtLeastTimes(times) => format!("≥ {times:.2} ×"),
        }
    }
}

/// A figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The group that it is measured with.
    pub(crate) figure: String,
    /// What is measured.
    pub(crate) what: String,
    /// Of the numbers.
    pub(crate) unit: String,
    /// What was measured, a number from each round.
    pub(crate) value: Samples,
    /// The limit from the same rounds, and what it is.
    pub(crate) limit: Option<(String, Samples)>,
    /// What it is to be.
    pub(crate) aims: Vec<Aim>,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, unit: &str, value: Samples) -> Self {
        Self {
            figure: String::new(),
            what: what.into(),
            unit: unit.to_owned(),
            value,
            limit: None,
            aims: Vec::new(),
        }
    }

    pub(crate) fn limit(mut self, what: impl Into<String>, limit: Samples) -> Self {
        self.limit = Some((what.into(), limit));
        self
    }

    pub(crate) fn aim(mut self, aim: Aim) -> Self {
        self.aims.push(aim);
        self
    }

    fn limit_median(&self) -> Option<f64> {
        self.limit.as_ref().map(|(_, limit)| limit.median())
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.value.median() / self.limit_median()?)
    }

    /// Whether each aim is met, by the medians; nothing if there is none.
    fn met(&self) -> Option<bool> {
        let (value, limit) = (self.value.median(), self.limit_median());
        let mut aims = self.aims.iter().map(|aim| aim.met(value, limit));
        (!self.aims.is_empty()).then(|| aims.all(|met| met))
    }

    /// The row for somebody who watches.
    pub(crate) fn line(&self) -> String {
        let [what, value, limit, ratio, aim, met] = self.cells();
        let mut line = format!("  {met:<6} {what}: {value}");
        if !limit.is_empty() {
            let _ = write!(line, "; limit {limit}; {ratio}");
        }
        if !aim.is_empty() {
            let _ = write!(line, "; aim {aim}");
        }
        line
    }

    fn cells(&self) -> [String; 6] {
        let limit = self
            .limit
            .as_ref()
            .map_or_else(String::new, |(what, limit)| {
                format!("{} ({what})", spread(limit, &self.unit))
            });
        let aims: Vec<_> = self.aims.iter().map(|aim| aim.text()).collect();
        [
            self.what.clone(),
            spread(&self.value, &self.unit),
            limit,
            self.ratio()
                .map_or_else(String::new, |r| format!("{r:.2} ×")),
            aims.join(", "),
            match self.met() {
                Some(true) => "met",
                Some(false) => "missed",
                None => "",
            }
            .to_owned(),
        ]
    }
}

/// The median and, of several samples, the least and the largest.
fn spread(samples: &Samples, unit: &str) -> String {
    let (low, high) = (samples.quantile(0.0), samples.quantile(1.0));
    let median = number(samples.median());
    if samples.0.len() < 2 {
        return format!("{median} {unit}");
    }
    format!("{median} {unit} [{}–{}]", number(low), number(high))
}

/// Three significant digits or all before the point, with separators.
fn number(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        s if s >= 100.0 || s == 0.0 => 0,
        s if s >= 10.0 => 1,
        s if s >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 && digit.is_ascii_digit() && whole.len() > 4 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// Everything from one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Of this file's format.
    version: u32,
    machine: Machine,
    rounds: usize,
    quick: bool,
    pub(crate) rows: Vec<Row>,
    /// Groups that could not be measured, and why.
    pub(crate) failed: Vec<String>,
}

impl Report {
    pub(crate) fn new(machine: Machine, options: &Options) -> Self {
        Self {
            version: 1,
            machine,
            rounds: options.rounds(),
            quick: options.quick,
            rows: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// The machine and how much is measured.
    pub(crate) fn heading(&self) -> String {
        format!(
            "{}; {} rounds, medians and [least–largest]{}",
            self.machine,
            self.rounds,
            if self.quick { ", a quick run" } else { "" }
        )
    }

    /// The table in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.heading());
        text.push_str("| figure | measured | limit from the same run | ratio | aim | |\n");
        text.push_str("|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let _ = writeln!(text, "| {} |", row.cells().join(" | "));
        }
        for failed in &self.failed {
            let _ = writeln!(text, "\nnot measured: {failed}");
        }
        text
    }

    /// Writes the file for programs.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        }
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_samples() {
        let samples = Samples(vec![4.0, 1.0, 2.0, 3.0]);
        assert_eq!(samples.median(), 2.5);
        assert_eq!((samples.quantile(0.0), samples.quantile(1.0)), (1.0, 4.0));
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 0.1234, 1.234, 12.34, 1234.5, 1_234_567.0, -5.0];
        let texts = numbers.map(number);
        let expected = ["0", "0.123", "1.23", "12.3", "1234", "1,234,567", "-5.00"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn aims_are_judged_by_medians() {
        let row = |value| {
            Row::new("x", "µs", Samples(vec![value, value, 1000.0]))
                .limit("raw", Samples(vec![10.0]))
                .aim(Aim::AtMostTimes(1.3))
        };
        assert_eq!(row(12.0).met(), Some(true));
        assert_eq!(row(14.0).met(), Some(false));
        assert_eq!(row(12.0).aim(Aim::AtLeast(13.0)).met(), Some(false));
        assert_eq!(Row::new("x", "µs", Samples(vec![1.0])).met(), None);
    }
}
