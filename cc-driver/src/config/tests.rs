//! What a file says, what is in force, and what is said about mistakes.

use std::path::Path;
use std::time::Duration;

use cc_core::settings::{KEYS, Settings};

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("CCconfig.toml"), text)
}

fn settings(pairs: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::default();
    for (key, value) in pairs {
        settings.set(key, (*value).into()).unwrap();
    }
    settings
}

fn effective(config: &Config, provider: &str) -> Effective {
    let none = Settings::default();
    config.effective(provider, &none, &none).unwrap()
}

#[test]
fn the_uppermost_of_five_layers_wins() {
    // Each further layer says something else about it.
    let layers = [
        ("built-in", "10m"),
        ("CCconfig.toml:2", "2m"),
        ("CCconfig.toml:4", "3m"),
        ("contract", "4m"),
        ("deploy arguments", "5m"),
    ];
    for present in 0u32..16 {
        let has = |layer: usize| layer == 0 || present >> (layer - 1) & 1 == 1;
        let line = |layer: usize| match has(layer) {
            true => format!("driver_timeout = \"{}\"", layers[layer].1),
            false => String::new(),
        };
        let text = format!("[defaults]\n{}\n[ec2]\n{}\n", line(1), line(2));
        let given = |layer: usize| match has(layer) {
            true => settings(&[("driver_timeout", layers[layer].1)]),
            false => Settings::default(),
        };
        let effective = (parse(&text).unwrap())
            .effective("ec2", &given(3), &given(4))
            .unwrap();
        let upper = (0..5).rev().find(|layer| has(*layer)).unwrap();
        let (origin, value) = layers[upper];
        assert_eq!(effective.origins["driver_timeout"], origin, "{present:b}");
        let expected = settings(&[("driver_timeout", value)]).driver_timeout;
        assert_eq!(effective.settings.driver_timeout, expected);
    }
}

#[test]
fn every_key_can_stand_in_a_file() {
    for key in KEYS {
        for section in key.sections {
            let name = section.name();
            let text = format!("[{name}]\n{} = {}\n", key.name, key.example);
            let provider = if name == "defaults" { "local" } else { name };
            let effective = effective(&parse(&text).unwrap(), provider);
            assert_eq!(effective.origins[key.name], "CCconfig.toml:2");
            let value: serde_json::Value = serde_json::from_str(key.example).unwrap();
            let mut expected = Settings::default();
            expected.set(key.name, value).unwrap();
            let set = effective.settings.entries().into_iter();
            let set: Vec<_> = set.filter(|(name, _)| *name == key.name).collect();
            assert_eq!(set, expected.entries());
        }
    }
}

#[test]
fn sections_are_those_of_the_provider() {
    let config = parse(
        "[defaults]\nuser = \"all\"\n\n[ec2]\nimage_id = \"ami-1\"\nuser = \"ec2\"\n\
         subnet_id = [\"subnet-1\", \"subnet-2\"]\nalternative_price_ratio = 2\n\n\
         [local]\nshared_store = false\nexeflags = \"-a -b\"\n[gcp]\nimageid = \"debian\"\n",
    )
    .unwrap();
    assert!(config.has_section("ec2") && config.has_section("gcp"));
    assert!(!config.has_section("defaults") && !config.has_section("moon"));

    let ec2 = effective(&config, "ec2");
    assert_eq!(ec2.settings.imageid.as_deref(), Some("ami-1"));
    assert_eq!(ec2.origins["imageid"], "CCconfig.toml:5");
    assert_eq!(ec2.settings.user.as_deref(), Some("ec2"));
    assert_eq!(ec2.settings.subnet_id, ["subnet-1", "subnet-2"]);
    assert_eq!(ec2.settings.alternative_price_ratio, Some(2.0));
    assert_eq!(ec2.settings.shared_store, Some(true));

    let local = effective(&config, "local");
    assert_eq!(local.settings.user.as_deref(), Some("all"));
    assert_eq!(local.settings.imageid, None);
    assert_eq!(local.settings.shared_store, Some(false));
    assert_eq!(local.settings.exeflags, ["-a", "-b"]);
    assert_eq!(local.origins["exeflags"], "CCconfig.toml:12");
    assert!(!local.origins.contains_key("imageid"));
}

#[test]
fn environments_are_merged_variable_by_variable() {
    let config = parse(
        "[defaults]\nenvironment = { A = 1, path = \"p\", PATH = \"P\", \"x.y\" = \"\" }\n\
         [local.environment]\nB = \"file\"\n\nA = \"file\"\n",
    )
    .unwrap();
    let contract = settings(&[("environment", "B=contract C=contract")]);
    let effective = (config.effective("local", &contract, &Settings::default())).unwrap();
    let environment: Vec<_> = (effective.settings.environment.iter())
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let expected = [
        "A=file",
        "B=contract",
        "C=contract",
        "PATH=P",
        "path=p",
        "x.y=",
    ];
    assert_eq!(environment, expected);
    assert_eq!(
        effective.origins["environment"],
        "CCconfig.toml:2, CCconfig.toml:6, contract"
    );
}

