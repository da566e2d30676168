//! What workers write, line by line: a ring per worker that remembers the latest, with a
//! place in it for whoever follows. No I/O here, and nothing ever waits for a slow follower:
//! it misses lines and is told how many.

use std::collections::{BTreeMap, HashMap, VecDeque};

use cc_core::ids::WorkerKey;
use cc_core::limits;
use cc_core::wire::control::{LogLine, LogSource};

use super::evidence::tells_of_failed_allocation;

/// What a line costs besides its text.
const LINE_COST: usize = 40;

/// The rings of a node's workers.
#[derive(Debug, Default)]
pub(super) struct Logs {
    rings: BTreeMap<WorkerKey, Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<(LogSource, Box<str>)>,
    cost: usize,
    /// Lines that were there once and are no more: the first line's number.
    dropped: u64,
}

/// Which lines a follower has seen: for each worker the number of the next one. A worker
/// that is not in it has begun later and is followed from its beginning.
#[derive(Debug, Default)]
pub(super) struct Places {
    next: HashMap<WorkerKey, u64>,
}

impl Logs {
    /// Begins a worker's ring. Of its slot's earlier workers only the last one's is kept: who
    /// asks what a worker wrote often does so after its end.
    pub(super) fn open(&mut self, worker: WorkerKey) {
        let slot = |incarnation| WorkerKey {
            slot: worker.slot,
            incarnation,
        };
        let earlier: Vec<_> = self
            .rings
            .range(slot(0)..worker)
            .map(|(key, _)| *key)
            .collect();
        if let Some((_, forgotten)) = earlier.split_last() {
            for key in forgotten {
                self.rings.remove(key);
            }
        }
        self.rings.entry(worker).or_default();
    }

    /// Adds lines.
    pub(super) fn push(
        &mut self,
        worker: WorkerKey,
        source: LogSource,
        lines: impl IntoIterator<Item = String>,
    ) {
        let Some(ring) = self.rings.get_mut(&worker) else {
            return;
        };
        for line in lines {
            ring.cost += line.len() + LINE_COST;
            ring.lines.push_back((source, line.into_boxed_str()));
            while ring.cost > limits::LOG_RING
                && let Some((_, oldest)) = ring.lines.pop_front()
            {
                ring.cost -= oldest.len() + LINE_COST;
                ring.dropped += 1;
            }
        }
    }

    /// The places of a follower for whom everything so far is old.
    pub(super) fn now(&self) -> Places {
        let next = self
            .rings
            .iter()
            .map(|(worker, ring)| (*worker, ring.dropped + ring.lines.len() as u64));
        Places {
            next: next.collect(),
        }
    }

    /// The next lines of every worker for a follower, at most about [`limits::LOG_BATCH`]
    /// bytes; empty if there is nothing new.
    pub(super) fn take(&self, places: &mut Places) -> Vec<LogLine> {
        places.next.retain(|key, _| self.rings.contains_key(key));
        let mut lines = Vec::new();
        // A fair share each, so that one that writes much does not hide the others.
        let active = self.rings.iter().filter(|(key, ring)| {
            let next = places.next.get(key).copied().unwrap_or(0);
            next < ring.dropped + ring.lines.len() as u64
        });
        let active: Vec<_> = active.collect();
        let share = limits::LOG_BATCH / active.len().max(1);
        let mut left = limits::LOG_BATCH;
        for (key, ring) in active {
            let place = places.next.entry(*key).or_default();
            left = left.saturating_sub(ring.take(*key, place, share, &mut lines));
            if left == 0 {
                break;
            }
        }
        lines
    }

    /// The next lines of one worker for a follower.
    pub(super) fn take_of(&self, worker: WorkerKey, places: &mut Places) -> Vec<LogLine> {
        let mut lines = Vec::new();
        if let Some(ring) = self.rings.get(&worker) {
            let place = places.next.entry(worker).or_default();
            ring.take(worker, place, limits::LOG_BATCH, &mut lines);
        }
        lines
    }
}

