//! What workers print, brought to the driver's own output.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

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

/// What a program does with the lines instead of having them printed.
pub(crate) struct Handler(pub(crate) Box<dyn Fn(WorkerLine) + Send>);

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handler")
    }
}

/// Batches of lines that wait to be printed. An agent sends a batch a few milliseconds apart at
/// most, so this is some seconds of a terminal that stands still; what comes then is
/// dropped and counted.
const WAITING: usize = 256;

/// Takes the lines to the thread that prints them: neither a terminal that stands still nor the
/// program's own code may hold up the network thread.
#[derive(Debug)]
pub(crate) struct LogSink {
    queue: SyncSender<Message>,
    dropped: AtomicU64,
}

enum Message {
    Lines(Vec<WorkerLine>),
    /// Answered when everything before it is out.
    Flush(tokio::sync::oneshot::Sender<()>),
}

impl LogSink {
    /// Starts the thread. It ends when the sink is dropped.
    pub(crate) fn start(handler: Option<Handler>) -> std::io::Result<Self> {
        let (queue, messages) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("cc-log".into())
            .spawn(move || {
                for message in messages {
                    match message {
                        Message::Lines(lines) => {
                            lines
                                .into_iter()
                                .for_each(|line| take(handler.as_ref(), line));
                        }
                        Message::Flush(done) => {
                            // Who asked may have stopped waiting.
                            let _ = done.send(());
                        }
                    }
                }
            })?;
        Ok(Self {
            queue,
            dropped: AtomicU64::new(0),
        })
    }

    pub(crate) fn write(
        &self,
        node: NodeIndex,
        lines: Vec<LogLine>,
        id: impl Fn(&LogLine) -> Option<WorkerId>,
    ) {
        let count = lines.len() as u64;
        let mut batch = Vec::with_capacity(lines.len() + 1);
        let missed = self.dropped.swap(0, Ordering::Relaxed);
        if missed > 0 {
            let source = LogSource::Dropped(missed);
            batch.push(WorkerLine {
                worker: None,
                node,
                source,
                text: String::new(),
            });
        }
        batch.extend(lines.into_iter().map(|line| WorkerLine {
            worker: id(&line),
            node,
            source: line.source,
            text: line.text,
        }));
        if self.queue.try_send(Message::Lines(batch)).is_err() {
            self.dropped.fetch_add(missed + count, Ordering::Relaxed);
        }
    }

    /// Waits until what was written is out, for a short while at most.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = tokio::sync::oneshot::channel();
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = tokio::time::timeout(Duration::from_millis(500), flushed).await;
        }
    }
}

fn take(handler: Option<&Handler>, line: WorkerLine) {
    match handler {
        // A handler that panics has said so on standard error; the next line is another matter.
        Some(handler) => drop(catch_unwind(AssertUnwindSafe(|| (handler.0)(line)))),
        None => print(&line),
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
