//! Every setting that has an effect, and where it comes from.

use std::path::{Path, PathBuf};

use cc_driver::config::{Config, Effective};
use cc_driver::records::StateDirectory;
use cc_driver::settings::{KEYS, Settings};
use cc_driver::{Contract, Driver};
use serde::Serialize;

use crate::args::ConfigOf;
use crate::failure::Failure;
use crate::output;

/// Variables that have an effect.
const VARIABLES: [&str; 7] = [
    "CLOUD_CLUSTERS_CONFIG",
    "CC_STATE_DIR",
    "CC_AGENT",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "RUST_LOG",
    "NO_COLOR",
];

#[derive(Debug, Serialize)]
struct Setting {
    setting: &'static str,
    value: Option<String>,
    source: String,
}

pub(crate) fn run(driver: &Driver, provider: ConfigOf, json: bool) -> Result<(), Failure> {
    let none = Settings::default();
    let config = driver.config()?;
    let effective = config.effective(provider.name(), &none, &none)?;
    let settings = settings(driver, config, &effective);
    if json {
        return output::json(&settings);
    }
    let rows = settings.into_iter().map(|s| {
        [
            s.setting.to_owned(),
            s.value.unwrap_or_else(|| "-".to_owned()),
            s.source,
        ]
    });
    Ok(output::table(
        ["SETTING", "VALUE", "SOURCE"],
        rows.collect(),
    )?)
}

fn settings(driver: &Driver, config: &Config, effective: &Effective) -> Vec<Setting> {
    let contract = Contract::new();
    let default = |setting, value: String| Setting {
        setting,
        value: Some(value),
        source: "default of contracts".to_owned(),
    };
    let mut settings = vec![file(config)];
    settings.extend(keys(effective));
    settings.extend([
        default("cluster_type", contract.topology().to_string()),
        default("node_count", contract.nodes().to_string()),
        default(
            "node_process_count",
            contract.workers_per_node().to_string(),
        ),
        Setting {
            setting: "state_directory",
            value: Some(driver.state_directory().display().to_string()),
            source: state_source(),
        },
        agent(driver),
    ]);
    settings.extend(
        agent_search()
            .into_iter()
            .map(|(setting, path, source)| Setting {
                setting,
                source: match &path {
                    Some(path) if path.is_file() => format!("{source}; found"),
                    Some(_) => format!("{source}; not there"),
                    None => source.to_owned(),
                },
                value: path.map(|p| p.display().to_string()),
            }),
    );
    for setting in VARIABLES {
        settings.push(Setting {
            setting,
            value: std::env::var_os(setting).map(|v| v.to_string_lossy().into_owned()),
            source: "environment".to_owned(),
        });
    }
    settings
}

/// The configuration file, or where it was looked for.
fn file(config: &Config) -> Setting {
    let absolute = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        path.display().to_string()
    };
    let searched = config.searched().iter().map(|path| absolute(path));
    Setting {
        setting: "config_file",
        value: config.path().map(absolute),
        source: match config.path() {
            Some(_) => "found".to_owned(),
            None => format!("not at {}", searched.collect::<Vec<_>>().join(", ")),
        },
    }
}

/// Every key that a file can have, set or not.
fn keys(effective: &Effective) -> Vec<Setting> {
    let set = effective.settings.entries();
    (KEYS.iter())
        .map(|key| {
            let value = set.iter().find(|(name, _)| *name == key.name);
            Setting {
                setting: key.name,
                value: value.map(|(_, value)| match value.as_str() {
                    Some(text) => text.to_owned(),
                    None => value.to_string(),
                }),
                source: match effective.origins.get(key.name) {
                    Some(origin) => origin.clone(),
                    None => "not set".to_owned(),
                },
            }
        })
        .collect()
}

fn state_source() -> String {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    if set("CC_STATE_DIR") {
        "CC_STATE_DIR".to_owned()
    } else if set("XDG_STATE_HOME") {
        "XDG_STATE_HOME".to_owned()
    } else {
        "default".to_owned()
    }
}

/// The agent that `local` nodes get.
fn agent(driver: &Driver) -> Setting {
    match driver.agent_executable() {
        Ok(path) if path.starts_with("/proc/self") => Setting {
            setting: "agent_executable",
            value: Some(own().map_or("cctl".to_owned(), |p| p.display().to_string())),
            source: "cctl stands in".to_owned(),
        },
        Ok(path) => {
            let source = agent_search()
                .into_iter()
                .find(|(_, candidate, _)| candidate.as_deref() == Some(&path))
                .map_or("agent", |(name, ..)| name);
            Setting {
                setting: "agent_executable",
                value: Some(path.display().to_string()),
                source: source.to_owned(),
            }
        }
        Err(error) => Setting {
            setting: "agent_executable",
            value: None,
            source: error.to_string(),
        },
    }
}

/// Where an agent is looked for, in this order.
fn agent_search() -> Vec<(&'static str, Option<PathBuf>, &'static str)> {
    let beside = own().and_then(|exe| Some(exe.parent()?.join("cc-agent")));
    let named = std::env::var_os("CC_AGENT").map(PathBuf::from);
    vec![
        ("agent_search_1", named, "CC_AGENT"),
        ("agent_search_2", beside, "beside cctl"),
        (
            "agent_search_3",
            StateDirectory::agents(std::env::consts::ARCH),
            "data directory",
        ),
    ]
}

fn own() -> Option<PathBuf> {
    std::env::current_exe()
        .ok()
        .filter(|p| Path::new(p).is_absolute())
}
