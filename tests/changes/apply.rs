//! `acetate apply`: the tree comes out as if the commands had run in it.

use std::path::Path;

use crate::world::{World, age, copy, difference, direct, now, picture, text};

/// Everything at once, with names that collide.
pub const EDITS: &str = "
    echo more >> f                                      # a file with two names
    rm full/x; chmod 2750 full; touch -d 2002-02-02 full
    mv sub moved; echo in > moved/new; rm moved/g
    mkdir sub; echo again > sub/g                       # a new directory at the place of a renamed one
    mv one t; mv two one; mv t two; echo > one/x        # two directories exchanged
    mv deep/er/est up; rm -r deep; mkdir deep; mv up deep/est
    rm -r gone; ln -s nowhere gone
    rm kind; mkdir kind; echo > kind/in
    mkdir -p a/b/c; mkfifo a/b/pipe; ln a/b/pipe a/pipe-again; chmod 555 a/b
    ln single single-again; ln -f equal-1 equal-2
    truncate -s 100000 sparse; printf x | dd of=sparse bs=1 seek=70000 conv=notrunc 2>/dev/null
    setfattr -n user.colour -v green tagged; setfattr -x user.old tagged
    setfacl -m u:12:rwx,m:rx acl; setfacl -d -m g:34:r full
    chmod 4755 program; touch -h -d 2003-03-03 link
    chown -h 12:34 link owned 2>/dev/null; mknod null c 1 3 2>/dev/null
    rm -r opaque; mkdir opaque; echo > opaque/other
    chmod 711 .
";

/// The tree they are made in.
pub fn build(dir: &Path) {
    direct(
        dir,
        "mkdir -p one two deep/er/est gone/with/much opaque/old
         echo 1 > one/1; echo 2 > two/2; echo e > deep/er/est/e; echo > gone/with/much/content; echo k > kind
         echo s > single; echo same > equal-1; echo same > equal-2; touch tagged acl program owned
         setfattr -n user.old -v 1 tagged; chmod 644 equal-1 equal-2; echo > opaque/old/x",
    );
    age(dir);
}

