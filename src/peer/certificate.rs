//! Making a keyring: one P-521 key with a self-signed certificate, as OpenBao
//! makes it, so that either program can run on the other's storage.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::rand::SecureRandom;
use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P521_SHA512, SerialNumber,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

use crate::membership::decimal::{SCALAR_BYTES, Scalar};
use crate::membership::timestamp::Timestamp;
use crate::membership::{Keyring, KeyringKey};

/// OpenBao's 262980 hours. Validity times are written for its sake; this
/// program pins certificates and never looks at them.
const VALIDITY: Duration = Duration::from_secs(262_980 * 3600);

/// How far back the validity begins, against clocks that differ.
const BACKDATE: Duration = Duration::from_secs(30);

/// The machine could not make a key.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The random generator or the key generation failed.
    #[error("generate raft TLS key: {0}")]
    Crypto(&'static str),
    /// The certificate could not be encoded or signed.
    #[error("generate raft TLS certificate")]
    Certificate(#[source] rcgen::Error),
    /// The clock reads a time before 1970.
    #[error("generate raft TLS key: the clock is before 1970")]
    Clock,
}

/// A new keyring of one key as JSON, exactly as OpenBao stores it at
/// `core/raft/tls`. Takes some milliseconds of CPU.
///
/// # Errors
/// The random generator, the clock or the encoding failed.
pub fn generate_keyring() -> Result<Zeroizing<Vec<u8>>, GenerateError> {
    let key = generate_key()?;
    let keyring = Keyring {
        active_key_id: key.id.clone(),
        keys: vec![key],
        applied_index: 0,
        term: 0,
    };
    Ok(keyring.to_stored())
}

/// A new key named `raft-<uuid>`.
///
/// # Errors
/// As [`generate_keyring`].
pub fn generate_key() -> Result<KeyringKey, GenerateError> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| GenerateError::Clock)?;
    let id = format!("raft-{}", uuid::Uuid::new_v4());
    let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING)
        .map_err(|_| GenerateError::Crypto("P-521 key pair"))?;
    let certificate = self_signed(&id, &pair, now)?;

    // 0x04, then both coordinates.
    let point = pair.public_key().as_ref();
    assert_eq!(point.len(), 1 + 2 * SCALAR_BYTES, "P-521 point length");
    let secret = pair
        .private_key()
        .as_be_bytes()
        .map_err(|_| GenerateError::Crypto("export of the private scalar"))?;
    let scalar = |bytes: &[u8]| {
        Scalar::from_be_bytes(bytes).map_err(|_| GenerateError::Crypto("scalar length"))
    };
    Ok(KeyringKey {
        id,
        applied_index: 0,
        certificate,
        x: scalar(&point[1..=SCALAR_BYTES])?,
        y: scalar(&point[1 + SCALAR_BYTES..])?,
        d: scalar(secret.as_ref())?,
        created: Timestamp {
            seconds: i64::try_from(now.as_secs()).map_err(|_| GenerateError::Clock)?,
            nanoseconds: now.subsec_nanos(),
        },
    })
}

fn self_signed(id: &str, pair: &EcdsaKeyPair, now: Duration) -> Result<Vec<u8>, GenerateError> {
    let pkcs8 = pair
        .to_pkcs8v1()
        .map_err(|_| GenerateError::Crypto("export of the private key"))?;
    let signer = KeyPair::from_pkcs8_der_and_sign_algo(
        &PrivatePkcs8KeyDer::from(pkcs8.as_ref()),
        &PKCS_ECDSA_P521_SHA512,
    )
    .map_err(GenerateError::Certificate)?;

    let mut name = DistinguishedName::new();
    let printable = id.try_into().map_err(GenerateError::Certificate)?;
    name.push(DnType::CommonName, DnValue::PrintableString(printable));

    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params =
        CertificateParams::new(vec![id.to_owned()]).map_err(GenerateError::Certificate)?;
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from(random_u63()?));
    params.not_before = epoch + (now - BACKDATE);
    params.not_after = epoch + (now + VALIDITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = params
        .self_signed(&signer)
        .map_err(GenerateError::Certificate)?;
    Ok(certificate.der().to_vec())
}

/// A positive serial number, as Go's `Int63` gives.
fn random_u63() -> Result<u64, GenerateError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| GenerateError::Crypto("random serial number"))?;
    Ok((u64::from_le_bytes(bytes) >> 1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keyring_parses_and_survives_byte_for_byte() {
        let json = generate_keyring().expect("generates");
        let keyring = Keyring::parse(&json).expect("parses");
        assert_eq!(keyring.to_stored(), json);
        assert_eq!(keyring.keys.len(), 1);
        assert!(keyring.active_key_id.starts_with("raft-"));
        let other = generate_keyring().expect("generates");
        assert_ne!(other, json);
    }
}
