//! What a misspelt name was perhaps meant to be, for errors that help.

use crate::limits;

/// How alike two names are of which one is taken for the other, misspelt. Unrelated words get to
/// 0.6.
const ALIKE: f64 = 0.75;

/// The names that are most like one, best first, and no more than `most`.
///
/// ```
/// use cc_core::nearest::nearest;
/// assert_eq!(nearest("nodecount", ["node_count", "region"], 2), ["node_count"]);
/// ```
pub fn nearest<'a>(
    name: &str,
    names: impl IntoIterator<Item = &'a str>,
    most: usize,
) -> Vec<&'a str> {
    if name.len() > limits::NAME {
        return Vec::new();
    }
    let name = name.to_lowercase();
    let mut alike: Vec<_> = (names.into_iter())
        .map(|known| (known, known.to_lowercase()))
        .filter(|(_, lower)| strsim::jaro_winkler(lower, &name) >= ALIKE)
        .map(|(known, lower)| {
            // Of those that begin alike, the one that takes fewer changes is nearer.
            let changes = strsim::normalized_damerau_levenshtein(&lower, &name);
            (strsim::jaro_winkler(&lower, &name) + changes, known)
        })
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    alike.dedup_by_key(|(_, known)| *known);
    alike
        .into_iter()
        .map(|(_, known)| known)
        .take(most)
        .collect()
}
