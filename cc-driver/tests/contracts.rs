//! Contracts on the command line: what is selected, resolved and explained, and what is said of
//! wrong input.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use cc_core::catalog::{Catalog, Snapshot};
use serde_json::Value;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("cctl-").tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn run(&self, arguments: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cctl"))
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .env("CC_STATE_DIR", self.path("state"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env_remove("CLOUD_CLUSTERS_CONFIG")
            .env_remove("AWS_REGION")
            .env_remove("AWS_DEFAULT_REGION")
            .env_remove("RUST_LOG")
            .output()
            .unwrap()
    }

    #[track_caller]
    fn ok(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{arguments} --json"))).unwrap()
    }

    /// Ends with a code and says something.
    #[track_caller]
    fn fails(&self, arguments: &str, code: i32, says: &str) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(says), "{errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}

const ADA: &str = "accelerator_count>=4 accelerator_architecture=Ada node_memory_size>=256G";

#[test]
fn selection_is_a_table_or_json_and_ignores_the_cluster() {
    let place = Place::new();
    let output = place.run(&format!("select node_count=4 {ADA}"));
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(
        notes.contains("node_count says nothing about instances"),
        "{notes}"
    );
    let table = String::from_utf8(output.stdout).unwrap();
    let first = |line: &str| line.split_whitespace().next().unwrap().to_owned();
    let names: Vec<_> = table.lines().map(first).collect();
    for name in [
        "g6.24xlarge",
        "g6.48xlarge",
        "g6e.48xlarge",
        "g2-standard-96",
    ] {
        assert!(names.iter().any(|n| n == name), "{name}: {table}");
    }
    assert!(
        table.lines().all(|line| line.chars().count() <= 100),
        "{table}"
    );

    let rows = place.json(&format!("select {ADA}"));
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), names.len() - 1);
    assert_eq!(rows[0]["instance_type"], "g6.24xlarge");
    assert_eq!(rows[0]["price"], 6.6752);
    assert_eq!(rows[0]["price_date"], "2025-03-02");
    assert_eq!(rows[0]["accelerators"]["architecture"], "Ada");
    assert_eq!(rows[0]["node_machinetype"], "EC2Type_G6_24xLarge");
    assert_eq!(rows.last().unwrap()["price"], Value::Null);

    let roles = place.json("select manager.node_machinetype=t3.xlarge worker.accelerator=L4");
    assert_eq!(roles["manager"].as_array().unwrap().len(), 1);
    assert!(roles["worker"].as_array().unwrap().len() > 5);
    let nothing = place.json("select node_provider=local");
    assert_eq!(nothing[0]["price"], 0.0);
    place.fails("select accelerator_memory>=1T", 3, "cctl explain");
}

#[test]
fn a_contract_says_the_same_on_the_command_line_and_in_a_file() {
    let place = Place::new();
    place.write(
        "cluster.toml",
        "cluster_type = \"ManagerWorkers\"\nnode_count = 8\ncluster_locale = \"us-east-2\"\n\
         user = \"ubuntu\"\nmanager.node_machinetype = \"EC2Type_T3_xLarge\"\n\
         [worker]\naccelerator_count = 8\naccelerator_architecture = \"Ada\"\n\
         node_memory_size = \">= 512G\"\n",
    );
    let line = "resolve cluster_type=ManagerWorkers node_count=8 cluster_locale=us-east-2 \
                user=ubuntu manager.node_machinetype=t3.xlarge worker.accelerator_count=8 \
                worker.accelerator_architecture=Ada worker.node_memory_size>=512G";
    let (file, line) = (place.json("resolve --file cluster.toml"), place.json(line));
    assert_eq!(file["roles"], line["roles"]);
    assert_eq!(file["settings"], line["settings"]);
    assert_eq!(file["settings"]["user"], "ubuntu");
    assert_eq!(file["nodes"], 9);
    assert_eq!(file["roles"][0]["choice"]["instance_type"], "t3.xlarge");
    assert_eq!(file["roles"][1]["choice"]["instance_type"], "g6.48xlarge");
    let cost = file["hourly_cost"].as_f64().unwrap();
    assert!((cost - (0.1664 + 8.0 * 13.3504)).abs() < 1e-9, "{cost}");
    // What stands beside the file goes before it.
    let more = place.json("resolve --file cluster.toml node_count=2");
    assert_eq!(more["nodes"], 3);

    place.write("wrong.toml", "node_count = 2\n\nacelerator_count = 4\n");
    place.fails(
        "resolve -f wrong.toml",
        2,
        "wrong.toml:3: acelerator_count is no key",
    );
    place.write(
        "wrong.toml",
        "node_provider = \"ec2\"\naccelerator = \"L5\"\n",
    );
    place.fails(
        "select -f wrong.toml",
        2,
        "wrong.toml:2: accelerator = L5 is not known",
    );
    place.fails("resolve -f absent.toml", 2, "absent.toml");
}

