//! Bytes on their way to one socket, and which change each stretch of them carries.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::BytesMut;
use time::OffsetDateTime;

/// End of a presence frame within the stream of bytes.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) number: u64,
    pub(super) sent: Instant,
    pub(super) sent_at: OffsetDateTime,
    end: usize,
}

/// Unwritten bytes with their marks.
///
/// A buffer of our own instead of `write_all`, so that a client that does not read can never keep the
/// socket's task from hearing an order, and so that "written" means: the kernel took the frame's last byte.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) buffer: BytesMut,
    marks: VecDeque<Mark>,
    /// Bytes the kernel took since the socket opened.
    written: usize,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub(super) fn push(&mut self, frame: &[u8]) {
        self.buffer.extend_from_slice(frame);
    }

    /// Adds a presence frame; its time of sending is now.
    pub(super) fn push_change(&mut self, number: u64, frame: &[u8]) {
        let end = self.written + self.buffer.len() + frame.len();
        self.marks.push_back(Mark { number, sent: Instant::now(), sent_at: OffsetDateTime::now_utc(), end });
        self.push(frame);
    }

    /// Notes that the kernel took `bytes` bytes; gives back the changes that are now wholly written.
    pub(super) fn wrote(&mut self, bytes: usize) -> Vec<Mark> {
        self.written += bytes;
        let mut done = Vec::new();
        while self.marks.front().is_some_and(|mark| mark.end <= self.written) {
            done.extend(self.marks.pop_front());
        }
        done
    }

    /// Gives up; gives back the changes that were not wholly written.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = Mark> + '_ {
        self.buffer.clear();
        self.marks.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_as_written_with_its_last_byte() {
        let mut outbox = Outbox::default();
        outbox.push(b"ping");
        outbox.push_change(1, b"one");
        outbox.push_change(2, b"two");
        assert!(outbox.wrote(6).is_empty());
        assert_eq!(outbox.wrote(1).iter().map(|mark| mark.number).collect::<Vec<_>>(), [1]);
        assert!(outbox.wrote(2).is_empty());
        assert_eq!(outbox.abandon().map(|mark| mark.number).collect::<Vec<_>>(), [2]);
        assert!(outbox.is_empty());
    }
}
