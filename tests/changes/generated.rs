//! What a package contains besides the program.

use std::process::Command;

#[test]
fn completions_and_man_pages_are_generated_for_every_verb() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_acetate")).arg("generate").arg(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read =
        |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let help = Command::new(env!("CARGO_BIN_EXE_acetate")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let verbs = commands.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    let verbs: Vec<&str> = verbs.filter(|verb| commands.contains(&format!("\n  {verb} "))).collect();
    assert!(verbs.len() > 8 && verbs.contains(&"run") && !verbs.contains(&"generate"), "{verbs:?}");
    for verb in verbs {
        for completions in ["acetate.bash", "_acetate", "acetate.fish"] {
            assert!(read(&format!("completions/{completions}")).contains(verb), "{completions}: {verb}");
        }
        let page = read(&format!("man/acetate-{verb}.1"));
        assert!(page.contains("SYNOPSIS") && page.contains("Example: acetate"), "{verb}");
    }
    assert!(read("man/acetate.1").contains(".TH acetate 1"));
    let parsed =
        Command::new("bash").arg("-n").arg(dir.path().join("completions/acetate.bash")).status().unwrap();
    assert!(parsed.success());
}
