//! The seal: the unseal key, split among people who must come together to
//! open the store (Shamir's secret sharing), and how far they have come.
//!
//! What it must never do: print or log a share or a secret, branch on one, or
//! leave one in memory that was given back. Randomness is passed in.
//!
//! The share format is that of Vault and OpenBao (D-009): their shares open a
//! restored archive of theirs.

mod field;
mod progress;
mod shamir;

pub use progress::{Progress, Provided};
pub use shamir::{SecretBytes, ShamirError, combine, split};
