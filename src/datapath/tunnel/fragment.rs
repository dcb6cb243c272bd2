//! Putting together the frames that were cut because they did not fit.
//!
//! This is the way of last resort, for what can neither be segmented nor answered with "packet
//! too big", and while the path's MTU is not known yet.

use std::collections::VecDeque;

/// Frames being put together at once. At 64 KiB each this bounds the memory to 2 MiB.
const MAX_FRAMES: usize = 32;
/// Bytes of a frame put together.
const MAX_LEN: usize = 65_535;

/// Which frame a fragment belongs to: the key's index and the first fragment's counter.
pub type FrameName = (u32, u64);

/// Frames of which some fragments have come.
#[derive(Debug, Default)]
pub struct Reassembler {
    frames: VecDeque<Partial>,
}

#[derive(Debug)]
struct Partial {
    name: FrameName,
    pieces: Vec<Vec<u8>>,
    missing: usize,
    len: usize,
}

impl Reassembler {
    /// Takes fragment `index` of `count`; returns the frame when it was the last one missing.
    /// The oldest incomplete frame is given up when there are too many.
    pub fn push(&mut self, name: FrameName, index: u8, count: u8, piece: &[u8]) -> Option<Vec<u8>> {
        if index >= count || piece.is_empty() {
            return None;
        }
        let at = match self.frames.iter().position(|frame| frame.name == name) {
            Some(at) => at,
            None => self.begin(name, count),
        };
        let frame = &mut self.frames[at];
        let place = frame.pieces.get_mut(usize::from(index))?;
        if !place.is_empty() {
            return None;
        }
        frame.len += piece.len();
        frame.missing -= 1;
        place.extend(piece);
        if frame.len > MAX_LEN {
            self.frames.remove(at);
            return None;
        }
        if frame.missing > 0 {
            return None;
        }
        self.frames.remove(at).map(|frame| frame.pieces.concat())
    }

    fn begin(&mut self, name: FrameName, count: u8) -> usize {
        if self.frames.len() == MAX_FRAMES {
            self.frames.pop_front();
        }
        self.frames.push_back(Partial {
            name,
            pieces: vec![Vec::new(); usize::from(count)],
            missing: usize::from(count),
            len: 0,
        });
        self.frames.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fragments_in_any_order_make_the_frame(
            frame in prop::collection::vec(any::<u8>(), 1..5000), size in 30usize..1500, seed: u64,
        ) {
            let mut pieces: Vec<_> = frame.chunks(size).enumerate().collect();
            let count = pieces.len() as u8;
            pieces.sort_by_key(|(index, _)| (*index as u64 + 1).wrapping_mul(seed | 1));
            let mut reassembler = Reassembler::default();
            let mut made: Vec<Vec<u8>> = Vec::new();
            for (index, piece) in &pieces {
                made.extend(reassembler.push((1, 2), *index as u8, count, piece));
            }
            prop_assert_eq!(made, vec![frame]);
        }

        #[test]
        fn memory_is_bounded_whatever_comes(
            fragments in prop::collection::vec((0u64..100, any::<u8>(), any::<u8>(), 0usize..9000), 0..300),
        ) {
            let mut reassembler = Reassembler::default();
            for (name, index, count, len) in fragments {
                let _ = reassembler.push((0, name), index, count, &vec![0; len]);
                prop_assert!(reassembler.frames.len() <= MAX_FRAMES);
                prop_assert!(reassembler.frames.iter().all(|frame| frame.len <= MAX_LEN));
            }
        }
    }
}
