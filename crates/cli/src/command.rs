//! The command table: every command, flag and help text, once.
//!
//! `--help`, completions and man pages are made from it, so they cannot disagree. It decides nothing: values are
//! parsed where their type lives (`size`, `duration`, `rate`), and each command's own file acts on them.

use std::ffi::OsString;
use std::path::PathBuf;

use busway::{MessageId, MessageIdError, Policy, TraceParent};
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::duration::Span;
use crate::rate::Rate;
use busway_node::Size;
use busway_node::config::KEYS;

/// Where nobody names one.
const DOMAIN_DEFAULT: &str = "default";

/// What `busway` alone prints: the first five minutes.
pub(crate) const FIVE_EXAMPLES: &str = "\
busway tour                                   watch real messages go between real processes
busway sub 'price.>'                          print every message below price, from now on
busway pub price.tick 101.5                   send one message
busway pub flights --lines --wait < file.csv  send each line of a file, once somebody listens
busway ls                                     who publishes and subscribes what, and who is behind";

/// A message bus for every distance: programs on one host publish and subscribe through shared memory.
#[derive(Debug, Parser)]
#[command(name = "busway", version, disable_help_subcommand = true, max_term_width = 100)]
#[command(after_long_help = "Examples:
  busway sub flights --reliable --raw
  busway pub flights --lines --wait=2 < flights.csv

Exit codes: 0 done, 1 what was asked did not happen, 2 usage, 3 the bus cannot be reached or used,
4 refused, 5 messages lost (with --fail-on-loss), 130 interrupted.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The domain: programs in different domains do not see each other [default: default]
    #[arg(long, global = true, env = "BUSWAY_DOMAIN", value_name = "NAME", hide_env_values = true)]
    domain: Option<String>,
    /// The group whose users may join, by name or number; all of them set the same BUSWAY_DIR [default: our user alone]
    #[arg(long, global = true, env = "BUSWAY_REALM", value_name = "GROUP", hide_env_values = true)]
    pub(crate) realm: Option<String>,
    /// How long to wait for the bus, and for what was asked (250ms, 5s, 2m) [default: 5s for the bus]
    #[arg(long, global = true, value_name = "D", value_parser = str::parse::<Span>)]
    pub(crate) timeout: Option<Span>,
    /// Print JSON with stable field names, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No notes and summaries on stderr; errors and losses are still told
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// More log lines; twice for all
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to colour; NO_COLOR is honoured
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    pub(crate) color: ColorChoice,
    /// What to log on stderr: error, warn, info, debug, trace, or target=level,... [default: warn]
    #[arg(long, global = true, env = "BUSWAY_LOG", value_name = "FILTER", hide_env_values = true)]
    pub(crate) log: Option<String>,
}

impl Global {
    /// The domain that was asked for, else the default one.
    pub(crate) fn domain(&self) -> &str {
        self.domain.as_deref().unwrap_or(DOMAIN_DEFAULT)
    }

