//! Answers on standard output, news for people on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::failure::Failure;

/// What takes longer than this is worth a sign of life.
const PATIENCE: Duration = Duration::from_millis(500);

/// Prints text as it is.
pub(crate) fn text(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Prints JSON for programs.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut rendered = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::failed(format!("encode the answer: {e}")))?;
    rendered.push('\n');
    Ok(text(&rendered)?)
}

/// Prints news for people: nothing without a terminal.
pub(crate) fn note(message: impl Display) {
    if io::stderr().is_terminal() {
        warn(message);
    }
}

/// Prints what has to be known in any case.
pub(crate) fn warn(message: impl Display) {
    // Nobody is left to tell if that does not work.
    let _ = writeln!(io::stderr(), "{message}");
}

/// Prints a table. Columns whose name begins with `>` are aligned to the right. It fits the
/// terminal; without one, every row is one line.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> io::Result<()> {
    render(&header, rows.into_iter().map(Vec::from).collect())
}

/// A column of a table that may have to do without some.
pub(crate) struct Column {
    /// As in [`table`].
    pub(crate) name: &'static str,
    pub(crate) cells: Vec<String>,
    /// It is left out where the terminal is too narrow for all: the highest first, 0 never.
    pub(crate) dispensable: u8,
}

impl Column {
    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|cell| cell.chars().count());
        let name = self.name.trim_start_matches('>').chars().count();
        cells.max().unwrap_or_default().max(name) + 2
    }
}

/// Prints a table as [`table`] does, of the columns for which the terminal is wide enough.
pub(crate) fn columns(mut columns: Vec<Column>) -> io::Result<()> {
    if io::stdout().is_terminal() {
        fit(&mut columns, usize::from(crate::terminal::size().0));
    }
    let header: Vec<_> = columns.iter().map(|column| column.name).collect();
    let count = columns.first().map_or(0, |column| column.cells.len());
    let mut cells: Vec<_> = columns.into_iter().map(|c| c.cells.into_iter()).collect();
    let row = |_| cells.iter_mut().filter_map(Iterator::next).collect();
    let rows = (0..count).map(row).collect();
    render(&header, rows)
}

/// Leaves columns out until the rest is no wider than this, or nothing dispensable is left.
fn fit(columns: &mut Vec<Column>, width: usize) {
    // The first column has no space before it.
    while columns.iter().map(Column::width).sum::<usize>() > width + 2 {
        match columns.iter().map(|column| column.dispensable).max() {
            Some(least) if least > 0 => columns.retain(|c| c.dispensable != least),
            _ => break,
        }
    }
}

fn render(header: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(crate::terminal::size().0.max(40));
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(header.iter().map(|name| name.trim_start_matches('>')));
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        let left = if index == 0 { 0 } else { 2 };
        column.set_padding((left, 0));
        if header[index].starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    text(&format!("{}\n", table.trim_fmt()))
}

/// Waits for something; on a terminal, says for what if that takes a while.
pub(crate) async fn waiting<T>(what: impl Into<String>, future: impl Future<Output = T>) -> T {
    tokio::pin!(future);
    tokio::select! {
        biased;
        result = &mut future => return result,
        () = tokio::time::sleep(PATIENCE) => {}
    }
    // Draws nothing without a terminal.
    let spinner = ProgressBar::new_spinner().with_message(what.into());
    spinner.enable_steady_tick(Duration::from_millis(100));
    let result = future.await;
    spinner.finish_and_clear();
    result
}

/// A duration in its two largest units, such as `2h 5m`.
pub(crate) fn duration(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = UNITS.iter().position(|(size, _)| seconds >= *size) else {
        return "0s".to_owned();
    };
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, name) in UNITS[first..].iter().take(2) {
        match rest / size {
            0 => {}
            count => parts.push(format!("{count}{name}")),
        }
        rest %= size;
    }
    parts.join(" ")
}

/// Bytes in a unit that keeps the number short, such as `1.5 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count)
        .to_string()
        .replace(".00 ", " ")
}

/// `1 node`, `2 nodes`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m 1s"),
            (3_601, "1h"),
            (7_500, "2h 5m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn a_narrow_terminal_gets_fewer_columns() {
        let table = |width| {
            let column = |name, cell: &str, dispensable| Column {
                name,
                cells: vec![cell.to_owned()],
                dispensable,
            };
            let mut columns = vec![
                column("TYPE", "g6.24xlarge", 0),
                column(">PRICE", "6.6752", 1),
                column("NETWORK", "50G", 2),
            ];
            fit(&mut columns, width);
            columns.iter().map(|c| c.name).collect::<Vec<_>>()
        };
        // 11, and 2 and 6, and 2 and 7.
        assert_eq!(table(28), ["TYPE", ">PRICE", "NETWORK"]);
        assert_eq!(table(27), ["TYPE", ">PRICE"]);
        assert_eq!(table(18), ["TYPE"]);
        assert_eq!(table(5), ["TYPE"]);
    }
}
