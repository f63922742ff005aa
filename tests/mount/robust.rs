//! Layers that change behind the union's back: errors, but no crash and no lost mount.

use std::fs;

use crate::world::{Ground, under};

fn fill(l: &std::path::Path) {
    fs::create_dir_all(l.join("d/e")).unwrap();
    (0..20).for_each(|i| fs::write(l.join(format!("d/{i}")), b"x").unwrap());
    fs::write(l.join("d/e/f"), b"x").unwrap();
}

/// Makes a directory and what is in it known.
fn look(w: &crate::world::World, dir: &str) {
    assert!(fs::read_dir(w.at(dir)).unwrap().all(|entry| entry.unwrap().metadata().is_ok()));
}

/// Does everything once; whatever it answers, the server lives.
fn try_everything(w: &crate::world::World) {
    let mut answers = 0;
    let mut count = |ok: bool| answers += usize::from(ok);
    for name in ["d/1", "d/2", "d/e/f", "d/new"] {
        let at = w.at(name);
        count(fs::metadata(&at).is_ok());
        count(fs::read(&at).is_ok());
        count(fs::write(&at, b"y").is_ok());
        count(fs::rename(&at, w.at(&format!("{name}-b"))).is_ok());
        count(fs::remove_file(&at).is_ok());
    }
    count(fs::read_dir(w.at("d")).is_ok_and(|dir| dir.flatten().count() > 0));
    count(fs::create_dir(w.at("d/e/sub")).is_ok());
    count(fs::remove_dir_all(w.at("d/e")).is_ok());
    count(fs::write(w.at("fresh"), b"").is_ok());
    assert!(answers < 100);
}

#[test]
fn a_layer_directory_removed_underneath_costs_errors_and_not_the_mount() {
    under(60, || {
        for looked_before in [false, true] {
            let w = Ground::new(fill).mount("");
            if looked_before {
                look(&w, "d");
            }
            fs::remove_dir_all(w.ground.lower.join("d")).unwrap();
            try_everything(&w);
            assert!(fs::write(w.at("fresh"), b"alive").is_ok());
            assert_eq!(fs::read(w.at("fresh")).unwrap(), b"alive");
            w.end_without_lower();
        }
    });
}

#[test]
fn a_layer_directory_replaced_by_a_file_and_a_file_by_a_directory_cost_errors_only() {
    under(60, || {
        for looked_before in [false, true] {
            let w = Ground::new(fill).mount("");
            if looked_before {
                look(&w, "d");
                look(&w, "d/e");
            }
            fs::remove_dir_all(w.ground.lower.join("d/e")).unwrap();
            fs::write(w.ground.lower.join("d/e"), b"now a file").unwrap();
            fs::remove_file(w.ground.lower.join("d/1")).unwrap();
            fs::create_dir(w.ground.lower.join("d/1")).unwrap();
            try_everything(&w);
            fs::write(w.at("fresh"), b"alive").unwrap();
            assert_eq!(fs::read(w.at("fresh")).unwrap(), b"alive");
            w.end_without_lower();
        }
    });
}

#[test]
fn an_upper_changed_underneath_costs_errors_and_not_the_mount() {
    under(60, || {
        let w = Ground::new(fill).mount("");
        fs::write(w.at("d/1"), b"up").unwrap();
        fs::create_dir(w.at("pure")).unwrap();
        fs::write(w.at("pure/f"), b"up").unwrap();
        fs::remove_dir_all(w.in_upper("pure")).unwrap();
        fs::remove_dir_all(w.in_upper("d")).unwrap();
        try_everything(&w);
        assert!(fs::read(w.at("pure/f")).is_err());
        assert!(fs::write(w.at("pure/g"), b"").is_err());
        fs::write(w.at("fresh"), b"alive").unwrap();
        assert_eq!(fs::read(w.at("fresh")).unwrap(), b"alive");
        w.end_without_lower();
    });
}

#[test]
fn removing_a_name_that_was_taken_out_of_the_upper_is_estale_as_in_the_kernel() {
    under(60, || {
        let w = Ground::new(fill).mount("");
        fs::remove_file(w.at("d/1")).unwrap();
        for name in ["d/1", "own"] {
            // Open, so that the kernel does not forget the name.
            let open = fs::File::create(w.at(name)).unwrap();
            fs::remove_file(w.in_upper(name)).unwrap();
            assert_eq!(fs::remove_file(w.at(name)).unwrap_err().raw_os_error(), Some(libc::ESTALE), "{name}");
            drop(open);
        }
        w.end();
    });
}

#[test]
fn a_layer_that_is_moved_into_another_is_eloop_there_as_in_the_kernel() {
    under(60, || {
        let w = Ground::new(fill).mount("");
        fs::rename(&w.ground.upper, w.ground.lower.join("moved")).unwrap();
        assert_eq!(fs::metadata(w.at("moved")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert!(fs::metadata(w.at("d/1")).is_ok());
        fs::rename(w.ground.lower.join("moved"), &w.ground.upper).unwrap();
        w.end_without_lower();
    });
}

#[test]
fn links_that_appear_below_while_mounted_do_not_take_the_last_name_of_a_file_away() {
    under(60, || {
        let fill = |l: &std::path::Path| {
            fs::write(l.join("0"), b"x").unwrap();
            fs::hard_link(l.join("0"), l.join("1")).unwrap();
        };
        let w = Ground::new(fill).mount("index=on");
        fs::write(w.at("0"), b"y").unwrap();
        for name in ["2", "3"] {
            fs::hard_link(w.ground.lower.join("0"), w.ground.lower.join(name)).unwrap();
            fs::remove_file(w.at(name)).unwrap();
        }
        fs::hard_link(w.at("0"), w.at("4")).unwrap();
        for name in ["0", "1", "4"] {
            fs::remove_file(w.at(name)).unwrap();
        }
        w.end_without_lower();
    });
}
