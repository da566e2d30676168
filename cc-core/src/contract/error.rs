//! What is wrong with a contract, where it was written, and what to write instead.

use crate::platform::{Kind, UnknownType};

/// A contract that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", .at.as_ref().map(|at| format!("{at}: ")).unwrap_or_default())]
pub struct ContractError {
    /// Where that was written, such as `cluster.toml:5`, if it was written in a file.
    pub at: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A key that there is not.
    #[error("{key} is no key of a contract{}", did_you_mean(.nearest))]
    UnknownKey {
        /// The key.
        key: String,
        /// Keys that are alike.
        nearest: Vec<String>,
    },
    /// A key that is given twice.
    #[error("{0} is given twice: leave one out")]
    Twice(String),
    /// A text that is no assumption at all.
    #[error("`{0}` is no assumption: write key=value, key>=value or key<=value")]
    NoAssumption(String),
    /// A file that is not TOML.
    #[error("{0}")]
    Toml(String),
    /// A name that is no platform type.
    #[error("{key} = {} is not known{}{}", .unknown.name, did_you_mean(&.unknown.nearest), elsewhere(.unknown))]
    UnknownType {
        /// The parameter.
        key: String,
        /// The name and what may have been meant.
        unknown: Box<UnknownType>,
    },
    /// A type without generations, of which at least was asked.
    #[error("{key} >= {name}: it is no generation of a line, so write {key} = {name}")]
    NoGeneration {
        /// The parameter.
        key: String,
        /// The type.
        name: String,
    },
    /// A value that is none of the parameter's.
    #[error("{key} = {given} makes no sense: write {expected}")]
    Value {
        /// The parameter.
        key: String,
        /// What was given.
        given: String,
        /// What may be.
        expected: String,
    },
    /// A setting with a wrong value.
    #[error("{0}")]
    Setting(String),
    /// A range with nothing in it.
    #[error("{key} {given} is impossible: {hint}")]
    Range {
        /// The parameter.
        key: String,
        /// The range.
        given: String,
        /// What to write instead.
        hint: String,
    },
    /// A count outside of its range.
    #[error("{parameter} = {value} is out of range: write a number from 1 to {limit}")]
    Count {
        /// The parameter.
        parameter: &'static str,
        /// What it was set to.
        value: String,
        /// The largest that is allowed.
        limit: u32,
    },
    /// Assumptions about a role that the cluster does not have.
    #[error(
        "{key} speaks of a role, and a {topology} cluster has none: write {plain}, or \
         cluster_type = ManagerWorkers"
    )]
    NoRoles {
        /// The key.
        key: String,
        /// The cluster's topology.
        topology: &'static str,
        /// The key without the role.
        plain: String,
    },
    /// Assumptions that exclude each other.
    #[error("{first} and {second} exclude each other: {hint}")]
    Contradiction {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// What to do about it.
        hint: String,
    },
}

impl From<Problem> for ContractError {
    fn from(problem: Problem) -> Self {
        Self { at: None, problem }
    }
}

impl ContractError {
    /// Says where it was written, if that has not been said.
    #[must_use]
    pub fn at(mut self, place: Option<&String>) -> Self {
        self.at = self.at.or_else(|| place.cloned());
        self
    }
}

/// `: did you mean a, b or c?`, or nothing.
fn did_you_mean(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        [only] => format!(": did you mean {only}?"),
        [some @ .., last] => format!(": did you mean {} or {last}?", some.join(", ")),
    }
}

fn elsewhere(unknown: &UnknownType) -> String {
    match &unknown.elsewhere[..] {
        [] if unknown.nearest.is_empty() => {
            format!(": `cctl types {}` lists what there is", unknown.kind)
        }
        [] => String::new(),
        kinds => {
            let names: Vec<_> = kinds.iter().copied().map(Kind::name).collect();
            format!("; it is of another kind: {}", names.join(", "))
        }
    }
}
