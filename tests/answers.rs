//! What a mount says of itself: `status`, `sync`, `which` and `diff`, as people and programs read it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

#[path = "support/stage.rs"]
mod stage;

use stage::Stage;

const OPAQUE: &std::ffi::CStr = c"trusted.overlay.opaque";

/// Layers that do everything a layer can do to another, mounted with an upper.
fn mounted(options: &str) -> Option<Stage> {
    let stage = Stage::new()?;
    for dir in ["a/merged", "b/merged", "a/whole", "b/whole", "b/only", "b/only/sub"] {
        std::fs::create_dir(stage.path(dir)).unwrap();
    }
    for (file, text) in
        [("a/both", "A"), ("b/both", "B"), ("b/gone", "B"), ("b/whole/old", "B"), ("b/low", "B")]
    {
        std::fs::write(stage.path(file), text).unwrap();
    }
    let device = nix::sys::stat::SFlag::S_IFCHR;
    let mode = nix::sys::stat::Mode::empty();
    nix::sys::stat::mknod(&stage.path("a/gone"), device, mode, 0).unwrap();
    let set = Command::new("setfattr")
        .args(["-n", OPAQUE.to_str().unwrap(), "-v", "y"])
        .arg(stage.path("a/whole"))
        .status();
    if !set.is_ok_and(|status| status.success()) {
        println!("skipped: the scratch directory takes no trusted attributes, or there is no setfattr");
        return None;
    }
    stage.must(&["mount", "--lower", "a", "--lower", "b", "--upper", "u", "--work", "w", "-o", options, "m"]);
    Some(stage)
}

fn which(stage: &Stage, path: &str) -> Value {
    let all: Value = serde_json::from_str(&stage.must(&["which", "--json", path])).unwrap();
    all[0].clone()
}

/// The marks of an answer, the upper first.
fn marks(answer: &Value) -> Vec<&str> {
    answer["layers"].as_array().unwrap().iter().map(|layer| layer["mark"].as_str().unwrap()).collect()
}

#[test]
fn each_mark_means_what_the_layers_hold() {
    let Some(stage) = mounted("index=off") else { return };
    for (path, shown, expected) in [
        ("m/both", Some(1), ["absent", "shown", "covered"]),
        ("m/low", Some(2), ["absent", "absent", "shown"]),
        ("m/gone", None, ["absent", "deleted", "covered"]),
        ("m/merged", Some(1), ["absent", "shown", "merged"]),
        ("m/whole", Some(1), ["absent", "replaces", "covered"]),
        ("m/whole/old", None, ["absent", "absent", "absent"]),
        ("m/nowhere", None, ["absent", "absent", "absent"]),
        ("m", Some(0), ["shown", "merged", "merged"]),
    ] {
        let answer = which(&stage, path);
        assert_eq!(marks(&answer), expected, "{path}");
        assert_eq!(answer["shown"].as_u64(), shown, "{path}");
        let inside = path.strip_prefix("m/").unwrap_or("");
        assert_eq!(answer["path"].as_str().unwrap(), inside);
    }
    stage.must(&["umount", "m"]);
}

#[test]
fn an_object_of_the_upper_says_where_it_came_from() {
    let Some(stage) = mounted("index=off") else { return };
    std::fs::write(stage.path("m/both"), "more").unwrap();
    std::fs::rename(stage.path("m/low"), stage.path("m/moved")).unwrap();
    std::fs::write(stage.path("m/new"), "").unwrap();
    let remount = ["mount", "--lower", "a", "--lower", "b", "--upper", "u", "--work", "w", "m"];
    for fresh in [false, true] {
        if fresh {
            stage.must(&["umount", "m"]);
            stage.must(&remount);
        }
        let both = which(&stage, "m/both");
        assert_eq!(marks(&both), ["shown", "covered", "covered"]);
        assert_eq!(both["copied_from"], serde_json::json!({"layer": 1, "path": "both"}));
        let moved = which(&stage, "m/moved");
        assert_eq!(marks(&moved), ["shown", "absent", "absent"]);
        assert_eq!(moved["copied_from"], serde_json::json!({"layer": 2, "path": "low"}));
        assert_eq!(marks(&which(&stage, "m/low")), ["deleted", "absent", "covered"]);
        assert_eq!(which(&stage, "m/new")["copied_from"], Value::Null);
    }
    stage.must(&["umount", "m"]);
}

#[test]
fn a_redirect_leads_to_another_place_of_a_layer() {
    let Some(stage) = mounted("redirect_dir=on,metacopy=on") else { return };
    std::fs::rename(stage.path("m/only"), stage.path("m/renamed")).unwrap();
    let answer = which(&stage, "m/renamed");
    assert_eq!(marks(&answer), ["shown", "absent", "merged"]);
    assert_eq!(answer["layers"][2]["at"], "only");
    assert_eq!(answer["copied_from"], serde_json::json!({"layer": 2, "path": "only"}));
    assert_eq!(which(&stage, "m/renamed/sub")["layers"][2]["at"], "only/sub");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(stage.path("m/both"), permissions).unwrap();
    let both = which(&stage, "m/both");
    assert_eq!(both["metadata_only"], true);
    assert_eq!(both["copied_from"], serde_json::json!({"layer": 1, "path": "both"}));
    assert_eq!(stage.must(&["diff", "m"]), "C both (mode)\nR only -> renamed\n");
    stage.must(&["umount", "m"]);
}

