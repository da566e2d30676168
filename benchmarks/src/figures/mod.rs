//! The figures, in groups that are measured in one process each.

mod beside;
mod broadcast;
mod bulk;
mod call;
mod catalog;
mod deploy;
mod idle;
mod map;

use crate::bench::Bench;
use crate::options::Options;

/// A group of figures.
pub(crate) struct Figure {
    /// For `--only`.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) what: &'static str,
    /// Measures them and adds the rows.
    pub(crate) run: fn(&mut Bench) -> anyhow::Result<()>,
}

/// All of them, in the table's order.
pub(crate) const FIGURES: &[Figure] = &[
    Figure {
        name: "call",
        what: "no-op calls, one after the other",
        run: call::run,
    },
    Figure {
        name: "map",
        what: "no-op tasks over 2 workers",
        run: map::run,
    },
    Figure {
        name: "balance",
        what: "tasks that take time over 2 workers",
        run: map::balance,
    },
    Figure {
        name: "bulk",
        what: "large values there and back",
        run: bulk::run,
    },
    Figure {
        name: "types",
        what: "large values of other types",
        run: bulk::types,
    },
    Figure {
        name: "beside",
        what: "a no-op call beside a running bulk transfer",
        run: beside::run,
    },
    Figure {
        name: "broadcast",
        what: "a large value and file to 8 nodes",
        run: broadcast::run,
    },
    Figure {
        name: "deploy",
        what: "8 nodes deployed to first results from all",
        run: deploy::run,
    },
    Figure {
        name: "catalog",
        what: "reading the embedded catalog, and selecting from it",
        run: catalog::run,
    },
    Figure {
        name: "idle",
        what: "the memory of an idle agent and worker",
        run: idle::run,
    },
    Figure {
        name: "many",
        what: "200 nodes",
        run: deploy::many,
    },
];

/// Their names.
pub(crate) fn names() -> Vec<&'static str> {
    FIGURES.iter().map(|figure| figure.name).collect()
}

/// The figures that the options ask for.
pub(crate) fn choose(options: &Options) -> impl Iterator<Item = &'static Figure> {
    FIGURES.iter().filter(|figure| {
        if options.only.is_empty() {
            figure.name != "many" || options.many_nodes()
        } else {
            options.only.iter().any(|name| name == figure.name)
        }
    })
}
