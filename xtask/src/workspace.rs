//! Where the workspace lies, and how cargo is called in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::Failure;

/// The root of the workspace: xtask is one folder below it.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// `cargo` of the toolchain that runs us, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    forget_caller(&mut command);
    command
}

/// `cargo` through rustup, of another toolchain.
pub(crate) fn cargo_of(toolchain: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "cargo"]).current_dir(root());
    forget_caller(&mut command);
    // What the outer cargo set would select the outer toolchain again.
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
        command.env_remove(name);
    }
    command
}

/// What `cargo run` told us about xtask, and what a user set for the bus, is none of a child's business.
fn forget_caller(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    for name in ["BUSWAY_DIR", "BUSWAY_DOMAIN", "BUSWAY_LOG"] {
        command.env_remove(name);
    }
}

/// Where build outputs and reports go.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Writes `text` to `target/name`.
pub(crate) fn write_target(name: &str, text: &str) -> Result<(), Failure> {
    let path = target().join(name);
    std::fs::create_dir_all(target())
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display()), "free space, or rights"))
}

/// The user is root: continuous integration, where nothing may be skipped.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// Runs a short command and returns its output, or None where it failed or is not there.
pub(crate) fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).current_dir(root()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
