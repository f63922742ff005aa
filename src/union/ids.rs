//! Id shifting: owners as the layers record them, and as callers see them.
//!
//! A container's image is stored with the ids of the container (root is 0) while the container runs as somebody else
//! on the host. Instead of changing the owner of every file, each id is shifted on its way in and out. What makes it
//! delicate is that ids hide in more places than `st_uid`: ACL entries, the root user of a file capability, the group
//! a set-group-id directory passes on. All of them go through the one [`Ids`] of the mount.
//!
//! The kernel does the same with idmapped layers, and its rules are followed: an id without a counterpart is shown as
//! one that does not exist ([`NO_ID`], from which the kernel makes 65534 and refuses every change of the object), and
//! cannot be written (EOVERFLOW).

use super::types::Owner;
use crate::sys::{Errno, Result};

/// The id that no user has; towards the kernel it says "unmapped".
pub const NO_ID: u32 = u32::MAX;

/// Consecutive ids that are shifted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first id as the layers record it.
    pub stored: u32,
    /// The first id as callers see it.
    pub shown: u32,
    /// How many; at least 1, and neither side reaches [`NO_ID`].
    pub count: u32,
}

/// What becomes of one kind of id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// It stays as it is.
    #[default]
    Same,
    /// It is shifted; what is in no range has no counterpart. The first range that has it counts.
    Ranges(Vec<Range>),
    /// Every id is shown as one, and whatever callers name is recorded as one.
    Squash {
        /// What callers see.
        shown: u32,
        /// What the layers record from now on.
        stored: u32,
    },
}

impl Rule {
    /// Every id is this one, in both directions.
    pub const fn squash(one: u32) -> Rule {
        Rule::Squash { shown: one, stored: one }
    }

    fn shown(&self, id: u32) -> Option<u32> {
        match self {
            Rule::Same => Some(id).filter(|id| *id != NO_ID),
            Rule::Ranges(ranges) => ranges.iter().find_map(|r| shift(id, r.stored, r.shown, r.count)),
            Rule::Squash { shown, .. } => Some(*shown),
        }
    }

    fn stored(&self, id: u32) -> Option<u32> {
        match self {
            Rule::Same => Some(id).filter(|id| *id != NO_ID),
            Rule::Ranges(ranges) => ranges.iter().find_map(|r| shift(id, r.shown, r.stored, r.count)),
            Rule::Squash { stored, .. } => Some(*stored),
        }
    }

    /// As the option that sets it: `stored:shown:count` for each range; `shown` or `shown:stored` for a single id.
    fn words(&self) -> Option<String> {
        match self {
            Rule::Same => None,
            Rule::Ranges(ranges) => {
                let triple = |r: &Range| format!("{}:{}:{}", r.stored, r.shown, r.count);
                Some(ranges.iter().map(triple).collect::<Vec<_>>().join(":"))
            }
            Rule::Squash { shown, stored } if shown == stored => Some(shown.to_string()),
            Rule::Squash { shown, stored } => Some(format!("{shown}:{stored}")),
        }
    }
}

fn shift(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    let distance = id.checked_sub(from).filter(|distance| *distance < count)?;
    to.checked_add(distance)
}

/// How owners are converted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// Users.
    pub uid: Rule,
    /// Groups.
    pub gid: Rule,
}

impl Ids {
    /// A recorded owner as callers see it; [`NO_ID`] for what has no counterpart.
    pub fn shown(&self, owner: Owner) -> Owner {
        Owner {
            uid: self.uid.shown(owner.uid).unwrap_or(NO_ID),
            gid: self.gid.shown(owner.gid).unwrap_or(NO_ID),
        }
    }

    /// An owner as callers name it, for the layers; [`NO_ID`] for what has no counterpart.
    pub fn stored(&self, owner: Owner) -> Owner {
        Owner {
            uid: self.uid.stored(owner.uid).unwrap_or(NO_ID),
            gid: self.gid.stored(owner.gid).unwrap_or(NO_ID),
        }
    }

    /// A user to be recorded. Errors: EOVERFLOW when there is no counterpart.
    pub fn stored_uid(&self, uid: u32) -> Result<u32> {
        self.uid.stored(uid).ok_or(Errno::EOVERFLOW)
    }

    /// A group to be recorded. Errors: EOVERFLOW when there is no counterpart.
    pub fn stored_gid(&self, gid: u32) -> Result<u32> {
        self.gid.stored(gid).ok_or(Errno::EOVERFLOW)
    }

