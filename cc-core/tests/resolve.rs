//! The contracts of the original's manual, and what resolution decides and explains.

#![expect(clippy::unwrap_used, reason = "this is a test")]

use cc_core::catalog::{Catalog, compare_names};
use cc_core::contract::{
    Contract, Parameter, Problem, Role, Topology, Units as _, at_least, at_most, between, just,
};
use cc_core::resolve::{ProviderState, ResolveError, Surroundings};

/// A user who has EC2 set up, in us-east-1.
fn ec2(catalog: &Catalog) -> Surroundings<'_> {
    let state = |name: &str, region: Option<&str>| ProviderState {
        name: name.to_owned(),
        region: region.map(str::to_owned),
        ..ProviderState::local()
    };
    Surroundings {
        catalog,
        providers: vec![state("local", None), state("ec2", Some("us-east-1"))],
        isa: None,
    }
}

fn names(contract: &Contract) -> Vec<String> {
    let catalog = Catalog::embedded();
    let found = catalog.select(contract, Role::Peer).unwrap();
    found.iter().map(|m| m.entry.facts.name.clone()).collect()
}

fn has(names: &[String], wanted: &[&str]) {
    for name in wanted {
        assert!(
            names.iter().any(|n| n == name),
            "{name} is not in {names:?}"
        );
    }
}

fn parsed(text: &str) -> Contract {
    Contract::parse(text.split(' ')).unwrap()
}

#[test]
fn the_first_contract_names_a_type() {
    let catalog = Catalog::embedded();
    for name in ["t3.xlarge", "EC2Type_T3_xLarge"] {
        let contract = Contract::new().node_count(4).node_machinetype(name);
        assert_eq!(names(&contract), ["t3.xlarge"]);
        let plan = contract.resolve_unique_in(&ec2(&catalog)).unwrap();
        assert_eq!(plan.provider(), "ec2");
        assert_eq!(plan.region(), Some("us-east-1"));
        assert_eq!(plan.roles()[0].choice.instance_type, "t3.xlarge");
    }
    let price = catalog
        .get("t3.xlarge")
        .unwrap()
        .facts
        .offers
        .iter()
        .find_map(|offer| {
            let region = &catalog.regions()[usize::from(offer.region)];
            (region.name == "us-east-2").then(|| offer.price.map(|p| p.dollars()))?
        });
    assert_eq!(price, Some(0.1664));
}

#[test]
fn the_second_contract_asks_for_eight_gpus() {
    let contract = Contract::new()
        .node_count(8)
        .node_memory_size(at_least(512.gib()))
        .accelerator_count(just(8))
        .accelerator_architecture("Ada");
    let text = "node_count=8 node_memory_size>=512G accelerator_count=8 \
                accelerator_architecture=Ada";
    let toml = "node_count = 8\nnode_memory_size = \">= 512G\"\naccelerator_count = 8\n\
                accelerator_architecture = \"Ada\"\n";
    assert_eq!(contract, parsed(text));
    assert_eq!(contract, Contract::from_toml("cluster.toml", toml).unwrap());
    let catalog = Catalog::embedded();
    let plan = contract.resolve_in(&ec2(&catalog)).unwrap();
    let role = &plan.roles()[0];
    assert_eq!(role.choice.instance_type, "g6.48xlarge");
    assert_eq!(role.choice.price, Some(13.3504));
    assert_eq!(plan.hourly_cost(), Some(8.0 * 13.3504));
    assert!(
        role.alternatives
            .iter()
            .all(|a| a.price.unwrap() <= 1.5 * 13.3504)
    );

    // Saying the region says the provider.
    let mut elsewhere = ec2(&catalog);
    elsewhere.providers.truncate(1);
    assert!(matches!(
        contract.resolve_in(&elsewhere),
        Err(ResolveError::Nothing(_))
    ));
    let mut unconfigured = ec2(&catalog);
    unconfigured.providers[1].configured = false;
    unconfigured.providers[1].compiled = false;
    unconfigured.providers[1].region = None;
    let named = contract.clone().cluster_locale("us-east-1");
    let plan = named.resolve_in(&unconfigured).unwrap();
    assert_eq!(plan.roles()[0].choice.instance_type, "g6.48xlarge");
    assert!(
        plan.notes()[0].contains("built without the provider ec2"),
        "{:?}",
        plan.notes()
    );
    let error = contract.resolve_in(&unconfigured).unwrap_err().to_string();
    assert!(error.contains("node_provider=ec2"), "{error}");
    let error = contract
        .node_provider("ec2")
        .resolve_in(&unconfigured)
        .unwrap_err();
    assert!(matches!(error, ResolveError::NoRegion { .. }), "{error}");
    assert!(
        error.to_string().contains("cluster_locale=us-east-1"),
        "{error}"
    );
}

