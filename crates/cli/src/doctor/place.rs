//! The directory of sockets and locks: where it is, whose it is, who may enter.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::Check;

const NAME: &str = "directory";

/// `$BUSWAY_DIR`, else `$XDG_RUNTIME_DIR/busway`, else `/tmp/busway-UID`.
fn path() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("BUSWAY_DIR")
        .or_else(|| set("XDG_RUNTIME_DIR").map(|path| path.join("busway")))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/busway-{}", rustix::process::getuid().as_raw())))
}

/// Its owner and mode, without following a link.
pub(super) fn directory() -> Check {
    let path = path();
    let shown = path.display();
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match path.parent().map(fs::metadata) {
                Some(Ok(parent)) if parent.is_dir() => {
                    Check::ok(NAME, format!("{shown}, made when first used"))
                }
                _ => Check::finding(
                    NAME,
                    format!("the parent of {shown} is no directory"),
                    "set BUSWAY_DIR to a directory of yours",
                ),
            };
        }
        Err(error) => {
            return Check::finding(
                NAME,
                format!("{shown}: {error}"),
                "set BUSWAY_DIR to a directory of yours",
            );
        }
    };
    let own = rustix::process::getuid().as_raw();
    let mode = metadata.mode() & 0o7777;
    if metadata.is_symlink() || !metadata.is_dir() {
        return Check::finding(NAME, format!("{shown} is a link or no directory"), format!("rm {shown}"));
    }
    match mode {
        0o700 if metadata.uid() == own => Check::ok(NAME, format!("{shown}, mode 0700, ours")),
        0o2770 => Check::note(NAME, format!("{shown}, mode 2770: shared with group {}", metadata.gid())),
        _ if metadata.uid() != own => Check::finding(
            NAME,
            format!("{shown} belongs to uid {}, we are {own}", metadata.uid()),
            "set BUSWAY_DIR to a directory of yours",
        ),
        _ => Check::finding(
            NAME,
            format!("{shown} has mode {mode:04o}, not 0700"),
            format!("chmod 0700 {shown}"),
        ),
    }
}