#[test]
fn status_tells_the_stack_and_what_was_done() {
    let Some(stage) = mounted("redirect_dir=on") else { return };
    std::fs::write(stage.path("m/both"), "more").unwrap();
    let open = std::fs::File::open(stage.path("m/low")).unwrap();
    let status: Value = serde_json::from_str(&stage.must(&["status", "--json", "m/merged"])).unwrap();
    let layers: Vec<(&str, &str)> = status["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| (layer["role"].as_str().unwrap(), layer["path"].as_str().unwrap()))
        .collect();
    let paths = ["u", "a", "b"].map(|name| stage.path(name).to_str().unwrap().to_string());
    let expected: Vec<(&str, &str)> =
        ["upper", "lower", "lower"].into_iter().zip(paths.iter().map(String::as_str)).collect();
    assert_eq!(layers, expected);
    assert_eq!(status["pid"].as_i64(), Some(i64::from(stage.server().as_raw())));
    assert_eq!(status["work"].as_str(), stage.path("w").to_str());
    assert!(status["options"].as_array().unwrap().contains(&"redirect_dir=on".into()));
    assert_eq!(status["copy_ups"], 1);
    assert!(status["handles"].as_u64().unwrap() >= 1 && status["descriptors"].as_u64().unwrap() > 5);
    assert!(status["transport"]["requests"]["lookup"].as_u64().unwrap() > 0);
    drop(open);
    stage.must(&["umount", "m"]);
}

#[test]
fn sync_says_whether_there_was_anything_to_do() {
    let Some(stage) = mounted("index=off") else { return };
    assert_eq!(stage.must(&["sync", "--json", "m"]).replace(char::is_whitespace, ""), r#"{"synced":true}"#);
    stage.must(&["umount", "m"]);
    stage.must(&["mount", "--lower", "a", "--upper", "u", "--work", "w", "-o", "volatile", "m"]);
    assert_eq!(stage.must(&["sync", "--json", "m"]).replace(char::is_whitespace, ""), r#"{"synced":false}"#);
    stage.must(&["umount", "m"]);
}

#[test]
fn a_program_in_another_mount_namespace_and_root_is_answered() {
    let Some(stage) = mounted("index=off") else { return };
    let inside = stage.path("m");
    std::fs::copy(env!("CARGO_BIN_EXE_acetate"), inside.join("acetate")).unwrap();
    std::fs::create_dir(inside.join("proc")).unwrap();
    let script = "mount --rbind /proc proc && cp both seen 2>/dev/null; exec ./acetate which --json both";
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "bash", "-c", script])
        .current_dir(&inside)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(marks(&answer[0]), ["absent", "shown", "covered"]);
    stage.must(&["umount", "m"]);
}

#[test]
fn strangers_are_not_answered() {
    let Some(stage) = mounted("index=off") else { return };
    std::fs::copy(env!("CARGO_BIN_EXE_acetate"), stage.path("acetate")).unwrap();
    for open in ["", "a", "u", "m"] {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(stage.path(open), permissions).unwrap();
    }
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "./acetate", "status", "m"])
        .current_dir(stage.path(""))
        .output();
    match output {
        Err(e) => println!("skipped: setpriv: {e}"),
        Ok(output) => {
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{message}");
            assert!(message.contains("only root and the user who mounted it may ask"), "{message}");
        }
    }
    stage.must(&["umount", "m"]);
}

/// Names are bytes: one that is no text comes as a list of numbers, and is escaped for people.
#[test]
fn a_name_that_is_no_text_is_asked_for_and_answered() {
    use std::os::unix::ffi::OsStrExt;
    let Some(stage) = mounted("index=off") else { return };
    let name = std::ffi::OsStr::from_bytes(b"x\xff\n");
    std::fs::write(stage.path("m").join(name), "").unwrap();
    let path = Path::new("m").join(name);
    let ask = |flag: &[&str]| {
        let output = stage.command(&["which"]).args(flag).arg(&path).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let answer: Value = serde_json::from_str(&ask(&["--json"])).unwrap();
    assert_eq!(answer[0]["path"], serde_json::json!([120, 255, 10]));
    assert!(ask(&["--grid", "--no-heading"]).starts_with("x\\xff\\x0a "));
    assert!(ask(&[]).starts_with("m/x\\xff\\x0a: from upper\n"));
    stage.must(&["umount", "m"]);
}

#[test]
fn diff_says_the_same_of_a_mount_and_of_its_layers() {
    let Some(stage) = mounted("index=off") else { return };
    std::fs::write(stage.path("m/both"), "more").unwrap();
    std::fs::remove_file(stage.path("m/low")).unwrap();
    std::fs::create_dir(stage.path("m/new")).unwrap();
    std::fs::remove_dir_all(stage.path("m/only")).unwrap();
    let expected = "C both (content, mtime)\nD low\nA new\nD only\n";
    assert_eq!(stage.must(&["diff", "m"]), expected);
    assert_eq!(stage.must(&["diff", "--stat", "m"]), "1 added, 1 changed, 2 deleted, 0 renamed; 4 bytes\n");
    stage.must(&["umount", "m"]);
    assert_eq!(stage.must(&["diff", "u", "--lower", "a", "--lower", "b"]), expected);
    std::fs::write(stage.path("list"), "a\nb\n").unwrap();
    assert_eq!(stage.must(&["diff", "u", "--lower", "@list"]), expected);
    assert_eq!(stage.must(&["diff", "u"]), "? both\nD low\n? new\nD only\n");
    let json: Value = serde_json::from_str(&stage.must(&["diff", "--json", "u", "--lower", "a"])).unwrap();
    assert_eq!(json["stat"]["changed"], 1);
    stage.must(&["mount", "--lower", "a", "m"]);
    let refused = stage.run(&["diff", "m"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no upper"));
    stage.must(&["umount", "m"]);
}
