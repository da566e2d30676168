//! Counts what this process sends over UDP on the loopback interface, as the kernel sees it.
//! That needs root: nobody else may listen to an interface.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// Packets may wait this long, in bytes of the kernel's memory: none may be missed.
const BUFFER: usize = 512 << 20;
/// How long the counter waits for a packet before it looks whether it is still wanted.
const PAUSE: Duration = Duration::from_millis(20);
/// Packets that this machine sends, in contrast to the same ones as it receives them.
const OUTGOING: u8 = 4;
/// An IPv4 header without options, and UDP's.
const HEADERS: usize = 20 + 8;
/// UDP in an IPv4 header.
const UDP: u8 = 17;

/// Counts from its start to its end.
pub(crate) struct Count {
    bytes: Arc<Ports>,
    /// That were this process's at one time: what they sent stays counted.
    own: Mutex<BTreeSet<u16>>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Bytes by source port.
struct Ports(Vec<AtomicU64>);

impl Count {
    /// Begins to count.
    ///
    /// # Errors
    /// Fails without the right to listen to the interface.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .context("listen to the loopback interface")?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        let pause = TimeVal::new(0, PAUSE.subsec_micros().into());
        setsockopt(&socket, sockopt::ReceiveTimeout, &pause)?;
        let bytes = Arc::new(Ports((0..=u16::MAX).map(|_| AtomicU64::new(0)).collect()));
        let end = Arc::new(AtomicBool::new(false));
        let (counted, wanted) = (Arc::clone(&bytes), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            while !wanted.load(Ordering::Relaxed) {
                count(&socket, &counted);
            }
        });
        Ok(Self {
            bytes,
            own: Mutex::default(),
            end,
            thread: Some(thread),
        })
    }

    /// Bytes that the sockets which this process has, or had in an earlier call, have sent so
    /// far: UDP's payload.
    ///
    /// # Errors
    /// Fails when the kernel does not tell the sockets.
    pub(crate) fn sent(&self) -> anyhow::Result<u64> {
        // What was sent before is counted by then.
        std::thread::sleep(3 * PAUSE);
        let sent = |port: &u16| self.bytes.0[usize::from(*port)].load(Ordering::Relaxed);
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.extend(own_ports()?);
        Ok(own.iter().map(sent).sum())
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Counts one packet, if there is one in time.
fn count(socket: &OwnedFd, bytes: &Ports) {
    let mut head = [0; HEADERS];
    // The rest of a packet that is longer is dropped.
    let Ok((read, from)) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut head) else {
        return;
    };
    let outgoing = from.is_some_and(|from| from.pkttype() == OUTGOING);
    if read == HEADERS && outgoing && head[0] == 0x45 && head[9] == UDP {
        let port = u16::from_be_bytes([head[20], head[21]]);
        let length = u16::from_be_bytes([head[24], head[25]]).saturating_sub(8);
        bytes.0[usize::from(port)].fetch_add(length.into(), Ordering::Relaxed);
    }
}

/// The ports of this process's UDP sockets.
fn own_ports() -> anyhow::Result<Vec<u16>> {
    let mut inodes = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        // The directory's own descriptor is gone by now.
        let Ok(link) = std::fs::read_link(entry?.path()) else {
            continue;
        };
        let text = link.to_string_lossy();
        let inode = text
            .strip_prefix("socket:[")
            .and_then(|t| t.strip_suffix(']'));
        inodes.extend(inode.map(str::to_owned));
    }
    let table = std::fs::read_to_string("/proc/self/net/udp")?;
    let ports = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let inode = fields.get(9)?;
        let (_, port) = fields.get(1)?.split_once(':')?;
        let own = inodes.iter().any(|own| own == inode);
        own.then(|| u16::from_str_radix(port, 16).ok()).flatten()
    });
    Ok(ports.collect())
}