#[test]
fn without_a_file_there_is_what_is_built_in() {
    let config = Config::none();
    assert_eq!(config.path(), None);
    let effective = effective(&config, "ec2");
    assert_eq!(
        effective.settings.driver_timeout,
        Some(Duration::from_secs(600))
    );
    assert_eq!(effective.settings.alternative_price_ratio, Some(1.5));
    assert!(
        effective
            .origins
            .values()
            .all(|origin| origin == "built-in")
    );
    let built_in = KEYS.iter().filter(|key| key.builtin.is_some()).count();
    assert_eq!(effective.origins.len(), built_in);
    assert!(parse("").is_ok() && parse("[ec2]\n").is_ok());
}

#[test]
fn the_environments_region_is_below_the_file() {
    let given = Some(("AWS_REGION", "eu-west-1".to_owned()));
    let mut config = Config::none();
    config.region.clone_from(&given);
    let ec2 = effective(&config, "ec2");
    assert_eq!(ec2.settings.region.as_deref(), Some("eu-west-1"));
    assert_eq!(ec2.origins["region"], "AWS_REGION");
    assert_eq!(effective(&config, "local").settings.region, None);

    let mut config = parse("[ec2]\nregion = \"us-east-1\"\n").unwrap();
    config.region = given;
    assert_eq!(
        effective(&config, "ec2").origins["region"],
        "CCconfig.toml:2"
    );
    let contract = settings(&[("region", "us-east-2")]);
    let effective = (Config::none())
        .effective("ec2", &contract, &Settings::default())
        .unwrap();
    assert_eq!(effective.origins["region"], "contract");
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (text, parts) in [
        (
            "[ec2]\n\n  imagid = 1\n",
            &["CCconfig.toml:3:3: imagid", "did you mean imageid?"][..],
        ),
        (
            "[ec2]\ncolour = 1\n",
            &["CCconfig.toml:2:1: colour", "cctl config"],
        ),
        (
            "[ec3]\n",
            &["CCconfig.toml:1:2: [ec3]", "did you mean [ec2]?"],
        ),
        ("[moon]\n", &["[defaults], [ec2], [gcp], [local]"]),
        (
            "[defaults]\ndriver_timeout = 600\n",
            &["toml:2:1: driver_timeout = 600", "\"10m\""],
        ),
        (
            "[local]\nuser = \"x\"\n",
            &["toml:2:1: user means nothing in [local]", "[defaults]"],
        ),
        (
            "[defaults]\nregion = \"x\"\n",
            &["toml:2:1: region", "move it to [ec2]"],
        ),
        (
            "region = \"x\"\n",
            &["toml:1:1: region does not belong here", "[ec2]"],
        ),
        ("ec2 = 5\n", &["toml:1:1: ec2 does not belong here"]),
        ("[[ec2]]\n", &["toml:1:3: ec2 does not belong here"]),
        (
            "[ec2]\nimageid = \"a\"\nimage_id = \"b\"\n",
            &["toml:3:1: imageid", "second time"],
        ),
        ("[ec2]\nuser = \"ü\", x\n", &["toml:2:11: not valid TOML: "]),
        (
            "[ec2]\nuser = 1979-05-27\nuser = 2\n",
            &["toml:3:1: not valid TOML: ", "duplicate"],
        ),
        ("[ec2]\nenvironment.A = [1]\n", &["toml:2:1: environment"]),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(parts.iter().all(|p| error.contains(p)), "{text}{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn senseless_contracts_are_named() {
    let contract = Settings {
        worker_slots: Some(0),
        ..Settings::default()
    };
    let error = (Config::none())
        .effective("local", &contract, &Settings::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("contract: worker_slots = 0"),
        "{error}"
    );
}

#[test]
fn files_are_read_within_bounds() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("CCconfig.toml");
    let error = Config::at(&path).unwrap_err();
    assert_eq!(error, ConfigError::Missing(path.clone()));
    std::fs::write(&path, "[local]\nagent_port = 7400\n").unwrap();
    let config = Config::at(&path).unwrap();
    assert_eq!(config.path(), Some(&*path));
    let origin = format!("{}:2", path.display());
    assert_eq!(effective(&config, "local").origins["agent_port"], origin);
    std::fs::write(&path, vec![b'#'; limits::CONFIG as usize + 1]).unwrap();
    let error = Config::at(&path).unwrap_err().to_string();
    assert!(error.contains("larger than 1 MiB"), "{error}");
    assert!(Config::at(place.path()).is_err());
}
