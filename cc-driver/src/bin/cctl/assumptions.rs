//! Contracts as the command line says them: `key=value` pairs, and a file.

use std::io::Read as _;
use std::path::PathBuf;

use cc_driver::{Contract, ContractError};
use clap::Args;

use crate::failure::Failure;

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
                let file = std::fs::File::open(path).map_err(unreadable)?;
                let mut text = String::new();
                let read = file.take(LARGEST + 1).read_to_string(&mut text);
                if read.map_err(unreadable)? as u64 > LARGEST {
                    return Err(Failure::wrong(format!("{} is no contract", path.display())));
                }
                let name = path.display().to_string();
                Contract::from_toml(&name, &text)
                    .map_err(wrong)?
                    .with(given)
            }
        };
        Ok(contract)
    }
}

fn wrong(error: ContractError) -> Failure {
    Failure::wrong(error).hint("`cctl help resolve` lists the keys")
}
