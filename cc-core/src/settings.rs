//! Settings: everything about a cluster besides its machines, as contracts, configuration files and
//! command lines give it.
//!
//! The table in the middle of this file is the only list of them: fields, help, and what is accepted
//! follow from it. Nothing here reads a file or an environment variable, and nothing decides which of
//! two places wins but [`Settings::over`].

mod field;
mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::limits;
use crate::nearest::nearest;
use field::Field as _;

/// A part of a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Section {
    /// What holds for all providers.
    Defaults,
    /// Amazon EC2.
    Ec2,
    /// Nodes on this machine.
    Local,
}

impl Section {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Defaults => "defaults",
            Self::Ec2 => "ec2",
            Self::Local => "local",
        }
    }
}

/// How many threads of a process use MPI, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThreadLevel {
    /// There is one thread.
    Single,
    /// Only the main thread does.
    Funneled,
    /// One at a time does.
    Serialized,
    /// Any do at any time.
    Multiple,
}

impl ThreadLevel {
    const ALL: [Self; 4] = [
        Self::Single,
        Self::Funneled,
        Self::Serialized,
        Self::Multiple,
    ];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Funneled => "funneled",
            Self::Serialized => "serialized",
            Self::Multiple => "multiple",
        }
    }
}

impl fmt::Display for ThreadLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What there is to know about a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name: of the field, in files and on command lines.
    pub name: &'static str,
    /// Other names that are accepted.
    pub aliases: &'static [&'static str],
    /// The sections of a configuration file that it makes sense in.
    pub sections: &'static [Section],
    /// One line of help.
    pub about: &'static str,
    /// What kind of value it takes, such as `a time`.
    pub takes: &'static str,
    /// A value that can be written for it, in a file and on a command line.
    pub example: &'static str,
    /// What holds if nobody says anything, if that is one fixed value.
    pub builtin: Option<&'static str>,
}

/// A setting that was not understood, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is none of that name.
    #[error("{key} is no setting: {}", match nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "`cctl config` lists them all".to_owned(),
    })]
    Unknown {
        /// What was written.
        key: String,
        /// The setting whose name is most alike.
        nearest: Option<&'static str>,
    },
    /// It does not take such a value.
    #[error("{key} = {given} is not possible: write {takes}, such as {example}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What was given.
        given: String,
        /// What kind of value it takes.
        takes: &'static str,
        /// One that it takes.
        example: &'static str,
    },
}

impl SettingError {
    fn value(key: &'static Key, given: &Value) -> Self {
        let mut given = given.to_string();
        if let Some((end, _)) = given.char_indices().nth(80) {
            given.truncate(end);
            given.push('…');
        }
        Self::Value {
            key: key.name,
            given,
            takes: key.takes,
            example: key.example,
        }
    }
}

/// Makes the fields, [`KEYS`] and what visits every field from one table.
macro_rules! settings {
    (@builtin) => { None };
    (@builtin $builtin:literal) => { Some($builtin) };
    ($(
        #[doc = $about:literal]
        $name:ident: $type:ty = $read:ident($takes:literal, $example:literal),
        $(also $alias:literal,)?
        in [$($section:ident),+]
        $(, builtin $builtin:literal)?;
    )+) => {
        /// What a contract says besides the machines: how to reach the nodes, how workers run,
        /// and the lease. A list or map without entries counts as not given.
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct Settings {
            $(#[doc = $about] pub $name: $type,)+
        }

        /// Every setting, in the order of the fields of [`Settings`].
        pub const KEYS: &[Key] = &[$(Key {
            name: stringify!($name),
            aliases: &[$($alias)?],
            sections: &[$(Section::$section),+],
            about: $about.trim_ascii(),
            takes: $takes,
            example: $example,
            builtin: settings!(@builtin $($builtin)?),
        }),+];

        impl Settings {
            /// Reads a value of the right type, whether it makes sense or not.
            fn read(&mut self, key: &Key, value: &Value) -> Option<()> {
                match key.name {
                    $(stringify!($name) => self.$name = read::$read(value)?.into(),)+
                    _ => return None,
                }
                Some(())
            }

            /// These settings, and those of `lower` where these say nothing. Environments are
            /// merged variable by variable.
            #[must_use]
            pub fn over(self, lower: Self) -> Self {
                Self { $($name: self.$name.over(lower.$name),)+ }
            }

            /// What is set, in the order of [`KEYS`], as [`set`](Self::set) takes it.
            pub fn entries(&self) -> Vec<(&'static str, Value)> {
                [$((stringify!($name), self.$name.write())),+]
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?)))
                    .collect()
            }
        }
    };
}

