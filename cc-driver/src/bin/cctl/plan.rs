//! What a contract would get: selection, resolution, and the reasons.

use cc_core::catalog::Entry;
use cc_core::contract::{Contract, Market, Unit};
use cc_core::resolve::{Choice, Explanation, Match, Plan, RoleExplanation};
use cc_driver::{Driver, Planner};
use serde_json::{Value, json};

use crate::assumptions::Assumptions;
use crate::failure::Failure;
use crate::output::{self, Column, note, warn};

pub(crate) fn select(
    driver: &Driver,
    assumptions: &Assumptions,
    limit: usize,
    json: bool,
) -> Result<(), Failure> {
    let (planner, contract) = (driver.planner()?, assumptions.contract()?);
    say(contract.notes());
    for key in contract.ignored_by_select() {
        warn(format!(
            "note: {key} says nothing about instances and is ignored here"
        ));
    }
    let roles = contract.spoken_roles();
    let mut found = Vec::new();
    for role in &roles {
        found.push((*role, planner.select(&contract, *role)?));
    }
    if json {
        return output::json(&match &found[..] {
            [(_, matches)] => rows(&planner, matches),
            several => several
                .iter()
                .map(|(role, matches)| (role.to_string(), rows(&planner, matches)))
                .collect(),
        });
    }
    let several = found.len() > 1;
    for (index, (role, matches)) in found.iter().enumerate() {
        if several {
            let line = if index > 0 { "\n" } else { "" };
            output::text(&format!("{line}{role}:\n"))?;
        }
        table(&planner, matches, limit)?;
    }
    match found.iter().find(|(_, matches)| matches.is_empty()) {
        Some((role, _)) => {
            let nothing = format!("no instance type satisfies the assumptions about the {role}");
            Err(Failure::nothing(nothing)
                .hint("`cctl explain` with the same, and node_provider=ec2, says what would"))
        }
        None => Ok(()),
    }
}

