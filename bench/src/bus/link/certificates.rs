//! The certificates of one measurement: the first side makes a CA and one for each side, the second reads its own.

use crate::Failure;
use busway::Tls;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::fs;
use std::path::Path;

/// What a side shows and whom it believes. The first side is node 1.
pub(super) fn tls(directory: &Path, first: bool) -> Result<Tls, Failure> {
    if first {
        make(directory)?;
    }
    let index = u8::from(first);
    let read = |name: String| fs::read(directory.join(name));
    let tls = Tls::from_pem(
        &read("ca.pem".to_owned())?,
        &read(format!("{index}.pem"))?,
        &read(format!("{index}.key"))?,
    )?;
    Ok(tls)
}

fn make(directory: &Path) -> Result<(), Failure> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "bench");
    params.distinguished_name = name;
    let key = KeyPair::generate()?;
    fs::write(directory.join("ca.pem"), params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    for index in [0, 1] {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names =
            vec![SanType::URI(format!("busway://bench/node/{index}").as_str().try_into()?)];
        let key = KeyPair::generate()?;
        fs::write(directory.join(format!("{index}.pem")), params.signed_by(&key, &issuer)?.pem())?;
        fs::write(directory.join(format!("{index}.key")), key.serialize_pem())?;
    }
    Ok(())
}
