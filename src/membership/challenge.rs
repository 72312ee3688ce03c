//! The secret a joiner must give back to prove that it holds the unseal key.
//!
//! The leader derives the answer from a key of its process and the joiner's
//! server id, encrypts it under the seal and forgets it: no memory is held for
//! callers who never return (OpenBao's form, its remedy for CVE-2024-8185).
//! The price is that an answer may be replayed until the process ends; it only
//! ever proves the same fact.

use std::fmt;

use aws_lc_rs::hkdf;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Length of an answer in bytes.
pub const ANSWER_BYTES: usize = 24;

/// The longest server id a challenge is issued for, in bytes.
pub const SERVER_ID_BYTES_MAX: usize = 16384;

const SALT: &[u8] = b"openbao-raft-peer-challenge";

/// Derives answers. Drawn at random when the process starts, never stored.
pub struct ChallengeKey(Zeroizing<[u8; 32]>);

/// What a joiner proves itself with.
pub type Answer = Zeroizing<[u8; ANSWER_BYTES]>;

impl ChallengeKey {
    /// Wraps 32 random bytes.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(Zeroizing::new(random))
    }

    /// The answer expected of the joiner that calls itself `server_id`:
    /// HKDF-SHA256 of this key, with the id as context.
    #[must_use]
    pub fn answer(&self, server_id: &str) -> Answer {
        let mut answer = Zeroizing::new([0; ANSWER_BYTES]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, SALT)
            .extract(self.0.as_slice())
            .expand(&[server_id.as_bytes()], AnswerLength)
            .and_then(|output| output.fill(answer.as_mut_slice()))
            .expect("24 bytes are within what HKDF-SHA256 can give");
        answer
    }

    /// Whether `given` is the answer for `server_id`, compared in constant
    /// time. An answer of another length is simply wrong.
    #[must_use]
    pub fn accepts(&self, server_id: &str, given: &[u8]) -> bool {
        self.answer(server_id).as_slice().ct_eq(given).into()
    }
}

impl fmt::Debug for ChallengeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChallengeKey")
    }
}

struct AnswerLength;

impl hkdf::KeyType for AnswerLength {
    fn len(&self) -> usize {
        ANSWER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_for_known_key_matches_independent_hkdf() {
        // Reference: HKDF of RFC 5869 written out with Python's hmac module.
        let key = ChallengeKey::new(std::array::from_fn(|i| i as u8));
        assert_eq!(
            hex::encode(key.answer("node2").as_slice()),
            "f52989f54e5afbfd4716dbe006f340d3a9f89f25e7771166"
        );
    }

    #[test]
    fn accepts_only_the_answer_for_that_server() {
        let key = ChallengeKey::new([7; 32]);
        let answer = key.answer("node2");
        assert!(key.accepts("node2", answer.as_slice()));
        assert!(!key.accepts("node3", answer.as_slice()));
        assert!(!key.accepts("node2", &answer[..23]));
        assert!(!key.accepts("node2", b""));
        assert!(!ChallengeKey::new([8; 32]).accepts("node2", answer.as_slice()));
    }

    #[test]
    fn debug_shows_no_key_bytes() {
        assert_eq!(format!("{:?}", ChallengeKey::new([9; 32])), "ChallengeKey");
    }
}
