//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Measures each figure beside its physical limit, prints a table and writes a file.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// Fewer rounds and smaller amounts: to see that everything works, not how fast.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Measure only this group of figures; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = crate::figures::names())]
    pub(crate) only: Vec<String>,
    /// How often each figure is measured, in turns with its limit [default: 7, quick: 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..1000))]
    rounds: Option<u32>,
    /// Sizes of large values, in MiB [default: 64,256, quick: 16].
    #[arg(long, value_name = "MIB", value_delimiter = ',')]
    sizes: Vec<u32>,
    /// Also measure 200 nodes in a quick run.
    #[arg(long)]
    with_200: bool,
    /// The file for programs [default: target/bench/results.json].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Be one end of a raw transport.
    #[arg(long, hide = true)]
    pub(crate) raw: Option<String>,
    /// Measure one group of figures in this process.
    #[arg(long, hide = true, requires = "state")]
    pub(crate) figure: Option<String>,
    /// Below this directory is the state of clusters.
    #[arg(long, hide = true)]
    pub(crate) state: Option<PathBuf>,
}

impl Options {
    /// How often each figure is measured.
    pub(crate) fn rounds(&self) -> usize {
        let default = if self.quick { 2 } else { 7 };
        self.rounds.map_or(default, |rounds| rounds as usize)
    }

    /// Sizes of large values in bytes.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let default: &[u32] = if self.quick { &[16] } else { &[64, 256] };
        let sizes = if self.sizes.is_empty() {
            default
        } else {
            &self.sizes
        };
        sizes
            .iter()
            .map(|mib| *mib as usize * 1024 * 1024)
            .collect()
    }

    /// The size of a large value where only one is measured, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.sizes().first().copied().unwrap_or(64 << 20)
    }

    /// Whether 200 nodes are measured.
    pub(crate) fn many_nodes(&self) -> bool {
        self.with_200 || !self.quick
    }

    /// The amount for a full run, or a tenth of it.
    pub(crate) fn amount(&self, full: usize) -> usize {
        if self.quick { full / 10 } else { full }
    }

    /// Where the file for programs goes.
    pub(crate) fn output_path(&self) -> PathBuf {
        self.output
            .clone()
            .unwrap_or_else(|| PathBuf::from("target/bench/results.json"))
    }

    /// The options as a process for one group of figures needs them.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let sizes: Vec<_> = self.sizes().iter().map(|s| (s >> 20).to_string()).collect();
        let mut arguments = vec![
            "--rounds".to_owned(),
            self.rounds().to_string(),
            "--sizes".to_owned(),
            sizes.join(","),
        ];
        if self.quick {
            arguments.push("--quick".to_owned());
        }
        if self.with_200 {
            arguments.push("--with-200".to_owned());
        }
        arguments
    }
}
