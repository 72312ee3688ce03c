//! Numbers of up to 521 bits as decimal text: how Go's `big.Int` travels in
//! JSON. Only what the keyring needs; arithmetic is TLS's business.

use std::fmt;

use zeroize::Zeroize;

/// Bytes of a P-521 coordinate or private scalar.
pub const SCALAR_BYTES: usize = 66;

/// A non-negative number below 2^528, big-endian. Wiped when dropped, as one
/// of the three in a key is secret; `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Scalar([u8; SCALAR_BYTES]);

/// Text that is no decimal number, or one too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Something other than digits (a sign, a point, an exponent), or nothing.
    #[error("not a non-negative decimal integer")]
    NotDecimal,
    /// Does not fit.
    #[error("number exceeds {} bits", SCALAR_BYTES * 8)]
    TooLarge,
}

impl Scalar {
    /// From big-endian bytes, shorter ones padded in front.
    ///
    /// # Errors
    /// More than 66 bytes.
    pub fn from_be_bytes(bytes: &[u8]) -> Result<Self, DecimalError> {
        let start = SCALAR_BYTES
            .checked_sub(bytes.len())
            .ok_or(DecimalError::TooLarge)?;
        let mut scalar = Self([0; SCALAR_BYTES]);
        scalar.0[start..].copy_from_slice(bytes);
        Ok(scalar)
    }

    /// From decimal digits.
    ///
    /// # Errors
    /// Other characters, no characters, or a number of more than 528 bits.
    pub fn parse(text: &str) -> Result<Self, DecimalError> {
        if text.is_empty() {
            return Err(DecimalError::NotDecimal);
        }
        let mut scalar = Self([0; SCALAR_BYTES]);
        for digit in text.bytes() {
            if !digit.is_ascii_digit() {
                return Err(DecimalError::NotDecimal);
            }
            scalar.multiply_by_ten_and_add(digit - b'0')?;
        }
        Ok(scalar)
    }

    /// Big-endian, 66 bytes.
    #[must_use]
    pub fn as_be_bytes(&self) -> &[u8; SCALAR_BYTES] {
        &self.0
    }

    /// Decimal digits without leading zeros.
    #[must_use]
    pub fn to_decimal(&self) -> String {
        let mut rest = self.clone();
        let mut digits = Vec::with_capacity(160);
        while rest.0.iter().any(|byte| *byte != 0) {
            digits.push(b'0' + rest.divide_by_ten());
        }
        if digits.is_empty() {
            digits.push(b'0');
        }
        digits
            .iter()
            .rev()
            .map(|digit| char::from(*digit))
            .collect()
    }

    fn multiply_by_ten_and_add(&mut self, digit: u8) -> Result<(), DecimalError> {
        let mut carry = u16::from(digit);
        for byte in self.0.iter_mut().rev() {
            let sum = u16::from(*byte) * 10 + carry;
            *byte = sum.to_be_bytes()[1];
            carry = sum >> 8;
        }
        if carry == 0 {
            Ok(())
        } else {
            Err(DecimalError::TooLarge)
        }
    }

    /// Divides in place; the remainder is the last decimal digit.
    fn divide_by_ten(&mut self) -> u8 {
        let mut remainder = 0_u16;
        for byte in &mut self.0 {
            let value = (remainder << 8) | u16::from(*byte);
            *byte = (value / 10).to_be_bytes()[1];
            remainder = value % 10;
        }
        remainder.to_be_bytes()[1]
    }
}

impl Drop for Scalar {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scalar")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_numbers_convert_both_ways() {
        for (text, last) in [("0", 0), ("1", 1), ("255", 255), ("256", 0), ("65537", 1)] {
            let scalar = Scalar::parse(text).expect(text);
            assert_eq!(scalar.as_be_bytes()[SCALAR_BYTES - 1], last, "{text}");
            assert_eq!(scalar.to_decimal(), text);
        }
        assert_eq!(Scalar::parse("007").expect("zeros").to_decimal(), "7");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "-1", "1.0", "1e3", " 1", "0x10", "٣"] {
            assert_eq!(Scalar::parse(text), Err(DecimalError::NotDecimal), "{text}");
        }
        let largest = Scalar::from_be_bytes(&[255; SCALAR_BYTES]).expect("fits");
        assert_eq!(Scalar::parse(&largest.to_decimal()), Ok(largest.clone()));
        assert_eq!(
            Scalar::parse(&format!("{}0", largest.to_decimal())),
            Err(DecimalError::TooLarge)
        );
        assert_eq!(
            Scalar::from_be_bytes(&[0; SCALAR_BYTES + 1]),
            Err(DecimalError::TooLarge)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_survive_the_round_trip(bytes in prop::collection::vec(any::<u8>(), 0..=SCALAR_BYTES)) {
            let scalar = Scalar::from_be_bytes(&bytes).expect("fits");
            prop_assert_eq!(Scalar::parse(&scalar.to_decimal()), Ok(scalar));
        }
    }
}
