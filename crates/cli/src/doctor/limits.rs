//! Limits of the process and its cgroup: descriptors, address space, file size, mappings, memory.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::Check;
use busway_node::Size;

/// A process needs about 40 descriptors, and 3 for each process it has met until their memory is mapped.
const DESCRIPTORS_FEW: u64 = 1024;

/// One's own arena is sparse but takes its whole size as addresses, and each process one talks with half a gigabyte.
const ADDRESSES_FEW: u64 = 64 << 30;

/// One arena may grow to this as far as the kernel's file size limit is concerned.
const FILE_SIZE_FEW: u64 = 8 << 30;

/// What the kernel sets, less a little.
const MAPS_FEW: u64 = 65_530;

/// Less than this leaves no room for rings, let alone for messages.
const MEMORY_FEW: u64 = 256 << 20;

pub(super) fn checks() -> Vec<Check> {
    vec![descriptors(), addresses(), file_size(), maps(), cgroup_memory()]
}

fn descriptors() -> Check {
    const NAME: &str = "descriptors";
    let limit = getrlimit(Resource::Nofile);
    match limit.current {
        Some(count) if count < DESCRIPTORS_FEW => {
            let remedy = match limit.maximum {
                Some(most) if most < DESCRIPTORS_FEW => {
                    format!(
                        "raise the hard limit, which is {most} (limits.conf, LimitNOFILE=), then ulimit -n {DESCRIPTORS_FEW}"
                    )
                }
                _ => format!("ulimit -n {DESCRIPTORS_FEW} or more"),
            };
            Check::finding(NAME, format!("ulimit -n is {count}: enough for few processes"), remedy)
        }
        Some(count) => Check::ok(NAME, format!("ulimit -n is {count}")),
        None => Check::ok(NAME, "unlimited"),
    }
}

fn addresses() -> Check {
    const NAME: &str = "address space";
    match getrlimit(Resource::As).current {
        Some(bytes) if bytes < ADDRESSES_FEW => Check::finding(
            NAME,
            format!("ulimit -v is {}: arenas take addresses, though not memory", Size(bytes)),
            "ulimit -v unlimited, and bound memory with a cgroup instead",
        ),
        Some(bytes) => Check::ok(NAME, format!("ulimit -v is {}", Size(bytes))),
        None => Check::ok(NAME, "unlimited"),
    }
}

fn file_size() -> Check {
    const NAME: &str = "file size";
    match getrlimit(Resource::Fsize).current {
        Some(bytes) if bytes < FILE_SIZE_FEW => Check::finding(
            NAME,
            format!("ulimit -f is {}: it bounds arenas too", Size(bytes)),
            "ulimit -f unlimited",
        ),
        Some(bytes) => Check::ok(NAME, format!("ulimit -f is {}", Size(bytes))),
        None => Check::ok(NAME, "unlimited"),
    }
}

fn maps() -> Check {
    const NAME: &str = "mappings";
    match number_in(Path::new("/proc/sys/vm/max_map_count")) {
        Some(count) if count < MAPS_FEW => Check::finding(
            NAME,
            format!("vm.max_map_count is {count}"),
            format!("sysctl vm.max_map_count={MAPS_FEW} or more"),
        ),
        Some(count) => Check::ok(NAME, format!("vm.max_map_count is {count}")),
        None => Check::note(NAME, "/proc is not there, so it cannot be read"),
    }
}

fn cgroup_memory() -> Check {
    const NAME: &str = "cgroup memory";
    let Some((limit, used)) = cgroup_limit() else { return Check::ok(NAME, "unlimited") };
    let left = limit.saturating_sub(used);
    let detail = format!("{} of {} left", Size(left), Size(limit));
    if left < MEMORY_FEW {
        let remedy = "raise memory.max: past it the kernel kills instead of refusing; the domain's budget is a quarter";
        Check::finding(NAME, detail, remedy)
    } else {
        Check::ok(NAME, detail)
    }
}

/// The tightest limit from our cgroup up to the root, and what is used under it: version 2, else version 1.
fn cgroup_limit() -> Option<(u64, u64)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut tightest: Option<(u64, u64)> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, limit, used) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        let below = Path::new(root).join(path.trim_start_matches('/'));
        for directory in below.ancestors().take_while(|directory| directory.starts_with(root)) {
            let Some(limit) = number_in(&directory.join(limit)) else { continue };
            // Version 1 writes "unlimited" as the largest number of whole pages.
            if limit < u64::MAX >> 2 && tightest.is_none_or(|(least, _)| limit < least) {
                tightest = Some((limit, number_in(&directory.join(used)).unwrap_or(0)));
            }
        }
    }
    tightest
}

fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
