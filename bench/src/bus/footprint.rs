//! What the command weighs: its size, the memory of an idle `busway up`, and a build from nothing.
//!
//! These look at programs from outside, as a stranger would; they need nothing of the library.

use crate::Failure;
use crate::bus::directory;
use crate::clock::{now_ns, pause};
use crate::outcome::Outcome;
use crate::plan::Plan;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A child that is killed when it is no longer looked at.
struct Watched {
    child: Child,
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Size of the command in bytes, and resident bytes of `busway up` two seconds after it is ready.
///
/// # Errors
/// The command is not built, or does not become ready.
pub fn footprint(plan: &Plan) -> Result<Outcome, Failure> {
    let size = fs::metadata(&plan.command)
        .map_err(|cause| format!("{}: {cause}; build it first", plan.command))?
        .len();
    let child = Command::new(&plan.command)
        .arg("up")
        .env("BUSWAY_DIR", directory(std::process::id()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut up = Watched { child };
    let stdout = up.child.stdout.take().ok_or("busway up has no output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if !line.starts_with("ready ") {
        return Err(format!("busway up said {line:?} in place of ready").into());
    }
    pause(Duration::from_secs(2));
    let status = fs::read_to_string(format!("/proc/{}/status", up.child.id()))?;
    let field = |name: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
    };
    let mut own = Outcome::default()
        .with("size_bytes", size as f64)
        .with("resident_bytes", field("VmRSS") * 1024.0)
        .with("resident_shared_bytes", field("RssShmem") * 1024.0);
    own.threads = vec![field("Threads") as u64];
    Ok(own)
}

/// Time of `cargo run --release -- tour` in an empty target directory, to the first number of its output.
///
/// # Errors
/// It does not build, or prints no number.
pub fn cold_tour() -> Result<Outcome, Failure> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the repository has no root")?;
    let target =
        Target { path: std::env::temp_dir().join(format!("busway-bench-cold-{}", std::process::id())) };
    let fetched = Command::new("cargo").args(["fetch", "--quiet"]).current_dir(root).status()?;
    if !fetched.success() {
        return Err("cargo fetch failed".into());
    }
    let start_ns = now_ns();
    let child = Command::new("cargo")
        .args(["run", "--release", "--quiet", "--", "tour"])
        .current_dir(root)
        .env("CARGO_TARGET_DIR", &target.path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut tour = Watched { child };
    let stdout = tour.child.stdout.take().ok_or("the tour has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if line.contains(|letter: char| letter.is_ascii_digit()) {
            let took_ns = now_ns() - start_ns;
            return Ok(Outcome::default().with("first_number_ns", took_ns as f64));
        }
    }
    Err("the tour ended without a number".into())
}

/// A target directory that is removed with its measurement.
struct Target {
    path: PathBuf,
}

impl Drop for Target {
    fn drop(&mut self) {
        // A left-over is some hundred megabytes in the temporary directory, named after this program.
        let _ = fs::remove_dir_all(&self.path);
    }
}
