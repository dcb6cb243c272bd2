//! The thread that waits for frames in the segments' TAPs.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use super::Signals;
use super::forwarder::SharedForwarder;
use super::table::{Reader, Segment, Table};

/// The thread's state.
pub(super) struct Sender {
    reader: Reader,
    forwarder: SharedForwarder,
    signals: Signals,
}

impl Sender {
    pub(super) fn new(reader: Reader, forwarder: SharedForwarder, signals: Signals) -> Self {
        Self {
            reader,
            forwarder,
            signals,
        }
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut table = self.reader.table();
        self.watch_instead(&Table::default(), &table);
        let mut ready = Vec::new();
        while !self.signals.stop.load(Ordering::Relaxed) {
            self.forwarder.watch.wait(&mut ready)?;
            if ready.contains(&self.signals.wake.as_raw_fd()) {
                let _ = self.signals.wake.read();
            }
            for descriptor in &ready {
                let mut forwarder = self.forwarder.lock()?;
                // By an older table than the frames before them, these might overtake or be
                // overtaken. What is waiting is reported again.
                if self.reader.refresh() {
                    let former = std::mem::replace(&mut table, self.reader.table());
                    self.watch_instead(&former, &table);
                    break;
                }
                if let Some(&index) = table.taps.get(descriptor)
                    && !forwarder.drain(&table, index)
                {
                    self.forwarder.watch.remove(&table.segments[index].tap);
                }
            }
        }
        Ok(())
    }

    fn watch_instead(&self, former: &Table, table: &Table) {
        let within = |table: &Table, one: &Segment| table.taps.contains_key(&one.tap.descriptor());
        for segment in former.segments.iter().filter(|one| !within(table, one)) {
            self.forwarder.watch.remove(&segment.tap);
        }
        for segment in table.segments.iter().filter(|one| !within(former, one)) {
            self.forwarder.watch.add(&segment.tap);
        }
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sender({})", self.signals.wake.as_raw_fd())
    }
}
