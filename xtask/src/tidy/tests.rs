//! Each rule is broken once, in a tree that exists only here; a clean tree gives no findings.

use super::*;

const ROOT: &str = "[workspace.package]\nrust-version = \"1.95\"\n";

/// The causes that `rule` finds in `files`, with their places; notes are left out.
fn found(rule: fn(&Tree, &mut Vec<Finding>), files: &[(&str, &str)]) -> Vec<String> {
    let mut findings = Vec::new();
    rule(&Tree::of(files), &mut findings);
    findings
        .into_iter()
        .filter(|f| f.weight == Weight::Fails)
        .map(|f| format!("{}:{}: {}", f.file, f.line, f.cause))
        .collect()
}

fn manifest(package: &str, dependencies: &str) -> String {
    format!("[package]\nname = \"{package}\"\n\n[dependencies]\n{dependencies}")
}

#[test]
fn an_arrow_that_is_not_in_the_table_is_found() {
    let good = manifest("busway-shm", "busway-wire.workspace = true\n");
    assert!(found(arrows::between_crates, &[("crates/shm/Cargo.toml", &good)]).is_empty());
    let bad = manifest("busway-wire", "busway-shm.workspace = true\n");
    let findings = found(arrows::between_crates, &[("crates/wire/Cargo.toml", &bad)]);
    assert_eq!(findings, ["crates/wire/Cargo.toml:5: busway-wire uses busway-shm"]);
    let renamed = manifest("xtask", "[target.'cfg(unix)'.dev-dependencies]\nb = { package = \"busway\" }\n");
    assert_eq!(found(arrows::between_crates, &[("xtask/Cargo.toml", &renamed)]).len(), 1);
    // What tests may use the package itself may not.
    let tested = manifest("busway-cli", "\n[dev-dependencies]\nbusway-wire.workspace = true\n");
    assert!(found(arrows::between_crates, &[("crates/cli/Cargo.toml", &tested)]).is_empty());
    let shipped = manifest("busway-cli", "busway-wire.workspace = true\n");
    assert_eq!(found(arrows::between_crates, &[("crates/cli/Cargo.toml", &shipped)]).len(), 1);
    let unknown = manifest("busway-misc", "");
    assert_eq!(found(arrows::between_crates, &[("crates/misc/Cargo.toml", &unknown)]).len(), 1);
}

#[test]
fn a_dependency_without_a_reason_is_found() {
    let good = manifest(
        "x",
        "# wire: the checksum.\na = \"1\"\nb = \"2\" # tests: random numbers\nc.workspace = true\n",
    );
    assert!(found(arrows::reasons_for_dependencies, &[("x/Cargo.toml", &good)]).is_empty());
    let bad = manifest("x", "a = { version = \"1\" }\n");
    let findings = found(arrows::reasons_for_dependencies, &[("x/Cargo.toml", &bad)]);
    assert_eq!(findings, ["x/Cargo.toml:5: a dependency without its reason"]);
}

#[test]
fn who_reads_the_wall_clock_is_found_but_where_a_message_says_its_time() {
    let reads = "//! x\nfn f() -> u64 { clock::realtime_ns() }\n";
    for fine in ["crates/busway/src/publisher.rs", "crates/busway/tests/x.rs", "crates/busway/src/a/tests.rs"]
    {
        assert!(found(words::wall_clock, &[(fine, reads)]).is_empty(), "{fine}");
    }
    let findings = found(words::wall_clock, &[("crates/busway/src/subscriber.rs", reads)]);
    assert_eq!(
        findings,
        ["crates/busway/src/subscriber.rs:2: `realtime_ns(`: the wall clock may be set at any time"]
    );
    let named = "//! x\n// SystemTime is not for us.\nfn f() {}\n";
    assert!(found(words::wall_clock, &[("crates/node/src/x.rs", named)]).is_empty());
}

#[test]
fn unsafe_in_a_file_that_is_not_listed_is_found() {
    let clean = "//! unsafe\n#![forbid(unsafe_code)]\n";
    assert!(found(files::unsafe_only_where_listed, &[("a/src/x.rs", clean)]).is_empty());
    let dirty = "//! x\nfn f() { unsafe { g() } }\n";
    assert_eq!(found(files::unsafe_only_where_listed, &[("a/src/x.rs", dirty)]).len(), 1);
}

#[test]
fn a_listed_file_without_unsafe_is_found() {
    let (path, _) = files::UNSAFE[0];
    assert_eq!(found(files::unsafe_only_where_listed, &[(path, "//! x\n")]).len(), 1);
}

#[test]
fn a_file_without_a_head_is_found() {
    assert!(found(files::heads, &[("a/src/x.rs", "//! What it is.\n"), ("a/tests/t.rs", "")]).is_empty());
    assert_eq!(found(files::heads, &[("a/src/x.rs", "use x;\n")]).len(), 1);
}

