//! A driver in a process of its own: does what it is told on standard input, a command a line,
//! and answers each with a JSON line. It is its own agent and worker.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cc_driver::Resolve as _;
use cc_driver::{Cluster, Contract, Driver};
use cc_tests::functions::{chatter, count, pid};
use cc_tests::lifecycle_functions::mark_and_sleep;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;

fn main() -> anyhow::Result<()> {
    // A program whose author has forgotten it.
    if std::env::var_os("CC_TEST_NO_INIT").is_none() {
        cc_driver::init();
    }
    let state = std::env::args()
        .nth(1)
        .context("the state directory is missing")?;
    tokio::runtime::Runtime::new()?.block_on(serve(&state))
}

async fn serve(state: &str) -> anyhow::Result<()> {
    let built = Driver::builder()
        .state_directory(state)
        // Not one that was built some time ago and lies beside this program.
        .agent("/proc/self/exe")
        .on_log(|_| ())
        .build();
    let driver = match built {
        Ok(driver) => driver,
        Err(error) => return answer(Err(error.into())),
    };
    answer(Ok(json!("ready")))?;
    let mut process = Process {
        driver,
        cluster: None,
        calls: JoinSet::new(),
    };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split(' ').collect();
        answer(process.obey(&words).await)?;
    }
    Ok(())
}

fn answer(result: anyhow::Result<Value>) -> anyhow::Result<()> {
    let line = match result {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": format!("{error:#}") }),
    };
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

struct Process {
    driver: Driver,
    cluster: Option<Cluster>,
    calls: JoinSet<String>,
}

impl Process {
    fn cluster(&self) -> anyhow::Result<&Cluster> {
        self.cluster.as_ref().context("there is no cluster yet")
    }

    fn adopt(&mut self, cluster: Cluster) -> Value {
        let ids: Vec<u32> = cluster.workers().iter().map(|w| w.id().0).collect();
        let answer = json!({ "handle": cluster.handle().as_str(), "ids": ids });
        self.cluster = Some(cluster);
        answer
    }

    async fn obey(&mut self, words: &[&str]) -> anyhow::Result<Value> {
        Ok(match *words {
            ["deploy", nodes, workers, timeout] => {
                let contract = Contract::new()
                    .node_count(nodes.parse()?)
                    .node_process_count(workers.parse()?)
                    .worker_slots(1)
                    .driver_timeout(Duration::from_secs(timeout.parse()?));
                let cluster = self.driver.deploy(&contract.resolve()?).await?;
                self.adopt(cluster)
            }
            ["reconnect", handle] => {
                let cluster = self.driver.reconnect(handle.parse()?).await?;
                self.adopt(cluster)
            }
            ["pids"] => json!(self.cluster()?.everywhere(pid::task()).await?),
            ["count"] => json!(self.cluster()?.everywhere(count::task()).await?),
            ["chatter", lines] => {
                let lines = lines.parse()?;
                json!(self.cluster()?.everywhere(chatter::task(lines)).await?)
            }
            // Calls that nobody waits for yet.
            ["start", calls, millis, path] => {
                let millis = millis.parse()?;
                for _ in 0..calls.parse()? {
                    let call = self
                        .cluster()?
                        .call(mark_and_sleep::task(path.into(), millis));
                    self.calls
                        .spawn(async move { format!("{:?}", call.await.map_err(text)) });
                }
                json!(calls)
            }
            ["outcomes"] => {
                let mut outcomes = Vec::new();
                while let Some(outcome) = self.calls.join_next().await {
                    outcomes.push(outcome?);
                }
                json!(outcomes)
            }
            ["restart"] => {
                self.cluster()?.restart().await?;
                json!("restarted")
            }
            ["terminate"] => {
                let cluster = self.cluster.take().context("there is no cluster yet")?;
                cluster.terminate().await?;
                json!("terminated")
            }
            _ => bail!("no such command: {}", words.join(" ")),
        })
    }
}

fn text(error: cc_driver::CallError) -> String {
    error.to_string()
}