    /// What the flag or its variable said; the flag wins.
    pub(crate) fn domain_given(&self) -> Option<&str> {
        self.domain.as_deref()
    }
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal
    Auto,
    /// Also into a pipe
    Always,
    /// Not at all
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Hold the rendezvous of this host until told to end
    ///
    /// Programs of one host find each other without it; a host that is to be watched, or linked to others, runs it. It
    /// asks whoever holds the role to hand it over. With --listen or --peer it carries messages to and from other
    /// hosts, of topics that somebody there wants. What it is told by flags it can be told by variables and by a file,
    /// busway.toml: busway config explain. SIGHUP makes it read that again; SIGINT and SIGTERM end it.
    #[command(after_long_help = "Examples:
  busway up
  busway up --budget 512MiB
  busway up --domain lab --json
  busway up --config /etc/busway/busway.toml
  busway up --index 1 --listen 127.0.0.1:4420
  busway up --http 127.0.0.1:7443
  busway up --index 0 --peer 1=host-b:4420 --allow-plain-beyond-loopback")]
    Up(UpArgs),
    /// List the links to other hosts: how they are, since when, and what was wrong last
    #[command(after_long_help = "Examples:
  busway peers
  busway peers --json | jq .state")]
    Peers,
    /// List what is under way on the links to other hosts: limits, what is in use, what waited and what was dropped
    #[command(after_long_help = "Examples:
  busway flows
  busway flows --json | jq 'select(.waited > 0)'")]
    Flows,
    /// Ask the node of this domain what it is, or to end
    #[command(
        subcommand,
        after_long_help = "Examples:
  busway node info
  busway node kick 1
  busway node drain --timeout 10s"
    )]
    Node(NodeCommand),
    /// Check, show and explain the configuration of `busway up`
    #[command(
        subcommand,
        after_long_help = "Examples:
  busway config check /etc/busway/busway.toml
  busway config show
  busway config explain node.listen"
    )]
    Config(ConfigCommand),
    /// Make certificates for encrypted links
    #[command(
        subcommand,
        after_long_help = "Examples:
  busway cert new --dir pki --cluster prices --node 0 --node 1"
    )]
    Cert(CertCommand),
    /// Send messages
    #[command(after_long_help = "Examples:
  busway pub price.tick 101.5
  tar c . | busway pub backup -              all of stdin is one message
  busway pub flights --lines --wait=2 < flights.csv
  busway pub load --size 1KiB --count 1000000 --rate 50000 --budget 256MiB

The last line on stderr is the account: sent 5 subscribers 2 delivered 10 dropped 0 in-flight 0")]
    Pub(PubArgs),
    /// Print messages as they come
    #[command(after_long_help = "Examples:
  busway sub 'price.*' 'news.>'
  busway sub flights --reliable --raw --count 336777 > flights.csv
  busway sub price.tick --json | jq .body
  busway sub 'camera.>' --budget 2GiB

Patterns: price.tick is itself, * is one token, > the rest, ^pri every name that begins
with these bytes. A message that several patterns match is printed once for each.")]
    Sub(SubArgs),
    /// Send work: each message goes to one puller of each group
    ///
    /// Where the pullers have as much as there is room for, it waits. It ends when all is done, or with 1 when --linger has passed;
    /// the pullers that are there finish what is left.
    #[command(after_long_help = "Examples:
  busway push resize cat.png
  busway push resize --lines --wait --linger 1h < names
  find . -name '*.png' | busway push resize --lines --linger 1h

The last line on stderr is the account: sent 5 delivered 5 dropped 0 in-flight 0")]
    Push(PushArgs),
    /// Take work and print it: what one puller of a group has, no other gets
    #[command(after_long_help = "Examples:
  busway pull resize --raw | while read -r name; do convert \"$name\" -resize 100 \"small/$name\"; done
  busway pull resize --group resizers --ack 30s --attempts 3
  busway pull 'jobs.>' --json | jq .deliveries
  busway pull dead-letters.resizers

Without --ack a message is over once it is printed. What no puller of a group acknowledged lies
under dead-letters. and the name of the group, as long as the puller runs that laid it there.")]
    Pull(PullArgs),
    /// Ask, and print the replies
    ///
    /// One responder of the topic answers. --timeout is how long the replies may take, all of them; 5s where it is not given. Where
    /// nobody answers the topic it ends with 1 after a second.
    #[command(after_long_help = "Examples:
  busway req time.now
  busway req shop.price apple --timeout 500ms
  busway req image.resize - < cat.png > small.png --raw
  busway req log.follow --replies 10 --json | jq -r .body")]
    Req(ReqArgs),
    /// Answer requests: with a body, with what was asked, or with what a command prints
    ///
    /// One request at a time; start it again to share the load. A command gets the request on its stdin and the topic in BUSWAY_TOPIC,
    /// and where the request has them its id in BUSWAY_ID and its trace in TRACEPARENT and TRACESTATE.
    /// Where it fails, who asked is told the beginning of its stderr; where nobody waits any more, it is killed.
    #[command(after_long_help = "Examples:
  busway reply ping pong
  busway reply echo --echo
  busway reply 'text.*' --command 'tr a-z A-Z'
  busway reply image.resize --command 'convert - -resize 100 -'