settings! {
    /// Login on the nodes; the image's own if not given.
    user: Option<String> = text("a name", "\"ubuntu\""), in [Defaults, Ec2];
    /// Options of ssh, for whatever connects to nodes with it.
    sshflags: Option<String> = text("options", "\"-o ServerAliveInterval=30\""), in [Defaults, Ec2];
    /// Whether nodes are reached through a tunnel of ssh.
    tunneled: Option<bool> = flag("true or false", "true"), in [Defaults, Ec2], builtin "false";
    /// Path of the worker binary on the nodes, instead of shipping one.
    exename: Option<String> = text("a path", "\"/opt/app/worker\""), in [Defaults, Ec2, Local];
    /// Arguments of the worker binary.
    exeflags: Vec<String> = words("a list of arguments", "\"--verbose --level=2\""),
        in [Defaults, Ec2, Local];
    /// Working directory of the workers, made if missing.
    directory: Option<String> = text("a path", "\"/scratch/run\""), in [Defaults, Ec2, Local];
    /// How many threads of a worker use MPI.
    threadlevel: Option<ThreadLevel> = thread_level(
        "one of single, funneled, serialized and multiple",
        "\"serialized\""
    ), in [Defaults, Ec2, Local];
    /// Options of the program that starts MPI processes.
    mpiflags: Option<String> = text("options", "\"--bind-to core\""), in [Defaults, Ec2, Local];
    /// Machine image of the nodes.
    imageid: Option<String> = text("an id", "\"ami-0123456789abcdef0\""), also "image_id", in [Ec2];
    /// Subnets that nodes may be in, in the order they are tried.
    subnet_id: Vec<String> = items("one id or a list of them", "\"subnet-0123456789abcdef0\""),
        in [Ec2];
    /// Placement group that nodes are put in.
    placement_group: Option<String> = text("a name", "\"close-together\""), in [Ec2];
    /// Security group of the nodes.
    security_group_id: Option<String> = text("an id", "\"sg-0123456789abcdef0\""), in [Ec2];
    /// Region that nodes are made in.
    region: Option<String> = text("a region's name", "\"us-east-1\""), in [Ec2];
    /// How many times as dear as the first choice of a machine a fall-back may be.
    alternative_price_ratio: Option<f64> = ratio("a number from 1 up", "1.5"),
        in [Defaults, Ec2], builtin "1.5";
    /// Environment variables of the workers.
    environment: BTreeMap<String, String> = variables(
        "names and values, in a file { NAME = \"value\" }", "\"RUST_BACKTRACE=1 LANG=C\""
    ), in [Defaults, Ec2, Local];
    /// Blocking tasks that a worker runs at once; the node's cores ÷ its workers if not given.
    worker_slots: Option<u32> = number("a whole number from 1 to 1024", "4"), in [Defaults, Ec2, Local];
    /// The most address space a worker may take, in bytes; no limit if not given.
    worker_memory_limit: Option<u64> = bytes("bytes, or a number with K, M, G or T", "\"2G\""),
        in [Defaults, Ec2, Local];
    /// How long the agents keep their work without a driver.
    driver_timeout: Option<Duration> = duration("a time of at least a second", "\"10m\""),
        in [Defaults, Ec2, Local], builtin "10m";
    /// UDP port of the agents; any free one if not given.
    agent_port: Option<u16> = port("a port number", "7400"), in [Defaults, Ec2, Local];
    /// The agent binary to start on the nodes, instead of the one found by the search order.
    agent: Option<PathBuf> = path("a path", "\"target/agent/cc-agent\""), in [Defaults, Ec2, Local];
    /// Whether local nodes share one content store, or have one each as distant machines do.
    shared_store: Option<bool> = flag("true or false", "false"), in [Local], builtin "true";
}

