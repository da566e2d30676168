//! From the text of a configuration file to its sections, or to the line of a mistake.

use std::collections::BTreeMap;
use std::path::Path;

use cc_core::nearest::nearest;
use cc_core::settings::{self, Key, Section, Settings};
use cc_core::toml::to_json;
use toml_edit::{Document, Item, TableLike};

use super::ConfigError;
use super::layers::Layer;

/// The sections of a file. `gcp` has no provider yet; a file may have it for the one to come.
pub(super) const SECTIONS: [&str; 4] = ["defaults", "ec2", "gcp", "local"];

/// The sections that a file has.
pub(super) fn sections(
    path: &Path,
    text: &str,
) -> Result<BTreeMap<&'static str, Layer>, ConfigError> {
    let file = File { path, text };
    let document = Document::parse(text).map_err(|error| ConfigError::Syntax {
        at: file.at(error.span().map(|s| s.start)),
        reason: error.message().replace('\n', ", "),
    })?;
    let mut sections = BTreeMap::new();
    for (name, item) in document.iter() {
        let at = || file.at(start(document.as_table(), name));
        let Some(section) = SECTIONS.into_iter().find(|known| *known == name) else {
            return Err(no_section(name, item, at()));
        };
        let Some(table) = item.as_table_like() else {
            return Err(ConfigError::Outside {
                at: at(),
                name: name.to_owned(),
                section,
            });
        };
        sections.insert(section, file.section(section, table)?);
    }
    Ok(sections)
}

fn no_section(name: &str, item: &Item, at: String) -> ConfigError {
    match settings::find(name) {
        Some(key) if !item.is_table() => ConfigError::Outside {
            at,
            name: name.to_owned(),
            section: home(key),
        },
        _ => ConfigError::Section {
            at,
            name: name.to_owned(),
            nearest: nearest(name, SECTIONS, 1).into_iter().next(),
        },
    }
}

/// The section that a setting can stand in at least.
fn home(key: &Key) -> &'static str {
    key.sections.first().map_or("defaults", |s| s.name())
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn section(&self, section: &'static str, table: &dyn TableLike) -> Result<Layer, ConfigError> {
        let mut layer = Layer::default();
        for (name, item) in table.iter() {
            let begins = start(table, name);
            let at = || self.at(begins);
            let mut one = Settings::default();
            one.set(name, to_json(item))
                .map_err(|error| ConfigError::Setting { at: at(), error })?;
            // It is known, or would not have been set.
            let Some(key) = settings::find(name) else {
                continue;
            };
            let belongs = [Section::Defaults, Section::Ec2, Section::Local]
                .into_iter()
                .find(|known| known.name() == section)
                .is_none_or(|section| key.is_of(section));
            if !belongs {
                return Err(ConfigError::Misplaced {
                    at: at(),
                    key: key.name,
                    section,
                    belongs: home(key),
                });
            }
            if layer.has(key.name) {
                return Err(ConfigError::Twice {
                    at: at(),
                    key: key.name,
                    name: name.to_owned(),
                });
            }
            layer.add(&one, |variable| {
                let of_variable = variable.zip(item.as_table_like());
                let own = of_variable.and_then(|(variable, table)| start(table, variable));
                format!(
                    "{}:{}",
                    self.path.display(),
                    self.position(own.or(begins)).0
                )
            });
        }
        Ok(layer)
    }

    /// Path, line and column of a byte.
    fn at(&self, byte: Option<usize>) -> String {
        let (line, column) = self.position(byte);
        format!("{}:{line}:{column}", self.path.display())
    }

    /// Line and column, counted from 1.
    fn position(&self, byte: Option<usize>) -> (usize, usize) {
        let before = byte.and_then(|byte| self.text.get(..byte)).unwrap_or("");
        let line = before.rsplit('\n').next().unwrap_or(before);
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }
}

/// Where a key is written.
fn start(table: &dyn TableLike, name: &str) -> Option<usize> {
    let (key, _) = table.get_key_value(name)?;
    key.span().map(|span| span.start)
}
