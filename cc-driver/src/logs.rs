//! What workers print, brought to the driver's own output.

use std::io::Write as _;
use std::sync::Arc;

use cc_core::ids::{NodeIndex, WorkerId};
use cc_core::wire::control::{LogLine, LogSource};

/// A line that a worker wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerLine {
    /// The worker's id in this driver, if it has one.
    pub worker: Option<WorkerId>,
    /// The node it runs on.
    pub node: NodeIndex,
    /// Where it wrote, or how many lines were dropped.
    pub source: LogSource,
    /// The line without its end.
    pub text: String,
}

/// What is done with the lines.
#[derive(Clone)]
pub(crate) enum LogSink {
    /// Printed, marked with the worker's id.
    Print,
    /// Given to the program.
    Call(Arc<dyn Fn(WorkerLine) + Send + Sync>),
}

impl std::fmt::Debug for LogSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Print => "Print",
            Self::Call(_) => "Call",
        })
    }
}

impl LogSink {
    pub(crate) fn write(
        &self,
        node: NodeIndex,
        lines: Vec<LogLine>,
        id: impl Fn(&LogLine) -> Option<WorkerId>,
    ) {
        let lines = lines.into_iter().map(|line| WorkerLine {
            worker: id(&line),
            node,
            source: line.source,
            text: line.text,
        });
        match self {
            Self::Call(call) => lines.for_each(|line| call(line)),
            Self::Print => lines.for_each(|line| print(&line)),
        }
    }
}

/// The line as it is printed, without its end.
pub(crate) fn marked(line: &WorkerLine) -> String {
    let who = match line.worker {
        Some(id) => format!("worker {id}"),
        None => line.node.to_string(),
    };
    match line.source {
        LogSource::Stdout | LogSource::Stderr => format!("[{who}] {}", line.text),
        LogSource::Dropped(count) => format!("[{who}] ({count} lines dropped)"),
    }
}

fn print(line: &WorkerLine) {
    let text = marked(line) + "\n";
    // A driver whose output is closed has nobody to tell.
    let _ = match line.source {
        LogSource::Stdout => std::io::stdout().lock().write_all(text.as_bytes()),
        LogSource::Stderr | LogSource::Dropped(_) => {
            std::io::stderr().lock().write_all(text.as_bytes())
        }
    };
}
