//! Full disks and missing descriptors.
