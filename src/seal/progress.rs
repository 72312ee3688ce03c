//! The shares given so far towards one secret: unsealing, and whatever else
//! wants a quorum of share holders.

use std::fmt;

use super::shamir::{self, SecretBytes, ShamirError};

/// Collects shares until there are enough.
///
/// Invariants: fewer than `threshold` shares are held, no two equal; there is
/// a nonce exactly while there is a share.
pub struct Progress {
    threshold: usize,
    shares: Vec<SecretBytes>,
    nonce: String,
}

/// What giving a share led to.
pub enum Provided {
    /// More are needed (or this one was given before, which changes nothing).
    Pending,
    /// There were enough: the combined secret. Nothing is held any longer,
    /// whether or not the secret turns out to be right.
    Complete(SecretBytes),
}

impl Progress {
    /// Waits for `threshold` shares.
    ///
    /// # Panics
    /// With a threshold of 0.
    #[must_use]
    pub fn new(threshold: usize) -> Self {
        assert!(0 < threshold);
        Self {
            threshold,
            shares: Vec::new(),
            nonce: String::new(),
        }
    }

    /// Takes one share. `new_nonce` names the attempt when this is its first.
    /// With a threshold of 1 the share is the secret itself, as in Vault.
    ///
    /// # Errors
    /// Enough shares that do not fit together; all of them are forgotten.
    pub fn provide(
        &mut self,
        share: SecretBytes,
        new_nonce: impl FnOnce() -> String,
    ) -> Result<Provided, ShamirError> {
        let known = |held: &SecretBytes| shamir::same_share(held, &share);
        if self.shares.iter().any(known) {
            return Ok(Provided::Pending);
        }
        if self.shares.is_empty() {
            self.nonce = new_nonce();
        }
        self.shares.push(share);
        if self.shares.len() < self.threshold {
            return Ok(Provided::Pending);
        }
        let mut shares = std::mem::take(&mut self.shares);
        self.reset();
        if self.threshold == 1 {
            let only = shares.pop().expect("one share was just added");
            return Ok(Provided::Complete(only));
        }
        shamir::combine(&shares).map(Provided::Complete)
    }

    /// Forgets all shares.
    pub fn reset(&mut self) {
        self.shares = Vec::new();
        self.nonce = String::new();
    }

    /// How many shares are held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shares.len()
    }

    /// How many shares are needed.
    #[must_use]
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// The name of this attempt; empty without a share.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} shares", self.count(), self.threshold)
    }
}

impl fmt::Debug for Provided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Complete(_) => "complete",
        })
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn share(bytes: &[u8]) -> SecretBytes {
        Zeroizing::new(bytes.to_vec())
    }

    fn provide(progress: &mut Progress, bytes: &[u8]) -> Result<Provided, ShamirError> {
        progress.provide(share(bytes), || "nonce".to_owned())
    }

    #[test]
    fn shares_up_to_the_threshold_combine_and_are_forgotten() {
        let fill = |buffer: &mut [u8]| {
            buffer.fill(0x35);
            true
        };
        let shares = shamir::split(b"secret", 5, 3, fill).expect("splits");
        let mut progress = Progress::new(3);
        assert_eq!((progress.count(), progress.nonce()), (0, ""));
        for (share, count) in shares[1..3].iter().zip(1..) {
            let given = provide(&mut progress, share).expect("pending");
            assert!(matches!(given, Provided::Pending));
            assert_eq!((progress.count(), progress.nonce()), (count, "nonce"));
        }
        match provide(&mut progress, &shares[4]).expect("combines") {
            Provided::Complete(secret) => assert_eq!(&secret[..], b"secret"),
            Provided::Pending => panic!("three shares are enough"),
        }
        assert_eq!((progress.count(), progress.nonce()), (0, ""));
    }

    #[test]
    fn share_given_twice_counts_once() {
        let mut progress = Progress::new(2);
        provide(&mut progress, b"a1").expect("pending");
        let again = progress
            .provide(share(b"a1"), || panic!("the attempt has a nonce"))
            .expect("pending");
        assert!(matches!(again, Provided::Pending));
        assert_eq!(progress.count(), 1);
    }

    #[test]
    fn shares_that_do_not_fit_are_forgotten() {
        for (second, error) in [
            (&b"abc"[..], ShamirError::LengthsDiffer),
            (b"b1", ShamirError::DuplicateShare),
        ] {
            let mut progress = Progress::new(2);
            provide(&mut progress, b"a1").expect("pending");
            let refused = provide(&mut progress, second);
            assert_eq!(refused.map(|_| ()), Err(error));
            assert_eq!((progress.count(), progress.nonce()), (0, ""));
        }
    }

    #[test]
    fn threshold_one_takes_the_share_as_the_secret() {
        let mut progress = Progress::new(1);
        match provide(&mut progress, b"the key").expect("complete") {
            Provided::Complete(secret) => assert_eq!(&secret[..], b"the key"),
            Provided::Pending => panic!("one share is enough"),
        }
    }

    #[test]
    fn reset_forgets() {
        let mut progress = Progress::new(2);
        provide(&mut progress, b"a1").expect("pending");
        progress.reset();
        assert_eq!((progress.count(), progress.nonce()), (0, ""));
        assert_eq!(format!("{progress:?}"), "0 of 2 shares");
    }
}
