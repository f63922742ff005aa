//! Merging and lookup (section 1.1).

use nix::errno::Errno::*;

use super::scenario::scenario;

/// L-1
#[test]
fn the_topmost_layer_that_has_a_file_gives_it() {
    scenario()
        .lower(|l| {
            l.file("a", "top").file("d/x", "1");
        })
        .lower(|l| {
            l.file("a", "bottom").file("b", "only below");
        })
        .run(|o| {
            o.cat("a").gives("top");
            o.cat("b").gives("only below");
            o.cat("c").fails(ENOENT);
            o.put("a", "new").ok();
            o.rename("b", "d/b").ok();
            o.in_upper("b").lines("whiteout");
        });
}