#[test]
fn long_files_and_long_functions_are_found() {
    let lines = |count: usize| "// x\n".repeat(count);
    assert!(found(files::lengths, &[("x.rs", &lines(1000))]).is_empty());
    assert_eq!(found(files::lengths, &[("x.rs", &lines(1001))]).len(), 1);
    let function = |count: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(count));
    assert!(found(files::lengths, &[("x.rs", &function(70))]).is_empty());
    assert_eq!(
        found(files::lengths, &[("x.rs", &function(71))]),
        ["x.rs:1: `f` has 71 lines; the wall is 70"]
    );
}

#[test]
fn a_lock_on_the_data_path_is_found() {
    let text = "//! A Mutex would stop the others.\nuse std::sync::Mutex;\n";
    for path in ["crates/shm/src/ring.rs", "crates/shm/src/row/take.rs", "crates/shm/src/bell.rs"] {
        assert_eq!(
            found(files::no_lock_on_the_data_path, &[(path, text)]),
            [format!("{path}:2: `Mutex` on the data path")]
        );
    }
    for path in [
        "crates/shm/src/ring/tests.rs",
        "crates/shm/src/bell/model.rs",
        "crates/shm/src/arena.rs",
        "crates/busway/src/ring.rs",
    ] {
        assert!(found(files::no_lock_on_the_data_path, &[(path, text)]).is_empty(), "{path}");
    }
}

#[test]
fn a_file_that_nothing_imports_is_found() {
    let good = [
        ("a/src/lib.rs", "mod x;\n"),
        ("a/src/x.rs", "mod y;\n#[cfg(test)]\nmod tests;\n"),
        ("a/src/x/y.rs", ""),
        ("a/src/x/tests.rs", ""),
        ("a/tests/t.rs", "mod story;\n"),
        ("a/tests/story/mod.rs", ""),
        ("a/src/bin/b.rs", ""),
        ("a/tests/big/main.rs", "mod part;\n"),
        ("a/tests/big/part.rs", ""),
    ];
    // A mod.rs is against the house style, and here it is what nothing imports.
    assert_eq!(found(imports::no_orphans, &good), ["a/tests/story/mod.rs:1: no file declares this module"]);
    let lost = [("a/src/lib.rs", "// mod z;\n"), ("a/src/z.rs", "")];
    assert_eq!(found(imports::no_orphans, &lost), ["a/src/z.rs:1: no file declares this module"]);
}

#[test]
fn words_that_must_not_stay_are_found() {
    let each = [
        ("a/src/x.rs", "todo!()"),
        ("a/src/x.rs", "#[ignore]"),
        ("a/src/x.rs", "// FIXME later"),
        ("a/tests/t.rs", "std::thread::sleep(d)"),
        ("a/src/x/tests.rs", "thread::sleep(d)"),
        ("README.md", "see /home/me/x"),
        ("docs/x.md", "as shared/design says"),
    ];
    for (path, text) in each {
        assert_eq!(found(words::check, &[(path, text)]).len(), 1, "{path}: {text}");
    }
    assert!(
        found(words::check, &[("a/src/x.rs", "// todo!() is refused\nlet a = \"#[ignore]\";")]).is_empty()
    );
}

#[test]
fn a_path_that_does_not_exist_is_found() {
    let files = |line: &'static str| [("ARCHITECTURE.md", line), ("crates/shm/src/ring.rs", "")];
    for good in [
        "`crates/shm/src/ring.rs`",
        "`crates/shm/`",
        "[ring](crates/shm/src/ring.rs#top)",
        "`ring.rs`",
        "`a.json`",
    ] {
        assert!(found(documents::paths_exist, &files(good)).is_empty(), "{good}");
    }
    for bad in ["`crates/shm/src/rong.rs`", "x [ring](crates/shm/ring.md)", "`crates/io/`"] {
        assert_eq!(found(documents::paths_exist, &files(bad)).len(), 1, "{bad}");
    }
}

#[test]
fn another_msrv_in_the_readme_is_found() {
    let files = |line: &'static str| [("Cargo.toml", ROOT), ("README.md", line)];
    assert!(found(documents::msrv, &files("Rust 1.95 or newer")).is_empty());
    assert_eq!(
        found(documents::msrv, &files("Rust 1.94 or newer")),
        ["README.md:1: Rust 1.94, but Cargo.toml says 1.95"]
    );
    assert_eq!(found(documents::msrv, &files("Some Rust")).len(), 1);
}

