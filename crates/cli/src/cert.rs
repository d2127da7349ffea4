//! `busway cert new`: a CA for one cluster, and certificates of its nodes and clients, as files.
//!
//! For development, and for clusters that have no CA of their own: the CA's key lies beside what it signs. It is made
//! once and used again. Nothing that is there is ever written over.
//!
//! Invariant: a key is a file that only its owner may read, from its first byte on; what is signed with is ours, and
//! nobody else can have put it there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use busway::{Principal, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::Serialize;
use time::{Duration, OffsetDateTime};

use crate::command::CertNewArgs;
use crate::exit::{CommandCode, Exit, Failure};
use crate::output::Output;

/// Days of a CA: longer than any certificate that it signs.
const CA_DAYS: i64 = 20 * 365;
/// Bytes of a file of ours: a certificate has one or two thousand.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// One certificate that was asked for.
#[derive(Debug, Serialize)]
struct Made {
    identity: String,
    cert: PathBuf,
    key: PathBuf,
}

pub(crate) fn new(args: &CertNewArgs, output: &mut Output) -> Result<Exit, Failure> {
    let wanted = wanted(args)?;
    for file in wanted.iter().flat_map(|(_, made)| [&made.cert, &made.key]) {
        // Before anything is made, so that a mistake leaves nothing behind.
        if fs::symlink_metadata(file).is_ok() {
            let remedy = "remove it yourself, or name another --dir";
            return Err(Failure::usage("it is there, and is not written over", shown(file), remedy));
        }
    }
    let store = Store::open(&args.dir)?;
    let (ca, fresh) = Authority::open(&store, &args.cluster)?;
    for (principal, made) in &wanted {
        let (cert, key) = ca.issue(&args.cluster, principal, args.days)?;
        // What no node would take is not written.
        Tls::from_pem(ca.pem.as_bytes(), cert.as_bytes(), key.as_bytes()).map_err(|_| {
            Failure::usage(
                format!("ca.pem and ca.key are not the CA of cluster {}", args.cluster),
                shown(&args.dir),
                "name the cluster that they were made for, or another --dir",
            )
        })?;
        store.write(&made.key, 0o600, &key)?;
        store.write(&made.cert, 0o644, &cert)?;
    }
    if fresh {
        output.note(format_args!(
            "made a CA for cluster {}: keep {} secret",
            args.cluster,
            shown(&ca.key_path)
        ));
    }
    for (_, made) in &wanted {
        if output.json() {
            output.object(made)?;
        } else {
            output.line(format_args!("{}  {}  {}", made.identity, shown(&made.cert), shown(&made.key)))?;
        }
    }
    match wanted.first() {
        Some((principal, made)) => tell_next(args, principal, made, output),
        None => {
            output.note(format_args!("next: busway cert new --dir {} --node 0 --node 1", shown(&args.dir)))
        }
    }
    Ok(Exit::Done)
}

/// What its user does with the first of them: lines of a busway.toml, of which every one is needed.
fn tell_next(args: &CertNewArgs, principal: &Principal, made: &Made, output: &Output) {
    // What JSON escapes so TOML does.
    let text = |text: &str| serde_json::to_string(text).expect("a text is JSON");
    output.note(format_args!(
        "next, where {principal} runs: copy its two files and ca.pem there, and into its busway.toml, \
         with the addresses as they are:"
    ));
    output.note(format_args!("  [node]\n  cluster = {}", text(&args.cluster)));
    match principal {
        Principal::Node { index } => {
            output.note(format_args!("  index = {index}\n  listen = [\"0.0.0.0:4420\"]"))
        }
        Principal::Client { .. } => {
            let id = principal.id().expect("a client has an id");
            output.note(format_args!("  client = {id}\n  [peers]\n  0 = \"host-a:4420\""));
        }
    }
    let [ca, cert, key] = [&args.dir.join("ca.pem"), &made.cert, &made.key].map(|path| text(&shown(path)));
    output.note(format_args!("  [tls]\n  ca = {ca}\n  cert = {cert}\n  key = {key}"));
    output.note("then, beside that file: busway config check, and busway up");
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Who was asked for, each once, and where its files are to lie.
fn wanted(args: &CertNewArgs) -> Result<Vec<(Principal, Made)>, Failure> {
    let nodes = args.node.iter().map(|index| Ok(Principal::Node { index: *index }));
    let clients = args.client.iter().map(|name| {
        Principal::client(name).map_err(|error| {
            Failure::usage(error.to_string(), format!("--client {name}"), "choose another name")
        })
    });
    let mut all: Vec<(Principal, Made)> = Vec::new();
    for principal in nodes.chain(clients) {
        let principal = principal?;
        if all.iter().any(|(known, _)| *known == principal) {
            continue;
        }
        let identity = principal.to_string();
        // A name has no slash and does not begin with "node-" or "client-" of another kind: the kind stands first.
        let file = identity.replace('/', "-");
        let at = |ending: &str| args.dir.join(format!("{file}.{ending}"));
        let made = Made { identity, cert: at("pem"), key: at("key") };
        all.push((principal, made));
    }
    Ok(all)
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    key_path: PathBuf,
}

impl Authority {
    /// The CA of a directory, made if there is none. The second says whether it was made now.
    fn open(store: &Store, cluster: &str) -> Result<(Self, bool), Failure> {
        let (pem_path, key_path) = (store.path.join("ca.pem"), store.path.join("ca.key"));
        let params = params_of_ca(cluster)?;
        if store.has(&pem_path) != store.has(&key_path) {
            let cause = "of ca.pem and ca.key one is missing";
            return Err(Failure::usage(cause, shown(&store.path), "put it back, or name another --dir"));
        }
        if store.has(&key_path) {
            let (pem, key) = (store.read(&pem_path, OTHERS_WRITE)?, store.read(&key_path, OTHERS)?);
            let key = KeyPair::from_pem(&key).map_err(|error| {
                Failure::usage(format!("this is no key: {error}"), shown(&key_path), "put the CA's key back")
            })?;
            return Ok((Self { issuer: Issuer::new(params, key), pem, key_path }, false));
        }
        let key = KeyPair::generate().map_err(|error| broken(&error))?;
        let pem = params.self_signed(&key).map_err(|error| broken(&error))?.pem();
        store.write(&key_path, 0o600, &key.serialize_pem())?;
        store.write(&pem_path, 0o644, &pem)?;
        Ok((Self { issuer: Issuer::new(params, key), pem, key_path }, true))
    }

    /// A certificate of this member, and its key.
    fn issue(&self, cluster: &str, principal: &Principal, days: u32) -> Result<(String, String), Failure> {
        let mut params = CertificateParams::new(Vec::new()).map_err(|error| broken(&error))?;
        let uri = principal.uri(cluster);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(|error| broken(&error))?)];
        params.distinguished_name = name(&principal.to_string());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = span(i64::from(days));
        let key = KeyPair::generate().map_err(|error| broken(&error))?;
        let cert = params.signed_by(&key, &self.issuer).map_err(|error| broken(&error))?;
        Ok((cert.pem(), key.serialize_pem()))
    }
}

