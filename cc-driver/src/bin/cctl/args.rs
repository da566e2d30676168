//! What can be written on the command line. The comments are the help texts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::assumptions::Assumptions;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed
  2    wrong input
  3    nothing satisfies the assumptions
  4    ambiguous: several clusters begin with these letters, or several instance types satisfy
       a contract under --strict
  5    no such cluster
  130  interrupted (Ctrl-C, or another signal that asks to end)
  `cctl exec` ends with the command's own code, the highest of all nodes:
  128 + n after signal n, 127 if it could not be started.

Clusters are named by their handle or by the first letters of it.
Without a terminal, only answers and errors are printed.";

/// Clusters from the command line: make them, look at them, work on their nodes, give them back.
#[derive(Debug, Parser)]
#[command(name = "cctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a cluster and print its handle
    ///
    /// Its nodes have agents and no workers yet: a program that reconnects to it starts them.
    /// Agents that hear of no program for the driver_timeout end themselves; `cctl extend` keeps
    /// them for longer.
    #[command(after_help = DEPLOY_HELP)]
    Deploy {
        #[command(flatten)]
        assumptions: Assumptions,
        /// Print an object with `handle`
        #[arg(long)]
        json: bool,
    },
    /// List the instance types that satisfy assumptions, the cheapest first
    ///
    /// All providers' types are looked at, whether or not they could be deployed, and nothing is
    /// assumed that is not said. Prices are those on demand, in the cheapest region that the
    /// assumptions allow; unknown ones (?) come last. MEMORY is in GiB, NETWORK the baseline in
    /// Gbit/s.
    #[command(after_help = SELECT_HELP)]
    Select {
        #[command(flatten)]
        assumptions: Assumptions,
        /// Rows to show at most; 0 shows all
        #[arg(long, default_value_t = 30, value_name = "ROWS")]
        limit: usize,
        /// Print an array of objects (an object of arrays by role, where roles differ)
        #[arg(long)]
        json: bool,
    },
    /// Show what would be deployed for a contract, and for how much
    ///
    /// The cheapest satisfying type for each role, in one region of one provider: of those that the
    /// contract names by node_provider, node_machinetype or cluster_locale, else of those that are
    /// configured, else this machine.
    #[command(after_long_help = keys_help())]
    Resolve {
        #[command(flatten)]
        assumptions: Assumptions,
        /// Fail if more than one instance type satisfies a role
        #[arg(long)]
        strict: bool,
        /// Print an object: provider, region, zone, hourly_cost, roles, …
        #[arg(long)]
        json: bool,
    },
    /// Say why a contract gets what it gets, or which changes would give it something
    Explain {
        #[command(flatten)]
        assumptions: Assumptions,
        /// Print an object
        #[arg(long)]
        json: bool,
    },
    /// Show the hierarchies of platform types
    ///
    /// Without a name, the kinds that there are. With one (of a kind such as accelerator, or of a
    /// type such as EC2Type_T3 or Ada), what is below it. Names are compared without regard to
    /// case, dots, dashes and underscores.
    Types {
        /// A kind or a type
        name: Option<String>,
        /// Also what is below that, however much
        #[arg(long)]
        deep: bool,
        /// Print an array of trees
        #[arg(long)]
        json: bool,
    },
    /// Show what the catalog of instance types holds, from where, and how old it is
    Catalog {
        /// Print an object
        #[arg(long)]
        json: bool,
    },
    /// List all clusters
    ///
    /// States: deploying, running, degraded (some nodes do not run), ended (none does: the
    /// agents' time ran out, or the machine was restarted), interrupted, terminating, and
    /// unreadable (its record cannot be read; it is never deleted for that).
    #[command(after_help = "\
JSON: an array of objects with handle, state, recorded_state, provider, cluster_type, node_count,
nodes_running, node_process_count, created (seconds since 1970), age_seconds,
driver_timeout_seconds and error; what is not known is null.")]
    Clusters {
        /// Print an array of objects
        #[arg(long)]
        json: bool,
    },
    /// List the nodes of a cluster
    #[command(after_help = "\
