//! Standard input for a command on nodes, read on a thread of its own.

use std::io::Read as _;
use std::sync::Arc;

use tokio::sync::mpsc;

/// The size of a piece, which travels in one frame.
const PIECE: usize = 64 * 1024;
/// Pieces that wait.
const QUEUE: usize = 4;

/// Pieces of standard input until its end. The thread is left behind when the receiver is
/// dropped, for nothing wakes a read.
pub(crate) fn read() -> std::io::Result<mpsc::Receiver<Arc<[u8]>>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let forward = move || {
        let mut stdin = std::io::stdin().lock();
        let mut piece = vec![0; PIECE];
        loop {
            match stdin.read(&mut piece) {
                Ok(0) => return,
                Ok(read) => {
                    if sender.blocking_send(piece[..read].into()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    };
    std::thread::Builder::new()
        .name("cctl-stdin".to_owned())
        .spawn(forward)?;
    Ok(receiver)
}
