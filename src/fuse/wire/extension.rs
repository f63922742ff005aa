//! What a creating request may carry behind its arguments: security labels for the new object, and one more group.
//!
//! Security contexts were there first and have no type of their own: their header's second word is a count, and every
//! other extension takes a type above the largest count.

use std::ffi::CStr;

use zerocopy::FromBytes;

use super::abi::{EXT_GROUPS, ExtHeader, MAX_NR_SECCTX, Secctx, aligned};
use super::request::Broken;

/// The extensions of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    /// Full attribute name and value of each security label.
    pub security: Vec<(&'a CStr, &'a [u8])>,
    /// The parent's group, when the caller is a member of it beyond its fsgid.
    pub groups: SupplementaryGroups,
}

/// The supplementary groups the kernel names; at most one today.
pub type SupplementaryGroups = Vec<u32>;

impl<'a> Extensions<'a> {
    /// Takes the extensions at the end of a message. Unknown kinds are skipped.
    pub(super) fn decode(mut bytes: &'a [u8]) -> Result<Extensions<'a>, Broken> {
        let mut found = Extensions::default();
        while !bytes.is_empty() {
            let (header, _) = ExtHeader::read_from_prefix(bytes).map_err(|_| Broken::Truncated)?;
            let size = header.size as usize;
            let body = bytes.get(size_of::<ExtHeader>()..size).ok_or(Broken::Truncated)?;
            match header.kind {
                0..=MAX_NR_SECCTX => labels(body, header.kind, &mut found.security)?,
                EXT_GROUPS => found.groups = groups(body)?,
                _ => {}
            }
            bytes = bytes.get(aligned(size)..).unwrap_or_default();
        }
        Ok(found)
    }
}

fn labels<'a>(mut body: &'a [u8], count: u32, into: &mut Vec<(&'a CStr, &'a [u8])>) -> Result<(), Broken> {
    for _ in 0..count {
        let (label, rest) = Secctx::read_from_prefix(body).map_err(|_| Broken::Truncated)?;
        let name = CStr::from_bytes_until_nul(rest).map_err(|_| Broken::Unterminated)?;
        let start = name.count_bytes() + 1;
        let end = start.checked_add(label.size as usize).ok_or(Broken::Truncated)?;
        let value = rest.get(start..end).ok_or(Broken::Truncated)?;
        into.push((name, value));
        body = body.get(aligned(size_of::<Secctx>() + end)..).unwrap_or_default();
    }
    Ok(())
}

fn groups(body: &[u8]) -> Result<SupplementaryGroups, Broken> {
    let (count, rest) = u32::read_from_prefix(body).map_err(|_| Broken::Truncated)?;
    let bytes = (count as usize).checked_mul(size_of::<u32>()).ok_or(Broken::Truncated)?;
    let list = rest.get(..bytes).ok_or(Broken::Truncated)?;
    Ok(list.chunks_exact(size_of::<u32>()).filter_map(|raw| u32::read_from_bytes(raw).ok()).collect())
}