The last line on stderr is what it did: answered 5 failed 1 late 0")]
    Reply(ReplyArgs),
    /// Offer a file as an artifact: bytes that are to be at other nodes, by name
    ///
    /// Its id is printed, which follows from its bytes. It is offered as long as this runs, or with --keep as long as the node does;
    /// with --reach-all this ends when all nodes have it, or with 1 when the time is up.
    #[command(after_long_help = "Examples:
  busway put model.weights weights.bin --keep
  tar c site | busway put site.new - --reach-all 1m
  busway put block.new block.bin --attribute height=17 --keep --reach-all 5s --wait")]
    Put(PutArgs),
    /// Fetch an artifact, by its id or its topic, and print it or write it into a file
    ///
    /// A file is written beside its name and renamed when it is whole.
    #[command(after_long_help = "Examples:
  busway get model.weights -o weights.bin
  busway get af1349b9f5f9a1a6 --timeout 30s > bytes
  busway get 'block.>' --count 10 -o blocks --json")]
    Get(GetArgs),
    /// Look at the artifacts of which the node of this host knows, and take back what it offers
    #[command(
        subcommand,
        after_long_help = "Examples:
  busway artifacts ls
  busway artifacts info model.weights
  busway artifacts rm model.weights"
    )]
    Artifacts(ArtifactsCommand),
    /// List topics with their publishers and subscribers
    #[command(after_long_help = "Examples:
  busway ls
  busway ls 'price.>' --json")]
    Ls(LsArgs),
    /// Show one topic: who is behind, by how much, what was lost and why
    #[command(after_long_help = "Examples:
  busway info flights
  busway info flights --json | jq .subscribers")]
    Info(InfoArgs),
    /// Show what each process has counted: sent, received, lost and why, what waited, what failed
    ///
    /// On a terminal the table renews itself until it is interrupted; elsewhere it is printed once. Nobody is asked for it: it is read
    /// where it is counted.
    #[command(after_long_help = "Examples:
  busway stat
  busway stat --json | jq '.metrics.dropped'
  busway stat --prometheus
  busway stat --interval 5s --count 12")]
    Stat(StatArgs),
    /// Look at the shared memory
    #[command(
        subcommand,
        after_long_help = "Examples:
  busway shm ls"
    )]
    Shm(ShmCommand),
    /// Measure this machine, with loss and percentiles
    #[command(
        subcommand,
        after_long_help = "Examples:
  busway bench lat
  busway bench thr --size 64KiB --count 100000
  busway bench fanout --subscribers 64"
    )]
    Bench(BenchCommand),
    /// Look for what keeps the bus from running well here, and say what to do
    #[command(after_long_help = "Examples:
  busway doctor
  busway doctor --json | jq '.checks[] | select(.status == \"finding\")'")]
    Doctor,
    /// Watch real records go between real processes; ends by itself
    ///
    /// One publisher sends the flight records of New York City, 2013, to several reliable subscribers, each a process
    /// of its own. Each hashes what it receives; the hashes and the account are compared at the end.
    #[command(after_long_help = "Examples:
  busway tour
  busway tour --seconds 2 --subscribers 8 --kill")]
    Tour(TourArgs),
    /// Print a completion script
    #[command(after_long_help = "Examples:
  mkdir -p ~/.local/share/bash-completion/completions
  busway completions bash > ~/.local/share/bash-completion/completions/busway
  mkdir -p ~/.zfunc && busway completions zsh > ~/.zfunc/_busway")]
    Completions(CompletionsArgs),
    /// Write the man pages into a directory
    #[command(after_long_help = "Examples:
  busway man /tmp/man1 && man /tmp/man1/busway-pub.1")]
    Man(ManArgs),
}

