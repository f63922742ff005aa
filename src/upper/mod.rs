//! The writable layer.
