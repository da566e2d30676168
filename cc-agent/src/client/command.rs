//! A command on a node, as seen from the one who ordered it.

use cc_core::limits;
use cc_core::net::framed;
use cc_core::wire::stream::ExecFrame;
use quinn::{RecvStream, SendStream, VarInt};

use super::{TransferError, within};

/// A command on a node. Dropping it, or both of its halves, ends the command.
#[derive(Debug)]
pub struct ExecSession {
    input: ExecInput,
    output: ExecOutput,
}

/// The half that gives the command input and signals.
#[derive(Debug)]
pub struct ExecInput {
    send: SendStream,
}

/// The half that brings the command's output and its end. Dropping it ends the command.
#[derive(Debug)]
pub struct ExecOutput {
    recv: RecvStream,
    ended: bool,
}

impl ExecSession {
    pub(crate) fn new(send: SendStream, recv: RecvStream) -> Self {
        Self {
            input: ExecInput { send },
            output: ExecOutput { recv, ended: false },
        }
    }

    /// See [`ExecInput::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&mut self, frame: ExecFrame) -> Result<(), TransferError> {
        self.input.send(frame).await
    }

    /// See [`ExecOutput::next`].
    ///
    /// # Errors
    /// As there.
    pub async fn next(&mut self) -> Result<Option<ExecFrame>, TransferError> {
        self.output.next().await
    }

    /// Breaks the rules.
    #[cfg(test)]
    pub(crate) async fn send_raw(&mut self, raw: &[u8]) {
        self.input.send.write_all(raw).await.unwrap();
        self.input.send.finish().unwrap();
    }

    /// Both halves, to be used from two tasks.
    pub fn split(self) -> (ExecInput, ExecOutput) {
        (self.input, self.output)
    }
}

impl ExecInput {
    /// Sends input, a signal or a new terminal size. Waits while the command does not
    /// read its input. Input is best sent in pieces of at most 64 KiB; an empty piece is its end.
    ///
    /// # Errors
    /// Fails when the connection is lost or the command has ended; [`ExecOutput::next`]
    /// tells which.
    pub async fn send(&mut self, frame: ExecFrame) -> Result<(), TransferError> {
        // No deadline: a command may leave its input unread for as long as it likes.
        framed::write_value(&mut self.send, &frame)
            .await
            .map_err(|e| TransferError::Stream("sending to the command", e.to_string()))
    }

    /// Ends the command's input and sends nothing any more.
    ///
    /// # Errors
    /// Fails as [`ExecInput::send`] does.
    pub async fn close(mut self) -> Result<(), TransferError> {
        let end = ExecFrame::Input(Vec::new());
        let write = framed::write_value(&mut self.send, &end);
        within(limits::TRANSFER_STALL, "ending the input", write).await
    }
}

impl ExecOutput {
    /// The next output, the command's end, or why it could not be started; `None` after the last
    /// of these. Not cancel-safe: a call that was begun must be awaited to its end.
    ///
    /// # Errors
    /// Fails when the stream breaks off before the command's end is known.
    pub async fn next(&mut self) -> Result<Option<ExecFrame>, TransferError> {
        if self.ended {
            return Ok(None);
        }
        let broken = |text: String| TransferError::Stream("waiting for the command", text);
        // No deadline: a command takes the time it takes; a lost node ends the stream.
        let frame = framed::read_value(&mut self.recv)
            .await
            .map_err(|e| broken(e.to_string()))?
            .ok_or_else(|| broken("the node broke off".to_owned()))?;
        self.ended = matches!(frame, ExecFrame::Ended(_) | ExecFrame::Failed(_));
        Ok(Some(frame))
    }
}

impl Drop for ExecOutput {
    fn drop(&mut self) {
        let _ = self.recv.stop(VarInt::from_u32(0));
    }
}
