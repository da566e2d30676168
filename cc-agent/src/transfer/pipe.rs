//! Pipes between streams, which are asynchronous, and compression, hashing and files, which
//! block: bounded channels of byte chunks, with a blocking reader or writer on one end.
//!
//! A pipe tells its end from a break: data that stops without an end is never taken for
//! complete. Every transfer's data is one zstd frame.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cc_core::limits;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Messages that wait in a pipe: enough to keep both ends busy.
pub(crate) const DEPTH: usize = 4;

/// Chunks taken from a stream at once: datagrams are small, and a wake-up for each would
/// cost more than the data.
pub(crate) const BATCH: usize = 16;

/// Content is tried on this much of its beginning.
const SAMPLE: usize = 1 << 20;
/// Compression that keeps up with a network.
const LEVEL: i32 = 1;
/// For content that does not compress: the same format for the least work.
const LEVEL_RAW: i32 = -50;

/// What goes through a pipe.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    /// Some of the data.
    Data(Vec<Bytes>),
    /// There is no more.
    End,
}

/// Bytes that a blocking operation has dealt with so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The blocking end that writes.
pub(crate) struct PartWriter {
    parts: mpsc::Sender<Part>,
    buffer: Vec<u8>,
}

impl PartWriter {
    pub(crate) fn new(parts: mpsc::Sender<Part>) -> Self {
        Self {
            parts,
            buffer: Vec::new(),
        }
    }

    /// Says that the data is complete.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Part::End)
    }

    fn send(&self, part: Part) -> io::Result<()> {
        // The other end is gone when nobody wants the data any more.
        self.parts
            .blocking_send(part)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(limits::CHUNK);
        }
        let taken = bytes.len().min(limits::CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == limits::CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::take(&mut self.buffer);
        self.send(Part::Data(vec![full.into()]))
    }
}

/// The blocking end that reads.
pub(crate) struct PartReader {
    parts: mpsc::Receiver<Part>,
    queue: VecDeque<Bytes>,
    ended: bool,
}

impl PartReader {
    pub(crate) fn new(parts: mpsc::Receiver<Part>) -> Self {
        Self {
            parts,
            queue: VecDeque::new(),
            ended: false,
        }
    }
}

impl BufRead for PartReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.queue.front().is_none_or(Bytes::is_empty) {
            self.queue.pop_front();
            if !self.queue.is_empty() {
                continue;
            }
            if self.ended {
                return Ok(&[]);
            }
            match self.parts.blocking_recv() {
                Some(Part::Data(chunks)) => self.queue.extend(chunks),
                Some(Part::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the transfer broke off",
                    ));
                }
            }
        }
        Ok(self.queue.front().map_or(&[], |chunk| &chunk[..]))
    }

    fn consume(&mut self, amount: usize) {
        if let Some(chunk) = self.queue.front_mut() {
            let _ = chunk.split_to(amount.min(chunk.len()));
        }
    }
}

impl Read for PartReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let amount = available.len().min(out.len());
        out[..amount].copy_from_slice(&available[..amount]);
        self.consume(amount);
        Ok(amount)
    }
}

/// Compresses everything that a reader gives, off the runtime's threads. The counter counts
/// what was read. The task fails when the reader does, or when the receiver is dropped.
pub(crate) fn compress(
    mut reader: Box<dyn Read + Send>,
) -> (mpsc::Receiver<Part>, Counter, JoinHandle<io::Result<()>>) {
    let (sender, parts) = mpsc::channel(DEPTH);
    let counter = Counter::default();
    let count = counter.clone();
    let task = tokio::task::spawn_blocking(move || {
        let mut encoder = Compressor::new(PartWriter::new(sender));
        let mut chunk = vec![0; limits::CHUNK];
        loop {
            let read = read_some(&mut reader, &mut chunk)?;
            if read == 0 {
                return encoder.finish()?.end();
            }
            encoder.write_all(&chunk[..read])?;
            count.add(read);
        }
    });
    (parts, counter, task)
}

