//! Which family is a variant of which, told by their names.

use std::collections::BTreeSet;

use cc_core::catalog::{Family, compare_names};

/// All families of a provider and the series that they belong to, parents first.
///
/// A family's parent is the one with the longest name that its own begins with: `m6gd` is a variant
/// of `m6g`, which is one of the series `m6`.
pub(crate) fn families(provider: &str, names: &BTreeSet<String>) -> Vec<Family> {
    let mut all = names.clone();
    all.extend(
        names
            .iter()
            .filter_map(|name| series(name))
            .map(str::to_owned),
    );
    let mut sorted: Vec<&String> = all.iter().collect();
    // A parent's name is shorter than its variants'.
    sorted.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| compare_names(a, b)));
    (sorted.iter())
        .map(|name| {
            let mut candidates = sorted.iter().filter(|other| is_variant(name, other));
            Family {
                provider: provider.to_owned(),
                name: (*name).clone(),
                parent: candidates.next_back().map(|parent| (*parent).clone()),
            }
        })
        .collect()
}

/// The letters and digits that a name begins with; none if it has no digits there, as `mac-m4`.
fn series(name: &str) -> Option<&str> {
    let digits = name.find(|c: char| !c.is_ascii_lowercase())?;
    let length = name[digits..].find(|c: char| !c.is_ascii_digit());
    let end = length.map_or(name.len(), |length| digits + length);
    (digits > 0 && end > digits).then(|| &name[..end])
}

/// Whether a name goes on after another, and not within a number.
fn is_variant(name: &str, of: &str) -> bool {
    (name.strip_prefix(of))
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(|c: char| c.is_ascii_digit()))
        && series(of).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_the_longest_names_that_begin_alike() {
        let names = [
            "t3",
            "t3a",
            "m6g",
            "m6gd",
            "c7i",
            "c7i-flex",
            "u7in-16tb",
            "u7i-12tb",
            "mac2",
            "mac2-m2",
            "mac-m4",
            "p6-b200",
            "m8id",
            "m8idn",
            "hpc7a",
            "m1",
            "m10a",
        ];
        let names = names.into_iter().map(str::to_owned).collect();
        let found = families("ec2", &names);
        let parent = |name: &str| {
            let family = found.iter().find(|f| f.name == name).unwrap();
            family.parent.as_deref()
        };
        assert_eq!(parent("t3a"), Some("t3"));
        assert_eq!(parent("t3"), None);
        assert_eq!((parent("m6gd"), parent("m6g")), (Some("m6g"), Some("m6")));
        assert_eq!(parent("c7i-flex"), Some("c7i"));
        assert_eq!(
            (parent("u7in-16tb"), parent("u7i-12tb")),
            (Some("u7"), Some("u7"))
        );
        assert_eq!((parent("mac2-m2"), parent("mac-m4")), (Some("mac2"), None));
        assert_eq!(parent("p6-b200"), Some("p6"));
        assert_eq!(
            (parent("m8idn"), parent("m8id")),
            (Some("m8id"), Some("m8"))
        );
        assert_eq!(
            (parent("hpc7a"), parent("m10a")),
            (Some("hpc7"), Some("m10"))
        );
        for (index, family) in found.iter().enumerate() {
            let parent = |p: &String| found[..index].iter().any(|f| f.name == *p);
            assert!(family.parent.as_ref().is_none_or(parent), "{}", family.name);
        }
    }
}