#[test]
fn codes_tell_wrong_input_from_nothing_and_from_ambiguity() {
    let place = Place::new();
    place.fails("resolve node_count=0", 2, "from 1 to");
    place.fails(
        "resolve node_vcpus_count=8..4",
        2,
        "node_vcpus_count = 4..8",
    );
    place.fails(
        "resolve worker.efa=true",
        2,
        "cluster_type = ManagerWorkers",
    );
    place.fails("resolve node_provider=ec2", 2, "cluster_locale=us-east-1");
    place.fails("types Adda", 2, "Ada");
    let local = "resolve accelerator=B200";
    place.fails(local, 3, "node_provider=");
    place.fails(
        "resolve --strict node_machinetype=t3 cluster_locale=us-east-1",
        4,
        "t3.micro",
    );
    let strict = place.json("resolve --strict node_machinetype=t3.xlarge cluster_locale=us-east-1");
    assert_eq!(strict["roles"][0]["choice"]["instance_type"], "t3.xlarge");

    let third = "cluster_type=ManageWorkers manager.node_machinetype=EC2Type_T3_xLarge \
                 worker.accelerator_count=8 worker.accelerator_architecture=Ada \
                 worker.accelerator_memory>=512G";
    place.fails(
        &format!("resolve {third}"),
        3,
        "was worker.node_memory_size >= 512G meant?",
    );
    let text = place.fails(
        &format!("explain {third}"),
        3,
        "understood as ManagerWorkers",
    );
    assert!(
        text.contains("was worker.node_memory_size >= 512G meant?"),
        "{text}"
    );
    let output = place.run(&format!("explain --json {third}"));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["plan"], Value::Null);
    assert!(
        json["roles"][1]["relaxations"][0]["changes"][0]["to"].is_string(),
        "{json}"
    );

    let why = place.ok(&format!("explain cluster_locale=us-east-2 {ADA}"));
    assert!(
        why.contains("chosen      g6.24xlarge at $6.6752: the cheapest of them"),
        "{why}"
    );
    // A plan is no deployment.
    place.fails(
        "deploy node_machinetype=t3.xlarge cluster_locale=us-east-2",
        1,
        "not compiled",
    );
    place.fails(
        "deploy cluster_type=PeerWorkersMPI",
        1,
        "cluster_type = PeerWorkers",
    );
    assert_eq!(place.json("clusters"), serde_json::json!([]));
}

#[test]
fn types_are_queried_by_kind_parameter_and_name() {
    let place = Place::new();
    let t3 = place.json("types EC2Type_T3");
    let names = |tree: &Value| -> Vec<String> {
        let types = tree["types"].as_array().unwrap().iter();
        types
            .map(|t| t["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let below = names(&t3[0]);
    for name in [
        "EC2Type_T3_Nano",
        "EC2Type_T3_xLarge",
        "EC2Type_T3_2xLarge",
        "EC2Type_T3A",
    ] {
        assert!(below.contains(&name.to_owned()), "{below:?}");
    }
    assert_eq!(place.json("types t3"), t3);
    assert!(place.ok("types accelerator").contains("NVIDIA_L4  (L4)"));
    assert_eq!(
        place.ok("types accelerator_arch"),
        place.ok("types AcceleratorArchitecture")
    );
    assert!(place.ok("types us-east-1").contains("use1-az1"));
    assert!(place.ok("types").contains("ProcessorMicroarchitecture"));
}

#[test]
fn the_configuration_gives_what_the_contract_leaves_open() {
    let place = Place::new();
    place.write(
        "CCconfig.toml",
        "[defaults]\nuser = \"everyone\"\ndriver_timeout = \"20m\"\nalternative_price_ratio = 1.0\n\
         [ec2]\nregion = \"us-east-2\"\nuser = \"ubuntu\"\nimageid = \"ami-1\"\n",
    );
    let plan = place.json("resolve node_provider=ec2 node_vcpus_count=8 image_id=ami-2");
    assert_eq!(plan["region"], "us-east-2");
    assert_eq!(plan["settings"]["user"], "ubuntu");
    assert_eq!(plan["settings"]["imageid"], "ami-2");
    assert_eq!(plan["settings"]["driver_timeout"], "20m");
    let dearer = |plan: &Value| {
        let role = &plan["roles"][0];
        let first = role["choice"]["price"].as_f64().unwrap();
        let all = role["alternatives"].as_array().unwrap().iter();
        all.filter(|a| a["price"].as_f64().unwrap() > first).count()
    };
    assert_eq!(dearer(&plan), 0);
    let own = place.json("resolve node_provider=ec2 node_vcpus_count=8 alternative_price_ratio=2");
    assert!(dearer(&own) > 0);
    let local = place.json("resolve");
    assert_eq!(local["provider"], "local");
    assert_eq!(local["settings"]["user"], "everyone");
    place.write("CCconfig.toml", "[ec2]\nregion = \"us-esat-2\"\n");
    place.fails("resolve node_provider=ec2", 2, "did you mean us-east-2?");
}

#[test]
fn a_newer_catalog_in_the_cache_is_used_and_a_damaged_one_is_not() {
    let place = Place::new();
    let before = place.json("catalog");
    assert_eq!(before["place"], "built in");
    assert!(
        before["providers"]["ec2"]["instance_types"]
            .as_u64()
            .unwrap()
            > 1_000
    );
    let mut snapshot = Snapshot::decode(Catalog::embedded_bytes()).unwrap();
    snapshot.made = "2999-01-01".to_owned();
    snapshot.types.retain(|t| t.name == "t3.xlarge");
    place.write(
        "cache/cloudclusters/catalog.bin",
        snapshot.encode().unwrap(),
    );
    let newer = place.json("catalog");
    assert_eq!(newer["providers"]["ec2"]["instance_types"], 1);
    assert_eq!(newer["made"], "2999-01-01");
    place.write("cache/cloudclusters/catalog.bin", "something else");
    assert_eq!(place.json("catalog")["providers"], before["providers"]);
}
