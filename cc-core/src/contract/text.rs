//! Contracts as text: `key=value` on a command line and in records, and TOML.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::parameter::{Domain, Market, Parameter, Requirement};
use super::{Assumptions, Contract, ContractError, Problem, Settings, Topology};
use crate::nearest::nearest;
use crate::quantity::{Quantity, Unit, at_least, at_most, between, function, just};
use crate::toml::to_json;
use crate::{limits, settings};

/// The keys that speak of the cluster and not of its instances.
pub const CLUSTER_PARAMETERS: [&str; 3] = ["cluster_type", "node_count", "node_process_count"];
const ROLES: [&str; 2] = ["manager", "worker"];

/// A contract as it is written down in records.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stored {
    assumptions: Vec<String>,
    settings: Settings,
}

impl From<Contract> for Stored {
    fn from(contract: Contract) -> Self {
        Self {
            assumptions: contract.to_assumptions(),
            settings: contract.settings,
        }
    }
}

impl TryFrom<Stored> for Contract {
    type Error = ContractError;

    fn try_from(stored: Stored) -> Result<Self, ContractError> {
        let mut contract = Self::parse(stored.assumptions)?;
        contract.settings = stored.settings;
        Ok(contract)
    }
}

impl Contract {
    /// Reads assumptions such as `node_count=4` and `accelerator_count>=4`.
    ///
    /// # Errors
    /// Names the key and what to write instead.
    pub fn parse<S: AsRef<str>>(
        assumptions: impl IntoIterator<Item = S>,
    ) -> Result<Self, ContractError> {
        let mut contract = Self::new();
        let mut seen = std::collections::BTreeSet::new();
        for text in assumptions {
            let text = text.as_ref();
            let (key, operator, value) = split(text)
                .ok_or_else(|| Problem::NoAssumption(text.chars().take(limits::NAME).collect()))?;
            let key = contract.assume(key, operator, &Value::String(value.to_owned()))?;
            if !seen.insert(key.clone()) {
                return Err(Problem::Twice(key).into());
            }
        }
        Ok(contract)
    }

    /// Reads a contract in TOML. `name` is the file's, for errors.
    ///
    /// ```
    /// use cc_core::contract::Contract;
    /// let contract = Contract::from_toml("cluster.toml", r#"
    ///     cluster_type = "ManagerWorkers"
    ///     node_count = 8
    ///     node_memory_size = ">= 256G"
    ///     worker.accelerator_count = 8
    ///     manager.node_machinetype = "t3.xlarge"
    /// "#)?;
    /// assert_eq!(contract.nodes(), 9);
    /// # Ok::<(), cc_core::contract::ContractError>(())
    /// ```
    ///
    /// # Errors
    /// Names the line, the key and what to write instead.
    pub fn from_toml(name: &str, text: &str) -> Result<Self, ContractError> {
        let place = |offset: usize| {
            let line = text[..offset.min(text.len())].matches('\n').count() + 1;
            format!("{name}:{line}")
        };
        let document = toml_edit::Document::parse(text).map_err(|error| ContractError {
            at: Some(
                error
                    .span()
                    .map_or(name.to_owned(), |span| place(span.start)),
            ),
            problem: Problem::Toml(error.message().to_owned()),
        })?;
        let mut contract = Self::new();
        let mut tables = vec![(
            String::new(),
            document.as_table() as &dyn toml_edit::TableLike,
        )];
        while let Some((prefix, table)) = tables.pop() {
            for (key, item) in table.iter() {
                let full = format!("{prefix}{key}");
                let is_role = prefix.is_empty() && ROLES.contains(&key);
                if let (true, Some(inner)) = (is_role, item.as_table_like()) {
                    tables.push((format!("{key}."), inner));
                    continue;
                }
                let offset = table.get_key_value(key).and_then(|(key, _)| key.span());
                let at = place(offset.or(item.span()).map_or(0, |span| span.start));
                let value = to_json(item);
                let key = (contract.assume(&full, "=", &value)).map_err(|e| e.at(Some(&at)))?;
                if contract.places.insert(key.clone(), at.clone()).is_some() {
                    return Err(ContractError::from(Problem::Twice(key)).at(Some(&at)));
                }
            }
        }
        Ok(contract)
    }

