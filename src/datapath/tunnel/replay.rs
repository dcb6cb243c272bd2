//! The window that tells new counters from replayed ones (RFC 6479).

/// Words of the bitmap, one of which is always being cleared.
const WORDS: usize = 257;
const BITS: u64 = 64;

/// How far behind the highest counter a packet may come: 16,384 packets, or 180 ms at 1 Gb/s of
/// full-size ones.
pub const WINDOW: u64 = (WORDS as u64 - 1) * BITS;

/// Which counters have been seen.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    /// One more than the highest counter seen.
    next: u64,
    bitmap: [u64; WORDS],
}

impl ReplayWindow {
    /// A window that has seen nothing.
    pub const fn new() -> Self {
        Self {
            next: 0,
            bitmap: [0; WORDS],
        }
    }

    /// One more than the highest counter seen; zero when none was.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Whether a packet with this counter would be new. Cheap enough to ask before decrypting.
    pub fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter != u64::MAX;
        }
        if self.next - counter > WINDOW {
            return false;
        }
        let (word, bit) = place(counter);
        self.bitmap[word] & bit == 0
    }

    /// Marks a counter as seen, once its packet is known to be authentic. Returns whether it was
    /// new and whether it is the highest so far.
    pub fn accept(&mut self, counter: u64) -> Accepted {
        if !self.is_new(counter) {
            return Accepted::Replayed;
        }
        let latest = counter >= self.next;
        if latest {
            self.advance(counter);
        }
        let (word, bit) = place(counter);
        self.bitmap[word] |= bit;
        if latest {
            Accepted::Latest
        } else {
            Accepted::Late
        }
    }

    fn advance(&mut self, counter: u64) {
        let highest = self.next.checked_sub(1).map_or(0, |c| c / BITS);
        let words = (counter / BITS - highest).min(WORDS as u64);
        for ahead in 1..=words {
            let (word, _) = place((highest + ahead) * BITS);
            self.bitmap[word] = 0;
        }
        self.next = counter + 1;
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

/// What became of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// New, and higher than all before.
    Latest,
    /// New, but others overtook it.
    Late,
    /// Seen before, or too old to tell.
    Replayed,
}

fn place(counter: u64) -> (usize, u64) {
    let word = (counter / BITS) % WORDS as u64;
    (word as usize, 1 << (counter % BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_gap_larger_than_the_window_forgets_everything_before() {
        let mut window = ReplayWindow::new();
        assert_eq!(window.accept(5), Accepted::Latest);
        assert_eq!(window.accept(5 + 10 * WINDOW), Accepted::Latest);
        assert_eq!(window.accept(6), Accepted::Replayed);
        assert_eq!(window.accept(5 + 9 * WINDOW + 1), Accepted::Late);
    }

    #[test]
    fn the_last_counter_is_never_used() {
        assert_eq!(ReplayWindow::new().accept(u64::MAX), Accepted::Replayed);
    }

    fn counters() -> impl Strategy<Value = Vec<u64>> {
        let near = 0u64..(3 * WINDOW);
        let jump = prop_oneof![0u64..200, near, (WINDOW - 70)..(WINDOW + 70)];
        prop::collection::vec((jump, any::<bool>()), 1..300).prop_map(|steps| {
            let mut at = 0u64;
            let walk = steps.into_iter().map(|(jump, ahead)| {
                let counter = if ahead {
                    at + jump
                } else {
                    at.saturating_sub(jump)
                };
                at = at.max(counter);
                counter
            });
            walk.collect()
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set_of_all_counters(counters in counters()) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            for counter in counters {
                let highest = seen.last().copied();
                let too_old = highest.is_some_and(|h: u64| h + 1 - counter.min(h) > WINDOW && counter <= h);
                let expected = !too_old && !seen.contains(&counter);
                prop_assert_eq!(window.is_new(counter), expected);
                prop_assert_eq!(window.accept(counter) != Accepted::Replayed, expected);
                if expected {
                    seen.insert(counter);
                }
            }
        }
    }
}
