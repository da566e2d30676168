//! The platform types: what is below a name, as Julia's `subtypes` says it.

use cc_core::platform::{Kind, Taxonomy, TypeId};
use cc_driver::Driver;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output;

/// What has more below it than this is shown one level deep.
const SHORT: usize = 60;

pub(crate) fn run(
    driver: &Driver,
    name: Option<&str>,
    deep: bool,
    json: bool,
) -> Result<(), Failure> {
    let planner = driver.planner()?;
    let types = planner.catalog().taxonomy();
    let Some(name) = name else {
        return kinds(types, json);
    };
    let found = find(types, name);
    if found.is_empty() {
        let nearest = Kind::ALL
            .into_iter()
            .filter_map(|kind| types.find(kind, name).err());
        let nearest: Vec<_> = nearest
            .flat_map(|unknown| unknown.nearest)
            .take(3)
            .collect();
        let failure = Failure::wrong(format!("{name} is no platform type"));
        return Err(match nearest.is_empty() {
            true => failure.hint("`cctl types` lists the kinds that there are"),
            false => failure.hint(format!("did you mean {}?", nearest.join(" or "))),
        });
    }
    if json {
        let trees: Vec<_> = found.iter().map(|id| tree_json(types, *id)).collect();
        return output::json(&trees);
    }
    for id in found {
        let mut text = String::new();
        let deep = deep || count(types, id) <= SHORT;
        tree(types, id, 0, deep, &mut text);
        output::text(&text)?;
        if !deep {
            output::note("--deep shows what is below these");
        }
    }
    Ok(())
}

/// By the name of a type, of a kind, or of a parameter that asks for a kind.
fn find(types: &Taxonomy, name: &str) -> Vec<TypeId> {
    use cc_core::contract::{Domain, Parameter};
    let lower = name.to_lowercase();
    let by_parameter = Parameter::find(&lower).and_then(|p| match p.domain() {
        Domain::Type(kind) => Some(kind),
        _ => None,
    });
    let by_kind = Kind::ALL.into_iter().find(|kind| kind.name() == lower);
    match by_kind.or(by_parameter) {
        Some(kind) => types.root(kind).into_iter().collect(),
        None => types.find_all(name),
    }
}

fn kinds(types: &Taxonomy, json: bool) -> Result<(), Failure> {
    let roots = Kind::ALL
        .into_iter()
        .filter_map(|kind| Some((kind, types.root(kind)?)));
    if json {
        let all = roots.map(|(kind, id)| {
            json!({ "kind": kind.name(), "root": types[id].name, "types": count(types, id) })
        });
        return output::json(&all.collect::<Vec<_>>());
    }
    let rows = roots.map(|(kind, id)| {
        [
            kind.name().to_owned(),
            types[id].name.clone(),
            count(types, id).to_string(),
        ]
    });
    Ok(output::table(["KIND", "ROOT", ">TYPES"], rows.collect())?)
}

/// How many types are below one.
fn count(types: &Taxonomy, id: TypeId) -> usize {
    let children = types.children(id);
    children.len()
        + children
            .into_iter()
            .map(|child| count(types, child))
            .sum::<usize>()
}

fn tree(types: &Taxonomy, id: TypeId, depth: usize, deep: bool, text: &mut String) {
    let node = &types[id];
    text.push_str(&"  ".repeat(depth));
    text.push_str(&node.name);
    if !node.aliases.is_empty() {
        text.push_str(&format!("  ({})", node.aliases.join(", ")));
    }
    text.push('\n');
    if depth == 0 || deep {
        for child in types.children(id) {
            tree(types, child, depth + 1, deep, text);
        }
    }
}

fn tree_json(types: &Taxonomy, id: TypeId) -> Value {
    let node = &types[id];
    let children = types.children(id);
    json!({
        "name": node.name,
        "kind": node.kind.name(),
        "aliases": node.aliases,
        "generation": node.generation,
        "types": children.into_iter().map(|child| tree_json(types, child)).collect::<Vec<_>>(),
    })
}
