//! Distribution trees: who passes a binary or a broadcast value on to whom.

/// The members that a node of a distribution tree sends to directly, each with the
/// members below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch<T> {
    /// Who receives.
    pub member: T,
    /// Whom they pass it on to.
    pub below: Vec<T>,
}

/// Splits `members` into at most `fan_out` branches of nearly equal size, heads first.
///
/// Applied again to each branch's `below` it makes a tree in which every member receives
/// once and sends at most `fan_out` times.
///
/// ```
/// use cc_core::tree::branches;
/// let split = branches(&[1, 2, 3, 4, 5], 2);
/// assert_eq!(split[0].member, 1);
/// assert_eq!(split[0].below, [2, 3]);
/// assert_eq!(split[1].below, [5]);
/// ```
pub fn branches<T: Clone>(members: &[T], fan_out: usize) -> Vec<Branch<T>> {
    let parts = fan_out.clamp(1, members.len().max(1));
    let (share, extra) = (members.len() / parts, members.len() % parts);
    let mut rest = members;
    let mut split = Vec::with_capacity(parts);
    for part in 0..parts {
        let (mine, others) = rest.split_at(share + usize::from(part < extra));
        rest = others;
        if let Some((head, below)) = mine.split_first() {
            split.push(Branch {
                member: head.clone(),
                below: below.to_vec(),
            });
        }
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(members: &[usize], fan_out: usize, depth: usize, seen: &mut Vec<usize>) -> usize {
        let mut deepest = depth;
        for branch in branches(members, fan_out) {
            seen.push(branch.member);
            deepest = deepest.max(visit(&branch.below, fan_out, depth + 1, seen));
        }
        deepest
    }

    #[test]
    fn everyone_receives_once_and_the_tree_is_shallow() {
        for n in 0..200usize {
            for fan_out in 1..4 {
                let members: Vec<usize> = (0..n).collect();
                let mut seen = Vec::new();
                let depth = visit(&members, fan_out, 0, &mut seen);
                seen.sort_unstable();
                assert_eq!(seen, members);
                if fan_out == 2 {
                    assert!(
                        depth <= n.max(1).ilog2().max(1) as usize + 1 || n < 2,
                        "{n}: {depth}"
                    );
                }
            }
        }
    }
}
