//! `busway cert new`: a CA for one cluster, and certificates of its nodes and clients, as files.
//!
//! For development, and for clusters that have no CA of their own: the CA's key lies beside what it signs. It is made
//! once and used again. Nothing that is there is ever written over.
//!
//! Invariant: a key is a file that only its owner may read, from its first byte on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use busway::{Principal, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
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
    let mut directory = fs::DirBuilder::new();
    directory.recursive(true).mode(0o700);
    directory.create(&args.dir).map_err(|error| Failure::stream(&error, shown(&args.dir)))?;
    let (ca, fresh) = Authority::open(&args.dir, &args.cluster)?;
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
        write(&made.key, 0o600, &key)?;
        write(&made.cert, 0o644, &cert)?;
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
    if let Some((_, made)) = wanted.first() {
        output.note(format_args!(
            "next, where it runs: copy these two and ca.pem there; then, in the program:"
        ));
        let [ca, cert, key] = [&args.dir.join("ca.pem"), &made.cert, &made.key].map(|path| shown(path));
        output.note(format_args!("  busway::Tls::from_files({ca:?}, {cert:?}, {key:?})"));
    } else {
        output.note(format_args!("next: busway cert new --dir {} --node 0 --node 1", shown(&args.dir)));
    }
    Ok(Exit::Done)
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
    fn open(directory: &Path, cluster: &str) -> Result<(Self, bool), Failure> {
        let (pem_path, key_path) = (directory.join("ca.pem"), directory.join("ca.key"));
        let params = params_of_ca(cluster)?;
        let there = |path: &Path| fs::symlink_metadata(path).is_ok();
        if there(&pem_path) != there(&key_path) {
            let cause = "of ca.pem and ca.key one is missing";
            return Err(Failure::usage(cause, shown(directory), "put it back, or name another --dir"));
        }
        if there(&key_path) {
            let (pem, key) = (read(&pem_path)?, read(&key_path)?);
            let key = KeyPair::from_pem(&key).map_err(|error| {
                Failure::usage(format!("this is no key: {error}"), shown(&key_path), "put the CA's key back")
            })?;
            return Ok((Self { issuer: Issuer::new(params, key), pem, key_path }, false));
        }
        let key = KeyPair::generate().map_err(|error| broken(&error))?;
        let pem = params.self_signed(&key).map_err(|error| broken(&error))?.pem();
        write(&key_path, 0o600, &key.serialize_pem())?;
        write(&pem_path, 0o644, &pem)?;
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

fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| Failure::stream(&error, shown(path)))?;
    Ok(text)
}

/// Makes a file that was not there.
fn write(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = made.and_then(|mut file: File| -> io::Result<()> {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| Failure::stream(&error, shown(path)))
}