/// What every command takes that may be the first in its domain.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct BudgetArgs {
    /// Memory that all programs of the domain may take together, if this one is the first of them
    /// [default: a quarter of the machine's or of the cgroup's limit]
    #[arg(long, env = "BUSWAY_BUDGET", value_name = "SIZE", value_parser = budget, hide_env_values = true)]
    pub(crate) budget: Option<Size>,
}

/// What `up` takes: each flag is a key of the configuration, and is checked as one.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    #[command(flatten)]
    pub(crate) file: FileArgs,
    #[arg(long, value_name = "ADDRESS", action = ArgAction::Append, help = help("node.listen"))]
    pub(crate) listen: Vec<String>,
    #[arg(long, value_name = "ADDRESS", action = ArgAction::Append, help = help("http.listen"))]
    pub(crate) http: Vec<String>,
    #[arg(long, value_name = "INDEX=HOST:PORT", action = ArgAction::Append, help = help("peers.INDEX"))]
    pub(crate) peer: Vec<String>,
    #[arg(long, value_name = "N", help = help("node.index"))]
    pub(crate) index: Option<String>,
    #[arg(long, value_name = "NAME", help = help("node.cluster"))]
    pub(crate) cluster: Option<String>,
    #[arg(long, value_name = "ID", conflicts_with = "index", help = help("node.client"))]
    pub(crate) client: Option<String>,
    #[arg(long, value_name = "NAME", help = help("node.name"))]
    pub(crate) name: Option<String>,
    #[arg(long, help = help("node.allow_plain_beyond_loopback"))]
    pub(crate) allow_plain_beyond_loopback: bool,
}

/// Which configuration.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// The configuration [default: $BUSWAY_CONFIG, else busway.toml of this directory, if there is one and it is ours]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// The commands below `node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Show what the node is: index, cluster, addresses, version, uptime, and what goes over its links
    #[command(after_long_help = "Examples:
  busway node info
  busway node info --json | jq .uptime_ms")]
    Info,
    /// End the node in order: what is under way on its links is settled first; returns when it has ended
    #[command(after_long_help = "Examples:
  busway node drain
  busway node drain --timeout 10s")]
    Drain,
    /// End the link to a peer, who reads why; it may come back
    #[command(after_long_help = "Examples:
  busway node kick 1
  busway node kick 'client 000000000000002a'")]
    Kick(KickArgs),
}

/// What `node kick` takes.
#[derive(Debug, Args)]
pub(crate) struct KickArgs {
    /// The peer, as `busway peers` shows it; a number is the index of a node
    #[arg(value_name = "PEER")]
    pub(crate) peer: String,
}

/// The commands below `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say everything that is wrong with a configuration, as `up` would find it
    #[command(after_long_help = "Examples:
  busway config check
  busway config check /etc/busway/busway.toml --json")]
    Check(CheckArgs),
    /// Print what holds, key by key, and who said so: the file, a variable, or nobody
    #[command(after_long_help = "Examples:
  busway config show
  busway config show busway.toml --json | jq 'select(.from != \"default\")'")]
    Show(CheckArgs),
    /// Say what a key does, what it can hold, and what sets it; without a key: all of them
    #[command(after_long_help = "Examples:
  busway config explain
  busway config explain node.listen")]
    Explain(ExplainArgs),
}

/// What `config check` and `config show` take.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The configuration [default: $BUSWAY_CONFIG, else busway.toml of this directory, if there is one and it is ours]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// What `config explain` takes.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The key, with its section: node.index
    #[arg(value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Print the page of the documentation
    #[arg(long, conflicts_with = "key")]
    pub(crate) page: bool,
}

