//! What the kernel has: its version, and the calls that the bus uses or falls back from.

use std::fs;

use rustix::fs::{FsWord, MemfdFlags, SealFlags, fcntl_add_seals, fstatfs, memfd_create};
use rustix::io::Errno;
use rustix::thread::futex::{WaitvFlags, waitv};
use rustix::thread::{MembarrierCommand, membarrier_query};
use rustix::time::ClockId;

use super::Check;

/// The floor: seals against writing in the future are of 5.1, and nothing older than the long-term kernel 5.10 is supported.
const KERNEL_FLOOR: (u32, u32) = (5, 10);

/// `statfs` of a memfd says this.
const TMPFS_MAGIC: FsWord = 0x0102_1994;

pub(super) fn checks() -> Vec<Check> {
    vec![kernel(), memfd(), membarrier(), futex_waitv(), overcommit()]
}

fn kernel_version() -> Option<(u32, u32)> {
    let name = rustix::system::uname();
    parse_version(&name.release().to_string_lossy())
}

/// The first two numbers of a release such as `6.18.5-cloud-amd64`.
fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel() -> Check {
    const NAME: &str = "kernel";
    let (major, minor) = KERNEL_FLOOR;
    match kernel_version() {
        Some(version) if version >= KERNEL_FLOOR => {
            Check::ok(NAME, format!("Linux {}.{} (at least {major}.{minor})", version.0, version.1))
        }
        Some(version) => Check::finding(
            NAME,
            format!("Linux {}.{} is older than {major}.{minor}", version.0, version.1),
            "update the kernel",
        ),
        None => Check::note(NAME, "the kernel's version cannot be read"),
    }
}

fn memfd() -> Check {
    const NAME: &str = "memfd";
    let made =
        memfd_create("busway-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).and_then(|memfd| {
            fcntl_add_seals(
                &memfd,
                SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
            )?;
            Ok(fstatfs(&memfd)?.f_type)
        });
    match made {
        Ok(TMPFS_MAGIC) => Check::ok(NAME, "made and sealed, on tmpfs"),
        Ok(other) => Check::finding(
            NAME,
            format!("a memfd lies on file system {other:#x}, not on tmpfs"),
            "members refuse such memory: run where memfd_create is the kernel's own (not under an emulation)",
        ),
        Err(error) => Check::finding(
            NAME,
            format!("a sealed memfd cannot be made: {error}"),
            "a kernel of 5.10 or newer, and a seccomp profile that allows memfd_create and fcntl",
        ),
    }
}

fn membarrier() -> Check {
    const NAME: &str = "membarrier";
    if membarrier_query().contains_command(MembarrierCommand::RegisterGlobalExpedited) {
        Check::ok(NAME, "global expedited")
    } else {
        Check::note(NAME, "absent: full fences are used, which cost some nanoseconds more")
    }
}

fn futex_waitv() -> Check {
    const NAME: &str = "futex_waitv";
    // No futexes at all: a kernel that has the call finds fault with that, one that lacks it with the call.
    match waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic) {
        Err(Errno::NOSYS | Errno::PERM) => {
            Check::note(NAME, "absent (Linux 5.16): a publisher waits for one subscriber at a time")
        }
        _ => Check::ok(NAME, "present"),
    }
}

fn overcommit() -> Check {
    const NAME: &str = "overcommit";
    match fs::read_to_string("/proc/sys/vm/overcommit_memory").as_deref().map(str::trim) {
        Ok("2") => Check::finding(
            NAME,
            "vm.overcommit_memory is 2: sparse arenas count in full",
            "sysctl vm.overcommit_memory=0, or smaller arenas",
        ),
        Ok(mode) => Check::ok(NAME, format!("vm.overcommit_memory is {mode}")),
        Err(_) => Check::note(NAME, "/proc is not there, so it cannot be read"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn releases_of_all_kinds_are_read() {
        assert_eq!(parse_version("6.18.5-cloud-amd64"), Some((6, 18)));
        assert_eq!(parse_version("5.10.0"), Some((5, 10)));
        assert_eq!(parse_version("4.4"), Some((4, 4)));
        assert_eq!(parse_version("unknown"), None);
        assert_eq!(parse_version("99999999999.1"), None);
    }
}