    /// This contract with what another says in addition or instead.
    pub fn with(mut self, other: Self) -> Self {
        let replaced: Vec<String> = other.lines().into_iter().map(|(key, _)| key).collect();
        self.cluster_type = other.cluster_type.or(self.cluster_type);
        self.node_count = other.node_count.or(self.node_count);
        self.node_process_count = other.node_process_count.or(self.node_process_count);
        // What is said of all nodes in addition is said of each role, too.
        for (parameter, _) in other.common.iter() {
            self.manager.remove(parameter);
            self.worker.remove(parameter);
        }
        for (mine, others) in [
            (&mut self.common, other.common),
            (&mut self.manager, other.manager),
            (&mut self.worker, other.worker),
        ] {
            *mine = others.over(mine);
        }
        // What is said instead does not stand where the other was.
        let settings = other
            .settings
            .entries()
            .into_iter()
            .map(|(key, _)| key.to_owned());
        for key in replaced.into_iter().chain(settings) {
            self.places.remove(&key);
        }
        self.settings = other.settings.over(self.settings);
        self.places.extend(other.places);
        self.notes.extend(other.notes);
        self
    }

    /// Sets what a key says; gives the key's own name.
    fn assume(
        &mut self,
        key: &str,
        operator: &str,
        value: &Value,
    ) -> Result<String, ContractError> {
        let written = as_text(value);
        let written: String = written.chars().take(limits::NAME).collect();
        let wrong = |key: &str, expected: String| Problem::Value {
            key: key.to_owned(),
            given: written.clone(),
            expected,
        };
        let only_equal = |key: &str| match operator {
            "=" | "==" => Ok(()),
            _ => Err(wrong(key, format!("{key} = …, which has no order"))),
        };
        match key {
            "cluster_type" => {
                only_equal(key)?;
                self.cluster_type = Some(self.topology_named(&written)?);
            }
            "node_count" | "node_process_count" => {
                only_equal(key)?;
                let limit = match key {
                    "node_count" => limits::NODES,
                    _ => limits::WORKERS_PER_NODE,
                };
                let parameter = match key {
                    "node_count" => "node_count",
                    _ => "node_process_count",
                };
                let number: i64 = (written.parse())
                    .map_err(|_| wrong(key, "a whole number, such as 4".to_owned()))?;
                let count = u32::try_from(number)
                    .ok()
                    .filter(|n| (1..=limit).contains(n));
                let count = count.ok_or_else(|| Problem::Count {
                    parameter,
                    value: written.clone(),
                    limit,
                })?;
                match key {
                    "node_count" => self.node_count = Some(count),
                    _ => self.node_process_count = Some(count),
                }
            }
            _ => return self.assume_other(key, operator, value, &written),
        }
        Ok(key.to_owned())
    }

    /// A key that is none of the cluster parameters.
    fn assume_other(
        &mut self,
        key: &str,
        operator: &str,
        value: &Value,
        written: &str,
    ) -> Result<String, ContractError> {
        let (role, name) = match key.split_once('.') {
            Some((role, name)) => (Some(role), name),
            None => (None, key),
        };
        let target = match role {
            None => Some(&mut self.common),
            Some("manager") => Some(&mut self.manager),
            Some("worker") => Some(&mut self.worker),
            Some(_) => None,
        };
        if let (Some(target), Some(parameter)) = (target, Parameter::find(name)) {
            let requirement =
                requirement(parameter, operator, value).ok_or_else(|| Problem::Value {
                    key: key.to_owned(),
                    given: written.to_owned(),
                    expected: expected(parameter),
                })?;
            target.set(parameter, requirement);
            return Ok(match role {
                Some(role) => format!("{role}.{parameter}"),
                None => parameter.to_string(),
            });
        }
        if let (None, Some(known)) = (role, settings::find(name)) {
            if !matches!(operator, "=" | "==") {
                return Err(Problem::Value {
                    key: key.to_owned(),
                    given: format!("{operator} {written}"),
                    expected: format!("{} = …, which has no order", known.name),
                }
                .into());
            }
            (self.settings.set(known.name, value.clone())).map_err(|error| ContractError {
                at: None,
                problem: Problem::Setting(error.to_string()),
            })?;
            return Ok(known.name.to_owned());
        }
        Err(unknown_key(key).into())
    }