/// Where the messages of `pub` and `push` come from.
#[derive(Debug, Args)]
pub(crate) struct InputArgs {
    /// The message, byte for byte; - is all of stdin
    #[arg(value_name = "BODY", allow_negative_numbers = true)]
    pub(crate) body: Option<OsString>,
    /// One message per line of stdin, without its line feed
    #[arg(long, conflicts_with = "size")]
    pub(crate) lines: bool,
    /// Send this many seeded bytes instead of a BODY
    #[arg(long, value_name = "SIZE", value_parser = str::parse::<Size>, conflicts_with = "body")]
    pub(crate) size: Option<Size>,
    /// Send this many messages; with --lines at most this many
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Messages a second
    #[arg(long, value_name = "R", value_parser = str::parse::<Rate>)]
    pub(crate) rate: Option<Rate>,
}

/// The id of a message, as `--id` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdArg {
    /// Another for each message.
    New,
    /// This one.
    Given(MessageId),
}

fn id(text: &str) -> Result<IdArg, MessageIdError> {
    if text == "new" { Ok(IdArg::New) } else { text.parse().map(IdArg::Given) }
}

/// What messages say beside their body.
#[derive(Debug, Args)]
pub(crate) struct ContextArgs {
    /// The id of the message, a ULID; new draws one for each. What is sent again with the same id is dropped by who asks for that
    #[arg(long, value_name = "ID", value_parser = id)]
    pub(crate) id: Option<IdArg>,
    /// The trace to which it belongs, as W3C Trace Context writes it: 00-TRACE-PARENT-FLAGS
    #[arg(long, value_name = "TRACE", value_parser = str::parse::<TraceParent>)]
    pub(crate) traceparent: Option<TraceParent>,
    /// What vendors keep beside the trace: KEY=VALUE,...
    #[arg(long, value_name = "STATE", requires = "traceparent")]
    pub(crate) tracestate: Option<String>,
}

/// What `pub` takes.
#[derive(Debug, Args)]
pub(crate) struct PubArgs {
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    /// Where to publish, a dotted name
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) beside: ContextArgs,
    /// Wait until N subscribers are attached before sending
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    pub(crate) wait: Option<u64>,
    /// Keep each message for the first subscriber for D, where there is none yet, and stay for that long
    #[arg(long, value_name = "D", value_parser = str::parse::<Span>)]
    pub(crate) late_join: Option<Span>,
    /// How long reliable subscribers may take to pass the last message
    #[arg(long, value_name = "D", default_value = "5s", value_parser = str::parse::<Span>)]
    pub(crate) linger: Span,
    /// How long one reliable subscriber may make it wait in one piece, before it counts what that one loses [default: 1s]
    #[arg(long, value_name = "D", value_parser = str::parse::<Span>)]
    pub(crate) max_wait: Option<Span>,
}

/// How `sub` and `pull` print a message.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct FormArgs {
    /// Print the body and a line feed, no topic
    #[arg(long, conflicts_with = "raw0")]
    pub(crate) raw: bool,
    /// Print the body and a NUL, no topic
    #[arg(long)]
    pub(crate) raw0: bool,
}

/// What `sub` takes.
#[derive(Debug, Args)]
pub(crate) struct SubArgs {
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    /// What to subscribe to
    #[arg(value_name = "PATTERN", required = true)]
    pub(crate) patterns: Vec<String>,
    /// End after N messages
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Lose nothing: publishers wait for this subscriber (policy block)
    #[arg(long, conflicts_with = "policy")]
    pub(crate) reliable: bool,
    /// drop-oldest, drop-oldest:D, keep-latest, drop-newest:D, block, fail or evict [default: drop-oldest]
    #[arg(long, value_name = "P", value_parser = policy)]
    pub(crate) policy: Option<Policy>,
    /// Begin with up to N messages that were sent before
    #[arg(long, value_name = "N")]
    pub(crate) history: Option<u32>,
    /// Print a message whose id is among those of the last N once; what comes again is lost, as duplicate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) drop_duplicates: Option<u32>,
    #[command(flatten)]
    pub(crate) form: FormArgs,
    /// End with exit code 5 at the first loss
    #[arg(long)]
    pub(crate) fail_on_loss: bool,
}

