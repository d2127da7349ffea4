//! The programs that a build and a test run need, looked for before anything is built.
//!
//! Only what every run needs is listed. A single test that wants more says `skipped: REASON` itself.

use std::path::Path;

use crate::failure::Failure;

/// A program and the package that holds it, by family of distributions.
struct Tool {
    name: &'static str,
    why: &'static str,
    /// (`ID` or `ID_LIKE` of /etc/os-release, package)
    packages: &'static [(&'static str, &'static str)],
}

const TOOLS: &[Tool] = &[Tool {
    name: "cc",
    why: "rustc links with it",
    packages: &[
        ("debian", "gcc"),
        ("ubuntu", "gcc"),
        ("fedora", "gcc"),
        ("rhel", "gcc"),
        ("arch", "gcc"),
        ("suse", "gcc"),
        ("alpine", "build-base"),
    ],
}];

/// Ok, or one line for each program that is missing.
pub(crate) fn check() -> Result<(), Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let release = std::fs::read_to_string(Path::new("/etc/os-release")).unwrap_or_default();
    let missing = missing(TOOLS, &release, there);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!("missing tools\n{}", missing.join("\n")), "install them, then run this again"))
}

fn missing(tools: &[Tool], release: &str, there: impl Fn(&str) -> bool) -> Vec<String> {
    let family: Vec<&str> = release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|ids| ids.trim_matches('"').split_whitespace())
        .collect();
    tools
        .iter()
        .filter(|tool| !there(tool.name))
        .map(|tool| {
            let package = tool.packages.iter().find(|(id, _)| family.contains(id)).map_or("gcc", |(_, p)| p);
            format!("  {} ({}): package {package}", tool.name, tool.why)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{TOOLS, missing};

    #[test]
    fn a_missing_tool_is_named_with_the_package_of_the_distribution() {
        let alpine = "NAME=\"Alpine Linux\"\nID=alpine\n";
        assert_eq!(missing(TOOLS, alpine, |_| false), ["  cc (rustc links with it): package build-base"]);
        let mint = "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
        assert_eq!(missing(TOOLS, mint, |_| false), ["  cc (rustc links with it): package gcc"]);
        assert!(missing(TOOLS, mint, |_| true).is_empty());
    }
}