JSON: an array of objects with node, state (running, stopped, gone, unreachable), address,
hostname, architecture, cores, memory_bytes, agent_version, agent_pid, uptime_seconds,
lease_left_seconds, workers (how many) and error; what is not known is null.")]
    Nodes {
        /// The cluster's handle, or its first letters
        cluster: String,
        /// Print an array of objects
        #[arg(long)]
        json: bool,
    },
    /// Show a cluster: its state, its lease, who drives it, its workers
    #[command(after_help = "\
JSON: an object with everything that `cctl clusters --json` has, and lease_left_seconds (the
shortest of all nodes), driver (null, or host, pid, program, started), program (null, or name and
hash), nodes (as in `cctl nodes --json`) and workers: an array of worker (its number, null until a
program has connected), node, slot, pid, resident_bytes, uptime_seconds.")]
    Status {
        /// The cluster's handle, or its first letters
        cluster: String,
        /// Print an object
        #[arg(long)]
        json: bool,
    },
    /// Print what the workers wrote
    ///
    /// Lines are marked with the worker's number, or the node where it has none (any more).
    #[command(after_help = "\
JSON: an object a line, with worker (or null), node, source (stdout, stderr, dropped), text, and
for `dropped` the number of lines that nobody took in time.")]
    Logs {
        /// The cluster's handle, or its first letters
        cluster: String,
        /// Go on with what they write from now on, until Ctrl-C
        #[arg(short, long)]
        follow: bool,
        /// Print an object a line
        #[arg(long)]
        json: bool,
    },
    /// Run a command on all nodes, or on some
    ///
    /// One argument is given to `sh -c`; several are a program and its arguments, passed as they
    /// are. Lines of output are marked with the node if there are several. Input that is not a
    /// terminal goes to all of them. Ctrl-C is passed on; a second one ends the command.
    #[command(after_help = EXEC_HELP)]
    Exec(Exec),
    /// Copy files and folders to nodes, or from a node
    ///
    /// One side is HANDLE:PATH (all nodes) or HANDLE/NODE:PATH (that node). A relative path on a
    /// node is inside its working directory. A target that ends in `/`, or HANDLE: alone, is a
    /// folder to copy into.
    #[command(after_help = "\
Examples:
  cctl cp data qw:              to data in the working directory of every node of qw…
  cctl cp model.bin qw/2:/tmp/  to /tmp/model.bin on node 2
  cctl cp qw/0:results .        from node 0 to ./results
  cctl cp ./a:b qw:             a local name with a colon")]
    Cp {
        /// What to copy
        #[arg(value_name = "SRC")]
        source: String,
        /// Where to
        #[arg(value_name = "DST")]
        target: String,
    },
    /// Stop clusters; their nodes' files stay
    Interrupt {
        /// The clusters' handles, or their first letters
        #[arg(required = true, value_name = "CLUSTER")]
        clusters: Vec<String>,
    },
    /// Start interrupted or ended clusters again
    ///
    /// Workers are started by the program that reconnects, or by `cctl restart`.
    Resume {
        /// The clusters' handles, or their first letters
        #[arg(required = true, value_name = "CLUSTER")]
        clusters: Vec<String>,
    },
    /// End all workers and start fresh ones with the program that was shipped last
    Restart {
        /// The cluster's handle, or its first letters
        cluster: String,
        /// End the session of the program that drives the cluster at present
        #[arg(long)]
        take_over: bool,
    },
    /// Give clusters back, whatever state they are in
    Terminate {
        /// The clusters' handles, or their first letters
        #[arg(required_unless_present = "all", value_name = "CLUSTER")]
        clusters: Vec<String>,
        /// All clusters that `cctl clusters` lists
        #[arg(long, conflicts_with = "clusters")]
        all: bool,
        /// Do not ask before terminating all
        #[arg(long, short)]
        yes: bool,
    },
    /// Keep a cluster without a driver for at least this long from now
    Extend {
        /// The cluster's handle, or its first letters
        cluster: String,
        /// Such as 2h, 90m or 1day
        #[arg(value_parser = humantime::parse_duration)]
        time: Duration,
    },
    /// Show every setting and where it comes from
    ///
    /// What a contract or `cctl deploy` does not say is looked up in CCconfig.toml: in the section of
    /// the provider, ec2 or local, then in that of defaults. The file is the one that
    /// CLOUD_CLUSTERS_CONFIG names, or it lies in the current directory, or in
    /// ~/.config/cloudclusters.
    #[command(after_help = "\
