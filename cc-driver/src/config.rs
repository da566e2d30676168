//! The configuration file, `CCconfig.toml`, and what is in force when it and a contract are put
//! together.
//!
//! The file gives settings that a contract leaves open, so that a program need not name a subnet or
//! an image. It is optional; nothing is downloaded in its place. Whatever is in force can be
//! traced to the line that says so, and a mistake is reported with its line. Only [`Config::discover`]
//! and [`Config::at`] read a file or the environment.

mod layers;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use cc_core::limits;
use cc_core::settings::{Section, SettingError, Settings};
use etcetera::BaseStrategy as _;

use crate::config::layers::Layer;

/// The file's name.
const NAME: &str = "CCconfig.toml";
/// The variable that names another file.
const VARIABLE: &str = "CLOUD_CLUSTERS_CONFIG";
/// Variables with the region of EC2, as all tools for it know them; the first that is set counts.
const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
/// Where values are from that no file and no program gave.
const BUILT_IN: &str = "built-in";

/// A configuration file that cannot be used, or settings that make no sense, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file that was named is not there.
    #[error("there is no file {}: correct the path that the program or ${VARIABLE} names", .0.display())]
    Missing(PathBuf),
    /// The file is there and cannot be read.
    #[error("read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// It is not TOML.
    #[error("{at}: not valid TOML: {reason}")]
    Syntax {
        /// File, line and column.
        at: String,
        /// What the parser says.
        reason: String,
    },
    /// It has a section that there is none of.
    #[error("{at}: [{name}] is no section: {}", match nearest {
        Some(nearest) => format!("did you mean [{nearest}]?"),
        None => format!("write {}", parse::SECTIONS.map(|s| format!("[{s}]")).join(", ")),
    })]
    Section {
        /// File, line and column.
        at: String,
        /// What was written.
        name: String,
        /// The section whose name is most alike.
        nearest: Option<&'static str>,
    },
    /// A setting stands outside of the sections, or a section is something else.
    #[error(
        "{at}: {name} does not belong here: write it below a line with its section, such as [{section}]"
    )]
    Outside {
        /// File, line and column.
        at: String,
        /// What was written.
        name: String,
        /// A section that it can stand in.
        section: &'static str,
    },
    /// A setting stands in a section that it makes no sense in.
    #[error("{at}: {key} means nothing in [{section}]: move it to [{belongs}]")]
    Misplaced {
        /// File, line and column.
        at: String,
        /// The setting.
        key: &'static str,
        /// Where it stands.
        section: &'static str,
        /// Where it can stand.
        belongs: &'static str,
    },
    /// A setting is given twice, under different names.
    #[error("{at}: {key} is given a second time as {name}: remove one of them")]
    Twice {
        /// File, line and column.
        at: String,
        /// The setting.
        key: &'static str,
        /// What it is called there.
        name: String,
    },
    /// There is no such setting, or it does not take the value.
    #[error("{at}: {error}")]
    Setting {
        /// File, line and column, or who else gave it.
        at: String,
        /// What is wrong with it.
        error: SettingError,
    },
    /// The layers could not be put together.
    #[error("put the settings together: {0}")]
    Layers(String),
}

/// A configuration file, or that there is none.
///
/// ```
/// use cc_core::settings::Settings;
/// use cc_driver::config::Config;
///
/// let text = "[defaults]\nuser = \"ubuntu\"\n[ec2]\nimageid = \"ami-1\"\n";
/// let config = Config::parse("CCconfig.toml".as_ref(), text)?;
/// let none = Settings::default();
/// let effective = config.effective("ec2", &none, &none)?;
/// assert_eq!(effective.settings.imageid.as_deref(), Some("ami-1"));
/// assert_eq!(effective.origins["imageid"], "CCconfig.toml:4");
/// assert_eq!(effective.origins["driver_timeout"], "built-in");
/// # Ok::<(), cc_driver::config::ConfigError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Config {
    path: Option<PathBuf>,
    searched: Vec<PathBuf>,
    sections: BTreeMap<&'static str, Layer>,
    /// The environment's region of EC2, and the variable that gives it.
    region: Option<(&'static str, String)>,
}

