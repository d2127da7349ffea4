//! What is measured: how many nodes, on which lines, with how many bytes.

use std::path::PathBuf;

use crate::Failure;

pub(crate) const HELP: &str = "busway-swarm [--nodes N] [--mbit N] [--size BYTES] [FLAG...]

Starts nodes, each in a network namespace of its own, on lines of a rate, and prints what artifacts cost there beside
the least that they can cost. Needs root.

  --nodes N       how many, 3 to 32 (default 8)
  --mbit N        what each line carries each way (default 50)
  --size BYTES    what one node gives to all others, as 4MiB or 512KiB (default 4MiB)
  --body BYTES    the size of each artifact (default: all of it is one)
  --delay-ms N    each way, by a relay in user space (default 0)
  --rounds N      rounds of what is compared with itself: nobody stalls, one stalls (default 1)
  --brief         one transfer and what is counted: no small artifacts, no stall, no cut
  --real          instead of that: a tar of the Rust toolchain's library folder and a tree of 300 MB in 5 000 files, shared
                  by one node at --mbit (default 200), which is killed when it has sent 1.1 times the bytes, each
                  to somebody. One that comes later is killed half-way and starts again. With --brief some 10 MB, and 20 MB in 500
  --against PATH  another program beside ours, on the same hosts and lines and in the same rounds: its nodes are told what
                  ours are told, and say what ours say (bench/peers/gossipsub is one)
  --set TEXT      how that is set, in words of its own (default -)
  --report        instead of one shape those of bench/RESULTS.md, one after the other, with all that is counted; with
                  --brief a small one
  --markdown FILE what was found, as RESULTS.md has it
  --plot FILE     when each node had all of it, and what small messages took beside, as SVG
  --json          one JSON object instead of a table
";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// What is measured at most: 32 nodes keep all of it in memory.
const OFFERED_MAX: u64 = 256 * MIB;

/// See [`HELP`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) nodes: usize,
    pub(crate) mbit: u64,
    pub(crate) size: u64,
    pub(crate) body: u64,
    pub(crate) delay_ms: u64,
    pub(crate) rounds: u64,
    pub(crate) brief: bool,
    pub(crate) real: bool,
    pub(crate) json: bool,
    pub(crate) against: Option<PathBuf>,
    pub(crate) set: String,
    pub(crate) report: bool,
    pub(crate) markdown: Option<PathBuf>,
    pub(crate) plot: Option<PathBuf>,
}

impl Options {
    pub(crate) fn read(words: &[&str]) -> Result<Self, Failure> {
        let mut options = Self { nodes: 8, size: 4 * MIB, rounds: 1, set: "-".to_owned(), ..Self::default() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--brief" => options.brief = true,
                "--real" => options.real = true,
                "--json" => options.json = true,
                "--report" => options.report = true,
                name => {
                    let value = words.next().ok_or(format!("{name} needs a value: --help says more"))?;
                    options.set(name, value)?;
                }
            }
        }
        if options.body == 0 {
            options.body = options.size;
        }
        if options.mbit == 0 {
            options.mbit = if options.real { 200 } else { 50 };
        }
        options.check()?;
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let number = |what: &str| value.parse().map_err(|_| format!("{what} {value}: not a number"));
        match name {
            "--nodes" => self.nodes = usize::try_from(number(name)?)?,
            "--mbit" => {
                self.mbit = Some(number(name)?).filter(|mbit| *mbit > 0).ok_or("--mbit: at least 1")?
            }
            "--delay-ms" => self.delay_ms = number(name)?,
            "--rounds" => self.rounds = number(name)?,
            "--size" => self.size = bytes(value)?,
            "--body" => self.body = bytes(value)?,
            "--against" => self.against = Some(value.into()),
            "--set" => value.clone_into(&mut self.set),
            "--markdown" => self.markdown = Some(value.into()),
            "--plot" => self.plot = Some(value.into()),
            _ => return Err(format!("there is no {name}: --help says more").into()),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        if !(3..=32).contains(&self.nodes) {
            return Err("--nodes: 3 to 32".into());
        }
        if self.rounds == 0 || self.body == 0 || self.size < self.body {
            return Err("--rounds and --body are at least 1, and --size at least --body".into());
        }
        if self.against.is_some() && (self.delay_ms > 0 || self.real) {
            return Err("--against: other programs are measured without --delay-ms and --real".into());
        }
        if !self.report && (self.markdown.is_some() || self.plot.is_some()) {
            return Err("--markdown and --plot are of a --report".into());
        }
        if self.size > OFFERED_MAX {
            return Err("--size: at most 256 MiB".into());
        }
        Ok(())
    }
}

/// `4MiB`, `512KiB`, `1000`.
fn bytes(text: &str) -> Result<u64, Failure> {
    let (digits, unit) = match (text.strip_suffix("MiB"), text.strip_suffix("KiB")) {
        (Some(digits), _) => (digits, MIB),
        (_, Some(digits)) => (digits, KIB),
        _ => (text, 1),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("{text}: bytes are written as 4MiB, 512KiB or 1000"))?;
    Ok(number.checked_mul(unit).ok_or(format!("{text} is too large"))?)
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn options_are_read_and_what_cannot_be_is_refused() {
        let read = |text: &str| Options::read(&text.split_whitespace().collect::<Vec<_>>());
        let options = read("--nodes 32 --mbit 100 --size 64MiB --json").unwrap();
        assert_eq!((options.nodes, options.mbit, options.size, options.json), (32, 100, 64 << 20, true));
        assert_eq!((options.against, options.set.as_str(), options.report), (None, "-", false));
        let words = "--report --against other --set mesh=3 --markdown page.md --plot plot.svg --brief";
        let options = read(words).unwrap();
        assert_eq!((options.against, options.set.as_str()), (Some("other".into()), "mesh=3"));
        assert!(options.report && options.brief);
        assert_eq!((options.markdown, options.plot), (Some("page.md".into()), Some("plot.svg".into())));
        for wrong in [
            "--nodes 2",
            "--nodes",
            "--nodes x",
            "--size 257MiB",
            "--size 1KiB --body 2KiB",
            "--mbit 0",
            "--quite 1",
            "--against",
            "--against other --delay-ms 5",
            "--against other --real",
            "--markdown page.md",
            "--plot plot.svg --brief",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
