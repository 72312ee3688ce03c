//! Shamir's secret sharing, byte by byte over GF(2^8), in the form of the
//! `shamir` package of Vault and OpenBao: a share is the y value of every
//! byte followed by one x byte, which is never 0.
//!
//! Source: A. Shamir, "How to share a secret", 1979. Coefficients are uniform,
//! the highest one included: excluding 0 there would tell the holders of one
//! share too few which secrets are impossible.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::field::{add, invert, multiply};

/// Bytes that are wiped when dropped.
pub type SecretBytes = Zeroizing<Vec<u8>>;

/// Why a secret was not split, or shares not combined. Texts as Vault gives
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShamirError {
    /// Fewer shares than are needed to combine.
    #[error("parts cannot be less than threshold")]
    SharesBelowThreshold,
    /// There are only 255 places for a share.
    #[error("parts cannot exceed 255")]
    SharesAboveMax,
    /// One share would be the secret itself.
    #[error("threshold must be at least 2")]
    ThresholdBelowTwo,
    /// Nothing to split.
    #[error("cannot split an empty secret")]
    SecretEmpty,
    /// The source of randomness failed.
    #[error("failed to generate polynomial: no randomness")]
    NoRandomness,
    /// One share, or none.
    #[error("less than two parts cannot be used to reconstruct the secret")]
    SharesBelowTwo,
    /// A share without room for a value and its place.
    #[error("parts must be at least two bytes")]
    ShareTooShort,
    /// Shares of different secrets.
    #[error("all parts must be the same length")]
    LengthsDiffer,
    /// Two shares of one place.
    #[error("duplicate part detected")]
    DuplicateShare,
}

/// Splits `secret` into `share_count` shares, any `threshold` of which give it
/// back. `fill` fills a buffer with random bytes and says whether it could.
///
/// # Errors
/// Counts outside 2 ..= 255 or a threshold above the number of shares, an
/// empty secret, no randomness.
pub fn split(
    secret: &[u8],
    share_count: usize,
    threshold: usize,
    mut fill: impl FnMut(&mut [u8]) -> bool,
) -> Result<Vec<SecretBytes>, ShamirError> {
    if share_count < threshold {
        return Err(ShamirError::SharesBelowThreshold);
    }
    let Ok(place_max) = u8::try_from(share_count) else {
        return Err(ShamirError::SharesAboveMax);
    };
    if threshold < 2 {
        return Err(ShamirError::ThresholdBelowTwo);
    }
    if secret.is_empty() {
        return Err(ShamirError::SecretEmpty);
    }
    // Full size from the start: growing would leave copies behind.
    let mut shares: Vec<SecretBytes> = (0..share_count)
        .map(|_| Zeroizing::new(Vec::with_capacity(secret.len() + 1)))
        .collect();
    let mut coefficients = Zeroizing::new(vec![0; threshold - 1]);
    for byte in secret {
        if !fill(&mut coefficients) {
            return Err(ShamirError::NoRandomness);
        }
        for (share, place) in shares.iter_mut().zip(1..=place_max) {
            share.push(evaluate(*byte, &coefficients, place));
        }
    }
    for (share, place) in shares.iter_mut().zip(1..=place_max) {
        share.push(place);
    }
    Ok(shares)
}

/// Gives back the secret that the shares were split from. Too few shares, or
/// shares of another secret of the same length, give some other bytes: only
/// what the secret opens can tell.
///
/// # Errors
/// Fewer than two shares, lengths below two or different, one place twice.
pub fn combine<S: AsRef<[u8]>>(shares: &[S]) -> Result<SecretBytes, ShamirError> {
    let [first, _, ..] = shares else {
        return Err(ShamirError::SharesBelowTwo);
    };
    let share_length = first.as_ref().len();
    if share_length < 2 {
        return Err(ShamirError::ShareTooShort);
    }
    if shares
        .iter()
        .any(|share| share.as_ref().len() != share_length)
    {
        return Err(ShamirError::LengthsDiffer);
    }
    let secret_length = share_length - 1;
    let places: Vec<u8> = shares
        .iter()
        .map(|share| share.as_ref()[secret_length])
        .collect();
    for (position, place) in places.iter().enumerate() {
        if places[..position].contains(place) {
            return Err(ShamirError::DuplicateShare);
        }
    }
    let weights = weights_at_zero(&places);
    let mut secret = Zeroizing::new(vec![0; secret_length]);
    for (share, weight) in shares.iter().zip(weights) {
        for (byte, value) in secret.iter_mut().zip(share.as_ref()) {
            *byte = add(*byte, multiply(*value, weight));
        }
    }
    Ok(secret)
}

/// Whether two shares are the same bytes, in constant time for equal lengths.
#[must_use]
pub fn same_share(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

/// The polynomial with this value at 0 and these coefficients, lowest power
/// first, at `place`; Horner's rule.
fn evaluate(at_zero: u8, coefficients: &[u8], place: u8) -> u8 {
    let sum = coefficients.iter().rev().fold(0, |sum, coefficient| {
        add(multiply(sum, place), *coefficient)
    });
    add(multiply(sum, place), at_zero)
}

/// Lagrange: the secret is the sum of the values at `places`, each times its
/// weight.
fn weights_at_zero(places: &[u8]) -> Vec<u8> {
    let weight = |place: &u8| {
        places
            .iter()
            .filter(|other| *other != place)
            .fold(1, |weight, other| {
                multiply(weight, multiply(*other, invert(add(*place, *other))))
            })
    };
    places.iter().map(weight).collect()
}

#[cfg(test)]
mod tests;
