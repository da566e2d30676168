//! Settings one above the other, each value with where it comes from.

use std::collections::{BTreeMap, BTreeSet};

use cc_core::settings::{KEYS, Settings};
use config::{Map, Source, Value, ValueKind};
use serde_json::Value as Json;

use super::{BUILT_IN, ConfigError, Effective};

/// The settings that one place gives.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer(Map<String, Value>);

impl Layer {
    /// Settings that all have one origin.
    pub(super) fn of(settings: &Settings, origin: &str) -> Self {
        let mut layer = Self::default();
        layer.add(settings, |_| origin.to_owned());
        layer
    }

    /// The region that an environment variable gives.
    pub(super) fn region(variable: &str, region: &str) -> Self {
        let region = Some(region.to_owned());
        Self::of(
            &Settings {
                region,
                ..Settings::default()
            },
            variable,
        )
    }

    /// Adds what is set. `origin` is asked with the name of each variable of the environment, and
    /// with `None` for everything else.
    pub(super) fn add(&mut self, settings: &Settings, origin: impl Fn(Option<&str>) -> String) {
        for (name, value) in settings.entries() {
            self.0.insert(name.to_owned(), known(value, &origin, None));
        }
    }

    /// Whether it says something about a setting.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// What holds if nobody says anything.
pub(super) fn built_in() -> Layer {
    let mut settings = Settings::default();
    for key in KEYS {
        if let Some(text) = key.builtin {
            let set = settings.set(key.name, text.into());
            debug_assert!(set.is_ok(), "{set:?}");
        }
    }
    Layer::of(&settings, BUILT_IN)
}

/// Puts layers together, the lowest first.
pub(super) fn merge(layers: Vec<Layer>) -> Result<Effective, ConfigError> {
    let failed = |error: config::ConfigError| ConfigError::Layers(error.to_string());
    let builder = layers
        .into_iter()
        .fold(config::Config::builder(), |builder, layer| {
            builder.add_source(layer)
        });
    let merged = builder.build().and_then(|all| all.collect());
    let mut settings = Settings::default();
    let mut origins = BTreeMap::new();
    let mut merged = merged.map_err(failed)?;
    for key in KEYS {
        let Some(value) = merged.remove(key.name) else {
            continue;
        };
        let mut from = BTreeSet::new();
        origins_of(&value, &mut from);
        let from = from.into_iter().collect::<Vec<_>>().join(", ");
        let value = plain(value.kind);
        settings
            .set(key.name, value)
            .map_err(|error| ConfigError::Setting {
                at: from.clone(),
                error,
            })?;
        origins.insert(key.name, from);
    }
    Ok(Effective { settings, origins })
}

/// A value with its origin. A table's entries have origins of their own.
fn known(value: Json, origin: &impl Fn(Option<&str>) -> String, variable: Option<&str>) -> Value {
    let kind = match value {
        Json::Null => ValueKind::Nil,
        Json::Bool(flag) => flag.into(),
        Json::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(float)) => float.into(),
            (None, None) => ValueKind::Nil,
        },
        Json::String(text) => text.into(),
        Json::Array(items) => {
            let items = items.into_iter().map(|item| known(item, origin, variable));
            items.collect::<Vec<_>>().into()
        }
        Json::Object(entries) => ValueKind::Table(
            (entries.into_iter())
                .map(|(name, entry)| {
                    let entry = known(entry, origin, Some(&name));
                    (name, entry)
                })
                .collect(),
        ),
    };
    Value::new(Some(&origin(variable)), kind)
}

/// The value without its origin.
fn plain(kind: ValueKind) -> Json {
    match kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(flag) => flag.into(),
        ValueKind::I64(number) => number.into(),
        ValueKind::U64(number) => number.into(),
        // Nothing that is put in is as large.
        ValueKind::I128(number) => number.to_string().into(),
        ValueKind::U128(number) => number.to_string().into(),
        ValueKind::Float(number) => number.into(),
        ValueKind::String(text) => text.into(),
        ValueKind::Array(items) => items.into_iter().map(|item| plain(item.kind)).collect(),
        ValueKind::Table(entries) => Json::Object(
            (entries.into_iter())
                .map(|(name, entry)| (name, plain(entry.kind)))
                .collect(),
        ),
    }
}

fn origins_of(value: &Value, origins: &mut BTreeSet<String>) {
    match &value.kind {
        ValueKind::Table(entries) => entries.values().for_each(|v| origins_of(v, origins)),
        _ => origins.extend(value.origin().map(str::to_owned)),
    }
}
