//! A full disk: the caller is told, nothing is lost and nothing is left.

use std::time::Duration;

use acetate::sys::Errno;

use crate::support::watchdog;
use crate::support::{backing, sys};
use crate::view;
use crate::{PLAIN, build_lowers, create, fresh_upper, lowers, open, open_write, rename};

#[test]
fn a_full_upper_is_enospc_and_leaves_the_tree_as_it_was() {
    let outcome = watchdog::within(Duration::from_secs(60), || {
        let base = backing::scratch("full");
        sys::mount(b"tmpfs", base.as_os_str().as_encoded_bytes(), b"tmpfs", 0, b"size=1500k")
            .expect("a tmpfs");
        build_lowers(&base);
        fresh_upper(&base, &PLAIN);
        let numbers = view::numbers(&lowers(&base));
        let union = open(&base, &PLAIN).expect("opening the stack");
        let before = view::through_union(&union, &numbers).expect("a look");
        let filler = base.join("filler");
        let mut size = 4 << 20;
        while size >= 4096 {
            let old = std::fs::read(&filler).unwrap_or_default().len();
            if std::fs::write(&filler, vec![1; old + size]).is_err() {
                std::fs::write(&filler, vec![1; old]).expect("what fitted before");
                size /= 2;
            }
        }
        let descriptors = || std::fs::read_dir("/proc/self/fd").expect("the descriptors").count();
        assert_eq!(open_write(&union, "d/big"), Err(Errno::ENOSPC));
        let opened = descriptors();
        for _ in 0..5 {
            assert_eq!(open_write(&union, "d/big"), Err(Errno::ENOSPC));
            assert_eq!(rename(&union, "d/big", "moved", crate::REPLACE), Err(Errno::ENOSPC));
        }
        assert!(descriptors() <= opened + 2, "descriptors leak");
        assert_eq!(view::through_union(&union, &numbers).expect("a look"), before);
        assert_eq!(std::fs::read_dir(base.join("work/work")).expect("the work directory").count(), 0);
        std::fs::remove_file(&filler).expect("making room");
        assert_eq!(open_write(&union, "d/big"), Ok(()));
        assert_eq!(create(&union, "new"), Ok(()));
    });
    if let Err(unavailable) = outcome {
        println!("skipped: {}", unavailable.0);
    }
}