/// What is in force for a provider, and where each of it comes from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Effective {
    /// The settings.
    pub settings: Settings,
    /// For each key that is set: `built-in`, `path:line` of the file, the environment variable,
    /// `contract` or `deploy arguments`. Several for an environment that was put together.
    pub origins: BTreeMap<&'static str, String>,
}

impl Config {
    /// The file that `$CLOUD_CLUSTERS_CONFIG` names; otherwise `CCconfig.toml` in the current
    /// directory, otherwise `cloudclusters/CCconfig.toml` in the user's configuration directory;
    /// otherwise none.
    ///
    /// # Errors
    /// Fails when the variable names a file that is not there, and when the file that was found
    /// cannot be read or contains a mistake.
    pub fn discover() -> Result<Self, ConfigError> {
        if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            return Self::at(Path::new(&path));
        }
        let mut searched = vec![PathBuf::from(NAME)];
        if let Ok(base) = etcetera::choose_base_strategy() {
            searched.push(base.config_dir().join("cloudclusters").join(NAME));
        }
        for path in &searched {
            match Self::at(path) {
                Err(ConfigError::Missing(_)) => {}
                found => return found,
            }
        }
        Ok(Self {
            searched,
            region: region(),
            ..Self::default()
        })
    }

    /// A given file.
    ///
    /// # Errors
    /// Fails when it cannot be read or contains a mistake.
    pub fn at(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                ConfigError::Missing(path.to_owned())
            }
            _ => ConfigError::Unreadable {
                path: path.to_owned(),
                reason: error.to_string(),
            },
        })?;
        let mut config = Self::parse(path, &text)?;
        config.region = region();
        Ok(config)
    }

    /// The content of a file, wherever it is from; the path is for messages.
    ///
    /// # Errors
    /// Names the line of a mistake.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            path: Some(path.to_owned()),
            sections: parse::sections(path, text)?,
            ..Self::default()
        })
    }

    /// No file, and nothing from the environment.
    pub fn none() -> Self {
        Self::default()
    }

    /// The file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Where a file was looked for, if none was found.
    pub fn searched(&self) -> &[PathBuf] {
        &self.searched
    }

    /// Whether the file says something for a provider in particular.
    pub fn has_section(&self, provider: &str) -> bool {
        provider != Section::Defaults.name() && self.sections.contains_key(provider)
    }

    /// What is in force for a provider: what was said on deployment, otherwise what the contract
    /// says, otherwise the provider's section, otherwise `[defaults]`, otherwise what is built
    /// in. Environments are merged variable by variable.
    ///
    /// # Errors
    /// Names a setting of the contract or the deployment that makes no sense.
    pub fn effective(
        &self,
        provider: &str,
        contract: &Settings,
        deploy: &Settings,
    ) -> Result<Effective, ConfigError> {
        let mut layers = vec![layers::built_in()];
        if let ("ec2", Some((variable, region))) = (provider, &self.region) {
            layers.push(Layer::region(variable, region));
        }
        layers.extend(self.sections.get(Section::Defaults.name()).cloned());
        if self.has_section(provider) {
            layers.extend(self.sections.get(provider).cloned());
        }
        for (origin, settings) in [("contract", contract), ("deploy arguments", deploy)] {
            let at = origin.to_owned();
            settings
                .check()
                .map_err(|error| ConfigError::Setting { at, error })?;
            layers.push(Layer::of(settings, origin));
        }
        layers::merge(layers)
    }
}

fn region() -> Option<(&'static str, String)> {
    (REGIONS.into_iter())
        .filter_map(|name| Some((name, std::env::var(name).ok()?)))
        .find(|(_, region)| !region.is_empty())
}

/// Reads a file that is small if it is what it should be.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(limits::CONFIG + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limits::CONFIG {
        return Err(io::Error::other(
            "larger than 1 MiB: this is no configuration file",
        ));
    }
    Ok(text)
}
