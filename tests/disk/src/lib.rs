//! `src/disk` alone with its unit tests, so that Miri interprets it in seconds
//! and a sanitizer needs nothing else rebuilt.

// Only a part of a program that is whole elsewhere.
#![allow(dead_code)]

#[path = "../../../src/disk/mod.rs"]
pub mod disk;
