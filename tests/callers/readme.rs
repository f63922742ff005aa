//! The README's blocks about those who call us are run as they stand, so that they cannot say what is not so.

use std::path::Path;

use crate::engines::{has, lines, place, start};
use crate::stage::Stage;

/// The blocks of the section `title` of the README: each run of indented lines, without the indentation.
fn blocks(title: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split_once(&format!("\n### {title}\n")).expect(title).1;
    let section = section.split("\n#").next().unwrap();
    let mut blocks = Vec::new();
    let mut block = String::new();
    for line in section.lines() {
        match line.strip_prefix("    ") {
            Some(line) => block += &format!("{line}\n"),
            None if block.is_empty() => {}
            None => blocks.push(std::mem::take(&mut block)),
        }
    }
    blocks.extend(Some(block).filter(|block| !block.is_empty()));
    blocks
}

/// Runs the section and looks for `signs` in what it prints, in this order.
fn run(title: &str, needs: &[&str], signs: &[&str]) {
    let Some(stage) = Stage::new() else { return };
    if !has(needs) || !has(&["busybox", "pivot_root"]) {
        return;
    }
    place(&stage);
    let blocks = blocks(title);
    assert!(!blocks.is_empty(), "{title}");
    let dir = stage.path("readme");
    std::fs::create_dir(&dir).unwrap();
    for (number, block) in blocks.iter().enumerate() {
        std::fs::write(dir.with_extension(number.to_string()), block).unwrap();
    }
    let program = stage.path("acetate");
    let said = lines(start(&stage, "readme.sh", &[dir.to_str().unwrap(), title, program.to_str().unwrap()]));
    let mut rest = said.as_str();
    for sign in signs {
        rest = rest.split_once(sign).unwrap_or_else(|| panic!("{sign:?} is not in its place: {said}")).1;
    }
}

#[test]
fn podman_and_buildah() {
    let needs = ["podman", "buildah", "conmon", "crun"];
    let signs = ["C /etc\n", "D /etc/motd\n", "hello\n", "== afterwards\n/usr/local/bin/acetate\n"];
    run("podman and buildah", &needs, &signs);
}

#[test]
fn docker_engine() {
    let signs = ["C /etc\n", "/etc/motd\n", "== afterwards\nfuse-overlayfs\n"];
    run("Docker Engine", &["dockerd", "docker", "containerd", "runc"], &signs);
}

#[test]
fn containerd() {
    if !Path::new("/usr/lib/python3/dist-packages/grpc").exists() {
        println!("skipped: needs gRPC for Python");
        return;
    }
    run("containerd", &["containerd", "ctr", "runc", "mount.fuse3"], &["== afterwards\n"]);
}

#[test]
fn mount_8_and_fstab() {
    run("mount(8) and fstab", &["mount"], &["== afterwards\napp\nbase\nfuse"]);
}

#[test]
fn trying_things_out() {
    let signs = [
        "config.status",
        "hello",
        "A done/file",
        "A built",
        "result",
        "== afterwards\nbuilt\ndone\nx\nbuilt\n",
    ];
    run("Trying things out: `run`", &["make"], &signs);
}

#[test]
fn images() {
    run("Images", &["umoci", "crun"], &["app:1.0", "uid=0", "uid=0", "== afterwards\n"]);
}

#[test]
fn keeping_the_changes() {
    let signs = ["== afterwards\n", ".wh.b\n", "new\n", "c\n", "new\n", "old\n"];
    run("Keeping the changes: `commit`", &["umoci"], &signs);
}