    fn topology_named(&mut self, name: &str) -> Result<Topology, ContractError> {
        let found = Topology::ALL
            .into_iter()
            .find(|topology| topology.name().eq_ignore_ascii_case(name));
        if let Some(topology) = found {
            return Ok(topology);
        }
        if name.eq_ignore_ascii_case("ManageWorkers") {
            self.notes.push(format!(
                "cluster_type = {name} was understood as ManagerWorkers: write that"
            ));
            return Ok(Topology::ManagerWorkers);
        }
        Err(Problem::Value {
            key: "cluster_type".to_owned(),
            given: name.to_owned(),
            expected: Topology::ALL.map(Topology::name).join(", "),
        }
        .into())
    }

    /// Every assumption about cluster and instances as `key=value`, `key>=value` or `key<=value`.
    /// [`parse`](Self::parse) gives the same contract back, but for its settings.
    pub fn to_assumptions(&self) -> Vec<String> {
        (self.lines().into_iter())
            .map(|(key, said)| format!("{key}{}", said.replacen(' ', "", 1)))
            .collect()
    }

    /// The contract in TOML. [`from_toml`](Self::from_toml) gives the same back.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (key, value) in self.lines() {
            // A number by itself is one in TOML too; everything else is a text.
            let value = value.strip_prefix("= ").unwrap_or(&value);
            let bare = value.parse::<f64>().is_ok_and(f64::is_finite);
            let quoted = toml_edit::Value::from(value).to_string();
            let value = if bare { value } else { quoted.trim() };
            let _ = writeln!(text, "{key} = {value}");
        }
        for (key, value) in self.settings.entries() {
            let mut item = toml_value(&value);
            item.decor_mut().clear();
            let _ = writeln!(text, "{key} = {item}");
        }
        text
    }

    /// Keys and what is said of them, `= 4`.
    fn lines(&self) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        let mut add = |key: &str, value: Option<String>| {
            lines.extend(value.map(|value| (key.to_owned(), format!("= {value}"))));
        };
        add("cluster_type", self.cluster_type.map(|t| t.to_string()));
        add("node_count", self.node_count.map(|n| n.to_string()));
        add(
            "node_process_count",
            self.node_process_count.map(|n| n.to_string()),
        );
        let roles: [(&str, &Assumptions); 3] = [
            ("", &self.common),
            ("manager.", &self.manager),
            ("worker.", &self.worker),
        ];
        for (prefix, assumptions) in roles {
            for (parameter, requirement) in assumptions.iter() {
                lines.push((format!("{prefix}{parameter}"), requirement.print(parameter)));
            }
        }
        lines
    }
}

/// `accelerator_count>=4` as its three parts.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let at = text.find(['=', '<', '>'])?;
    let (key, rest) = text.split_at(at);
    let operator = ["==", ">=", "<=", "="]
        .into_iter()
        .find(|o| rest.starts_with(o))?;
    let value = rest[operator.len()..].trim();
    let key = key.trim();
    (!key.is_empty() && !value.is_empty()).then_some((key, operator, value))
}

fn unknown_key(key: &str) -> Problem {
    let parameters = Parameter::all().map(Parameter::name);
    let others = settings::KEYS.iter().map(|key| key.name);
    let all: Vec<&str> = (CLUSTER_PARAMETERS.into_iter())
        .chain(parameters)
        .chain(others)
        .collect();
    let nearest = match key.split_once('.') {
        // What holds for the whole cluster has no role.
        Some((role, name)) if ROLES.contains(&role) && all.contains(&name) => {
            vec![name.to_owned()]
        }
        Some((role, name)) => {
            let names = nearest(name, Parameter::all().map(Parameter::name), 2);
            let role = nearest(role, ROLES, 1).into_iter().next();
            (role.into_iter())
                .flat_map(|role| names.iter().map(move |name| format!("{role}.{name}")))
                .collect()
        }
        None => nearest(key, all, 2)
            .into_iter()
            .map(str::to_owned)
            .collect(),
    };
    Problem::UnknownKey {
        key: key.chars().take(limits::NAME).collect(),
        nearest,
    }
}

