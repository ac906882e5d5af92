// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of a chain's queues share memory for their rings, so that a thousand queues take a few mappings.

use super::command::Command;

/// Bytes of a ring memory. The kernel has so much in one stretch as a rule, and a thousand small queue pairs need 3, or 16 if every
/// ring has a page.
const CHUNK: u64 = 512 << 10;
/// What takes more than this gains nothing worth the room that is left over at a chunk's end.
const LARGEST: u64 = CHUNK / 4;

/// The ring memories that a chain makes first, and which of them each of its other commands takes from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Bytes of each.
    pub(super) memories: Vec<u64>,
    /// By command.
    pub(super) of: Vec<Option<u32>>,
}

impl Plan {
    /// For these commands, with at most `room` ring memories. What finds no place has memory of its own, as a single
    /// queue has: for that one it is one mapping either way, and an object less.
    pub(super) fn new(commands: &[Command<'_>], room: usize, packed: bool) -> Self {
        Self::of_sizes(commands.iter().map(|command| command.room(packed)), room)
    }

    /// Whether any of these commands needs to know whether queue pairs are packed.
    pub(super) fn asks(commands: &[Command<'_>]) -> bool {
        let queues = commands.iter().filter(|command| command.room(false).is_some());
        queues.take(2).count() == 2
    }

    fn of_sizes(sizes: impl Iterator<Item = Option<(u64, u64)>> + Clone, room: usize) -> Self {
        let small = |size: &Option<(u64, u64)>| size.is_some_and(|(_, bytes)| bytes <= LARGEST);
        let worth = sizes.clone().filter(small).nth(1).is_some();
        let mut plan = Self::default();
        plan.of.reserve(sizes.size_hint().0);
        for size in sizes {
            let size = size.filter(|_| worth && small(&size));
            let place = size.and_then(|size| plan.place(size, room));
            plan.of.push(place);
        }
        plan
    }

    /// The chunk that holds so many bytes more, aligned: the last one, or a new one. They are taken in this order, each the first
    /// that is free, so what fits behind the one before it fits.
    fn place(&mut self, (align, bytes): (u64, u64), room: usize) -> Option<u32> {
        match self.memories.last_mut() {
            Some(used) if used.next_multiple_of(align) + bytes <= CHUNK => *used = used.next_multiple_of(align) + bytes,
            _ => {
                if self.memories.len() == room {
                    return None;
                }
                self.memories.push(bytes);
            }
        }
        Some(self.memories.len() as u32 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: u64 = 8192;

    fn plan(sizes: &[Option<u64>], room: usize) -> Plan {
        Plan::of_sizes(sizes.iter().map(|size| size.map(|bytes| (4096, bytes))), room)
    }

    #[test]
    fn u16_packed_queue_pairs_share_pages_and_what_is_on_pages_begins_on_one() {
        let packed = Plan::of_sizes([Some((512, 1536)); 1000].into_iter(), 4096);
        assert_eq!(packed.memories.len(), 3);
        assert_eq!(packed.memories.iter().sum::<u64>(), 1000 * 1536);
        let mixed = Plan::of_sizes(
            [Some((512, 1536)), Some((4096, 8192)), Some((512, 1536))].into_iter(),
            9,
        );
        assert_eq!(mixed.memories, [4096 + 8192 + 1536]);
    }

    #[test]
    fn u16_a_thousand_queue_pairs_share_few_mappings() {
        let plan = plan(&[Some(PAIR); 1000], 4096);
        assert_eq!(plan.memories.len(), 16);
        assert_eq!(plan.memories.iter().sum::<u64>(), 1000 * PAIR);
        assert!(plan.memories.iter().all(|&bytes| bytes <= CHUNK));
        assert!(plan.of.iter().all(Option::is_some));
        assert_eq!((plan.of[63], plan.of[64]), (Some(0), Some(1)));
    }

    #[test]
    fn u16_what_gains_nothing_has_memory_of_its_own() {
        assert_eq!(plan(&[None, Some(PAIR), None], 9).of, [None; 3], "a single queue");
        let large = plan(&[Some(LARGEST + 4096), Some(PAIR), Some(PAIR), None], 9);
        assert_eq!(large.of, [None, Some(0), Some(0), None]);
        assert_eq!(large.memories, [2 * PAIR]);
    }

    #[test]
    fn u16_without_room_for_more_commands_the_rest_has_memory_of_its_own() {
        assert_eq!(plan(&[Some(PAIR); 3], 0), plan(&[None; 3], 0));
        let full = plan(&[Some(LARGEST); 9], 2);
        assert_eq!((full.memories.len(), full.of[7], full.of[8]), (2, Some(1), None));
    }
}
