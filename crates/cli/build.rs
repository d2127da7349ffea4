//! Tells the binary its commit, which `busway bench` prints beside its figures.

use std::path::Path;
use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    // A source archive has no history; then the figure says so.
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_string());
    write("cargo::rustc-env=BUSWAY_COMMIT", &commit);
    write("cargo::rerun-if-changed", "build.rs");
    // The log of HEAD grows with each commit and each change of branch.
    if let Some(path) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| Path::new(path).exists())
    {
        write("cargo::rerun-if-changed", &path);
    }
}

fn write(key: &str, value: &str) {
    println!("{key}={value}");
}
