//! What containers answer at once to what they were sent, as their kernels do with pings and
//! acknowledgements: the receiving thread sends it, without waking the sending thread.

use std::io;

use super::forwarder::SharedForwarder;
use super::table::{Reader, Table};

/// Batches for which the sending thread is left to its work once it has some.
const BUSY: u32 = 64;

/// The receiving thread's view of the TAPs it writes to.
pub(super) struct Answers {
    forwarder: SharedForwarder,
    /// The segments that got frames from the batch at hand.
    written: Vec<usize>,
    /// The segments whose TAPs the sending thread does not wait for at the moment.
    paused: Vec<usize>,
    /// Batches until the sending thread may be kept from waiting again.
    busy: u32,
}

impl Answers {
    pub(super) fn new(forwarder: SharedForwarder) -> Self {
        Self {
            forwarder,
            written: Vec::new(),
            paused: Vec::new(),
            busy: 0,
        }
    }

    /// To be told before a frame is written to a segment's TAP.
    pub(super) fn expect(&mut self, table: &Table, index: usize) {
        if self.written.contains(&index) {
            return;
        }
        self.written.push(index);
        if self.busy == 0 && !self.paused.contains(&index) {
            self.forwarder.watch.pause(&table.segments[index].tap);
            self.paused.push(index);
        }
    }

    /// Sends what was answered to the batch at hand.
    ///
    /// # Errors
    /// When the sending thread died.
    pub(super) fn send(&mut self, table: &Table, reader: &Reader) -> io::Result<()> {
        self.busy = self.busy.saturating_sub(1);
        if !self.send_all(table, reader)? {
            self.busy = BUSY;
            self.release(table);
        }
        // Nobody but this thread looks at a TAP that is paused, and it only after writing to it.
        let (watch, written) = (&self.forwarder.watch, &self.written);
        self.paused.retain(|index| {
            let kept = written.contains(index);
            if !kept {
                watch.resume(&table.segments[*index].tap);
            }
            kept
        });
        self.written.clear();
        Ok(())
    }

    /// Lets the sending thread wait for all TAPs again. To be called before waiting, and before
    /// taking up another table than this one.
    pub(super) fn release(&mut self, table: &Table) {
        for index in self.paused.drain(..) {
            self.forwarder.watch.resume(&table.segments[index].tap);
        }
    }

    /// Returns whether nothing is left for the sending thread.
    fn send_all(&self, table: &Table, reader: &Reader) -> io::Result<bool> {
        if self.written.is_empty() {
            return Ok(true);
        }
        // Who is at it sends these answers, too.
        let Some(mut forwarder) = self.forwarder.try_lock()? else {
            return Ok(false);
        };
        // By an older table than others used meanwhile they might overtake or be overtaken.
        if !reader.is_latest() {
            return Ok(false);
        }
        let mut all = true;
        for &index in &self.written {
            all &= forwarder.answer(table, index);
        }
        Ok(all)
    }
}