    /// A stored POSIX ACL as callers see it. An entry of somebody without a counterpart is left out: nobody who could
    /// ask is meant by it.
    pub fn acl_shown(&self, acl: &[u8]) -> Result<Vec<u8>> {
        self.acl_of_somebody(acl, Rule::shown)
    }

    /// An ACL with `shifted` ids, without the entries for which there is none.
    fn acl_of_somebody(&self, acl: &[u8], shifted: fn(&Rule, u32) -> Option<u32>) -> Result<Vec<u8>> {
        let mut out = acl.get(..4).ok_or(Errno::EINVAL)?.to_vec();
        for entry in Entry::all(acl)? {
            match entry.rule(self).map(|rule| shifted(rule, entry.id)) {
                None => entry.push(entry.id, &mut out),
                Some(Some(id)) => entry.push(id, &mut out),
                Some(None) => {}
            }
        }
        Ok(out)
    }

    /// A POSIX ACL as callers name it, for the layers. Errors: EINVAL for an entry of somebody without a counterpart,
    /// as the kernel says for an id that does not exist.
    pub fn acl_stored(&self, acl: &[u8]) -> Result<Vec<u8>> {
        let mut out = acl.get(..4).ok_or(Errno::EINVAL)?.to_vec();
        for entry in Entry::all(acl)? {
            let id = match entry.rule(self) {
                None => entry.id,
                Some(rule) => rule.stored(entry.id).ok_or(Errno::EINVAL)?,
            };
            entry.push(id, &mut out);
        }
        Ok(out)
    }

    /// The value of an attribute that a layer on an idmapped mount shows shifted already, as it would be stored: an ACL
    /// without the entries of those who have no counterpart, a capability, or anything else as it is. Errors: EINVAL for
    /// what is no ACL, and for a capability whose root user has no counterpart.
    pub fn unshifted(&self, name: &std::ffi::CStr, value: Vec<u8>) -> Result<Vec<u8>> {
        if name.to_bytes() == b"security.capability" {
            return self.capability_stored(&value);
        }
        if is_acl(name) { self.acl_of_somebody(&value, Rule::stored) } else { Ok(value) }
    }

    /// Whether a stored ACL has entries that [`Ids::acl_shown`] leaves out, which a change would lose.
    pub fn acl_hides(&self, acl: &[u8]) -> bool {
        Entry::all(acl).is_ok_and(|entries| {
            entries.iter().any(|entry| entry.rule(self).is_some_and(|rule| rule.shown(entry.id).is_none()))
        })
    }

    /// A stored `security.capability` as callers see it: its root user is shifted like any other, and one that is
    /// somebody other than 0 is named (version 3), as the kernel does. Errors: EOVERFLOW for a root user without a
    /// counterpart.
    pub fn capability_shown(&self, value: &[u8]) -> Result<Vec<u8>> {
        match (&self.uid, Capability::read(value)) {
            // What is no capability is left to the kernel to refuse.
            (Rule::Same | Rule::Squash { .. }, _) | (_, None) => Ok(value.to_vec()),
            (rule, Some(capability)) => {
                let root = rule.shown(capability.root).ok_or(Errno::EOVERFLOW)?;
                Ok(Capability { root, ..capability }.write())
            }
        }
    }

    /// A `security.capability` as callers give it, for the layers. Errors: EINVAL for a root user without a
    /// counterpart.
    pub fn capability_stored(&self, value: &[u8]) -> Result<Vec<u8>> {
        match (&self.uid, Capability::read(value)) {
            (Rule::Same | Rule::Squash { .. }, _) | (_, None) => Ok(value.to_vec()),
            (rule, Some(capability)) => {
                let root = rule.stored(capability.root).ok_or(Errno::EINVAL)?;
                Ok(Capability { root, ..capability }.write())
            }
        }
    }

