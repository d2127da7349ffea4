//! The files of the kernel in their many forms, and in none.

use std::collections::BTreeMap;

use super::*;

/// The memory limit that these files make.
fn limit(files: &[(&str, &str)]) -> u64 {
    let files: BTreeMap<PathBuf, String> =
        files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
    memory_limit(&|path| files.get(path).cloned())
}

const MEMINFO: (&str, &str) = ("/proc/meminfo", "MemTotal:       16384000 kB\nMemFree:         1000000 kB\n");
const MACHINE: u64 = 16_384_000 * 1024;
const V2_MOUNT: (&str, &str) = (
    "/proc/self/mountinfo",
    "22 1 0:5 / /proc rw - proc proc rw\n30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
);

#[test]
fn machine_without_cgroups_counts_whole() {
    assert_eq!(limit(&[MEMINFO]), MACHINE);
    assert_eq!(limit(&[]), UNKNOWN_MEMORY, "a kernel that says nothing");
    assert_eq!(limit(&[("/proc/meminfo", "MemTotal: lots\n")]), UNKNOWN_MEMORY);
}

#[test]
fn least_limit_of_version_two_and_its_ancestors_counts() {
    let group = ("/proc/self/cgroup", "0::/a.slice/b.scope\n");
    let max = ("/sys/fs/cgroup/a.slice/b.scope/memory.max", "max\n");
    let files = [MEMINFO, V2_MOUNT, group, max];
    assert_eq!(limit(&files), MACHINE, "no limit anywhere");
    let parent = ("/sys/fs/cgroup/a.slice/memory.max", "67108864\n");
    assert_eq!(limit(&[&files[..], &[parent]].concat()), 64 << 20, "the parent's limit is ours too");
    let own = ("/sys/fs/cgroup/a.slice/b.scope/memory.max", "1048576\n");
    assert_eq!(limit(&[MEMINFO, V2_MOUNT, group, parent, own]), 1 << 20, "the least counts");
}

#[test]
fn version_one_is_found_by_its_controller() {
    let groups = ("/proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/box/1\n1:cpu:/x\n0::/\n");
    let mounts = (
        "/proc/self/mountinfo",
        "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
         35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n",
    );
    let unlimited = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_eq!(limit(&[MEMINFO, groups, mounts, unlimited]), MACHINE);
    let own = ("/sys/fs/cgroup/memory/box/1/memory.limit_in_bytes", "33554432\n");
    assert_eq!(limit(&[MEMINFO, groups, mounts, unlimited, own]), 32 << 20);
}

#[test]
fn container_that_sees_a_subtree_finds_its_group_in_it() {
    let mounts = (
        "/proc/self/mountinfo",
        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory\\040limits rw - cgroup cgroup rw,memory\n",
    );
    let own = ("/sys/fs/cgroup/memory limits/memory.limit_in_bytes", "33554432\n");
    let outside = ("/sys/fs/cgroup/memory limits/../../../memory.limit_in_bytes", "4096\n");
    for group in ["4:memory:/docker/abc\n", "4:memory:/elsewhere\n", "4:memory:/docker/abc/../../..\n"] {
        let files = [MEMINFO, mounts, ("/proc/self/cgroup", group), own, outside];
        assert_eq!(limit(&files), 32 << 20, "{group}");
    }
    let nested = ("/sys/fs/cgroup/memory limits/x/memory.limit_in_bytes", "1048576\n");
    let files = [MEMINFO, mounts, ("/proc/self/cgroup", "4:memory:/docker/abc/x\n"), own, nested];
    assert_eq!(limit(&files), 1 << 20);
}

#[test]
fn text_that_makes_no_sense_is_left_out() {
    let mut random = fastrand::Rng::with_seed(11);
    let pieces = [
        "0::",
        "/",
        "..",
        ":",
        "memory",
        " - ",
        "cgroup2",
        " ",
        "\n",
        "\\040",
        "é",
        "99999999999999999999",
        "-",
    ];
    for _ in 0..20_000 {
        let mut text =
            |count: usize| -> String { (0..count).map(|_| pieces[random.usize(..pieces.len())]).collect() };
        let (groups, mounts, value) = (text(6), text(20), text(2));
        let read = |path: &Path| match path.to_str() {
            Some("/proc/self/cgroup") => Some(groups.clone()),
            Some("/proc/self/mountinfo") => Some(mounts.clone()),
            Some("/proc/meminfo") => None,
            _ => Some(value.clone()),
        };
        assert!(memory_limit(&read) <= UNKNOWN_MEMORY);
    }
}

#[test]
fn default_budget_is_a_quarter_of_what_this_process_may_use() {
    let budget = default_budget();
    assert!(budget >= 1 << 20, "{budget} bytes would hold no message");
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text)).unwrap();
    assert!(budget <= machine / SHARE, "{budget} bytes is more than a quarter of {machine}");
}