#[test]
fn a_foreign_source_and_a_refused_licence_are_found() {
    let lock = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\nsource = \"git+https://x.y/z\"\n";
    assert_eq!(found(licences::sources, &[("Cargo.lock", lock)]).len(), 1);
    let metadata = serde_json::json!({ "packages": [
        { "name": "a", "source": "s", "license": "MIT OR GPL-3.0" },
        { "name": "b", "source": "s", "license": "MPL-2.0" },
        { "name": "c", "source": "s" },
        { "name": "ours", "source": null },
    ]});
    let mut findings = Vec::new();
    licences::packages("Cargo.toml", &metadata, &mut findings);
    let causes: Vec<&str> = findings.iter().map(|f| f.cause.as_str()).collect();
    assert_eq!(causes, ["b is under `MPL-2.0`", "c is under ``"]);
}

#[test]
fn a_feature_of_what_is_shipped_that_only_tests_ask_for_is_found() {
    let of = |kind: Option<&str>, features: &[&str]| {
        let named = serde_json::json!({ "name": "twox-hash", "kind": kind, "features": features });
        let metadata = serde_json::json!({ "packages": [{ "name": "busway", "dependencies": [named] }] });
        let mut findings = Vec::new();
        licences::vectors(&metadata, &mut findings);
        findings.len()
    };
    assert_eq!(of(None, &["std"]), 0);
    assert_eq!(of(Some("dev"), &["std"]), 1);
    assert_eq!(of(None, &[]), 1);
}

#[test]
fn what_rivals_bring_is_allowed_where_they_are_measured_and_nowhere_else() {
    let refused = |manifest: &str, licence: &str| {
        let metadata =
            serde_json::json!({ "packages": [{ "name": "a", "source": "s", "license": licence }] });
        let mut findings = Vec::new();
        licences::packages(manifest, &metadata, &mut findings);
        !findings.is_empty()
    };
    for licence in ["MPL-2.0", "CDLA-Permissive-2.0"] {
        assert!(!refused("bench/peers/Cargo.toml", licence), "{licence}");
        for manifest in ["Cargo.toml", "bench/Cargo.toml", "fuzz/Cargo.toml"] {
            assert!(refused(manifest, licence), "{manifest}, {licence}");
        }
    }
    assert!(refused("bench/peers/Cargo.toml", "GPL-3.0"));
    assert!(!refused("fuzz/Cargo.toml", "NCSA") && refused("bench/peers/Cargo.toml", "NCSA"));
}

#[test]
fn a_promise_without_its_test_or_its_mutant_is_found() {
    const MUTANT: &str = "[[mutant]]\nrow = \"A1\"\nname = \"m\"\nfile = \"w/src/lib.rs\"\nbefore = \"x + 1\"\n\
        after = \"x\"\ntest = { package = \"w\", target = \"lib\", name = \"tests::one\" }\nwhy = \"w\"\n";
    let check = |promises: &str, mutants: &str| {
        let source = "fn f() -> u8 { x + 1 }\nmod tests { #[test] fn one() {} }";
        let manifest = "[package]\nname = \"w\"\n";
        let files = [
            ("PROMISES.md", promises),
            ("mutants.toml", mutants),
            ("w/Cargo.toml", manifest),
            ("w/src/lib.rs", source),
        ];
        found(rows::promises_and_mutants, &files)
    };
    let held = "| A1 | c | `w::lib::tests::one` | held |\n";
    assert!(check(held, MUTANT).is_empty());
    assert_eq!(check(held, ""), ["PROMISES.md:1: A1: no mutant breaks it"]);
    assert!(check("| A1 | c | `w::lib::tests::one` | open |\n", "").is_empty());
    assert!(check("| P1 | c | `bench/RESULTS.md#p1` | held |\n", "").is_empty());
    let gone = held.replace("one", "two");
    assert_eq!(check(&gone, MUTANT), ["PROMISES.md:1: A1: there is no test `w::lib::tests::two`"]);
    assert_eq!(check("", MUTANT), ["mutants.toml:3: m: there is no row A1"]);
    assert_eq!(check(held, &MUTANT.replace("x + 1", "x + 9")).len(), 1);
    assert_eq!(check(held, &MUTANT.replace("tests::one", "tests::two")).len(), 1);
    assert_eq!(check("| A1 | c | d |\n", "").len(), 1);
}

#[test]
fn a_breakage_for_random_worlds_that_the_code_has_left_behind_is_found() {
    let check = |source: &str| {
        let breakage = "[[mutant]]\nname = \"m\"\nfile = \"p.rs\"\nbefore = \"x + 1\"\nafter = \"x\"\n";
        found(rows::promises_and_mutants, &[("sim/mutants.toml", breakage), ("p.rs", source)])
    };
    assert!(check("x + 1").is_empty());
    for moved_on in ["x + 2", "x + 1; x + 1"] {
        let findings = check(moved_on);
        assert!(matches!(&findings[..], [one] if one.starts_with("sim/mutants.toml:1: m:")), "{findings:?}");
    }
}