Environment: CLOUD_CLUSTERS_CONFIG names the configuration file, CC_STATE_DIR says where clusters
are written down, CC_AGENT names the agent's executable, AWS_REGION and AWS_DEFAULT_REGION give the
region of ec2 if nothing else does, RUST_LOG says what to log on standard error, NO_COLOR turns
colours off.

JSON: an array of objects with setting, value (or null) and source.")]
    Config {
        /// Whose settings
        #[arg(long, value_enum, default_value_t = ConfigOf::Local)]
        provider: ConfigOf,
        /// Print an array of objects
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    #[command(after_help = "\
For bash: cctl completions bash > ~/.local/share/bash-completion/completions/cctl
For zsh:  cctl completions zsh > a folder in $fpath/_cctl
For fish: cctl completions fish > ~/.config/fish/completions/cctl.fish")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

const DEPLOY_HELP: &str = "\
`cctl help resolve` lists the keys, and `cctl resolve` shows what would be deployed. Nodes are agents
on this machine unless a contract or the configuration names a provider.

Ctrl-C takes back what was begun; a second one leaves it for `cctl terminate`.

Example: h=$(cctl deploy node_count=4 node_process_count=2)";

const SELECT_HELP: &str = "\
Examples:
  cctl select 'accelerator_count>=4' accelerator_architecture=Ada 'node_memory_size>=256G'
  cctl select cluster_locale=eu-north-1 node_vcpus_count=8..16 'processor_microarchitecture>=Zen3'
  cctl select node_machinetype=t3
`cctl help resolve` lists the keys.";

/// Every key of a contract.
fn keys_help() -> String {
    use cc_core::contract::Parameter;
    use cc_core::settings;
    let mut text = "\
Keys of the cluster:
  cluster_type                PeerWorkers (the default), PeerWorkersMPI, ManagerWorkers
  node_count                  nodes (1); the manager of a ManagerWorkers cluster comes on top
  node_process_count          workers on each node (1)

Keys of instances, which `manager.` or `worker.` in front restricts to that role:
"
    .to_owned();
    let line = |name: &str, about: &str| format!("  {name:<27} {about}\n");
    text.extend(Parameter::all().map(|parameter| line(parameter.name(), parameter.about())));
    text.push_str("\nSettings, which CCconfig.toml can give as well (`cctl config`):\n");
    text.extend(
        settings::KEYS
            .iter()
            .map(|key| line(key.name, key.about.trim_end_matches('.'))),
    );
    text.push_str(
        "\nNumbers: 4, >=4, <=4, 4..8, with K M G T P. Names of platform types: the type or what is\n\
         below it, and >= for a generation or a newer one: `cctl types` lists them.\n",
    );
    text
}

const EXEC_HELP: &str = "\
Examples:
  cctl exec qw uptime                on every node of qw…
  cctl exec qw --node 0,2-4 -- df -h  on nodes 0, 2, 3 and 4
  cctl exec qw 'ls *.csv | wc -l'    through a shell
  cctl exec qw --node 0 bash         with a terminal";

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The cluster's handle, or its first letters
    pub(crate) cluster: String,
    /// Nodes: numbers and ranges such as 0,2-4; all if not given
    #[arg(long = "node", short = 'n', value_name = "NODES", value_parser = ranges)]
    pub(crate) nodes: Vec<Ranges>,
    /// Give the command a terminal (one node only; the default if input and output are one)
    #[arg(long, short = 't', conflicts_with = "no_tty")]
    pub(crate) tty: bool,
    /// Give the command no terminal
    #[arg(long, short = 'T')]
    pub(crate) no_tty: bool,
    /// Give the command no input
    #[arg(long)]
    pub(crate) no_input: bool,
    /// Its working directory on the nodes
    #[arg(long, short = 'C', value_name = "PATH")]
    pub(crate) directory: Option<String>,
    /// An environment variable of the command
    #[arg(long, short = 'e', value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// The command, and its arguments
    #[arg(required = true, trailing_var_arg = true)]
    pub(crate) command: Vec<String>,
}

