//! Frames on QUIC streams and on anything else that reads and writes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::codec;
use crate::limits;
use crate::wire::WireError;
use crate::wire::control::{self, Frame};
use crate::wire::stream::{self, StreamHeader};

/// A frame that did not arrive or leave.
#[derive(Debug, thiserror::Error)]
pub enum FramedError {
    /// The stream.
    #[error("stream: {0}")]
    Io(#[from] std::io::Error),
    /// The bytes.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Writes a control frame.
///
/// # Errors
/// Fails when the stream does, or the message is too large.
pub async fn write_control<M: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    frame: &Frame<M>,
) -> Result<(), FramedError> {
    stream.write_all(&control::encode(frame)?).await?;
    Ok(())
}

/// Reads a control frame; `None` at an orderly end of the stream. Not cancel-safe: read from
/// one task that does nothing else.
///
/// # Errors
/// Fails when the stream does, or on malformed bytes.
pub async fn read_control<M: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Frame<M>>, FramedError> {
    let Some(frame) = read_frame(stream, limits::CONTROL_FRAME, "control frame").await? else {
        return Ok(None);
    };
    Ok(Some(control::decode(&frame)?))
}

/// Writes a value as a frame of `u32` length and encoded body.
///
/// # Errors
/// Fails when the stream does, or the value cannot be encoded.
pub async fn write_value<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> Result<(), FramedError> {
    let mut out = vec![0; 4];
    codec::encode_into(value, &mut out).map_err(WireError::from)?;
    let length = (out.len() - 4) as u32;
    control::check_length(u64::from(length))?;
    out[..4].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&out).await?;
    Ok(())
}

/// Reads a value that [`write_value`] wrote; `None` at an orderly end. Not cancel-safe.
///
/// # Errors
/// Fails when the stream does, or on malformed bytes.
pub async fn read_value<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, FramedError> {
    let Some(frame) = read_frame(stream, limits::CONTROL_FRAME, "frame").await? else {
        return Ok(None);
    };
    Ok(Some(codec::decode(&frame).map_err(WireError::from)?))
}

async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
    what: &'static str,
) -> Result<Option<Vec<u8>>, FramedError> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > limit {
        return Err(WireError::TooLong {
            what,
            claimed: length as u64,
            limit: limit as u64,
        }
        .into());
    }
    // Grown as bytes arrive: a claim alone costs the claimer's peer nothing.
    let mut body = Vec::with_capacity(length.min(limits::CHUNK));
    let got = stream.take(length as u64).read_to_end(&mut body).await?;
    if got < length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(body))
}

/// Writes a stream's header.
///
/// # Errors
/// Fails when the stream does, or the header is too large.
pub async fn write_header(
    stream: &mut (impl AsyncWrite + Unpin),
    header: &StreamHeader,
) -> Result<(), FramedError> {
    stream.write_all(&stream::encode_header(header)?).await?;
    Ok(())
}

/// Reads a stream's header. The caller bounds the time.
///
/// # Errors
/// Fails when the stream does, or on malformed bytes.
pub async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<StreamHeader, FramedError> {
    let length = stream.read_u16_le().await?;
    let mut body = vec![0; usize::from(length)];
    stream.read_exact(&mut body).await?;
    Ok(stream::decode_header(&body)?)
}