/// What `push` takes.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    /// Where to push, a dotted name
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) beside: ContextArgs,
    /// Wait until N pullers are attached before sending
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    pub(crate) wait: Option<u64>,
    /// How long the pullers may take to finish after the last message
    #[arg(long, value_name = "D", default_value = "5s", value_parser = str::parse::<Span>)]
    pub(crate) linger: Span,
    /// How long there may be no room for a message before it gives up [default: as long as it takes]
    #[arg(long, value_name = "D", value_parser = str::parse::<Span>)]
    pub(crate) max_wait: Option<Span>,
}

/// What `pull` takes.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    /// What to pull, a topic or a pattern
    #[arg(value_name = "TOPIC")]
    pub(crate) pattern: String,
    /// The group with which it shares the work: each message goes to one puller of each group [default: pullers]
    #[arg(long, value_name = "G")]
    pub(crate) group: Option<String>,
    /// A message is acknowledged once it is printed; one that is not within this time, or whose puller dies, goes to another.
    /// All pullers of a group say the same
    #[arg(long, value_name = "D", value_parser = str::parse::<Span>)]
    pub(crate) ack: Option<Span>,
    /// Give a message to a puller so often before it lies with the dead letters, 1 to 62 [default: 5]
    #[arg(long, value_name = "N", requires = "ack", value_parser = clap::value_parser!(u8).range(1..=62))]
    pub(crate) attempts: Option<u8>,
    /// End after N messages
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Do work whose id is among those of the last N that it did once; what comes again is over, as duplicate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) drop_duplicates: Option<u32>,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// What `req` takes.
#[derive(Debug, Args)]
pub(crate) struct ReqArgs {
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    /// Whom to ask, a dotted name
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: String,
    /// The request, byte for byte; - is all of stdin [default: nothing]
    #[arg(value_name = "BODY", allow_negative_numbers = true)]
    pub(crate) body: Option<OsString>,
    #[command(flatten)]
    pub(crate) beside: ContextArgs,
    /// End after N replies [default: after the last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) replies: Option<u64>,
    #[command(flatten)]
    pub(crate) form: FormArgs,
}

/// What `reply` takes.
#[derive(Debug, Args)]
pub(crate) struct ReplyArgs {
    #[command(flatten)]
    pub(crate) budget: BudgetArgs,
    /// What to answer, a topic or a pattern
    #[arg(value_name = "TOPIC")]
    pub(crate) pattern: String,
    /// The reply, byte for byte
    #[arg(value_name = "BODY", allow_negative_numbers = true, conflicts_with_all = ["command", "echo"])]
    pub(crate) body: Option<OsString>,
    /// Reply with what this command of the shell prints; the request is its stdin
    #[arg(long, value_name = "CMD", conflicts_with = "echo")]
    pub(crate) command: Option<String>,
    /// Reply with the request
    #[arg(long)]
    pub(crate) echo: bool,
    /// End after N requests
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) count: Option<u64>,
}

/// What `put` takes.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// On which topic, a dotted name
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: String,
    /// The file; - is all of stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What receivers are told beside it, at most 256 bytes
    #[arg(long, value_name = "TEXT")]
    pub(crate) attribute: Option<String>,
    /// Leave it with the node, which offers it until it ends
    #[arg(long)]
    pub(crate) keep: bool,
    /// It is to be at all nodes within D, also where nobody subscribes to it; then it is not offered any more
    #[arg(long, value_name = "D", value_parser = str::parse::<Span>)]
    pub(crate) reach_all: Option<Span>,
    /// With --keep: wait until all nodes have it
    #[arg(long, requires = "reach_all")]
    pub(crate) wait: bool,
}

/// What `get` takes.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The id, or the first 8 digits of it at least; or a topic or a pattern
    #[arg(value_name = "ID|TOPIC")]
    pub(crate) what: String,
    /// Write into this file, or into this directory under the id [default: stdout]
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// End after N artifacts
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
}