/// What a parameter's value may be, for errors.
fn expected(parameter: Parameter) -> String {
    match parameter.domain() {
        Domain::Number(unit) => {
            let example = unit.example();
            match parameter {
                Parameter::MaxPrice => return format!("a number of dollars, such as {example}"),
                Parameter::Efa => return "true, false, or a number of interfaces".to_owned(),
                _ => {}
            }
            format!("{example}, >= {example}, <= {example}, or a range from..to")
        }
        Domain::Type(_) => format!("a platform type ({})", parameter.about()),
        Domain::Market => "on-demand or spot".to_owned(),
    }
}

fn requirement(parameter: Parameter, operator: &str, value: &Value) -> Option<Requirement> {
    match parameter.domain() {
        Domain::Market => match (operator, as_text(value).as_str()) {
            ("=" | "==", "on-demand") => Some(Requirement::Market(Market::OnDemand)),
            ("=" | "==", "spot") => Some(Requirement::Market(Market::Spot)),
            _ => None,
        },
        Domain::Type(_) => type_requirement(operator, value.as_str()?.trim()),
        Domain::Number(unit) => {
            // Interfaces are asked for, not counted.
            match (parameter, operator, as_text(value).as_str()) {
                (Parameter::Efa, "=" | "==", "true" | "yes") => {
                    return Some(Requirement::Quantity(at_least(1)));
                }
                (Parameter::Efa, "=" | "==", "false" | "no") => {
                    return Some(Requirement::Quantity(just(0)));
                }
                _ => {}
            }
            let quantity = quantity(operator, value, unit)?;
            // A price of exactly so much is meant by nobody.
            let is_price = parameter == Parameter::MaxPrice;
            let quantity = match (is_price, quantity.low(), quantity.high()) {
                (true, Some(low), Some(high)) if low == high => at_most(high),
                (true, Some(_), _) => return None,
                _ => quantity,
            };
            Some(quantity.into())
        }
    }
}

fn type_requirement(operator: &str, text: &str) -> Option<Requirement> {
    let least = text.strip_prefix(">=").or(text.strip_prefix('≥'));
    let (newer, name) = match (least, function(text)) {
        (Some(name), _) => (true, name.trim()),
        (None, Some((function, name))) if function == "atleast" => (true, name.trim()),
        (None, Some(_)) => return None,
        (None, None) => (false, text.trim_start_matches('=').trim()),
    };
    let plain =
        (name.chars()).all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ' | '+'));
    if name.is_empty() || !plain {
        return None;
    }
    match (operator, newer) {
        ("=" | "==", false) => Some(Requirement::Type(name.to_owned())),
        ("=" | "==", true) | (">=", false) => Some(Requirement::AtLeastType(name.to_owned())),
        _ => None,
    }
}

fn quantity(operator: &str, value: &Value, unit: Unit) -> Option<Quantity> {
    match value {
        Value::Number(number) => {
            // Through a text, so that the operator is heeded in one place.
            Quantity::parse(operator, &number.to_string(), unit)
        }
        Value::String(text) => Quantity::parse(operator, text, unit),
        Value::Object(table) => {
            let bound = |name: &str| match table.get(name) {
                None => Some(None),
                Some(Value::Number(number)) => number.as_f64().map(Some),
                Some(Value::String(text)) => unit.parse(text).map(Some),
                Some(_) => None,
            };
            if table
                .keys()
                .any(|key| key != "at_least" && key != "at_most")
            {
                return None;
            }
            match (bound("at_least")?, bound("at_most")?) {
                (Some(low), Some(high)) => Some(between(low, high)),
                (Some(low), None) => Some(at_least(low)),
                (None, Some(high)) => Some(at_most(high)),
                (None, None) => None,
            }
        }
        _ => None,
    }
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    }
}

fn toml_value(value: &Value) -> toml_edit::Value {
    match value {
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap_or_default().into(),
        },
        Value::Array(values) => values.iter().map(toml_value).collect(),
        Value::Object(values) => {
            let entries = values.iter().map(|(key, value)| (key, toml_value(value)));
            toml_edit::Value::InlineTable(entries.collect())
        }
        Value::String(text) => text.into(),
        Value::Null => "".into(),
    }
}
