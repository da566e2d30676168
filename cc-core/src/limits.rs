//! Every bound of the framework, in one place, with the reason beside each.

use std::time::Duration;

/// Largest frame on a lane, header included. 64 KiB keeps one slow value from holding
/// up the small frames behind it; anything larger goes out of band as a bulk stream.
pub const LANE_FRAME: usize = 64 * 1024 - 1;

/// Largest value (body and attachments together) that travels inside a lane frame. The
/// rest of the frame is room for the header and the attachments' lengths.
pub const INLINE_VALUE: usize = 60 * 1024;

/// Largest control message. The largest honest one is a worker's list of functions or a
/// status with every worker's last lines of stderr; 4 MiB is ten times that.
pub const CONTROL_FRAME: usize = 4 * 1024 * 1024;

/// Largest message between agent, guard and worker on their own sockets. Their content is
/// a subset of what control messages carry.
pub const LOCAL_FRAME: usize = 1024 * 1024;

/// Largest bootstrap line on an agent's standard input or output: certificates and settings.
pub const BOOTSTRAP_LINE: usize = 256 * 1024;

/// Largest single value. More than the memory of any machine in the catalogue that
/// a worker would hold one value in; a claim above it is a lie or a mistake.
pub const VALUE: u64 = 1 << 38;

/// Most attachments (out-of-band parts) of one value.
pub const ATTACHMENTS: usize = 4096;

/// Smallest `Bytes` or array that is kept out of the encoded body: below it a copy is
/// cheaper than a table entry.
pub const ATTACHMENT_MIN: usize = 4 * 1024;

/// How deep encoded values may nest. A deeper one would exhaust the decoder's stack.
pub const DECODE_DEPTH: usize = 128;

/// Most zero-sized items in the sequences and maps of one decoded value: they cost no bytes,
/// so only this bounds the loop that makes them.
pub const ZERO_SIZED_ITEMS: usize = 65_536;

/// Bulk streams under way at once on one connection. More than fit into the connection's
/// window, unread, would stall every other stream.
pub const BULK_STREAMS: usize = 4;

/// Streams a peer may have open on one connection: a lane per worker, bulk, files, exec.
pub const STREAMS: u32 = 1_000;

/// A stream's header must arrive within this time of the stream.
pub const STREAM_HEADER_WAIT: Duration = Duration::from_secs(10);

/// A connection must say `Hello` within this time.
pub const HELLO_WAIT: Duration = Duration::from_secs(10);

/// Connections an agent serves at once, owner and tools and peers together.
pub const SESSIONS: usize = 256;

/// How often QUIC sends something on an idle connection.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// QUIC's idle time-out.
pub const IDLE: Duration = Duration::from_secs(120);

/// A node that has said nothing for this long is silent.
pub const SILENT: Duration = Duration::from_secs(10);

/// A node that has said nothing for this long is lost.
pub const LOST: Duration = Duration::from_secs(60);

/// How often a driver pings a node's agent and renews its lease.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// A request to an agent that does not start processes or move data.
pub const REQUEST_WAIT: Duration = Duration::from_secs(30);

/// Connecting to an agent that is known to listen.
pub const CONNECT_WAIT: Duration = Duration::from_secs(15);

/// From the order to start a worker to its readiness: loading a large binary from a cold
/// disk is the slow part.
pub const WORKER_START: Duration = Duration::from_secs(60);

/// From an agent process's start to its answer on standard output.
pub const AGENT_START: Duration = Duration::from_secs(30);

/// Agents that one process starts at once on its own machine: each takes a few descriptors
/// while it starts, and 1,024 is a usual limit of a process.
pub const AGENT_STARTS: usize = 32;

/// Trying for the lock of a node's directory: who looks whether an agent is there holds it for
/// a moment, an agent that runs for good.
pub const AGENT_LOCK_WAIT: Duration = Duration::from_secs(1);

/// Between asking an agent to end and killing it: [`STOP_GRACE`] for its workers, and some
/// time for what they leave.
pub const AGENT_STOP: Duration = Duration::from_secs(5);

/// Between asking a worker to end and killing it.
pub const STOP_GRACE: Duration = Duration::from_secs(2);

/// Killing the descendants of a job: after this the guard gives up and says so.
pub const KILL_WAIT: Duration = Duration::from_secs(10);

/// Between a task's deadline and the kill of the worker that still runs it.
pub const DEADLINE_GRACE: Duration = Duration::from_secs(1);

/// How long an agent keeps its work without a driver, unless deployed with another value:
/// long enough for a laptop to change networks, short enough to cost little.
pub const DRIVER_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a fresh agent waits for its first driver, even if its lease is shorter: the other
/// nodes of a large cluster start meanwhile.
pub const FIRST_DRIVER: Duration = Duration::from_secs(120);

/// Content of a store that no node uses is removed when it was not asked for in this time:
/// long enough to find last week's build there, short enough that daily builds fill no disk.
pub const STORE_UNUSED: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often an agent removes such content.
pub const STORE_SWEEP: Duration = Duration::from_secs(3600);

/// Lines of stderr kept as evidence of a worker's death.
pub const STDERR_TAIL_LINES: usize = 50;

/// Longest log line; a longer one is split.
pub const LOG_LINE: usize = 16 * 1024;

/// Bytes of log kept per worker for whoever subscribes; older lines are dropped and counted.
pub const LOG_RING: usize = 512 * 1024;

/// Bytes of stderr kept as evidence: enough for a message and a short backtrace, and little
/// enough for the deaths of a whole node's workers to fit into a few messages.
pub const STDERR_TAIL: usize = 16 * 1024;