#[test]
fn the_contract_that_several_types_satisfy() {
    let contract = Contract::new()
        .node_count(4)
        .accelerator_count(at_least(4))
        .accelerator_architecture("Ada")
        .node_memory_size(at_least(256.gib()));
    let found = names(&contract);
    has(&found, &["g6.24xlarge", "g6.48xlarge", "g2-standard-96"]);
    has(&found, &["g6e.12xlarge", "g6e.24xlarge", "g6e.48xlarge"]);
    assert_eq!(found.len(), 6, "{found:?}");
    assert_eq!(
        found.last().unwrap(),
        "g2-standard-96",
        "its price is not known"
    );
    assert_eq!(contract.ignored_by_select(), ["node_count"]);
    let catalog = Catalog::embedded();
    let error = contract.resolve_unique_in(&ec2(&catalog)).unwrap_err();
    assert!(matches!(error, ResolveError::Ambiguous { .. }), "{error}");
    assert!(error.to_string().contains("g6.48xlarge"), "{error}");
}

#[test]
fn the_third_contract_means_something_else() {
    let contract = Contract::new()
        .cluster_type(Topology::ManagerWorkers)
        .node_count(8)
        .manager(|m| m.node_machinetype("EC2Type_T3_xLarge"))
        .worker(|w| {
            let w = w.accelerator_count(just(8)).accelerator_architecture("Ada");
            w.accelerator_memory(at_least(512.gib()))
        });
    let text = "cluster_type=ManageWorkers node_count=8 \
                manager.node_machinetype=EC2Type_T3_xLarge worker.accelerator_count=8 \
                worker.accelerator_architecture=Ada worker.accelerator_memory>=512G";
    let misspelt = parsed(text);
    assert_eq!(misspelt, contract);
    assert!(misspelt.notes()[0].contains("write that"));
    let catalog = Catalog::embedded();
    let error = contract.resolve_in(&ec2(&catalog)).unwrap_err();
    let text = error.to_string();
    for part in [
        "worker.accelerator_memory is the memory of each accelerator",
        "was worker.node_memory_size >= 512G meant?",
        "satisfied by g6.48xlarge",
        "worker.accelerator_memory >= 48G instead of worker.accelerator_memory >= 512G",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // What is meant, with the manager counted.
    let meant = parsed(
        "cluster_type=ManagerWorkers node_count=8 manager.node_machinetype=t3.xlarge \
         worker.accelerator_count=8 worker.accelerator_architecture=Ada \
         worker.node_memory_size>=512G",
    );
    let mut ohio = ec2(&catalog);
    ohio.providers[1].region = Some("us-east-2".to_owned());
    let plan = meant.resolve_in(&ohio).unwrap();
    assert_eq!(plan.nodes(), 9);
    let cost = plan.hourly_cost().unwrap();
    assert!((cost - (0.1664 + 8.0 * 13.3504)).abs() < 1e-9, "{cost}");
}

#[test]
fn facts_that_were_wrong_in_the_original_are_right() {
    let catalog = Catalog::embedded();
    let of = |name: &str| catalog.get(name).unwrap();
    let accelerator = |name: &str| of(name).facts.accelerators.as_ref().unwrap().model.clone();
    assert_eq!(accelerator("p4d.24xlarge"), "NVIDIA_A100");
    assert_eq!(accelerator("g5g.xlarge"), "NVIDIA_T4G");
    assert!(names(&Contract::new().accelerator_count(just(0))).len() > 1_000);
    has(
        &names(&Contract::new().node_machinetype("EC2Type_T3")),
        &["t3.nano", "t3.2xlarge", "t3a.xlarge"],
    );
    has(
        &names(&Contract::new().accelerator_memory(at_least(24.gib()))),
        &["g6.xlarge"],
    );
    let small = names(&Contract::new().accelerator_memory(just(24.gib())));
    has(&small, &["g6.48xlarge", "g5.xlarge"]);
    let l40s = names(
        &Contract::new()
            .accelerator("L40S")
            .accelerator_memory(just(48.gib())),
    );
    has(&l40s, &["g6e.xlarge"]);
    has(
        &names(&Contract::new().network_performance(at_least(100.gbit()))),
        &["g6.48xlarge"],
    );
    let whole = names(
        &Contract::new()
            .accelerator("L4")
            .accelerator_count(at_least(1)),
    );
    assert!(
        !whole.iter().any(|name| name.starts_with("g6f")),
        "a part is not one"
    );
    assert_eq!(
        of("t3.xlarge").facts.storage.as_ref().unwrap().bytes,
        0,
        "none, not unknown"
    );
}

#[test]
fn every_parameter_restricts() {
    let all = names(&Contract::new()).len();
    for text in [
        "node_provider=gcp",
        "cluster_locale=eu-north-1",
        "cluster_locale=use1-az1",
        "node_machinetype=m5",
        "node_memory_size>=256G",
        "node_ecu_count>=1",
        "node_vcpus_count=4..8",
        "accelerator_count>=1",
        "accelerator_memory<=16G",
        "accelerator_type=ASIC",
        "accelerator_manufacturer=AWS",
        "accelerator_architecture>=Ampere",
        "accelerator=T4",
        "processor_manufacturer=AMD",
        "processor_microarchitecture>=Zen3",
        "processor=AMDEPYC_7R13",
        "processor_isa=aarch64",
        "storage_type=HDD",
        "storage_size>=1T",
        "network_performance>=50G",
        "network_burst<=5G",
        "efa=true",
        "market=spot",
        "max_price=0.1",
    ] {
        let found = names(&parsed(text)).len();
        assert!(0 < found && found < all, "{text}: {found} of {all}");
    }
    let newer = names(&parsed("processor_microarchitecture>=Graviton3"));
    has(&newer, &["m7g.large", "m8g.large"]);
    assert!(!newer.contains(&"m6g.large".to_owned()));
}

#[test]
fn the_order_is_by_price_and_then_by_name() {
    let catalog = Catalog::embedded();
    let contract = parsed("node_provider=ec2 cluster_locale=us-east-1");
    let found = catalog.select(&contract, Role::Peer).unwrap();
    for pair in found.windows(2) {
        match (pair[0].price(), pair[1].price()) {
            (Some(a), Some(b)) => assert!(a <= b),
            (None, price) => assert_eq!(price, None),
            (Some(_), None) => {}
        }
    }
    assert!(compare_names("g6.4xlarge", "g6.12xlarge").is_lt());
}

#[test]
fn resolution_leaves_out_what_nobody_wants_unless_it_is_named() {
    let catalog = Catalog::embedded();
    let mut surroundings = ec2(&catalog);
    let mac = parsed("processor_manufacturer=Apple");
    assert!(!names(&mac).is_empty());
    assert!(matches!(
        mac.resolve_in(&surroundings),
        Err(ResolveError::Nothing(_))
    ));
    assert!(
        parsed("node_machinetype=mac2")
            .resolve_in(&surroundings)
            .is_ok()
    );

    let small = parsed("node_memory_size<=2G node_vcpus_count=2");
    let plan = small.resolve_in(&surroundings).unwrap();
    assert!(
        plan.roles()[0].choice.instance_type.starts_with('t'),
        "{plan:?}"
    );
    let ranks = small
        .cluster_type(Topology::PeerWorkersMpi)
        .resolve_in(&surroundings);
    let burstable = |name: &str| catalog.get(name).unwrap().facts.tenure.burstable;
    assert!(ranks.is_err() || !burstable(&ranks.unwrap().roles()[0].choice.instance_type));

    // The worker binary runs on its own instruction set.
    surroundings.isa = Some("x86_64".to_owned());
    let cheap = parsed("node_vcpus_count=4 node_memory_size=16G");
    let plan = cheap.resolve_in(&surroundings).unwrap();
    let isa = |name: &str| catalog.get(name).unwrap().facts.processor.isa.clone();
    assert_eq!(
        isa(&plan.roles()[0].choice.instance_type).as_deref(),
        Some("ISA_x86_64")
    );
    surroundings.isa = Some("aarch64".to_owned());
    let plan = cheap.resolve_in(&surroundings).unwrap();
    assert_eq!(
        isa(&plan.roles()[0].choice.instance_type).as_deref(),
        Some("ISA_aarch64")
    );
    let error = parsed("node_machinetype=t3.xlarge")
        .resolve_in(&surroundings)
        .unwrap_err();
    assert!(error.to_string().contains("processor_isa"), "{error}");
}

#[test]
fn this_machine_is_taken_if_it_is_named_or_the_only_one() {
    let catalog = Catalog::embedded();
    let mut with_local = (*catalog).clone();
    let mut facts = with_local.get("t3.xlarge").unwrap().facts.clone();
    facts.name = "local".into();
    facts.provider = "local".into();
    facts.family = "local".into();
    facts.offers.clear();
    with_local.add(facts);
    let mut surroundings = ec2(&with_local);
    let any = Contract::new();
    assert_eq!(any.resolve_in(&surroundings).unwrap().provider(), "ec2");
    let named = Contract::new().node_provider("local");
    assert_eq!(named.resolve_in(&surroundings).unwrap().provider(), "local");
    surroundings.providers[1].configured = false;
    let plan = any.resolve_in(&surroundings).unwrap();
    assert_eq!((plan.provider(), plan.hourly_cost()), ("local", Some(0.0)));
}

#[test]
fn explanations_say_what_cheaper_ones_lack_and_what_is_unknown() {
    let catalog = Catalog::embedded();
    let surroundings = ec2(&catalog);
    let contract =
        parsed("accelerator_count=8 accelerator_architecture=Ada node_memory_size>=512G");
    let explanation = contract.explain_in(&surroundings).unwrap();
    let role = &explanation.roles[0];
    assert_eq!(role.chosen.as_ref().unwrap().instance_type, "g6.48xlarge");
    assert_eq!(role.passed_over.len(), 5);
    for other in &role.passed_over {
        assert!(other.choice.price.unwrap() < 13.3504);
        assert!(!other.lacks.is_empty(), "{other:?}");
    }

    let unknown = parsed("node_machinetype=t3.xlarge node_ecu_count>=1");
    let error = unknown.resolve_in(&surroundings).unwrap_err().to_string();
    assert!(error.contains("unknown"), "{error}");

    let close = parsed("accelerator=L4 accelerator_count=8 node_memory_size>=1T");
    let error = close.resolve_in(&surroundings).unwrap_err().to_string();
    assert!(
        error.contains("g6.48xlarge would with node_memory_size >= 768G"),
        "{error}"
    );

    let two = parsed("accelerator=L4 accelerator_count=16 node_memory_size>=1T");
    let explanation = two.explain_in(&surroundings).unwrap();
    assert!(explanation.plan.is_none());
    let relaxations = &explanation.roles[0].relaxations;
    assert!(!relaxations.is_empty());
    let fewest = relaxations[0].changes.len();
    assert!(relaxations.iter().all(|r| r.changes.len() == fewest));
}

#[test]
fn alternatives_keep_to_the_price_that_is_allowed() {
    let catalog = Catalog::embedded();
    let mut surroundings = ec2(&catalog);
    let contract = parsed("node_vcpus_count=8 node_memory_size=32G processor_isa=x86_64");
    let plan = contract.resolve_in(&surroundings).unwrap();
    let first = plan.roles()[0].choice.price.unwrap();
    let prices = |plan: &cc_core::resolve::Plan| -> Vec<f64> {
        plan.roles()[0]
            .alternatives
            .iter()
            .map(|a| a.price.unwrap())
            .collect()
    };
    let default = prices(&plan);
    assert!(default.len() > 3 && default.is_sorted());
    assert!(default.iter().all(|p| *p <= 1.5 * first));
    surroundings.providers[1].alternative_price_ratio = 1.01;
    assert!(prices(&contract.resolve_in(&surroundings).unwrap()).len() < default.len());
    let dearer = contract.max_price(100.0);
    assert!(prices(&dearer.resolve_in(&surroundings).unwrap()).len() > default.len());
}

#[test]
fn wrong_input_is_named_with_what_to_write() {
    let catalog = Catalog::embedded();
    let error = |text: &str| {
        let contract = Contract::parse(text.split(' ')).map_err(ResolveError::from);
        let resolved = contract.and_then(|contract| contract.resolve_in(&ec2(&catalog)));
        match resolved {
            Err(ResolveError::Contract(error)) => error.to_string(),
            other => panic!("{text}: {other:?}"),
        }
    };
    for (text, says) in [
        ("acelerator_count=4", "did you mean accelerator_count"),
        ("worker.acelerator_count=4", "worker.accelerator_count"),
        ("accelerator_architecture=Adda", "did you mean Ada"),
        (
            "accelerator_architecture=L4",
            "it is of another kind: accelerator",
        ),
        ("node_machinetype=t3.xxlarge", "EC2Type_T3_xLarge"),
        ("node_memory_size>=4X", "256G"),
        ("node_memory_size>4G", "key>=value"),
        ("node_vcpus_count=8..4", "node_vcpus_count = 4..8"),
        ("node_count=0", "from 1 to"),
        ("node_count=-3", "from 1 to"),
        ("node_count=4.5", "whole number"),
        ("node_count=4 node_count=5", "twice"),
        (
            "worker.accelerator_count=4",
            "cluster_type = ManagerWorkers",
        ),
        ("accelerator_count=0 accelerator=L4", "exclude each other"),
        (
            "cluster_type=ManagerWorkers manager.node_provider=ec2 worker.node_provider=gcp",
            "write node_provider once",
        ),
        (
            "cluster_type=ManagerWorkers manager.cluster_locale=us-east-1 cluster_locale=us-west-2",
            "manager.cluster_locale = us-east-1 and cluster_locale = us-west-2 exclude each other",
        ),
        ("worker.node_count=4", "did you mean node_count?"),
        ("cluster_locale=us-east1", "us-east-1"),
        ("max_price=-1", "a number of dollars, such as 1.25"),
        ("efa=maybe", "true, false, or a number"),
        ("accelerator_type>=GPU", "write accelerator_type = GPU"),
        (
            "cluster_type=Ring",
            "PeerWorkers, PeerWorkersMPI, ManagerWorkers",
        ),
        ("market=auction", "on-demand or spot"),
        ("max_price>=1", "1.25"),
        ("node_count", "key=value"),
        ("cluster_locale=us-esat-1", "us-east-1"),
    ] {
        let message = error(text);
        assert!(message.contains(says), "{text}: {message}");
    }
    let impossible = Contract::new()
        .node_vcpus_count(between(8, 4))
        .check()
        .unwrap_err();
    assert!(matches!(impossible.problem, Problem::Range { .. }));
    let negative = Contract::new()
        .node_vcpus_count(at_most(-1))
        .check()
        .unwrap_err();
    assert!(matches!(negative.problem, Problem::Range { .. }));
}

#[test]
fn errors_of_files_name_the_line() {
    let error = |text: &str| {
        Contract::from_toml("cluster.toml", text)
            .unwrap_err()
            .to_string()
    };
    assert!(error("node_count = 2\nnodes = 4\n").starts_with("cluster.toml:2: nodes is no key"));
    assert!(error("node_count = [\n").starts_with("cluster.toml:"));
    let twice = error("accelerator_arch = \"Ada\"\naccelerator_architecture = \"Hopper\"\n");
    assert_eq!(
        twice,
        "cluster.toml:2: accelerator_architecture is given twice: leave one out"
    );
    assert!(error("[worker]\nnode_count = 2\n").starts_with("cluster.toml:2: worker.node_count"));
    let late = Contract::from_toml("cluster.toml", "\naccelerator = \"L5\"\n").unwrap();
    let catalog = Catalog::embedded();
    let error = catalog.select(&late, Role::Peer).unwrap_err().to_string();
    assert!(
        error.starts_with("cluster.toml:2: accelerator = L5 is not known"),
        "{error}"
    );
}

#[test]
fn role_parameters_replace_the_common_ones_one_by_one() {
    let contract = Contract::from_toml(
        "cluster.toml",
        "cluster_type = \"ManagerWorkers\"\nnode_vcpus_count = { at_least = 4, at_most = 8 }\n\
         node_memory_size = \"at_least(16G)\"\n[manager]\nnode_vcpus_count = 2\n",
    )
    .unwrap();
    let manager = contract.assumptions(Role::Manager);
    assert_eq!(
        manager.get(Parameter::NodeVcpusCount),
        Some(&just(2).into())
    );
    assert_eq!(
        manager.get(Parameter::NodeMemorySize),
        Some(&at_least(16.gib()).into())
    );
    let worker = contract.assumptions(Role::Worker);
    assert_eq!(
        worker.get(Parameter::NodeVcpusCount),
        Some(&between(4, 8).into())
    );
    assert_eq!(
        contract.key_of(Role::Manager, Parameter::NodeVcpusCount),
        "manager.node_vcpus_count"
    );
}

#[test]
fn a_place_that_is_said_of_one_role_is_all_of_theirs() {
    let catalog = Catalog::embedded();
    let surroundings = ec2(&catalog);
    let alone = parsed("cluster_type=PeerWorkersMPI cluster_locale=use1-az3 node_vcpus_count=4");
    let there = alone.resolve_in(&surroundings).unwrap();
    let both =
        parsed("cluster_type=ManagerWorkers manager.cluster_locale=use1-az3 node_vcpus_count=4");
    let plan = both.resolve_in(&surroundings).unwrap();
    assert_eq!(plan.zone(), Some("use1-az3"));
    for role in plan.roles() {
        assert_eq!(role.choice, there.roles()[0].choice, "{role:?}");
    }
}

#[test]
fn what_is_said_in_addition_is_said_of_each_role() {
    let file = "cluster_type = \"ManagerWorkers\"\nworker.node_machinetype = \"t3.micro\"\n";
    let file = Contract::from_toml("cluster.toml", file).unwrap();
    let both = file.with(parsed("node_machinetype=c5.large"));
    let worker = both.assumptions(Role::Worker);
    let worker = worker.get(Parameter::NodeMachinetype).unwrap();
    assert_eq!(worker.print(Parameter::NodeMachinetype), "= c5.large");
}

#[test]
fn changes_that_are_proposed_do_what_they_say() {
    let catalog = Catalog::embedded();
    let surroundings = ec2(&catalog);
    for text in [
        "max_price=0.001",
        "node_memory_size>=900T accelerator_count>=99",
        "accelerator=L4 accelerator_count=8 node_memory_size>=1T",
        "accelerator_architecture=Ada accelerator_count=8 accelerator_memory>=512G",
        "node_vcpus_count>=100 max_price=0.5 processor_manufacturer=AMD",
    ] {
        let contract = parsed(&format!("node_provider=ec2 {text}"));
        let explanation = contract.explain_in(&surroundings).unwrap();
        assert!(explanation.plan.is_none(), "{text}");
        assert!(!explanation.roles[0].relaxations.is_empty(), "{text}");
        for relaxation in &explanation.roles[0].relaxations {
            let mut found = vec![contract.clone().cluster_locale("us-east-1")];
            for change in &relaxation.changes {
                // Of several names, one is of the first type.
                let key = change.from.split(' ').next().unwrap();
                let values = change.to.strip_prefix(key).unwrap().replace("= ", "=");
                let values = values.replace('>', " >").replace('<', " <");
                let each = values.split(" or ").map(|v| v.replace(' ', ""));
                let each: Vec<_> = each
                    .map(|v| {
                        if v.starts_with(['=', '<', '>']) {
                            v
                        } else {
                            format!("={v}")
                        }
                    })
                    .map(|v| Contract::parse([format!("{key}{v}")]).unwrap())
                    .collect();
                found = (found.iter())
                    .flat_map(|c| each.iter().map(|e| c.clone().with(e.clone())))
                    .collect();
            }
            let found: Vec<_> = found.iter().flat_map(names).collect();
            let first = &relaxation.instance_types[0];
            assert!(found.contains(first), "{text}: {relaxation:?}");
        }
    }
}

#[test]
fn only_a_type_or_family_is_a_name() {
    let catalog = Catalog::embedded();
    let surroundings = ec2(&catalog);
    let ranks = |machine: &str| {
        let contract = Contract::new().cluster_type(Topology::PeerWorkersMpi);
        let contract = contract.node_machinetype(machine);
        contract.resolve_in(&surroundings).unwrap().roles()[0]
            .choice
            .instance_type
            .clone()
    };
    let burstable = |name: &str| catalog.get(name).unwrap().facts.tenure.burstable;
    assert!(burstable(&ranks("t3")), "it is named");
    assert!(!burstable(&ranks("EC2Type")), "that says only the provider");
    assert!(burstable("t1.micro"));
}