impl Ring {
    /// Appends lines from a place on, at least one if there is any; gives their cost.
    fn take(
        &self,
        worker: WorkerKey,
        place: &mut u64,
        budget: usize,
        out: &mut Vec<LogLine>,
    ) -> usize {
        let missed = self.dropped.saturating_sub(*place);
        if missed > 0 {
            *place = self.dropped;
            out.push(LogLine {
                worker,
                source: LogSource::Dropped(missed),
                text: String::new(),
            });
        }
        let seen = usize::try_from(*place - self.dropped).unwrap_or(usize::MAX);
        let mut cost = 0;
        for (source, text) in self.lines.iter().skip(seen) {
            if cost > 0 && cost + text.len() + LINE_COST > budget {
                break;
            }
            cost += text.len() + LINE_COST;
            *place += 1;
            out.push(LogLine {
                worker,
                source: *source,
                text: text.to_string(),
            });
        }
        cost
    }
}

/// Makes lines of bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    begun: Vec<u8>,
}

impl Splitter {
    /// The lines that these bytes complete.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end], &mut lines);
            lines.push(self.line());
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, &mut lines);
        lines
    }

    /// The last line, if it did not end.
    pub(super) fn finish(&mut self) -> Option<String> {
        (!self.begun.is_empty()).then(|| self.line())
    }

    fn extend(&mut self, bytes: &[u8], lines: &mut Vec<String>) {
        self.begun.extend_from_slice(bytes);
        while self.begun.len() > limits::LOG_LINE {
            let rest = self.begun.split_off(boundary(&self.begun));
            lines.push(self.line());
            self.begun = rest;
        }
    }

    fn line(&mut self) -> String {
        let mut line = std::mem::take(&mut self.begun);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }
}

/// Where to split a line that is too long: not within a character.
fn boundary(line: &[u8]) -> usize {
    let continues = |at: usize| line.get(at).is_some_and(|byte| byte & 0xC0 == 0x80);
    let at = limits::LOG_LINE;
    // A character has at most 4 bytes; what continues for longer is no text.
    (at - 3..=at).rev().find(|at| !continues(*at)).unwrap_or(at)
}

