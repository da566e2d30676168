//! Reading `types.txt`, which says at its beginning how it is written.

use super::{Kind, Taxonomy, TypeId};

const TABLE: &str = include_str!("types.txt");

pub(super) fn read(taxonomy: &mut Taxonomy) {
    let mut kind = None;
    // The types that the next line may be below: indentation, type, and its children so far if they
    // are generations.
    let mut above: Vec<(usize, TypeId, Option<u32>)> = Vec::new();
    for line in TABLE.lines() {
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if let Some(name) = text.strip_suffix(':') {
            kind = Kind::ALL.into_iter().find(|k| k.name() == name);
            above.clear();
            continue;
        }
        // Only a mistake in the table, which a test would see, leaves it unset.
        let Some(kind) = kind else { continue };
        let indentation = line.len() - line.trim_start().len();
        while above.last().is_some_and(|(i, ..)| *i >= indentation) {
            above.pop();
        }
        let (text, generations) = match text.strip_suffix('>') {
            Some(text) => (text.trim(), Some(0)),
            None => (text, None),
        };
        let (name, aliases) = text.split_once('=').unwrap_or((text, ""));
        let parent = above.last().map(|(_, id, _)| *id);
        let id = taxonomy.add(kind, name.trim(), parent);
        if let Some((_, _, Some(next))) = above.last_mut() {
            taxonomy.set_generation(id, *next);
            *next += 1;
        }
        for alias in aliases.split(',').map(str::trim).filter(|a| !a.is_empty()) {
            taxonomy.alias(id, alias);
        }
        above.push((indentation, id, generations));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_a_type() {
        let lines = TABLE.lines().filter(|l| {
            let l = l.trim();
            !l.is_empty() && !l.starts_with('#') && !l.ends_with(':')
        });
        let mut taxonomy = Taxonomy::base();
        let expected = lines.count();
        taxonomy.types.clear();
        taxonomy.by_name.clear();
        read(&mut taxonomy);
        assert_eq!(taxonomy.len(), expected, "a name stands twice");
        for name in TABLE.lines().filter_map(|l| l.strip_suffix(':')) {
            let known = Kind::ALL.iter().any(|k| k.name() == name);
            assert!(known || name.starts_with('#'), "{name}");
        }
    }
}