/// Node numbers, as first and last of each range.
#[derive(Debug, Clone)]
pub(crate) struct Ranges(pub(crate) Vec<(u32, u32)>);

fn ranges(text: &str) -> Result<Ranges, String> {
    let number = |text: &str| {
        text.trim()
            .parse::<u32>()
            .map_err(|e| format!("`{text}`: {e}"))
    };
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("{first}-{last} is empty: write {last}-{first}"));
            }
            Ok((first, last))
        }
        None => number(part).map(|n| (n, n)),
    };
    text.split(',')
        .map(range)
        .collect::<Result<_, _>>()
        .map(Ranges)
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// A provider that the configuration file has a section for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConfigOf {
    /// Amazon EC2
    Ec2,
    /// Nodes on this machine
    Local,
}

impl ConfigOf {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Local => "local",
        }
    }
}

impl Command {
    /// What to tell whoever interrupts the command, if there is anything to say.
    pub(crate) fn when_interrupted(&self) -> Option<&'static str> {
        match self {
            Self::Interrupt { .. } | Self::Resume { .. } | Self::Terminate { .. } => {
                Some("some nodes may be done and others not: repeat the command")
            }
            Self::Restart { .. } => Some("some workers may be missing: repeat the command"),
            Self::Cp { .. } => Some("some nodes may have the files already: repeat the command"),
            _ => None,
        }
    }
}

/// A place that `cp` copies from or to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Side {
    Local(PathBuf),
    Remote {
        cluster: String,
        node: Option<u32>,
        path: String,
    },
}

impl Side {
    /// `letters:path` and `letters/number:path` are remote, everything else is local.
    pub(crate) fn parse(text: &str) -> Self {
        let remote = || {
            let (place, path) = text.split_once(':')?;
            let (cluster, node) = match place.split_once('/') {
                Some((cluster, node)) => (cluster, Some(node.parse().ok()?)),
                None => (place, None),
            };
            let letters = !cluster.is_empty() && cluster.bytes().all(|b| b.is_ascii_lowercase());
            letters.then(|| Self::Remote {
                cluster: cluster.to_owned(),
                node,
                path: path.to_owned(),
            })
        };
        remote().unwrap_or_else(|| Self::Local(PathBuf::from(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sides_of_a_copy() {
        let remote = |cluster: &str, node, path: &str| Side::Remote {
            cluster: cluster.into(),
            node,
            path: path.into(),
        };
        assert_eq!(Side::parse("abc:"), remote("abc", None, ""));
        assert_eq!(
            Side::parse("abc/12:/tmp/a:b"),
            remote("abc", Some(12), "/tmp/a:b")
        );
        for local in ["./abc:x", "/abc:x", "abc", "A:x", "abc/x:y", ":x", "a1:x"] {
            assert_eq!(Side::parse(local), Side::Local(local.into()));
        }
    }

    #[test]
    fn ranges_of_nodes() {
        assert_eq!(ranges("0,2-4").unwrap().0, [(0, 0), (2, 4)]);
        for wrong in ["", "a", "3-1", "1,,2", "-1"] {
            assert!(ranges(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let parse = |line: &str| match Arguments::parse_from(line.split(' ')).command {
            Command::Exec(exec) => exec,
            other => panic!("{other:?}"),
        };
        let exec = parse("cctl exec abc --node 1 ls -l --node 7");
        assert_eq!(exec.nodes.len(), 1);
        assert_eq!(exec.command, ["ls", "-l", "--node", "7"]);
        assert_eq!(parse("cctl exec -n 1 abc -- ls -l").command, ["ls", "-l"]);
    }
}
