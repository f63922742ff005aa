//! What callers see in place of what the layers record: shifted owners, and inode numbers of 32 bits where asked for.
//!
//! Every reply that shows an owner or a number passes here once; the way back is [`crate::union::ids::Ids`] alone.

use crate::union::ids::Ids;
use crate::union::{AttrReply, Config, DirEntry, Entry};

/// The conversions of one mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'c> {
    ids: &'c Ids,
    ino32: bool,
}

impl<'c> View<'c> {
    pub(super) fn of(config: &'c Config) -> View<'c> {
        View { ids: &config.ids, ino32: config.ino32 }
    }

    pub(super) fn attr(self, mut reply: AttrReply) -> AttrReply {
        reply.attr.owner = self.ids.shown(reply.attr.owner);
        reply.attr.ino = self.number(reply.attr.ino);
        reply
    }

    pub(super) fn entry(self, mut entry: Entry) -> Entry {
        entry.attr = self.attr(entry.attr);
        entry
    }

    pub(super) fn listed(self, mut entry: DirEntry<'_>) -> DirEntry<'_> {
        entry.ino = self.number(entry.ino);
        entry
    }

    /// Both halves of a number that needs more than 32 bits, folded. 0 would mean "no entry" in a listing.
    fn number(self, ino: u64) -> u64 {
        let folded = (ino ^ (ino >> 32)) & u64::from(u32::MAX);
        if self.ino32 { folded.max(1) } else { ino }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_numbers_fit_and_small_ones_stay() {
        let config = Config { ino32: true, ..Config::default() };
        let view = View::of(&config);
        assert_eq!(view.number(7), 7);
        assert_eq!(view.number((1 << 62) | 7), (1 << 30) | 7);
        assert_eq!(view.number((5 << 32) | 5), 1);
        let plain = Config::default();
        assert_eq!(View::of(&plain).number(1 << 62), 1 << 62);
    }
}