#[test]
fn a_run_that_is_applied_gives_the_tree_of_a_direct_run() {
    let Some(world) = World::new() else { return };
    build(&world.path("d"));
    copy(&world.path("d"), &world.path("direct"));
    let since = now();
    direct(&world.path("direct"), EDITS);
    let mut command = world.acetate(&["run", "--apply", "--", "bash", "-c", EDITS]);
    let output = command.current_dir(world.path("d")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (expected, found) = (picture(&world.path("direct"), since), picture(&world.path("d"), since));
    assert!(expected == found, "{}", difference(&expected, &found));
    assert_eq!(world.left(), [""; 0]);
}

#[test]
fn a_user_applies_his_run_later() {
    let Some(world) = World::of_user() else { return };
    // In a user namespace there are no other users.
    let edits = EDITS.replace("chown", "true").replace("u:12:", "u:54321:").replace("g:34:", "g:54321:");
    build(&world.path("d"));
    let owned =
        std::process::Command::new("chown").args(["-R", "-h", "54321:54321"]).arg(world.path("d")).status();
    assert!(owned.unwrap().success());
    copy(&world.path("d"), &world.path("direct"));
    std::fs::write(world.path("edits"), &edits).unwrap();
    let since = now();
    let output = world.as_user(
        "(cd direct; bash ../edits 2>/dev/null)
         ./acetate run --on d --keep kept -- bash -c 'cd d; bash ../edits 2>/dev/null'
         ./acetate apply kept d --dry-run
         ./acetate apply kept d",
    );
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let (expected, found) = (picture(&world.path("direct"), since), picture(&world.path("d"), since));
    assert!(expected == found, "{}", difference(&expected, &found));
}

#[test]
fn a_second_call_finds_nothing_to_do_even_where_directories_were_exchanged() {
    let Some(world) = World::new() else { return };
    build(&world.path("d"));
    let script = format!("cd d; {EDITS}");
    world.run(&["run", "--on", "d", "--keep", "kept", "--", "bash", "-c", &script]);
    world.must(&["apply", "kept", "d"]);
    let once = picture(&world.path("d"), now() - 1000);
    let (out, err) = world.must(&["apply", "kept", "d"]);
    assert!(out.is_empty() && err.contains("already"), "{out}{err}");
    assert_eq!(difference(&once, &picture(&world.path("d"), now() - 1000)), "");
}

#[test]
fn changes_go_to_another_tree_like_the_lower_too() {
    let Some(world) = World::new() else { return };
    build(&world.path("d"));
    copy(&world.path("d"), &world.path("other"));
    copy(&world.path("d"), &world.path("direct"));
    let since = now();
    direct(&world.path("direct"), EDITS);
    let script = format!("cd d; {EDITS}");
    world.run(&["run", "--on", "d", "--keep", "kept", "--", "bash", "-c", &script]);
    world.must(&["apply", "kept", "other", "--lower", "d"]);
    let (expected, found) = (picture(&world.path("direct"), since), picture(&world.path("other"), since));
    assert!(expected == found, "{}", difference(&expected, &found));
}

#[test]
fn what_was_changed_since_is_not_overwritten() {
    let Some(world) = World::new() else { return };
    let script = "cd d; echo mine >> f; rm full/x; rm -r sub; mkdir new; mv full full2";
    world.must(&["run", "--on", "d", "--keep", "kept", "--", "sh", "-c", script]);
    std::fs::write(world.path("d/f"), "theirs\n").unwrap();
    std::fs::write(world.path("d/sub/unexpected"), "theirs\n").unwrap();
    let before = picture(&world.path("d"), 0);
    let refused = world.run(&["apply", "kept", "d"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    for sentence in ["f was changed since", "sub was changed since", "nothing was touched", "--force"] {
        assert!(said.contains(sentence), "{said}");
    }
    let (rehearsal, status) = (world.run(&["apply", "kept", "d", "--dry-run"]), Some(1));
    assert_eq!(rehearsal.status.code(), status);
    assert!(text(&rehearsal.stdout).contains("R full -> full2"), "{}", text(&rehearsal.stdout));
    assert_eq!(difference(&before, &picture(&world.path("d"), 0)), "");
    let json = world.run(&["apply", "kept", "d", "--dry-run", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(answer["outcome"], "refused");
    world.must(&["apply", "kept", "d", "--force"]);
    assert_eq!(std::fs::read_to_string(world.path("d/f")).unwrap(), "one\nmine\n");
    assert!(!world.path("d/sub").exists() && world.path("d/full2/y").exists());
}

#[test]
fn an_upper_that_is_in_use_and_a_layer_of_several_are_refused() {
    let Some(world) = World::new() else { return };
    let refused = |words: &[&str]| {
        let output = world.run(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        text(&output.stderr)
    };
    world.must(&["mount", "--lower", "d", "--upper", "u", "m"]);
    std::fs::write(world.path("m/n"), "n").unwrap();
    assert!(refused(&["apply", "m", "d"]).contains("unmount it first"));
    assert!(refused(&["apply", "u", "d"]).contains("a mount writes to them"));
    world.must(&["umount", "m"]);
    let several = refused(&["apply", "u", "d", "--lower", "d", "--lower", "a"]);
    assert!(several.contains("one of several layers"), "{several}");
    world.must(&["apply", "u", "d"]);
    assert!(world.path("d/n").exists());
}

#[test]
fn metadata_only_copies_and_their_renames_are_applied_whole() {
    let Some(world) = World::new() else { return };
    build(&world.path("d"));
    copy(&world.path("d"), &world.path("direct"));
    let since = now();
    let edits = "chmod 600 single; mv equal-1 elsewhere; mv one one2; mv one2/1 uno; ln program program2";
    direct(&world.path("direct"), edits);
    world.must(&["mount", "--lower", "d", "--upper", "u", "-o", "metacopy=on", "m"]);
    direct(&world.path("m"), edits);
    world.must(&["umount", "m"]);
    // The upper was made by hand and has a time of its own.
    world.must(&["apply", "u", "d"]);
    let (expected, found) = (picture(&world.path("direct"), since), picture(&world.path("d"), since));
    assert!(expected == found, "{}", difference(&expected, &found));
}
