//! The agent as a program of its own: small, and free of user code.

use std::io::Write as _;

fn main() -> std::process::ExitCode {
    cc_agent::role::take();
    let version = concat!("cc-agent ", env!("CARGO_PKG_VERSION"));
    let asked = std::env::args_os().nth(1);
    let mut out = std::io::stdout();
    // A closed standard output is no reason to fail.
    if asked.is_some_and(|argument| argument == "--version" || argument == "-V") {
        let _ = writeln!(out, "{version}");
        return std::process::ExitCode::SUCCESS;
    }
    let _ = writeln!(
        out,
        "{version}: runs on the nodes of a cluster, where a driver's deployment starts it.\n\
         There is nothing to do by hand: its role and settings come from whoever starts it.\n\
         To make a cluster, run a program that uses cc-driver, or `cctl deploy`."
    );
    std::process::ExitCode::from(2)
}
