//! Ids in options: `uidmapping=STORED:SHOWN:COUNT[:STORED:SHOWN:COUNT…]` and single ones.

use super::Refusal;
use crate::union::ids::{Ids, NO_ID, Range, Rule};

/// Everything belongs to root.
pub(super) const SQUASHED_TO_ROOT: Ids = Ids { uid: Rule::squash(0), gid: Rule::squash(0) };

/// A number in decimal digits.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    match value {
        [b'0'..=b'9', ..] => std::str::from_utf8(value).ok()?.parse().ok(),
        _ => None,
    }
}

/// One user or group that everything is shown as; behind a colon, what it is recorded as if that is another.
pub(super) fn one_id(value: &[u8]) -> Result<Rule, Refusal> {
    let id = |value: &[u8]| number(value).filter(|id| *id != NO_ID);
    let mut words = value.splitn(2, |b| *b == b':').map(id);
    match (words.next().flatten(), words.next()) {
        (Some(one), None) => Ok(Rule::squash(one)),
        (Some(shown), Some(Some(stored))) => Ok(Rule::Squash { shown, stored }),
        _ => Err(Refusal::new("that is no user or group id").hint(
            "say a number, as in squash_to_uid=1000, or two: 1000:0 is shown as 1000 and recorded as 0",
        )),
    }
}

/// Any number of ranges. Colons before and after them, which container engines write, say nothing.
pub(super) fn ranges(value: &[u8]) -> Result<Vec<Range>, Refusal> {
    const FORM: &str =
        "say IN-THE-LAYERS:IN-THE-MOUNT:COUNT, and any number of such triples with colons between them";
    let refuse = |why: &str| Refusal::new(why).hint(FORM);
    let numbers: Vec<u32> = value
        .split(|b| *b == b':')
        .filter(|piece| !piece.is_empty())
        .map(|piece| number(piece).ok_or_else(|| refuse("it has something that is no number")))
        .collect::<Result<_, _>>()?;
    let (triples, rest) = numbers.as_chunks::<3>();
    if triples.is_empty() || !rest.is_empty() {
        return Err(refuse("its numbers do not come in threes"));
    }
    let mut ranges: Vec<Range> = Vec::with_capacity(triples.len());
    for &[stored, shown, count] in triples {
        let new = Range { stored, shown, count };
        if count == 0 {
            return Err(refuse("a range is empty"));
        }
        // The last number of all is no id.
        if [stored, shown].iter().any(|first| NO_ID - first < count) {
            return Err(refuse("a range goes beyond the largest id"));
        }
        if ranges.iter().any(|old| {
            overlap(old.stored, old.count, stored, count) || overlap(old.shown, old.count, shown, count)
        }) {
            return Err(refuse("two ranges overlap, so an id would have two meanings"));
        }
        ranges.push(new);
    }
    Ok(ranges)
}

fn overlap(a: u32, a_count: u32, b: u32, b_count: u32) -> bool {
    a.max(b) - a.min(b) < if a <= b { a_count } else { b_count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_ranges_with_stray_colons_is_read() {
        let range = |stored, shown, count| Range { stored, shown, count };
        assert_eq!(ranges(b":0:1:1024").unwrap(), [range(0, 1, 1024)]);
        assert_eq!(
            ranges(b"0:1:1000:1000:0:1:1001:1001:64536").unwrap(),
            [range(0, 1, 1000), range(1000, 0, 1), range(1001, 1001, 64536)]
        );
        assert_eq!(ranges(b"0:4294967294:1:").unwrap(), [range(0, NO_ID - 1, 1)]);
    }

    #[test]
    fn a_single_id_can_be_recorded_as_another() {
        assert_eq!(one_id(b"1000").unwrap(), Rule::squash(1000));
        assert_eq!(one_id(b"1000:0").unwrap(), Rule::Squash { shown: 1000, stored: 0 });
        for bad in [&b""[..], b":", b"1:", b":1", b"1:2:3", b"x", b"4294967295", b"0:4294967295"] {
            assert!(one_id(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn ranges_that_mean_nothing_are_refused_with_a_reason() {
        for (bad, why) in [
            (&b""[..], "threes"),
            (b":", "threes"),
            (b"0:1", "threes"),
            (b"0:1:2:3", "threes"),
            (b"0:x:2", "no number"),
            (b"0:-1:2", "no number"),
            (b"0:+1:2", "no number"),
            (b"0:1:0", "empty"),
            (b"0:4294967295:1", "largest"),
            (b"1:0:4294967295", "largest"),
            (b"0:99999999999:1", "no number"),
            (b"0:0:10:9:100:5", "overlap"),
            (b"0:0:10:100:5:5", "overlap"),
        ] {
            assert!(ranges(bad).unwrap_err().why.contains(why), "{}", bad.escape_ascii());
        }
    }
}