    /// The options that set this, for people.
    pub fn words(&self) -> Vec<String> {
        let word = |rule: &Rule, ranges: &str, squash: &str| {
            let name = if matches!(rule, Rule::Squash { .. }) { squash } else { ranges };
            rule.words().map(|value| format!("{name}={value}"))
        };
        [word(&self.uid, "uidmapping", "squash_to_uid"), word(&self.gid, "gidmapping", "squash_to_gid")]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Whether `name` is a POSIX ACL.
pub fn is_acl(name: &std::ffi::CStr) -> bool {
    name.to_bytes().starts_with(b"system.posix_acl_")
}

/// One entry of a POSIX ACL.
#[derive(Clone, Copy, Debug)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

impl Entry {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;

    /// Errors: EINVAL for what is no ACL.
    fn all(acl: &[u8]) -> Result<Vec<Entry>> {
        let (entries, rest) = acl.get(4..).ok_or(Errno::EINVAL)?.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(Errno::EINVAL);
        }
        let entry = |[a, b, c, d, e, f, g, h]: [u8; 8]| Entry {
            tag: u16::from_le_bytes([a, b]),
            perm: u16::from_le_bytes([c, d]),
            id: u32::from_le_bytes([e, f, g, h]),
        };
        Ok(entries.iter().map(|&raw| entry(raw)).collect())
    }

    /// What shifts its id, if it names anybody. Squashing is for owners: an ACL that named one user many times over
    /// would mean nothing.
    fn rule(self, ids: &Ids) -> Option<&Rule> {
        let rule = match self.tag {
            Entry::USER => &ids.uid,
            Entry::GROUP => &ids.gid,
            _ => return None,
        };
        matches!(rule, Rule::Ranges(_)).then_some(rule)
    }

    fn push(self, id: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.tag.to_le_bytes());
        out.extend_from_slice(&self.perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
}

/// A file capability: version 2, which is for root alone, or version 3, which names the root user it is for.
#[derive(Clone, Copy, Debug)]
struct Capability {
    /// Flags of the first word, without the version.
    flags: u32,
    sets: [u8; 16],
    root: u32,
}

impl Capability {
    const VERSION_2: u32 = 0x0200_0000;
    const VERSION_3: u32 = 0x0300_0000;
    const VERSION: u32 = 0xff00_0000;

    fn read(value: &[u8]) -> Option<Capability> {
        let (magic, rest) = value.split_first_chunk::<4>()?;
        let (sets, root) = rest.split_first_chunk::<16>()?;
        let magic = u32::from_le_bytes(*magic);
        let root = match (magic & Capability::VERSION, root) {
            (Capability::VERSION_2, []) => 0,
            (Capability::VERSION_3, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            _ => return None,
        };
        Some(Capability { flags: magic & !Capability::VERSION, sets: *sets, root })
    }

    fn write(self) -> Vec<u8> {
        let version = if self.root == 0 { Capability::VERSION_2 } else { Capability::VERSION_3 };
        let mut out = (self.flags | version).to_le_bytes().to_vec();
        out.extend_from_slice(&self.sets);
        if self.root != 0 {
            out.extend_from_slice(&self.root.to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u32, u32, u32)]) -> Rule {
        let range = |&(stored, shown, count): &(u32, u32, u32)| Range { stored, shown, count };
        Rule::Ranges(list.iter().map(range).collect())
    }

    fn keep_id() -> Ids {
        let rule = || ranges(&[(0, 1, 1000), (1000, 0, 1), (1001, 1001, 64536)]);
        Ids { uid: rule(), gid: rule() }
    }

    #[test]
    fn an_id_goes_there_and_back_and_one_without_a_counterpart_is_nobody() {
        let ids = keep_id();
        for id in [0, 1, 999, 1000, 1001, 65536] {
            let owner = Owner { uid: id, gid: id };
            assert_eq!(ids.stored(ids.shown(owner)), owner, "{id}");
        }
        assert_eq!(ids.shown(Owner { uid: 1000, gid: 0 }), Owner { uid: 0, gid: 1 });
        assert_eq!(ids.shown(Owner { uid: 65537, gid: 70000 }), Owner { uid: NO_ID, gid: NO_ID });
        assert_eq!(ids.stored_uid(65537), Err(Errno::EOVERFLOW));
        assert_eq!(ids.stored_gid(NO_ID), Err(Errno::EOVERFLOW));
        assert_eq!(Ids::default().stored_uid(NO_ID), Err(Errno::EOVERFLOW));
    }

    #[test]
    fn ranges_at_the_end_of_the_numbers_do_not_overflow() {
        let rule = ranges(&[(u32::MAX - 10, u32::MAX - 3, 10)]);
        assert_eq!(rule.shown(u32::MAX - 10), Some(u32::MAX - 3));
        assert_eq!(rule.shown(u32::MAX - 5), None);
    }

    #[test]
    fn squashing_makes_every_id_one_in_both_directions() {
        let ids = Ids { uid: Rule::squash(7), gid: Rule::Same };
        assert_eq!(ids.shown(Owner { uid: 3, gid: 3 }), Owner { uid: 7, gid: 3 });
        assert_eq!(ids.stored(Owner { uid: 9, gid: 9 }), Owner { uid: 7, gid: 9 });
    }

    #[test]
    fn what_is_shown_as_one_id_can_be_recorded_as_another() {
        let rule = || Rule::Squash { shown: 7, stored: 0 };
        let ids = Ids { uid: rule(), gid: rule() };
        assert_eq!(ids.shown(Owner { uid: 3, gid: 0 }), Owner { uid: 7, gid: 7 });
        assert_eq!(ids.stored(Owner { uid: 7, gid: 9 }), Owner { uid: 0, gid: 0 });
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = 2u32.to_le_bytes().to_vec();
        entries.iter().for_each(|&(tag, perm, id)| Entry { tag, perm, id }.push(id, &mut out));
        out
    }

    #[test]
    fn acl_entries_are_shifted_and_those_of_nobody_left_out() {
        let ids = Ids { uid: ranges(&[(0, 100_000, 10)]), gid: ranges(&[(0, 200_000, 10)]) };
        let stored = acl(&[(1, 6, NO_ID), (2, 4, 5), (2, 4, 50), (4, 4, NO_ID), (8, 4, 5), (16, 4, NO_ID)]);
        let shown = acl(&[(1, 6, NO_ID), (2, 4, 100_005), (4, 4, NO_ID), (8, 4, 200_005), (16, 4, NO_ID)]);
        assert_eq!(ids.acl_shown(&stored).unwrap(), shown);
        assert!(ids.acl_hides(&stored));
        let back = ids.acl_stored(&shown).unwrap();
        assert!(!ids.acl_hides(&back));
        assert_eq!(ids.acl_shown(&back).unwrap(), shown);
        assert_eq!(ids.acl_stored(&acl(&[(2, 4, 5)])), Err(Errno::EINVAL));
        assert_eq!(ids.acl_stored(b"abc"), Err(Errno::EINVAL));
        // A layer on an idmapped mount shows somebody without a counterpart as nobody.
        let idmapped = acl(&[(1, 6, NO_ID), (2, 4, 100_005), (2, 4, NO_ID), (8, 4, 200_005), (16, 4, NO_ID)]);
        let without = acl(&[(1, 6, NO_ID), (2, 4, 5), (8, 4, 5), (16, 4, NO_ID)]);
        assert_eq!(ids.unshifted(c"system.posix_acl_access", idmapped.clone()).unwrap(), without);
        assert_eq!(ids.unshifted(c"user.x", idmapped.clone()).unwrap(), idmapped);
    }

    #[test]
    fn the_root_user_of_a_capability_is_shifted() {
        let ids = Ids { uid: ranges(&[(0, 100_000, 10)]), gid: Rule::Same };
        let mut v2 = 0x0200_0001u32.to_le_bytes().to_vec();
        v2.extend_from_slice(&[7; 16]);
        let mut v3 = 0x0300_0001u32.to_le_bytes().to_vec();
        v3.extend_from_slice(&[7; 16]);
        v3.extend_from_slice(&100_000u32.to_le_bytes());
        assert_eq!(ids.capability_shown(&v2).unwrap(), v3);
        assert_eq!(ids.capability_stored(&v3).unwrap(), v2);
        assert_eq!(ids.capability_stored(&v2), Err(Errno::EINVAL));
        let mut other = v3.clone();
        other[20..].copy_from_slice(&11u32.to_le_bytes());
        assert_eq!(ids.capability_shown(&other), Err(Errno::EOVERFLOW));
        assert_eq!(ids.capability_shown(b"x").unwrap(), b"x");
        assert_eq!(Ids::default().capability_shown(&v2).unwrap(), v2);
    }

    #[test]
    fn the_words_read_as_the_options_that_set_them() {
        assert_eq!(keep_id().words()[0], "uidmapping=0:1:1000:1000:0:1:1001:1001:64536");
        let squashed = Ids { uid: Rule::squash(0), gid: Rule::Squash { shown: 5, stored: 0 } };
        assert_eq!(squashed.words(), ["squash_to_uid=0", "squash_to_gid=5:0"]);
    }
}