/// The last lines of a worker's standard error.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The latest forgotten line that is evidence: a backtrace behind it may be longer than
    /// everything that is kept.
    evidence: Option<String>,
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    /// Adds a line and forgets the oldest ones beyond the bounds.
    pub(super) fn push(&mut self, line: &str) {
        // The start of a line that is too long alone.
        let mut end = line.len().min(limits::STDERR_TAIL);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes += end;
        self.lines.push_back(line[..end].to_owned());
        while self.lines.len() > limits::STDERR_TAIL_LINES || self.bytes > limits::STDERR_TAIL {
            let Some(line) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= line.len();
            if tells_of_failed_allocation(&line) {
                self.evidence = Some(line);
            }
        }
    }

    /// The lines, oldest first.
    pub(super) fn take(&mut self) -> Vec<String> {
        self.bytes = 0;
        let mut lines = std::mem::take(&mut self.lines);
        if let Some(evidence) = self.evidence.take() {
            // In the place of the oldest, within the bounds.
            lines.pop_front();
            lines.push_front(evidence);
        }
        lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32, incarnation: u64) -> WorkerKey {
        WorkerKey { slot, incarnation }
    }

    fn text(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    fn push(logs: &mut Logs, worker: WorkerKey, lines: &[&str]) {
        logs.push(
            worker,
            LogSource::Stdout,
            lines.iter().map(|l| l.to_string()),
        );
    }

    #[test]
    fn evidence_survives_the_backtrace_behind_it() {
        let mut tail = Tail::default();
        tail.push("memory allocation of 7 bytes failed");
        for frame in 0..100 {
            tail.push(&format!("{frame}: main"));
        }
        let lines = tail.take();
        assert_eq!(lines.len(), limits::STDERR_TAIL_LINES);
        assert_eq!(lines[0], "memory allocation of 7 bytes failed");
        assert_eq!(lines[49], "99: main");
        tail.push("a");
        assert_eq!(tail.take(), ["a"]);
    }

    #[test]
    fn followers_see_each_line_once_and_in_order() {
        let mut logs = Logs::default();
        logs.open(key(0, 1));
        push(&mut logs, key(0, 1), &["a", "b"]);
        let (mut all, mut late) = (Places::default(), logs.now());
        assert_eq!(text(&logs.take(&mut all)), ["a", "b"]);
        assert!(logs.take(&mut late).is_empty());
        push(&mut logs, key(0, 1), &["c"]);
        logs.open(key(1, 2));
        push(&mut logs, key(1, 2), &["d"]);
        assert_eq!(text(&logs.take(&mut all)), ["c", "d"]);
        assert_eq!(text(&logs.take_of(key(1, 2), &mut late)), ["d"]);
        assert_eq!(text(&logs.take(&mut late)), ["c"]);
    }

    #[test]
    fn a_slow_follower_is_told_what_it_missed() {
        let mut logs = Logs::default();
        logs.open(key(0, 1));
        let mut places = logs.now();
        let line = "x".repeat(1000);
        let count = 2 * limits::LOG_RING / line.len();
        for _ in 0..count {
            push(&mut logs, key(0, 1), &[&line]);
        }
        let first = logs.take(&mut places);
        let LogSource::Dropped(missed) = first[0].source else {
            panic!("{first:?}");
        };
        let mut got = first.len() - 1;
        loop {
            let more = logs.take(&mut places);
            assert!(more.iter().all(|line| line.source == LogSource::Stdout));
            if more.is_empty() {
                break;
            }
            got += more.len();
        }
        assert_eq!(missed as usize + got, count);
        assert!(logs.rings[&key(0, 1)].cost <= limits::LOG_RING);
    }

    #[test]
    fn of_a_slots_past_only_the_last_worker_is_remembered() {
        let mut logs = Logs::default();
        for incarnation in 1..6 {
            logs.open(key(3, incarnation));
        }
        logs.open(key(4, 6));
        let kept: Vec<_> = logs.rings.keys().copied().collect();
        assert_eq!(kept, [key(3, 4), key(3, 5), key(4, 6)]);
    }

    #[test]
    fn lines_are_split_wherever_the_bytes_are() {
        let text = "one\ntwo\r\n\nänd";
        for cut in 0..=text.len() {
            let mut splitter = Splitter::default();
            let mut lines = splitter.push(&text.as_bytes()[..cut]);
            lines.extend(splitter.push(&text.as_bytes()[cut..]));
            lines.extend(splitter.finish());
            assert_eq!(lines, ["one", "two", "", "änd"], "{cut}");
        }
    }

    #[test]
    fn an_endless_line_is_split_between_characters() {
        let text = "ä".repeat(limits::LOG_LINE * 2) + "\n";
        let mut splitter = Splitter::default();
        let lines = splitter.push(text.as_bytes());
        assert!(
            lines
                .iter()
                .all(|line| line.len() <= limits::LOG_LINE && !line.contains('\u{FFFD}'))
        );
        assert_eq!(lines.concat() + "\n", text);
        let zeros = splitter.push(&[0x80; 50_000]);
        assert_eq!(zeros.len(), 3);
    }

    #[test]
    fn the_tail_keeps_the_last_lines_within_bounds() {
        let mut tail = Tail::default();
        for number in 0..200 {
            tail.push(&number.to_string());
        }
        let lines = tail.take();
        assert_eq!(lines.len(), limits::STDERR_TAIL_LINES);
        assert_eq!(lines.last().unwrap(), "199");
        tail.push("before");
        tail.push(&"ä".repeat(limits::STDERR_TAIL));
        let lines = tail.take();
        assert_eq!((lines.len(), lines[0].len()), (1, limits::STDERR_TAIL));
    }
}
