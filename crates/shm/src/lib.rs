//! The memory of Busway: arenas, rings, rows, bells, life words, and the system calls they need.
//!
//! # Where `unsafe` is, and why it holds
//!
//! | module | what is unsafe | the reason in one sentence |
//! | --- | --- | --- |
//! | `sys::memfd` | `mmap`, `mremap`, `munmap`, references into a mapping | sealed against shrinking, checked for bounds and alignment, only atomics are ever referred to |
//! | `view` | references that keep their mapping alive, payload bytes | checked once when made; a mapping is never moved or shortened; payloads are read only while held |
//! | `layout`, `slot` | the promise that its structures may be shared | they consist of atomics only |
//! | `ring` | a loaned chunk becomes writable | the pool gives a chunk out once, and takes it back when nobody can read it |
//! | `life` | `set_robust_list` | the list lives in memory that is freed only after the kernel has been told to forget it |
//! | `fork` | `pthread_atfork`, `dup2` in the child | the handler touches atomics and makes async-signal-safe calls only |
//! | `tray` | references to what a reader handed out | a place has one owner at a time, told by its flag, and is freed when nobody has it |
//! | `domain`, `claims::file` | promises that its structures may be shared | they consist of atomics only |

#[cfg(not(all(
    target_os = "linux",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("busway runs on Linux 5.10 or newer, on x86-64 and aarch64");

#[cfg(not(loom))]
pub mod arena;
pub mod bell;
pub mod claims;
#[cfg(not(loom))]
pub mod clock;
#[cfg(not(loom))]
pub mod counters;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "promises that its structures may lie in shared memory")]
pub mod domain;
#[cfg(not(loom))]
pub mod error;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "pthread_atfork and dup2 have no safe wrapper")]
pub mod fork;
#[cfg(not(loom))]
pub mod heap;
#[cfg(not(loom))]
pub mod hold;
#[cfg(not(loom))]
pub mod layout;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "set_robust_list has no safe wrapper")]
pub mod life;
pub mod marks;
#[cfg(not(loom))]
mod recycle;
#[cfg(not(loom))]
pub mod ring;
#[cfg(not(loom))]
pub mod row;
#[cfg(not(loom))]
pub mod seat;
pub mod slot;
pub mod sync;
pub mod sys;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "references into memory that is freed when the last of them is gone")]
pub mod tray;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "references into memory that others write or map")]
pub mod view;
#[cfg(not(loom))]
pub mod window;