/// Reads again when a signal came between.
fn read_some(reader: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(out) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A zstd encoder that decides by the beginning of the content how hard to try.
pub(crate) struct Compressor<W: Write> {
    state: State<W>,
}

enum State<W: Write> {
    Sampling(W, Vec<u8>),
    Encoding(zstd::stream::write::Encoder<'static, W>),
    Failed,
}

impl<W: Write> Compressor<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            state: State::Sampling(out, Vec::new()),
        }
    }

    /// Ends the frame.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.decide()?;
        match self.state {
            State::Encoding(encoder) => encoder.finish(),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn decide(&mut self) -> io::Result<()> {
        if let State::Encoding(_) = self.state {
            return Ok(());
        }
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Sampling(out, sample) => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level(&sample)?)?;
                encoder.write_all(&sample)?;
                self.state = State::Encoding(encoder);
                Ok(())
            }
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.state {
            State::Sampling(_, sample) => {
                sample.extend_from_slice(bytes);
                if sample.len() >= SAMPLE {
                    self.decide()?;
                }
                Ok(bytes.len())
            }
            State::Encoding(encoder) => encoder.write(bytes),
            State::Failed => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Encoding(encoder) => encoder.flush(),
            _ => Ok(()),
        }
    }
}

/// The level for content that begins like this.
fn level(sample: &[u8]) -> io::Result<i32> {
    let compressed = zstd::bulk::compress(sample, LEVEL)?.len();
    let worthwhile = compressed < sample.len() - sample.len() / 20;
    Ok(if worthwhile { LEVEL } else { LEVEL_RAW })
}

/// Reads what [`compress`] or [`Compressor`] wrote; the rest of `reader` is left in it.
pub(crate) fn decompress(
    reader: &mut PartReader,
) -> io::Result<zstd::stream::read::Decoder<'static, &mut PartReader>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?.single_frame();
    // A peer's frame must not make us reserve more than ours ever need.
    decoder.window_log_max(limits::ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut reader = blake3::Hasher::new().finalize_xof();
        let mut noise = vec![0; length];
        reader.fill(&mut noise);
        noise
    }

    async fn round_trip(content: Vec<u8>) -> usize {
        let (mut parts, counter, task) = compress(Box::new(io::Cursor::new(content.clone())));
        let (sender, receiver) = mpsc::channel(DEPTH);
        let reader = tokio::task::spawn_blocking(move || {
            let mut reader = PartReader::new(receiver);
            let mut seen = Vec::new();
            decompress(&mut reader)
                .unwrap()
                .read_to_end(&mut seen)
                .unwrap();
            assert!(reader.fill_buf().unwrap().is_empty());
            seen
        });
        let mut compressed = 0;
        while let Some(part) = parts.recv().await {
            if let Part::Data(chunks) = &part {
                compressed += chunks.iter().map(Bytes::len).sum::<usize>();
            }
            sender.send(part).await.unwrap();
        }
        task.await.unwrap().unwrap();
        assert_eq!(counter.get(), content.len() as u64);
        assert!(reader.await.unwrap() == content);
        compressed
    }

    #[tokio::test]
    async fn content_comes_out_as_it_went_in() {
        round_trip(Vec::new()).await;
        round_trip(vec![1]).await;
        assert!(round_trip(vec![7; 3_000_000]).await < 10_000);
        let noisy = round_trip(noise(3_000_001)).await;
        assert!((3_000_000..3_010_000).contains(&noisy), "{noisy}");
    }

    #[tokio::test]
    async fn a_break_is_no_end() {
        let (sender, receiver) = mpsc::channel(DEPTH);
        let chunk = Bytes::from_static(b"some");
        sender.send(Part::Data(vec![chunk])).await.unwrap();
        drop(sender);
        let read = tokio::task::spawn_blocking(move || {
            let mut seen = Vec::new();
            PartReader::new(receiver).read_to_end(&mut seen)
        });
        let error = read.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