fn params_of_ca(cluster: &str) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new(Vec::new()).map_err(|error| broken(&error))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // The name is all that a CA that is used again is known by, beside its key.
    params.distinguished_name = name(&format!("busway CA of {cluster}"));
    (params.not_before, params.not_after) = span(CA_DAYS);
    Ok(params)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// From an hour ago, for clocks that differ, so many days on.
fn span(days: i64) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - Duration::hours(1), now + Duration::days(days))
}

fn broken(error: &rcgen::Error) -> Failure {
    Failure::new(
        CommandCode::Stream,
        format!("no certificate can be made: {error}"),
        "cert new",
        "busway doctor",
    )
}

/// Bits of a mode that let others than the owner write: what is there may be theirs.
const OTHERS_WRITE: u32 = 0o022;
/// Bits of a mode that let others than the owner do anything.
const OTHERS: u32 = 0o077;

/// The directory, opened once: what was checked is what is used, wherever its path leads later.
struct Store {
    path: PathBuf,
    directory: File,
}

impl Store {
    /// The directory at this path, made if there is none. It is ours, and nobody else may write to it.
    fn open(path: &Path) -> Result<Self, Failure> {
        let mut made = fs::DirBuilder::new();
        made.recursive(true).mode(0o700);
        let failed = |error: io::Error| Failure::stream(&error, shown(path));
        made.create(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?.into();
        is_ours(&directory, path, OTHERS_WRITE)?;
        Ok(Self { path: path.to_owned(), directory })
    }

    /// Whether anything of this name is there.
    fn has(&self, path: &Path) -> bool {
        rustix::fs::statat(&self.directory, name_of(path), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// A file that is ours, and of whose mode no bit of `refused` is set.
    fn read(&self, path: &Path, refused: u32) -> Result<String, Failure> {
        let failed = |error: io::Error| Failure::stream(&error, shown(path));
        // Of a pipe nobody waits for the other end.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name_of(path), flags, Mode::empty());
        let file: File = file.map_err(|errno| failed(errno.into()))?.into();
        is_ours(&file, path, refused)?;
        let mut text = String::new();
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        Ok(text)
    }

    /// Makes a file that was not there.
    fn write(&self, path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&self.directory, name_of(path), flags, Mode::from_raw_mode(mode));
        let written = made.map_err(io::Error::from).and_then(|made| {
            let mut file = File::from(made);
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| Failure::stream(&error, shown(path)))
    }
}

fn name_of(path: &Path) -> &std::ffi::OsStr {
    path.file_name().expect("every file of ours is named in the directory")
}

/// Refuses what somebody else has put there, or can read or write against our will.
fn is_ours(file: &File, path: &Path, refused: u32) -> Result<(), Failure> {
    let about = file.metadata().map_err(|error| Failure::stream(&error, shown(path)))?;
    let ours = rustix::process::geteuid().as_raw();
    if about.uid() != ours {
        let cause = format!("it belongs to uid {}, not to us ({ours})", about.uid());
        return Err(Failure::usage(cause, shown(path), "name a --dir of your own"));
    }
    if about.mode() & refused != 0 {
        let (cause, mend) = if refused == OTHERS {
            ("others may read or write this key", "chmod 600")
        } else {
            ("others may write here, and put a CA of their own in the place of ours", "chmod go-w")
        };
        let cause = format!("{cause} (mode {:03o})", about.mode() & 0o777);
        let remedy = format!("if nobody has: {mend} {}; else name another --dir", shown(path));
        return Err(Failure::usage(cause, shown(path), remedy));
    }
    Ok(())
}
