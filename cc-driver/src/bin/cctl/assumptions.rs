//! Contracts as the command line says them: `key=value` pairs, and a file.

use std::path::PathBuf;

use cc_driver::{Contract, ContractError};
use clap::Args;

use crate::failure::Failure;
use crate::output::warn;

/// Larger files are no contracts.
const LARGEST: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct Assumptions {
    /// Assumptions, such as node_count=4, 'node_memory_size>=256G', worker.efa=true
    #[arg(value_name = "KEY=VALUE")]
    assumptions: Vec<String>,
    /// A contract in TOML; assumptions beside it go before it
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Assumptions {
    /// The contract that they make.
    pub(crate) fn contract(&self) -> Result<Contract, Failure> {
        let given = Contract::parse(&self.assumptions).map_err(wrong)?;
        let contract = match &self.file {
            None => given,
            Some(path) => {
                let unreadable =
                    |e: std::io::Error| Failure::wrong(format!("read {}: {e}", path.display()));
                let length = std::fs::metadata(path).map_err(unreadable)?.len();
                if length > LARGEST {
                    return Err(Failure::wrong(format!("{} is no contract", path.display())));
                }
                let text = std::fs::read_to_string(path).map_err(unreadable)?;
                let name = path.display().to_string();
                Contract::from_toml(&name, &text)
                    .map_err(wrong)?
                    .with(given)
            }
        };
        for note in contract.notes() {
            warn(format!("note: {note}"));
        }
        Ok(contract)
    }
}

fn wrong(error: ContractError) -> Failure {
    Failure::wrong(error).hint("`cctl help resolve` lists the keys")
}
