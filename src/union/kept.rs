//! What is kept open between requests, though no program has it open.
//!
//! Opening costs the caller a round trip that reading does not need. So directories, and on mounts without an upper
//! files too, are opened by the kernel alone (F-7): a request says only which node it is about. What such a request had
//! to open is kept for the next one; so is a backing file that the next open of the same file will want again. All of
//! it for a bounded number of nodes, and never longer than the node itself.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::types::NodeId;
use crate::sys::Result;

const SHARDS: usize = 16;

/// What is kept of recently read nodes. The shards are leaf locks.
#[derive(Debug)]
pub(super) struct Kept<T> {
    shards: [Mutex<LruCache<NodeId, Arc<T>>>; SHARDS],
}

impl<T> Kept<T> {
    /// Room for about `capacity` nodes.
    pub(super) fn new(capacity: usize) -> Kept<T> {
        let each = NonZeroUsize::new(capacity / SHARDS).unwrap_or(NonZeroUsize::MIN);
        Kept { shards: std::array::from_fn(|_| Mutex::new(LruCache::new(each))) }
    }

    // The remainder keeps the index below SHARDS.
    #[allow(clippy::indexing_slicing)]
    fn shard(&self, node: NodeId) -> MutexGuard<'_, LruCache<NodeId, Arc<T>>> {
        self.shards[node.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept of `node`, or what `open` makes. Errors: those of `open`.
    pub(super) fn get_or(&self, node: NodeId, open: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        if let Some(kept) = self.shard(node).get(&node) {
            return Ok(Arc::clone(kept));
        }
        // Outside of the lock; of two that open at once the later one is kept.
        let opened = Arc::new(open()?);
        self.put(node, Arc::clone(&opened));
        Ok(opened)
    }

    /// Keeps `opened` for `node`.
    pub(super) fn put(&self, node: NodeId, opened: Arc<T>) {
        let evicted = self.shard(node).push(node, opened);
        drop(evicted);
    }

    /// What is kept of `node`, which is not kept any longer.
    pub(super) fn take(&self, node: NodeId) -> Option<Arc<T>> {
        self.shard(node).pop(&node)
    }

    /// Closes what is kept of a node.
    pub(super) fn forget(&self, node: NodeId) {
        drop(self.take(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_found_again_and_dropped_with_its_node_f7() {
        let kept = Kept::new(256);
        let open = |n| kept.get_or(NodeId(n), || Ok(n)).unwrap();
        let first = open(7);
        assert!(Arc::ptr_eq(&first, &kept.get_or(NodeId(7), || panic!("it is kept")).unwrap()));
        kept.forget(NodeId(7));
        assert_eq!(Arc::strong_count(&first), 1);
        let all: Vec<_> = (0..10_000).map(open).collect();
        let held = all.iter().filter(|n| Arc::strong_count(n) > 1).count();
        assert_eq!(held, 256);
    }
}