fn rows(planner: &Planner, matches: &[Match<'_>]) -> Value {
    matches.iter().map(|found| row(planner, found)).collect()
}

/// Everything that is known of an instance type, for programs.
fn row(planner: &Planner, found: &Match<'_>) -> Value {
    let (catalog, facts) = (planner.catalog(), &found.entry.facts);
    let name =
        |id: Option<cc_core::platform::TypeId>| id.map(|id| catalog.taxonomy()[id].name.clone());
    let types = &found.entry.types;
    let region = found
        .cheapest
        .region
        .and_then(|r| catalog.regions().get(usize::from(r)));
    let source = found
        .cheapest
        .price
        .and_then(|p| catalog.sources().get(usize::from(p.source)));
    let accelerators = facts.accelerators.as_ref().map(|a| {
        json!({
            "accelerator": name(types.accelerator).unwrap_or_else(|| a.model.clone()),
            "count": a.count,
            "memory": a.memory,
            "type": name(types.accelerator_type),
            "manufacturer": name(types.accelerator_manufacturer),
            "architecture": name(types.accelerator_architecture),
        })
    });
    json!({
        "instance_type": facts.name,
        "node_machinetype": name(types.machine),
        "provider": facts.provider,
        "price": found.price(),
        "price_source": source.map(|s| &s.name),
        "price_date": source.map(|s| &s.date),
        "region": region.map(|r| &r.name),
        "regions": found.cheapest.regions,
        "vcpus": facts.vcpus,
        "cores": facts.cores,
        "memory": facts.memory,
        "ecu": facts.ecu,
        "accelerators": accelerators,
        "processor": name(types.processor),
        "processor_manufacturer": name(types.processor_manufacturer),
        "processor_microarchitecture": name(types.microarchitecture),
        "processor_isa": name(types.isa),
        "storage_size": facts.storage.as_ref().map(|s| s.bytes),
        "storage_type": name(types.storage),
        "network_performance": facts.network.baseline,
        "network_burst": facts.network.burst,
        "efa": facts.network.efa,
        "placement": facts.placement,
        "spot": facts.tenure.spot,
        "on_demand": facts.tenure.on_demand,
        "burstable": facts.tenure.burstable,
    })
}

fn table(planner: &Planner, matches: &[Match<'_>], limit: usize) -> Result<(), Failure> {
    if matches.is_empty() {
        return Ok(());
    }
    let shown = if limit == 0 { matches.len() } else { limit };
    let (matches, left) = matches.split_at(shown.min(matches.len()));
    let catalog = planner.catalog();
    let column = |name, dispensable, cell: &dyn Fn(&Match<'_>) -> Option<String>| Column {
        name,
        cells: (matches.iter())
            .map(|found| cell(found).unwrap_or_else(|| "?".to_owned()))
            .collect(),
        dispensable,
    };
    let region = |found: &Match<'_>| {
        let region = found
            .cheapest
            .region
            .and_then(|r| catalog.regions().get(usize::from(r)));
        Some(region.map_or_else(|| "-".to_owned(), |region| region.name.clone()))
    };
    let mut columns = vec![
        column("TYPE", 0, &|m| Some(m.entry.facts.name.clone())),
        column(">VCPUS", 0, &|m| Some(m.entry.facts.vcpus?.to_string())),
        column(">MEMORY", 0, &|m| Some(memory(m.entry.facts.memory?))),
        column("ACCELERATORS", 0, &|m| Some(accelerators(m.entry))),
        column("PROCESSOR", 2, &|m| Some(processor(planner, m.entry))),
        column(">NETWORK", 3, &|m| {
            Some(network(m.entry.facts.network.baseline? as f64))
        }),
        column(">$/HOUR", 0, &|m| m.price().map(price)),
        column("REGION", 0, &region),
    ];
    // What is the same for all says nothing.
    columns.retain(|c| c.name != "ACCELERATORS" || c.cells.iter().any(|cell| cell != "-"));
    let place = columns.iter().rposition(|c| c.name == "REGION");
    if let Some(place) = place
        && let [first, rest @ ..] = &columns[place].cells[..]
        && rest.iter().all(|region| region == first)
    {
        let first = first.clone();
        columns.remove(place);
        if first != "-" {
            note(format!("in {first}"));
        }
    }
    output::columns(columns)?;
    if !left.is_empty() {
        note(format!("and {} more: --limit 0 shows all", left.len()));
    }
    Ok(())
}

/// Memory in GiB, or MiB where that is less than one.
fn memory(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    match bytes {
        0..=0x3fff_ffff => format!("{}M", bytes >> 20),
        _ => format!("{}G", (gib * 10.0).round() / 10.0),
    }
}

fn network(bits: f64) -> String {
    format!("{}G", (bits / 1e7).round() / 100.0)
}

fn price(dollars: f64) -> String {
    match dollars {
        0.0 => "0".to_owned(),
        _ => format!("{dollars:.4}"),
    }
}

fn accelerators(entry: &Entry) -> String {
    entry.facts.accelerators.as_ref().map_or_else(
        || "-".to_owned(),
        |a| {
            let model = a
                .model
                .trim_start_matches("NVIDIATesla_")
                .trim_start_matches("NVIDIA_");
            let memory = a.memory.map_or(String::new(), |bytes| {
                format!(" {}", Unit::BinaryBytes.print(bytes as f64))
            });
            format!("{}×{model}{memory}", a.count)
        },
    )
}

fn processor(planner: &Planner, entry: &Entry) -> String {
    let types = &entry.types;
    let best = types
        .microarchitecture
        .or(types.processor)
        .or(types.processor_manufacturer);
    best.map_or_else(
        || "?".to_owned(),
        |id| planner.catalog().taxonomy()[id].name.clone(),
    )
}

pub(crate) fn resolve(
    driver: &Driver,
    assumptions: &Assumptions,
    strict: bool,
    json: bool,
) -> Result<(), Failure> {
    let (planner, contract) = (driver.planner()?, assumptions.contract()?);
    let plan = match strict {
        true => planner.resolve_unique(&contract)?,
        false => planner.resolve(&contract)?,
    };
    if json {
        return output::json(&plan_json(&plan));
    }
    say(plan.notes());
    show(&plan)
}

fn say(notes: &[String]) {
    for note in notes {
        warn(format!("note: {note}"));
    }
}

fn plan_json(plan: &Plan) -> Value {
    json!({
        "provider": plan.provider(),
        "region": plan.region(),
        "zone": plan.zone(),
        "cluster_type": plan.topology().name(),
        "nodes": plan.nodes(),
        "workers": plan.workers(),
        "hourly_cost": plan.hourly_cost(),
        "roles": plan.roles(),
        "notes": plan.notes(),
        "assumptions": plan.contract().to_assumptions(),
        "settings": plan.settings(),
    })
}

fn show(plan: &Plan) -> Result<(), Failure> {
    output::text(&format!(
        "cluster   {}, {}, {} on each\nprovider  {}\nplace     {}\ncost      {}\n\n",
        output::count(plan.nodes().into(), "node"),
        plan.topology(),
        output::count(plan.workers_per_node().into(), "worker"),
        plan.provider(),
        plan.zone().or(plan.region()).unwrap_or("-"),
        plan.hourly_cost().map_or_else(
            || "unknown".to_owned(),
            |cost| format!("${} an hour in all", price(cost))
        ),
    ))?;
    let rows = plan.roles().iter().map(|role| {
        [
            role.role.to_string(),
            role.nodes.to_string(),
            role.choice.instance_type.clone(),
            role.choice.price.map_or_else(|| "?".to_owned(), price),
            match &role.alternatives[..] {
                [] => "-".to_owned(),
                all => names(all),
            },
        ]
    });
    output::table(
        ["ROLE", ">NODES", "TYPE", ">$/HOUR", "ALTERNATIVES"],
        rows.collect(),
    )?;
    if plan
        .roles()
        .iter()
        .any(|role| plan.market(role.role) == Market::Spot)
    {
        note("prices are those on demand: spot prices change, and are lower");
    }
    Ok(())
}

/// The first of them, and how many there are besides.
fn names(choices: &[Choice]) -> String {
    const SHOWN: usize = 4;
    let first = choices
        .iter()
        .take(SHOWN)
        .map(|choice| &*choice.instance_type);
    let mut text = first.collect::<Vec<_>>().join(", ");
    if choices.len() > SHOWN {
        text.push_str(&format!(", {} more", choices.len() - SHOWN));
    }
    text
}

pub(crate) fn explain(
    driver: &Driver,
    assumptions: &Assumptions,
    json: bool,
) -> Result<(), Failure> {
    let contract = assumptions.contract()?;
    say(contract.notes());
    let explanation = driver.planner()?.explain(&contract)?;
    if json {
        output::json(&explanation)?;
    } else {
        output::text(&explained(&contract, &explanation))?;
    }
    match explanation.plan {
        Some(_) => Ok(()),
        None => Err(Failure::silent(crate::failure::NOTHING)),
    }
}

fn explained(contract: &Contract, explanation: &Explanation) -> String {
    let mut text = format!("considered  {}", explanation.providers.join(", "));
    if let Some(region) = &explanation.region {
        text.push_str(&format!(" in {region}"));
    }
    text.push('\n');
    for role in &explanation.roles {
        if contract.has_role_assumptions() || explanation.roles.len() > 1 {
            text.push_str(&format!("\n{}:\n", role.role));
        }
        explain_role(role, &mut text);
    }
    for hint in &explanation.hints {
        text.push_str(&format!("hint        {hint}\n"));
    }
    text
}

fn explain_role(role: &RoleExplanation, text: &mut String) {
    let mut line = |label: &str, value: &str| text.push_str(&format!("{label:<12}{value}\n"));
    let assumed = match &role.assumptions[..] {
        [] => "nothing".to_owned(),
        all => all.join(", "),
    };
    line("assumed", &assumed);
    line(
        "satisfied",
        &format!(
            "by {} of {} instance types",
            role.satisfying, role.considered
        ),
    );
    let dollars = |choice: &Choice| {
        choice
            .price
            .map_or("an unknown price".into(), |p| format!("${}", price(p)))
    };
    if let Some(chosen) = &role.chosen {
        let why = match role.satisfying {
            1 => "the only one",
            _ if chosen.price.is_none() => "no price is known, first by name",
            _ => "the cheapest of them",
        };
        line(
            "chosen",
            &format!("{} at {}: {why}", chosen.instance_type, dollars(chosen)),
        );
    }
    if let [first, ..] = &role.alternatives[..] {
        line(
            "fall-backs",
            &format!("{} (from {})", names(&role.alternatives), dollars(first)),
        );
    }
    for (index, other) in role.passed_over.iter().enumerate() {
        let lacks: Vec<_> = other.lacks.iter().map(ToString::to_string).collect();
        let label = if index == 0 { "cheaper" } else { "" };
        let choice = &other.choice;
        line(
            label,
            &format!(
                "{} at {} lacks {}",
                choice.instance_type,
                dollars(choice),
                lacks.join(", ")
            ),
        );
    }
    for (index, relaxation) in role.relaxations.iter().enumerate() {
        let changes = relaxation.changes.iter();
        let changes: Vec<_> = changes
            .map(|c| format!("{} instead of {}", c.to, c.from))
            .collect();
        let label = if index == 0 { "would do" } else { "" };
        line(
            label,
            &format!(
                "{} with {}",
                relaxation.instance_types.join(", "),
                changes.join(" and ")
            ),
        );
    }
    for hint in &role.hints {
        line("hint", hint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(memory(512 << 20), "512M");
        assert_eq!(memory(384 << 30), "384G");
        assert_eq!(network(781e6), "0.78G");
        assert_eq!(price(13.3504), "13.3504");
    }
}
