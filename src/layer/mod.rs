//! One layer, read-only.
