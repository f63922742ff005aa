//! Node ids on the wire and node ids of the union: the one place where they differ.
//!
//! The kernel never caches the access ACL of node 1, the superblock's root, so every path walk from there by a caller
//! who does not own it would cost a request (F-43). Where the mount can be built by descriptors, node 1 is therefore
//! an empty-looking directory that nobody ever sees, with the union's root as its only child, and a clone of the mount
//! of that child is what goes onto the mountpoint. Elsewhere node 1 is the union's root.

use crate::sys::Time;
use crate::union::{Attr, AttrReply, NodeId, Owner, Valid};

use super::wire::abi::ROOT_ID;

/// The name of the union's root in the unseen directory; shows as the root column of mountinfo.
pub const CHILD: &std::ffi::CStr = c"merged";

/// How the mount is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Node 1 is the union's root.
    Plain,
    /// Node 1 is an unseen directory above the union's root.
    Beneath,
}

/// Whom a node id of the wire names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The unseen directory.
    Unseen,
    /// A node of the union.
    Node(NodeId),
}

impl Shape {
    /// The union's node as the kernel knows it. A bijection: ids of the union are never `u64::MAX`.
    pub fn to_wire(self, node: NodeId) -> u64 {
        match self {
            Shape::Plain => node.0,
            Shape::Beneath => node.0.wrapping_add(1),
        }
    }

    /// The inverse of [`Shape::to_wire`].
    pub fn target_of(self, raw: u64) -> Target {
        match self {
            Shape::Plain => Target::Node(NodeId(raw)),
            Shape::Beneath if raw == ROOT_ID => Target::Unseen,
            Shape::Beneath => Target::Node(NodeId(raw.wrapping_sub(1))),
        }
    }
}

/// What the unseen directory looks like to whoever gets there with a descriptor.
pub fn unseen() -> AttrReply {
    let attr = Attr {
        ino: ROOT_ID,
        mode: libc::S_IFDIR | 0o555,
        nlink: 3,
        owner: Owner { uid: 0, gid: 0 },
        rdev: crate::sys::Dev::default(),
        size: 0,
        blocks: 0,
        blksize: 4096,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::default(),
        btime: None,
    };
    AttrReply { attr, valid: Valid::Unlimited }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::union::ROOT;

    #[test]
    fn wire_ids_and_union_ids_map_one_to_one() {
        for shape in [Shape::Plain, Shape::Beneath] {
            for id in [1, 2, 1 << 40, u64::MAX - 1] {
                let wire = shape.to_wire(NodeId(id));
                assert_ne!(wire, 0);
                assert_eq!(shape.target_of(wire), Target::Node(NodeId(id)));
            }
        }
        assert_eq!(Shape::Beneath.target_of(ROOT_ID), Target::Unseen);
        assert_eq!(Shape::Plain.target_of(ROOT_ID), Target::Node(ROOT));
    }
}
