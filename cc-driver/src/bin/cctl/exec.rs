//! Commands on nodes.

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};

use cc_agent::client::{ExecInput, ExecOutput};
use cc_core::death::{Cause, signal_name};
use cc_driver::{Driver, ExecFrame, NodeIndex, Tools};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::args::Exec;
use crate::copy::check;
use crate::failure::Failure;
use crate::output::{waiting, warn};
use crate::stop::Stop;
use crate::terminal::{self, Raw};

/// The exit code of a command that could not be started, as shells have it.
const NOT_STARTED: u8 = 127;
const SIGINT: i32 = 2;
/// Frames that wait for a command that does not read its input.
const QUEUE: usize = 4;
/// The longest part of a line that waits for its end.
const LINE: usize = 64 * 1024;

pub(crate) async fn run(driver: &Driver, exec: &Exec, stop: &mut Stop) -> Result<u8, Failure> {
    let running = start(driver, exec);
    let (mut running, raw) = tokio::select! {
        running = running => running?,
        () = stop.any() => return Err(Failure::interrupted(None)),
    };
    // What the commands are sent besides input; they end by themselves.
    let mut interrupted = false;
    let mut worst = running.worst;
    loop {
        tokio::select! {
            ended = running.commands.join_next() => match ended {
                Some(Ok(Ok(Ok(code)))) => worst = worst.max(code),
                // It is the only one, and said when the terminal is itself again.
                Some(Ok(Ok(Err(failure)))) if raw.is_some() => return Err(failure),
                Some(Ok(Ok(Err(failure)))) => worst = worst.max(failure.report()),
                // Whoever reads our output has read enough.
                Some(Ok(Err(error))) => return Err(error.into()),
                Some(Err(error)) => return Err(Failure::failed(error)),
                None => return Ok(worst),
            },
            // Its command ends with it, and says so.
            Some((node, reason)) = running.tools.next_loss() => {
                let lost = Failure::failed(format!("{node} is lost: {reason}"));
                if raw.is_some() {
                    return Err(lost);
                }
                lost.report();
            }
            interrupt = stop.is_interrupt() => {
                if interrupted || !interrupt {
                    return Err(Failure::interrupted(None));
                }
                interrupted = true;
                for input in &running.inputs {
                    // One that cannot take it ends with the second.
                    let _ = input.try_send(ExecFrame::Signal(SIGINT));
                }
            }
        }
    }
}

struct Running {
    commands: JoinSet<io::Result<Result<u8, Failure>>>,
    inputs: Vec<mpsc::Sender<ExecFrame>>,
    /// The highest exit code of those that did not get as far.
    worst: u8,
    /// Their sessions end with it.
    tools: Tools,
}

async fn start(driver: &Driver, exec: &Exec) -> Result<(Running, Option<Raw>), Failure> {
    let handle = driver.find(&exec.cluster)?;
    let mut tools = waiting(format!("connecting to {handle}"), driver.tools(handle)).await?;
    let mut worst = 0;
    let named: Vec<_> = exec.nodes.iter().flat_map(|ranges| &ranges.0).collect();
    for &&(_, last) in &named {
        check(&tools, last)?;
    }
    if named.is_empty() {
        for (_, error) in tools.unreachable() {
            worst = Failure::failed(error).report();
        }
    } else {
        let nodes: Vec<_> = named
            .iter()
            .flat_map(|&&(first, last)| (first..=last).map(NodeIndex))
            .collect();
        tools
            .only(&nodes)
            .map_err(|e| Failure::from(e).hint(format!("`cctl nodes {handle}` says more")))?;
    }
    let nodes = tools.nodes();
    let single = match nodes[..] {
        [] => {
            return Err(Failure::failed(format!("no node of {handle} answers"))
                .hint(format!("`cctl status {handle}` says more")));
        }
        // Marked as long as there may be others.
        [_] => named.len() == 1 || tools.record().nodes.len() == 1,
        _ => false,
    };
    if exec.tty && nodes.len() > 1 {
        return Err(Failure::wrong(
            "a terminal is for one node: name it with --node",
        ));
    }
    let tty = exec.tty || (nodes.len() == 1 && terminal::interactive() && !exec.no_tty);
    let order = order(exec, tty);
    let output = Arc::new(Output {
        marked: !single && !tty,
        partial: Mutex::default(),
    });

    let mut commands = JoinSet::new();
    let mut inputs = Vec::new();
    for node in nodes {
        match tools.exec(node, order.clone()).await {
            Ok(session) => {
                let (input, from) = session.split();
                let (sender, frames) = mpsc::channel(QUEUE);
                inputs.push(sender);
                tokio::spawn(feed(input, frames));
                commands.spawn(Arc::clone(&output).follow(node, from));
            }
            Err(error) => worst = worst.max(Failure::from(error).report()),
        }
    }
    let raw = if tty {
        Raw::enter().map_err(|e| Failure::failed(format!("set the terminal up: {e}")))?
    } else {
        None
    };
    // A user's terminal is not for several commands to read from.
    let reads = !exec.no_input && (tty || inputs.len() == 1 || !io::stdin().is_terminal());
    give_input(reads, &inputs)?;
    if raw.is_some() {
        follow_size(inputs.clone())?;
    }
    let running = Running {
        commands,
        inputs,
        worst,
        tools,
    };
    Ok((running, raw))
}

/// The order that every node gets.
fn order(exec: &Exec, tty: bool) -> cc_driver::Exec {
    let argv = match &exec.command[..] {
        [line] => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
        command => command.to_vec(),
    };
    let mut env = exec.env.clone();
    if let (true, Ok(term)) = (tty, std::env::var("TERM")) {
        env.insert(0, ("TERM".to_owned(), term));
    }
    cc_driver::Exec {
        argv,
        env,
        directory: exec.directory.clone(),
        terminal: tty.then(terminal::size),
    }
}

