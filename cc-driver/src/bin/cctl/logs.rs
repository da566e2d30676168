//! What workers wrote, and write.

use std::time::Duration;

use cc_driver::{Driver, LogSource, WorkerLine};
use serde_json::json;

use crate::failure::Failure;
use crate::output::{self, note, waiting, warn};

/// What is remembered comes without a pause; after this long, that was all.
const PAUSE: Duration = Duration::from_millis(300);

pub(crate) async fn run(
    driver: &Driver,
    cluster: &str,
    follow: bool,
    json: bool,
) -> Result<(), Failure> {
    let handle = driver.find(cluster)?;
    let mut tools = waiting(format!("connecting to {handle}"), driver.tools(handle)).await?;
    for (_, error) in tools.unreachable() {
        warn(format!("warning: {error}"));
    }
    if tools.nodes().is_empty() {
        return Err(Failure::failed(format!("no node of {handle} answers"))
            .hint(format!("`cctl status {handle}` says why")));
    }
    tools.follow_logs(true).await?;
    let mut any = false;
    loop {
        let lines = if follow {
            tools.next_lines().await
        } else {
            match tokio::time::timeout(PAUSE, tools.next_lines()).await {
                Ok(lines) => lines,
                Err(_) => break,
            }
        };
        let Some(lines) = lines else {
            if follow {
                return Err(Failure::failed(format!(
                    "no node of {handle} answers any more"
                )));
            }
            break;
        };
        any = any || !lines.is_empty();
        let rendered: String = lines.iter().map(|line| render(line, json)).collect();
        output::text(&rendered)?;
    }
    if !any {
        note("no worker has written anything");
    }
    Ok(())
}

fn render(line: &WorkerLine, json: bool) -> String {
    let (source, dropped) = match line.source {
        LogSource::Stdout => ("stdout", None),
        LogSource::Stderr => ("stderr", None),
        LogSource::Dropped(count) => ("dropped", Some(count)),
    };
    if json {
        let mut object = json!({
            "worker": line.worker,
            "node": line.node,
            "source": source,
            "text": line.text,
        });
        if let Some(count) = dropped {
            object["dropped"] = count.into();
        }
        return format!("{object}\n");
    }
    let who = match line.worker {
        Some(worker) => format!("worker {worker}"),
        None => line.node.to_string(),
    };
    match dropped {
        None => format!("[{who}] {}\n", line.text),
        Some(count) => format!("[{who}] ({count} lines dropped)\n"),
    }
}
