//! A process with a QUIC endpoint: the agent's end. Each stream is echoed here, or spliced to a
//! process behind a unix socket.

use std::io::{BufRead as _, IoSlice, Read as _, Write as _};
use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::{Buf as _, Bytes, BytesMut};
use cc_core::net::endpoint;
use cc_core::net::identity::Credentials;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::UnixStream;

use super::{CHUNK, unix};

/// A stream's first byte: echo it in the endpoint's process.
pub(super) const HERE: u8 = 0;
/// A stream's first byte: splice it to a process of its own.
pub(super) const BEHIND: u8 = 1;

/// The line on the process's standard input; `Credentials` themselves are never serialised.
#[derive(Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) ca: String,
}

pub(super) fn run() -> anyhow::Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let start: Start = serde_json::from_str(&line)?;
    // The parent holds the other end for as long as it wants this process.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(start))
}

async fn serve(start: Start) -> anyhow::Result<()> {
    let credentials = Credentials {
        certificate: start.certificate,
        key: start.key,
        ca: start.ca,
    };
    let endpoint = endpoint::serve(SocketAddr::from(([127, 0, 0, 1], 0)), &credentials)?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", endpoint.local_addr()?)?;
    stdout.flush()?;
    let connection = endpoint.accept().await.context("no connection")?.await?;
    while let Ok((send, recv)) = connection.accept_bi().await {
        tokio::spawn(async move {
            // An error is the end of the stream's other side, which knows more.
            let _ = stream(send, recv).await;
        });
    }
    Ok(())
}

async fn stream(mut send: quinn::SendStream, mut recv: quinn::RecvStream) -> anyhow::Result<()> {
    if recv.read_u8().await? == HERE {
        let mut chunks: [Bytes; 32] = Default::default();
        while let Some(count) = recv.read_chunks(&mut chunks).await? {
            send.write_all_chunks(&mut chunks[..count]).await?;
        }
        return Ok(());
    }
    let (socket, mut child) = unix::start()?;
    socket.set_nonblocking(true)?;
    let socket = UnixStream::from_std(socket)?;
    let result = tokio::select! {
        result = to_socket(&mut recv, &socket) => result,
        result = to_stream(&socket, &mut send) => result,
    };
    drop(socket);
    // It ends with its socket.
    tokio::task::spawn_blocking(move || child.wait()).await??;
    result
}

async fn to_socket(recv: &mut quinn::RecvStream, socket: &UnixStream) -> anyhow::Result<()> {
    let mut chunks: [Bytes; 32] = Default::default();
    while let Some(count) = recv.read_chunks(&mut chunks).await? {
        let mut first = 0;
        while first < count {
            let mut slices = [IoSlice::new(&[]); 32];
            for (slice, chunk) in slices.iter_mut().zip(&chunks[first..count]) {
                *slice = IoSlice::new(chunk);
            }
            match socket.try_write_vectored(&slices[..count - first]) {
                Ok(mut written) => {
                    while first < count {
                        let taken = written.min(chunks[first].len());
                        chunks[first].advance(taken);
                        written -= taken;
                        if !chunks[first].is_empty() {
                            break;
                        }
                        first += 1;
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    socket.ready(Interest::WRITABLE).await?;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

async fn to_stream(socket: &UnixStream, send: &mut quinn::SendStream) -> anyhow::Result<()> {
    let mut block = BytesMut::with_capacity(CHUNK);
    loop {
        if block.capacity() - block.len() < CHUNK / 2 && !block.try_reclaim(CHUNK) {
            block = BytesMut::with_capacity(CHUNK);
        }
        match socket.try_read_buf(&mut block) {
            Ok(0) => return Ok(()),
            Ok(_) => send.write_chunk(block.split().freeze()).await?,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                socket.ready(Interest::READABLE).await?;
            }
            Err(e) => return Err(e.into()),
        }
    }
}