/// Workers whose last lines of stderr one answer carries; the others' are like theirs.
pub const STDERR_TAILS: usize = 64;

/// Bytes of log lines sent in one control message, so that answers are not held up behind.
pub const LOG_BATCH: usize = 64 * 1024;

/// Messages that wait for a worker that is slow to take them from its control socket, each
/// perhaps with a descriptor. A worker that works takes them at once.
pub const CONTROL_QUEUE: usize = 256;

/// Deaths that a session may have left untaken: several times a node's workers.
pub const DEATHS: usize = 4 * WORKERS_PER_NODE as usize;

/// Tasks outstanding on one lane: what the driver has sent and not heard of.
pub const LANE_TASKS: usize = 16 * 1024;

/// Asynchronous functions that one worker runs at once.
pub const ASYNC_TASKS: usize = 1_000;

/// Items of an ordered `map` that may be finished before the one that is next to yield.
pub const ORDERED_WINDOW: usize = 64 * 1024;

/// Chunk in which values, files and binaries are read and written.
pub const CHUNK: usize = 256 * 1024;

/// Slots of workers that one node can be asked for: about as many as the largest machines have
/// cores, and few enough for their lanes to leave half of a connection's [`STREAMS`] to bulk
/// values, files and commands.
pub const WORKERS_PER_NODE: u32 = 512;

/// Nodes that one cluster can be asked for.
pub const NODES: u32 = 10_000;

/// How long one piece of a transfer may wait for the receiver's disk or network before that
/// receiver is given up: writing back a full page cache to a slow disk takes tens of seconds.
pub const TRANSFER_STALL: Duration = Duration::from_secs(60);

/// How long the giver of a transfer may be silent: longer than a whole tree below it may
/// stall, since it is held back by them.
pub const TRANSFER_SILENCE: Duration = Duration::from_secs(600);

/// Transfers under way at once at one agent, each with a thread that may wait for a slow client;
/// more wait for their turn.
pub const TRANSFERS: usize = 32;

/// Transfers under way at once in one session, so that one client's leave room for others'.
pub const SESSION_TRANSFERS: usize = 8;

/// How long a transfer waits for its turn before it is refused. A client waits for longer.
pub const TRANSFER_TURN: Duration = Duration::from_secs(300);

/// Threads of an agent for files. [`TRANSFERS`] take no more than half of them, so that what
/// waits for nobody always finds one.
pub const FILE_THREADS: usize = 2 * TRANSFERS;

/// Bytes of input that wait at an agent for a command that does not read it. Signals and sizes
/// overtake these; what a client sends beyond holds up what comes after it.
pub const EXEC_INPUT: usize = 1 << 20;

/// Slowest pace, in bytes a second, at which a node is expected to put received content in its
/// place; with [`TRANSFER_SILENCE`] it bounds the wait for the last answer.
pub const TRANSFER_PACE: u64 = 1 << 20;

/// Largest window, as a power of two of bytes, that received compressed data may ask for.
/// What is sent needs 2^19 to 2^21.
pub const ZSTD_WINDOW_LOG: u32 = 23;

/// Longest text of a failed transfer, which may list every node of a tree.
pub const TRANSFER_REPORT: usize = 1 << 20;

/// Bytes of an agent's own log before a new one is begun; one old one is kept. Days of
/// ordinary work, and nothing on any disk.
pub const AGENT_LOG: u64 = 8 << 20;

/// Requests of one session that an agent works on at once; more are answered with an error.
/// A client that waits for its answers has a handful.
pub const SESSION_REQUESTS: usize = 64;

/// Control frames on their way to one session's client. A client that does not read them
/// holds up its own session only.
pub const SESSION_FRAMES: usize = 64;

/// How long an ending session's client has for taking its last frame.
pub const GOODBYE_WAIT: Duration = Duration::from_secs(2);

/// Largest record of a cluster on disk; one with [`NODES`] nodes takes a quarter of it.
pub const RECORD: u64 = 16 * 1024 * 1024;

/// Waiting for another process that writes the same record, which takes it milliseconds.
pub const RECORD_LOCK_WAIT: Duration = Duration::from_secs(10);

/// Slots that a worker can be asked for: each is a thread.
pub const WORKER_SLOTS: u32 = 1_024;

/// Bytes of results that a worker gathers before it writes them: a larger write is no
/// faster per byte.
pub const RESULT_BATCH: usize = 32 * 1024;

/// How long a worker gathers results while it has more tasks to run. A slow task that
/// starts meanwhile holds them up for twice this at most. A write wakes the agent, the driver's
/// network thread and the program one after the other, some 100 µs of processor time in all, so
/// this is what those wake-ups may cost: well below a tenth.
pub const RESULT_WAIT: Duration = Duration::from_micros(2_500);

/// Streams of arguments that may reach a worker before the frames that name their tasks.
/// More than a few means a driver that does not send the frames.
pub const EARLY_STREAMS: usize = 256;

/// Largest catalog, uncompressed: ten times one with every instance type of every region of EC2.
pub const CATALOG: usize = 16 << 20;

/// Largest configuration file. An honest one has a few lines.
pub const CONFIG: u64 = 1 << 20;

/// Bytes that are read of a file in which a system describes its machine: a thousand processors
/// take half of it.
pub const MACHINE_FILE: u64 = 4 << 20;

/// Most accelerators that are looked at in one machine. The largest have 16.
pub const MACHINE_ACCELERATORS: usize = 64;

/// Longest name that is compared with others to find what was meant, and longest text of a user's
/// that an error repeats, in bytes and letters: names are a third of that.
pub const NAME: usize = 80;

/// Fall-backs that a plan names: more attempts than anybody waits for.
pub const ALTERNATIVES: usize = 20;