impl Key {
    /// Whether the setting makes sense for a provider, by its name in files.
    pub fn is_of(&self, section: Section) -> bool {
        self.sections.contains(&section)
    }
}

/// A setting by its name or an alias.
///
/// ```
/// use cc_core::settings::find;
/// assert_eq!(find("image_id"), find("imageid"));
/// assert!(find("colour").is_none());
/// ```
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.name == name || key.aliases.contains(&name))
}

impl Settings {
    /// Sets one key: from a file's value, or from the text of a command line, which does for all
    /// types. Variables are added to the environment that there is.
    ///
    /// ```
    /// use cc_core::settings::Settings;
    /// let mut settings = Settings::default();
    /// settings.set("worker_memory_limit", "2G".into())?;
    /// assert_eq!(settings.worker_memory_limit, Some(2 << 30));
    /// assert!(settings.set("worker_slots", "many".into()).is_err());
    /// # Ok::<(), cc_core::settings::SettingError>(())
    /// ```
    ///
    /// # Errors
    /// Names a key that is unknown, or a value that it does not take, and what to write instead.
    /// Nothing is changed then.
    pub fn set(&mut self, key: &str, value: Value) -> Result<(), SettingError> {
        let key = known(key)?;
        let mut one = Self::default();
        if one.read(key, &value).is_none() || one.check().is_err() {
            return Err(SettingError::value(key, &value));
        }
        *self = one.over(std::mem::take(self));
        Ok(())
    }

    /// Refuses values that the types of the fields allow and that make no sense.
    ///
    /// # Errors
    /// Names the first of them and what to write instead.
    pub fn check(&self) -> Result<(), SettingError> {
        let refused = [
            (
                "alternative_price_ratio",
                (self.alternative_price_ratio).is_some_and(|r| !r.is_finite() || r < 1.0),
            ),
            (
                "environment",
                self.environment.iter().any(|(name, value)| {
                    name.is_empty() || name.contains(['=', '\0']) || value.contains('\0')
                }),
            ),
            (
                "worker_slots",
                (self.worker_slots).is_some_and(|n| n == 0 || n > limits::WORKER_SLOTS),
            ),
            ("worker_memory_limit", self.worker_memory_limit == Some(0)),
            (
                "driver_timeout",
                (self.driver_timeout).is_some_and(|t| t < Duration::from_secs(1)),
            ),
        ];
        for (name, refused) in refused {
            if let (true, Some(key)) = (refused, find(name)) {
                let value = self.entries().into_iter().find(|(set, _)| *set == name);
                let value = value.map_or(Value::Null, |(_, value)| value);
                return Err(SettingError::value(key, &value));
            }
        }
        Ok(())
    }
}