/// Passes frames on to a command until it takes no more.
async fn feed(mut input: ExecInput, mut frames: mpsc::Receiver<ExecFrame>) {
    while let Some(frame) = frames.recv().await {
        if input.send(frame).await.is_err() {
            return;
        }
    }
    // Dropping it would tell the command that its input has ended, which is then true.
}

/// Passes standard input on to all commands.
fn give_input(reads: bool, inputs: &[mpsc::Sender<ExecFrame>]) -> Result<(), Failure> {
    let mut inputs = inputs.to_vec();
    let pieces = if reads {
        let read = crate::stdin::read();
        Some(read.map_err(|e| Failure::failed(format!("read standard input: {e}")))?)
    } else {
        None
    };
    tokio::spawn(async move {
        if let Some(mut pieces) = pieces {
            while let Some(piece) = pieces.recv().await {
                let mut living = Vec::new();
                for input in inputs {
                    // All go at the pace of the slowest; one that has ended takes nothing.
                    if input.send(ExecFrame::Input(piece.to_vec())).await.is_ok() {
                        living.push(input);
                    }
                }
                inputs = living;
            }
        }
        for input in inputs {
            let _ = input.send(ExecFrame::Input(Vec::new())).await;
        }
    });
    Ok(())
}

/// Tells the command's terminal when the user's changes its size.
fn follow_size(inputs: Vec<mpsc::Sender<ExecFrame>>) -> Result<(), Failure> {
    let mut changes = signal(SignalKind::window_change())
        .map_err(|e| Failure::failed(format!("listen for signals: {e}")))?;
    tokio::spawn(async move {
        while changes.recv().await.is_some() {
            let (columns, rows) = terminal::size();
            for input in &inputs {
                let _ = input.send(ExecFrame::Resize(columns, rows)).await;
            }
        }
    });
    Ok(())
}

/// Where the commands' output goes.
struct Output {
    /// Line by line, with the node in front.
    marked: bool,
    /// Beginnings of lines, held while nobody else writes.
    partial: Mutex<()>,
}

impl Output {
    /// Prints what a command writes until its end, and gives its exit code. Fails when nobody
    /// reads.
    async fn follow(
        self: Arc<Self>,
        node: NodeIndex,
        mut from: ExecOutput,
    ) -> io::Result<Result<u8, Failure>> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = loop {
            match from.next().await {
                Ok(Some(ExecFrame::Output(bytes))) => {
                    self.print(node, &mut out, &bytes, &mut io::stdout())?;
                }
                Ok(Some(ExecFrame::Error(bytes))) => {
                    self.print(node, &mut err, &bytes, &mut io::stderr())?;
                }
                Ok(Some(ExecFrame::Ended(cause))) => break Ok(self.ended(node, &cause)),
                Ok(Some(ExecFrame::Failed(why))) => {
                    break Err(Failure::failed(format!("{node}: {why}")).code(NOT_STARTED));
                }
                Ok(Some(_)) => {}
                Ok(None) => break Err(Failure::failed(format!("{node}: no end is known"))),
                Err(error) => {
                    break Err(Failure::failed(format!("{node}: {error}"))
                        .hint("`cctl nodes` shows which nodes still run"));
                }
            }
        };
        if !out.is_empty() {
            self.print(node, &mut out, b"\n", &mut io::stdout())?;
        }
        if !err.is_empty() {
            self.print(node, &mut err, b"\n", &mut io::stderr())?;
        }
        Ok(code)
    }

    fn print(
        &self,
        node: NodeIndex,
        partial: &mut Vec<u8>,
        bytes: &[u8],
        to: &mut impl io::Write,
    ) -> io::Result<()> {
        let _one_at_a_time = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.marked {
            to.write_all(bytes)?;
            return to.flush();
        }
        to.write_all(&marked(node, partial, bytes))?;
        to.flush()
    }

    fn ended(&self, node: NodeIndex, cause: &Cause) -> u8 {
        let (code, what) = match cause {
            Cause::Exited(0) => return 0,
            Cause::Exited(status) => {
                // The low byte is all there is of it.
                let code = (status & 0xff) as u8;
                (code, format!("exited with status {status}"))
            }
            Cause::Signalled(number) => {
                let code = 128u8.saturating_add((number & 0x7f) as u8);
                (
                    code,
                    format!("killed by signal {number} ({})", signal_name(*number)),
                )
            }
            Cause::NotStarted(why) | Cause::Stopped(why) | Cause::NodeLost(why) => (1, why.clone()),
        };
        if self.marked {
            warn(format!("[{node}] {what}"));
        }
        code
    }
}

/// Takes the complete lines, each with its mark; the rest waits in `partial`.
fn marked(node: NodeIndex, partial: &mut Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        partial.extend_from_slice(piece);
        let complete = piece.ends_with(b"\n");
        if complete || partial.len() >= LINE {
            lines.extend_from_slice(format!("[{node}] ").as_bytes());
            lines.append(partial);
            if !complete {
                lines.push(b'\n');
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_marked_when_they_are_complete() {
        let mut partial = Vec::new();
        let node = NodeIndex(3);
        assert_eq!(marked(node, &mut partial, b"a\nb"), b"[node 3] a\n");
        assert_eq!(marked(node, &mut partial, b""), b"");
        assert_eq!(
            marked(node, &mut partial, b"c\n\n"),
            b"[node 3] bc\n[node 3] \n"
        );
        assert!(partial.is_empty());
    }
}
