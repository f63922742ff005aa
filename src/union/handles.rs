//! Whether the file handles of a stack can be relied upon, and what has to be done without where they cannot.
//!
//! A handle record names its filesystem by UUID (L-28). Where two filesystems have the same one, or a filesystem makes no
//! handles at all, a record would lead nowhere or to a wrong object; the kernel then goes on without the features that
//! follow handles, and says so in its log.

use super::{Config, Redirect, Xino};

/// What counts of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerHandles {
    pub dev: u64,
    pub uuid: [u8; 16],
    /// Its filesystem makes handles.
    pub encodes: bool,
}

/// The layers of a stack; `lower` top first, data-only layers included.
#[derive(Clone, Debug)]
pub(super) struct Filesystems {
    pub upper: Option<LayerHandles>,
    pub lower: Vec<LayerHandles>,
}

/// The filesystems (by `st_dev`) whose handles are not followed: those that share a UUID with another lower one, and,
/// unless a feature that needs them was asked for, those without any UUID. The upper's own is never among them.
pub(super) fn ambiguous(config: &Config, layers: &Filesystems) -> Vec<u64> {
    if layers.upper.is_none() && !config.nfs_export {
        return Vec::new();
    }
    let trusts_null =
        config.index || config.metacopy || config.redirect == Redirect::On || config.xino == Xino::On;
    let upper = layers.upper.map(|upper| upper.dev);
    let foreign = |layer: &&LayerHandles| Some(layer.dev) != upper;
    let shared = |layer: &LayerHandles| {
        layers.lower.iter().any(|other| other.uuid == layer.uuid && other.dev != layer.dev)
    };
    let null = |layer: &LayerHandles| layer.uuid == [0; 16] && !trusts_null;
    layers.lower.iter().filter(foreign).filter(|l| shared(l) || null(l)).map(|l| l.dev).collect()
}

/// The configuration that is possible with these handles: without an index, and so without exported handles, where a
/// filesystem has none or they are ambiguous.
pub(super) fn settle(config: &Config, layers: &Filesystems, ambiguous: &[u64]) -> Config {
    let mut settled = config.clone();
    if !(config.index || config.nfs_export) {
        return settled;
    }
    let mute = layers.upper.iter().chain(&layers.lower).any(|layer| !layer.encodes);
    if mute || !ambiguous.is_empty() {
        let why = if mute { "has no file handles" } else { "has the UUID of another one" };
        log::warn!("a layer's filesystem {why}: going on with index=off, nfs_export=off");
        settled.index = false;
        settled.nfs_export = false;
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(dev: u64, uuid: u8) -> LayerHandles {
        LayerHandles { dev, uuid: [uuid; 16], encodes: true }
    }

    fn index() -> Config {
        Config { index: true, ..Config::default() }
    }

    fn after(config: &Config, upper: Option<LayerHandles>, lower: &[LayerHandles]) -> (Vec<u64>, bool) {
        let layers = Filesystems { upper, lower: lower.to_vec() };
        let ambiguous = ambiguous(config, &layers);
        let index = settle(config, &layers, &ambiguous).index;
        (ambiguous, index)
    }

    #[test]
    fn two_lower_filesystems_with_one_uuid_do_without_an_index() {
        let upper = Some(layer(1, 1));
        assert_eq!(after(&index(), upper, &[layer(2, 2), layer(3, 3)]), (vec![], true));
        assert_eq!(after(&index(), upper, &[layer(2, 2), layer(2, 2)]), (vec![], true));
        assert_eq!(after(&index(), upper, &[layer(2, 2), layer(3, 2)]), (vec![2, 3], false));
        assert_eq!(after(&index(), upper, &[layer(1, 1), layer(3, 1)]), (vec![3], false));
    }

    #[test]
    fn a_filesystem_without_uuid_is_followed_only_for_a_feature_that_needs_it() {
        let (upper, lower) = (Some(layer(1, 1)), [layer(2, 0)]);
        assert_eq!(after(&Config::default(), upper, &lower), (vec![2], false));
        assert_eq!(after(&index(), upper, &lower), (vec![], true));
        assert_eq!(after(&Config::default(), None, &lower), (vec![], false));
        assert_eq!(after(&Config::default(), Some(layer(2, 0)), &lower), (vec![], false));
    }

    #[test]
    fn a_filesystem_without_handles_turns_the_index_off() {
        let mute = LayerHandles { encodes: false, ..layer(1, 1) };
        assert_eq!(after(&index(), Some(mute), &[layer(2, 2)]), (vec![], false));
        assert_eq!(after(&index(), Some(layer(2, 2)), &[mute]), (vec![], false));
    }
}
