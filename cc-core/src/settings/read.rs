//! Reading a setting's value, from text or as a file's format has it. `None` means that it is of
//! another type; whoever asked knows what to say then.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use super::ThreadLevel;
use crate::quantity::Unit;

/// Above this not every whole number is a floating-point number.
const EXACT: f64 = (1_u64 << 53) as f64;

pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

pub(super) fn path(value: &Value) -> Option<PathBuf> {
    value.as_str().map(PathBuf::from)
}

pub(super) fn flag(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| parsed(value))
}

pub(super) fn number(value: &Value) -> Option<u32> {
    let plain = value.as_u64().and_then(|n| n.try_into().ok());
    plain.or_else(|| parsed(value))
}

pub(super) fn port(value: &Value) -> Option<u16> {
    number(value)?.try_into().ok()
}

pub(super) fn ratio(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| parsed(value))
}

/// A list as it is, or text whose words are its items.
pub(super) fn words(value: &Value) -> Option<Vec<String>> {
    list(value, char::is_whitespace)
}

/// A list as it is, or text with its items between commas or blanks.
pub(super) fn items(value: &Value) -> Option<Vec<String>> {
    list(value, |c| c == ',' || c.is_whitespace())
}

pub(super) fn variables(value: &Value) -> Option<BTreeMap<String, String>> {
    match value {
        Value::Object(map) => (map.iter())
            .map(|(name, value)| {
                let value = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(_) | Value::Bool(_) => value.to_string(),
                    _ => return None,
                };
                Some((name.clone(), value))
            })
            .collect(),
        Value::String(text) => (text.split_whitespace())
            .map(|word| word.split_once('='))
            .map(|pair| pair.map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect(),
        _ => None,
    }
}

/// A number of bytes, or text that is one with a binary suffix.
pub(super) fn bytes(value: &Value) -> Option<u64> {
    let Value::String(text) = value else {
        return value.as_u64();
    };
    let number = Unit::BinaryBytes.parse(text)?;
    // Whole bytes, and few enough to be exact.
    (number.fract() == 0.0 && number <= EXACT).then_some(number as u64)
}

pub(super) fn duration(value: &Value) -> Option<Duration> {
    humantime::parse_duration(value.as_str()?.trim()).ok()
}

pub(super) fn thread_level(value: &Value) -> Option<ThreadLevel> {
    let name = value.as_str()?.trim();
    (ThreadLevel::ALL.into_iter()).find(|level| level.name() == name)
}

fn parsed<T: FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.trim().parse().ok()
}

fn list(value: &Value, separates: impl Fn(char) -> bool) -> Option<Vec<String>> {
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        Value::String(text) => Some(
            text.split(separates)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect(),
        ),
        _ => None,
    }
}
