//! Who we are and whose a descriptor is: random numbers, user ids, copies of descriptors, size limits.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::Resource;
use rustix::rand::GetRandomFlags;

use crate::error::ShmError;

std::thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on what the calling thread draws follows from `seed`, so that two runs of a simulator are the same. `None`:
/// the kernel's numbers again.
pub fn seed_random(seed: Option<u64>) {
    SEED.set(seed);
}

/// SplitMix64: what is drawn is a name, no secret.
fn drawn() -> Option<u64> {
    let seed = SEED.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
    SEED.set(Some(seed));
    let word = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some(word ^ (word >> 31))
}

/// 64 random bits from the kernel, unless the thread was given a seed.
///
/// # Errors
/// [`ShmError::System`] where the kernel has no random numbers.
pub fn random_u64() -> Result<u64, ShmError> {
    if let Some(drawn) = drawn() {
        return Ok(drawn);
    }
    let mut bytes = [0; 8];
    let filled = rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| ShmError::from_errno("getrandom", errno))?;
    debug_assert_eq!(filled, bytes.len(), "the kernel gives up to 256 bytes whole");
    Ok(u64::from_le_bytes(bytes))
}

/// The effective user id of this process.
#[must_use]
pub fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The user who made the file behind a descriptor.
///
/// # Errors
/// [`ShmError::System`] where the descriptor is not open.
pub fn owner(fd: impl AsFd) -> Result<u32, ShmError> {
    if cfg!(miri) {
        // It does not know the call.
        return Ok(uid());
    }
    rustix::fs::fstat(fd).map(|stat| stat.st_uid).map_err(|errno| ShmError::from_errno("fstat", errno))
}

/// A second descriptor for the same file.
///
/// # Errors
/// [`ShmError::Descriptors`] where none is left.
pub fn duplicate(fd: impl AsFd) -> Result<OwnedFd, ShmError> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|errno| ShmError::from_errno("fcntl", errno))
}

/// The size of an arena: `wanted`, less where `ulimit -f` or `ulimit -v` leave less, in whole pages.
///
/// # Errors
/// [`ShmError::FileSize`] or [`ShmError::AddressSpace`] where not even `least` bytes can be had.
pub fn clamp_size(wanted: u64, least: u64) -> Result<u64, ShmError> {
    if cfg!(miri) {
        // It has no limits.
        return Ok(wanted.max(least));
    }
    let file = rustix::process::getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
    let space = rustix::process::getrlimit(Resource::As).current.unwrap_or(u64::MAX);
    if file < least {
        return Err(ShmError::FileSize { wanted: least, limit: file });
    }
    // Our own two files and at least as much again for peers and everything else.
    let share = space / 8;
    if share < least {
        return Err(ShmError::AddressSpace { bytes: least });
    }
    Ok(wanted.max(least).min(file).min(share) / 4096 * 4096)
}