/// The commands below `artifacts`.
#[derive(Debug, Subcommand)]
pub(crate) enum ArtifactsCommand {
    /// List them
    #[command(after_long_help = "Examples:
  busway artifacts ls
  busway artifacts ls 'block.>' --json | jq .id")]
    Ls(ArtifactsLsArgs),
    /// Show one; without an argument what the node has counted
    #[command(after_long_help = "Examples:
  busway artifacts info
  busway artifacts info af1349b9f5f9a1a6 --json")]
    Info(ArtifactsInfoArgs),
    /// Take back what this node offers
    #[command(after_long_help = "Examples:
  busway artifacts rm af1349b9f5f9a1a6
  busway artifacts rm model.weights")]
    Rm(ArtifactsRmArgs),
}

/// What `artifacts ls` takes.
#[derive(Debug, Args)]
pub(crate) struct ArtifactsLsArgs {
    /// Only those on topics that match
    #[arg(value_name = "PATTERN")]
    pub(crate) pattern: Option<String>,
}

/// What `artifacts info` takes.
#[derive(Debug, Args)]
pub(crate) struct ArtifactsInfoArgs {
    /// The id, or the first 8 digits of it at least; or a topic
    #[arg(value_name = "ID|TOPIC")]
    pub(crate) what: Option<String>,
}

/// What `artifacts rm` takes.
#[derive(Debug, Args)]
pub(crate) struct ArtifactsRmArgs {
    /// The id, or the first 8 digits of it at least; or a topic
    #[arg(value_name = "ID|TOPIC")]
    pub(crate) what: String,
}

/// What `ls` takes.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Only the topics that match; without it all but those of the bus itself, which begin with $
    #[arg(value_name = "PATTERN")]
    pub(crate) pattern: Option<String>,
}

/// What `info` takes.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// The topic, or the pattern of a subscription that has no publisher
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: String,
}

/// What `stat` takes.
#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    /// Print the text that Prometheus reads
    #[arg(long, conflicts_with = "json")]
    pub(crate) prometheus: bool,
    /// Look again after D, until interrupted [default on a terminal: 1s]
    #[arg(long, value_name = "D", value_parser = str::parse::<Span>)]
    pub(crate) interval: Option<Span>,
    /// Look N times
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) count: Option<u64>,
}

/// The commands below `cert`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make a CA for a cluster, once, and certificates of its nodes and clients
    ///
    /// The directory gets ca.pem and ca.key, and for each member its certificate and its key; keys can be read by their
    /// owner only. A CA that is there is used again, and nothing is written over. Whoever has ca.key can make members:
    /// it stays where it was made, while ca.pem goes to every host.
    ///
    /// Refused are: a file of a member that is there already; a directory, a ca.pem or a ca.key that belongs to another user;
    /// a directory or a ca.pem that others may write; a ca.key that others may read or write; a CA of which one of its two
    /// files is missing, or that was made for another cluster; and a link in the place of a file. Then nothing is written.
    #[command(after_long_help = "Examples:
  busway cert new --dir pki --cluster prices --node 0 --node 1 --node 2
  busway cert new --dir pki --cluster prices --client 7 --client dashboard --days 30")]
    New(CertNewArgs),
}

/// What `cert new` takes.
#[derive(Debug, Args)]
pub(crate) struct CertNewArgs {
    /// Where the files go; it is made where it does not exist
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The name of the cluster, as its nodes are started with
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) cluster: String,
    /// A node, by its index; may be given again
    #[arg(long, value_name = "INDEX", action = ArgAction::Append, value_parser = clap::value_parser!(u8).range(0..64))]
    pub(crate) node: Vec<u8>,
    /// A client, by its id or a name, from which its id is made and told; may be given again
    #[arg(long, value_name = "ID", action = ArgAction::Append)]
    pub(crate) client: Vec<String>,
    /// For how many days they are valid
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
}

/// The commands below `shm`.
#[derive(Debug, Subcommand)]
pub(crate) enum ShmCommand {
    /// List shared segments with their owners and sizes
    #[command(after_long_help = "Examples:
  busway shm ls
  busway shm ls --json | jq .bytes")]
    Ls,
}

