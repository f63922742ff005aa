//! Every rule is held by a test that names it, or is a limit that the README lists with its reason.
//!
//! `rules.txt` has the rules. A test names one by its number, in its doc comment (`/// L-5`) or at the end of its
//! name (`…_l5`); what counts is a function with `#[test]` that is not ignored, under `tests/` or in `src/`.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// The number of a rule: `L-5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule(char, u32);

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

/// The families of rules.
const FAMILIES: &str = "LCDIAOF";

/// The numbers in a text, each standing alone: `L-5`, not `UTF-8` and not `L-5a`.
fn cited(text: &str) -> BTreeSet<Rule> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter_map(number).collect()
}

fn number(word: &str) -> Option<Rule> {
    let (family, digits) = word.split_once('-')?;
    let mut letters = family.chars();
    let family = letters.next().filter(|c| FAMILIES.contains(*c) && letters.next().is_none())?;
    let plain = !digits.starts_with('0') && digits.chars().all(|c| c.is_ascii_digit());
    digits.parse().ok().filter(|_| plain).map(|n| Rule(family, n))
}

/// The numbers at the end of a test's name: `a_file_decides_l1_l4`.
fn named(function: &str) -> BTreeSet<Rule> {
    function
        .rsplit('_')
        .map_while(|word| {
            let (letter, digits) = word.split_at_checked(1)?;
            number(&format!("{}-{digits}", letter.to_ascii_uppercase()))
        })
        .collect()
}

/// A test and the rules it names.
#[derive(Debug, PartialEq)]
struct Test {
    name: String,
    rules: BTreeSet<Rule>,
}

/// The tests of one source file.
fn tests_in(source: &str) -> Vec<Test> {
    let (mut tests, mut doc) = (Vec::new(), String::new());
    let (mut is_test, mut ignored) = (false, false);
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
            doc.push('\n');
        } else if line.starts_with("#[") {
            is_test |= line == "#[test]";
            ignored |= line.starts_with("#[ignore");
        } else {
            let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            if let Some(name) = name.filter(|_| is_test && !ignored) {
                let rules = cited(&doc).into_iter().chain(named(name)).collect();
                tests.push(Test { name: name.to_string(), rules });
            }
            doc.clear();
            (is_test, ignored) = (false, false);
        }
    }
    tests
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Which tests name which rule: `file::function`.
fn citations() -> BTreeMap<Rule, Vec<String>> {
    let mut files = Vec::new();
    for directory in ["src", "tests"] {
        sources(&project().join(directory), &mut files);
    }
    let mut citations: BTreeMap<Rule, Vec<String>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.ends_with("tests/rules/main.rs")) {
        let place = file.strip_prefix(project()).unwrap().display();
        for test in tests_in(&std::fs::read_to_string(file).unwrap()) {
            for rule in &test.rules {
                citations.entry(*rule).or_default().push(format!("{place}::{}", test.name));
            }
        }
    }
    citations
}

/// The rules and their titles.
fn rules() -> BTreeMap<Rule, &'static str> {
    let mut rules = BTreeMap::new();
    for line in include_str!("rules.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (word, title) = line.split_once(' ').unwrap();
        let rule = number(word).unwrap_or_else(|| panic!("no number of a rule: {line}"));
        assert!(rules.insert(rule, title.trim()).is_none(), "{rule} stands twice");
    }
    rules
}

/// The rules that a row of a table under the heading `Limits` names, in a row that has a reason.
fn limits(readme: &str) -> BTreeSet<Rule> {
    let chapter = readme.split("\n## ").find(|chapter| chapter.starts_with("Limits\n")).unwrap();
    let reasoned =
        |row: &&str| row.starts_with('|') && row.split('|').nth(2).is_some_and(|r| !r.trim().is_empty());
    chapter.lines().filter(reasoned).flat_map(cited).collect()
}

#[test]
fn every_rule_has_a_test_that_names_it_or_is_a_listed_limit() {
    let (rules, citations) = (rules(), citations());
    let limits = limits(&std::fs::read_to_string(project().join("README.md")).unwrap());
    let bare: Vec<String> = rules
        .iter()
        .filter(|(rule, _)| !citations.contains_key(rule) && !limits.contains(rule))
        .map(|(rule, title)| format!("{rule} ({title})"))
        .collect();
    assert!(bare.is_empty(), "neither test nor limit: {bare:#?}");
}

#[test]
fn no_test_and_no_limit_names_a_rule_that_does_not_exist() {
    let rules = rules();
    let limits = limits(&std::fs::read_to_string(project().join("README.md")).unwrap());
    let named = citations().into_iter().chain(limits.into_iter().map(|r| (r, vec!["README.md".into()])));
    let unknown: Vec<_> = named.filter(|(rule, _)| !rules.contains_key(rule)).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn the_numbers_of_a_family_have_no_gap() {
    let rules = rules();
    for family in FAMILIES.chars() {
        let count = rules.keys().filter(|rule| rule.0 == family).count();
        assert!((1..=count).all(|n| rules.contains_key(&Rule(family, n as u32))), "{family}: {count}");
    }
}

#[test]
fn only_tests_count_as_naming_a_rule() {
    let source = "\
        /// L-5, and UTF-8\n#[test]\nfn an_opaque_directory() {}\n\
        /// L-6\nfn helper() {}\n\
        /// L-7\n#[test]\n#[ignore]\nfn not_run() {}\n\
        #[test]\nfn decides_l1_l4() {}\n\
        // D-1\n#[test]\nfn a_comment_is_no_doc() {}\n";
    let found: Vec<_> = tests_in(source).into_iter().map(|t| (t.name, t.rules)).collect();
    let set = |rules: &[Rule]| rules.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(
        found,
        [
            ("an_opaque_directory".to_string(), set(&[Rule('L', 5)])),
            ("decides_l1_l4".to_string(), set(&[Rule('L', 1), Rule('L', 4)])),
            ("a_comment_is_no_doc".to_string(), set(&[])),
        ]
    );
    assert_eq!(
        limits("# x\n## Limits\n\n| a (A-13) | why |\n| b (A-14) | |\n\n## More\n| A-15 | y |"),
        set(&[Rule('A', 13)])
    );
}