fn known(key: &str) -> Result<&'static Key, SettingError> {
    find(key).ok_or_else(|| SettingError::Unknown {
        key: key.to_owned(),
        nearest: nearest(key, KEYS.iter().map(|key| key.name), 1)
            .into_iter()
            .next(),
    })
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.agent.as_ref().is_some_and(|p| p.to_str().is_none()) {
            return Err(serde::ser::Error::custom("the path `agent` is not UTF-8"));
        }
        let entries = self.entries();
        let mut map = serializer.serialize_map(Some(entries.len()))?;
        for (name, value) in entries {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

/// Takes values that make no sense, too: a record that was written can be read.
impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut settings = Self::default();
        for (key, value) in Map::deserialize(deserializer)? {
            let key = known(&key).map_err(serde::de::Error::custom)?;
            if settings.read(key, &value).is_none() {
                return Err(serde::de::Error::custom(SettingError::value(key, &value)));
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        for (key, value) in pairs {
            settings.set(key, (*value).into()).unwrap();
        }
        settings
    }

    #[test]
    fn examples_and_built_in_values_are_accepted() {
        for key in KEYS {
            let example: Value = serde_json::from_str(key.example).unwrap();
            let mut settings = Settings::default();
            settings.set(key.name, example).unwrap();
            assert_eq!(settings.entries().len(), 1, "{}", key.name);
            for text in key.builtin.iter().chain([&key.example.trim_matches('"')]) {
                set(&[(key.name, text)]);
            }
            assert!(key.about.ends_with('.'), "{}", key.name);
        }
        let timeout = find("driver_timeout").and_then(|k| k.builtin).unwrap();
        assert_eq!(
            set(&[("driver_timeout", timeout)]).driver_timeout,
            Some(crate::limits::DRIVER_TIMEOUT)
        );
    }

    #[test]
    fn values_are_read_from_text_and_from_files() {
        let settings = set(&[
            ("exeflags", " -v  --level=2,3 "),
            ("subnet_id", "subnet-1, subnet-2"),
            ("image_id", "ami-1"),
            ("worker_memory_limit", "512M"),
            ("threadlevel", "funneled"),
            ("driver_timeout", "1h 30m"),
            ("tunneled", "true"),
            ("environment", "A=1 B=x=y"),
        ]);
        assert_eq!(settings.exeflags, ["-v", "--level=2,3"]);
        assert_eq!(settings.subnet_id, ["subnet-1", "subnet-2"]);
        assert_eq!(settings.imageid.as_deref(), Some("ami-1"));
        assert_eq!(settings.worker_memory_limit, Some(512 << 20));
        assert_eq!(settings.threadlevel, Some(ThreadLevel::Funneled));
        assert_eq!(settings.driver_timeout, Some(Duration::from_secs(5_400)));
        assert_eq!(settings.tunneled, Some(true));
        assert_eq!(settings.environment["B"], "x=y");

        let mut settings = Settings::default();
        for (key, value) in [
            ("exeflags", serde_json::json!(["a b", "c"])),
            (
                "environment",
                serde_json::json!({"N": 1, "T": true, "X": "x"}),
            ),
            ("alternative_price_ratio", serde_json::json!(2)),
            ("agent_port", serde_json::json!(7400)),
        ] {
            settings.set(key, value).unwrap();
        }
        assert_eq!(settings.exeflags, ["a b", "c"]);
        assert_eq!(settings.environment["N"], "1");
        assert_eq!(settings.environment["T"], "true");
        assert_eq!(settings.alternative_price_ratio, Some(2.0));
    }

    #[test]
    fn errors_name_key_value_and_what_to_write() {
        for (key, value, parts) in [
            (
                "user",
                serde_json::json!(5),
                &["user = 5", "\"ubuntu\""][..],
            ),
            (
                "worker_slots",
                serde_json::json!("two"),
                &["\"two\"", "whole number"],
            ),
            ("worker_slots", serde_json::json!(0), &["worker_slots = 0"]),
            ("worker_slots", serde_json::json!(1.5), &["1.5"]),
            ("agent_port", serde_json::json!(70_000), &["70000"]),
            (
                "driver_timeout",
                serde_json::json!(10),
                &["= 10", "\"10m\""],
            ),
            (
                "driver_timeout",
                serde_json::json!("0s"),
                &["\"0s\"", "a second"],
            ),
            ("threadlevel", serde_json::json!("some"), &["funneled"]),
            (
                "alternative_price_ratio",
                serde_json::json!("0.9"),
                &["from 1 up"],
            ),
            (
                "alternative_price_ratio",
                serde_json::json!("inf"),
                &["from 1 up"],
            ),
            ("tunneled", serde_json::json!("yes"), &["true or false"]),
            ("worker_memory_limit", serde_json::json!("2X"), &["\"2G\""]),
            (
                "worker_memory_limit",
                serde_json::json!("99999999T"),
                &["\"2G\""],
            ),
            ("environment", serde_json::json!("A"), &["RUST_BACKTRACE=1"]),
            ("environment", serde_json::json!({"": "x"}), &["NAME"]),
            ("exeflags", serde_json::json!([1]), &["[1]"]),
            ("agent", Value::Null, &["null"]),
            (
                "subnet",
                serde_json::json!("x"),
                &["did you mean subnet_id?"],
            ),
            (
                "colour",
                serde_json::json!("x"),
                &["colour is no setting", "cctl config"],
            ),
        ] {
            let mut settings = Settings::default();
            let error = settings.set(key, value).unwrap_err().to_string();
            assert!(parts.iter().all(|p| error.contains(p)), "{error}");
            assert_eq!(settings, Settings::default());
        }
        let long = "x".repeat(1_000);
        let error = Settings::default()
            .set("tunneled", long.into())
            .unwrap_err();
        assert!(error.to_string().len() < 200);
    }

    #[test]
    fn the_upper_settings_win() {
        let upper = set(&[
            ("user", "upper"),
            ("environment", "A=1"),
            ("exeflags", "-u"),
        ]);
        let lower = set(&[
            ("user", "lower"),
            ("environment", "A=2 B=2"),
            ("exeflags", "-l"),
            ("directory", "/lower"),
        ]);
        let expected = set(&[
            ("user", "upper"),
            ("environment", "A=1 B=2"),
            ("exeflags", "-u"),
            ("directory", "/lower"),
        ]);
        assert_eq!(upper.over(lower), expected);
    }

    #[test]
    fn what_makes_no_sense_can_still_be_read() {
        let settings = Settings {
            worker_slots: Some(0),
            driver_timeout: Some(Duration::from_millis(5)),
            ..Settings::default()
        };
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), settings);
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains("worker_slots = 0"), "{error}");
        let error = serde_json::from_str::<Settings>(r#"{"slots": 1}"#).unwrap_err();
        assert!(error.to_string().contains("slots is no setting"), "{error}");
        assert!(serde_json::from_str::<Settings>(r#"{"user": 1}"#).is_err());
        assert_eq!(serde_json::to_string(&Settings::default()).unwrap(), "{}");
    }

    fn any_settings() -> impl Strategy<Value = Settings> {
        use proptest::collection::{btree_map, vec};
        use proptest::option::of;
        let texts = (of(".*"), of(".*"), of(any::<bool>()), vec(".*", 0..4));
        let numbers = (
            of(1.0..1e9),
            of(1..=limits::WORKER_SLOTS),
            of(1u64..),
            of(any::<u16>()),
        );
        let rest = (
            btree_map("[A-Z_]{1,4}", "[^\0]*", 0..4),
            of((1u64.., 0u32..1_000_000_000).prop_map(|(s, n)| Duration::new(s, n))),
            of("[a-z/ ]+").prop_map(|path| path.map(PathBuf::from)),
            of(proptest::sample::select(&ThreadLevel::ALL[..])),
        );
        (texts, numbers, rest).prop_map(|(texts, numbers, rest)| Settings {
            user: texts.0,
            mpiflags: texts.1,
            tunneled: texts.2,
            exeflags: texts.3,
            alternative_price_ratio: numbers.0,
            worker_slots: numbers.1,
            worker_memory_limit: numbers.2,
            agent_port: numbers.3,
            environment: rest.0,
            driver_timeout: rest.1,
            agent: rest.2,
            threadlevel: rest.3,
            ..Settings::default()
        })
    }

    proptest! {
        #[test]
        fn entries_are_what_set_takes(settings in any_settings()) {
            let mut again = Settings::default();
            for (key, value) in settings.entries() {
                again.set(key, value).unwrap();
            }
            prop_assert_eq!(&again, &settings);
            let json = serde_json::to_string(&settings).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Settings>(&json).unwrap(), &settings);
            prop_assert_eq!(settings.clone().over(Settings::default()), settings.clone());
            prop_assert_eq!(Settings::default().over(settings.clone()), settings);
        }
    }
}