/// The commands below `bench`.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// One way between two processes: half a round trip, or with --rate from the intended time of each send
    #[command(after_long_help = "Examples:
  busway bench lat
  busway bench lat --wake --rate 1000 --count 10000")]
    Lat(BenchArgs),
    /// Messages a second into reliable subscribers; latencies are those of a full queue
    #[command(after_long_help = "Examples:
  busway bench thr --size 64
  busway bench thr --size 64KiB --count 100000 --json")]
    Thr(BenchArgs),
    /// What a send costs the publisher with many subscribers; latencies are those of the send call
    #[command(after_long_help = "Examples:
  busway bench fanout --subscribers 64")]
    Fanout(BenchArgs),
}

/// What each bench takes; what is not given depends on the bench.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// Size of a message, at least 8 bytes
    #[arg(long, value_name = "SIZE", default_value = "64", value_parser = str::parse::<Size>)]
    pub(crate) size: Size,
    /// Subscriber processes [default: 1; fanout: 8]
    #[arg(long, value_name = "N")]
    pub(crate) subscribers: Option<u32>,
    /// Messages [default: lat 100000, thr 2000000, fanout 200000]
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Messages a second [default: as fast as it goes]
    #[arg(long, value_name = "R", value_parser = str::parse::<Rate>)]
    pub(crate) rate: Option<Rate>,
    /// Receivers sleep between messages instead of spinning
    #[arg(long)]
    pub(crate) wake: bool,
    /// Cores to pin to, in turn: the publisher first
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    pub(crate) pin: Vec<u32>,
}

/// What `tour` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct TourArgs {
    /// How long the publisher sends, in seconds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Subscriber processes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) subscribers: u32,
    /// SIGKILL one reliable subscriber half-way
    #[arg(long)]
    pub(crate) kill: bool,
}

/// What `completions` takes.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: Shell,
}

/// What `man` takes.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The directory; it is made where it does not exist
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// The table itself, for completions and man pages.
pub(crate) fn table() -> clap::Command {
    Cli::command()
}

/// The sentence of a key, for the flag that sets it.
fn help(name: &str) -> String {
    let key = KEYS.iter().find(|key| key.name == name).expect("flags are named after keys of the table");
    key.help()
}

fn budget(text: &str) -> Result<Size, String> {
    match text.parse()? {
        Size(0) => Err("a domain with a budget of 0 bytes can hold nothing".to_string()),
        size => Ok(size),
    }
}

fn policy(text: &str) -> Result<Policy, String> {
    text.parse().map_err(|error: <Policy as std::str::FromStr>::Err| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Cli, Command, table};

    #[test]
    fn the_table_is_consistent() {
        table().debug_assert();
    }

    #[test]
    fn examples_and_what_stands_behind_them_are_not_broken_in_the_midst_of_a_line() {
        let mut tables = vec![table()];
        let mut examples = 0;
        while let Some(mut table) = tables.pop() {
            table.build();
            tables.extend(table.get_subcommands().cloned());
            for line in table.get_after_long_help().map(ToString::to_string).unwrap_or_default().lines() {
                assert!(line.chars().count() <= 100, "{}: {line}", table.get_name());
                examples += 1;
            }
        }
        assert!(examples > 100, "{examples}");
    }

    #[test]
    fn wait_without_a_number_is_one_and_takes_no_body() {
        let cli = Cli::try_parse_from(["busway", "pub", "t", "--wait", "body"]).expect("a command line");
        let Some(Command::Pub(args)) = cli.command else { panic!("pub was parsed as something else") };
        assert_eq!(args.wait, Some(1));
        assert_eq!(args.input.body.as_deref(), Some("body".as_ref()));
    }

    #[test]
    fn a_body_may_be_a_negative_number() {
        let cli = Cli::try_parse_from(["busway", "pub", "t", "-5"]).expect("a command line");
        let Some(Command::Pub(args)) = cli.command else { panic!("pub was parsed as something else") };
        assert_eq!(args.input.body.as_deref(), Some("-5".as_ref()));
    }
}
