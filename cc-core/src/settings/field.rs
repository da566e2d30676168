//! What every field of the settings can do, whatever its type.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::ThreadLevel;

/// A field of the settings, which may be unset.
pub(super) trait Field {
    /// This, or `lower` where this is unset.
    fn over(self, lower: Self) -> Self;

    /// Its value, unless it is unset, in a form that it is read from again.
    fn write(&self) -> Option<Value>;
}

/// A value of a field that has one or none.
pub(super) trait Single {
    /// Its form in JSON.
    fn json(&self) -> Value;
}

impl<T: Single> Field for Option<T> {
    fn over(self, lower: Self) -> Self {
        self.or(lower)
    }

    fn write(&self) -> Option<Value> {
        // A number that JSON has no form for is written as nothing.
        self.as_ref().map(Single::json).filter(|v| !v.is_null())
    }
}

impl Field for Vec<String> {
    fn over(self, lower: Self) -> Self {
        if self.is_empty() { lower } else { self }
    }

    fn write(&self) -> Option<Value> {
        (!self.is_empty()).then(|| self.as_slice().into())
    }
}

impl Field for BTreeMap<String, String> {
    fn over(self, mut lower: Self) -> Self {
        lower.extend(self);
        lower
    }

    fn write(&self) -> Option<Value> {
        let variables = self.iter().map(|(k, v)| (k.clone(), v.as_str().into()));
        (!self.is_empty()).then(|| Value::Object(variables.collect()))
    }
}

impl Single for String {
    fn json(&self) -> Value {
        self.as_str().into()
    }
}

impl Single for PathBuf {
    fn json(&self) -> Value {
        self.to_string_lossy().into()
    }
}

impl Single for Duration {
    fn json(&self) -> Value {
        humantime::format_duration(*self).to_string().into()
    }
}

impl Single for ThreadLevel {
    fn json(&self) -> Value {
        self.name().into()
    }
}

macro_rules! plain {
    ($($type:ty),+) => {
        $(impl Single for $type {
            fn json(&self) -> Value {
                (*self).into()
            }
        })+
    };
}

plain!(bool, u16, u32, u64, f64);
