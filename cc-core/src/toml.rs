//! Values of TOML files as JSON, the form in which keys take what files and command lines say.

use serde_json::Value as Json;
use toml_edit::{Item, TableLike, Value};

/// An item of a TOML document as JSON. Dates, which no key takes, are their text.
pub fn to_json(item: &Item) -> Json {
    match item {
        Item::None => Json::Null,
        Item::Value(value) => value_to_json(value),
        Item::Table(table) => entries(table),
        Item::ArrayOfTables(tables) => tables.iter().map(|table| entries(table)).collect(),
    }
}

fn value_to_json(value: &Value) -> Json {
    match value {
        Value::String(text) => text.value().as_str().into(),
        Value::Integer(number) => (*number.value()).into(),
        Value::Float(number) => (*number.value()).into(),
        Value::Boolean(flag) => (*flag.value()).into(),
        Value::Datetime(time) => time.value().to_string().into(),
        Value::Array(items) => items.iter().map(value_to_json).collect(),
        Value::InlineTable(table) => entries(table),
    }
}

fn entries(table: &dyn TableLike) -> Json {
    (table.iter())
        .map(|(name, item)| (name.to_owned(), to_json(item)))
        .collect()
}
