//! The canonical form of what a node knows: a tree without clocks, in which
//! node ids can be exchanged.
//!
//! Two cores are the same to the search when nothing they can still do differs.
//! So the tree holds of a time only how many patiences it lies in the past or
//! the future, of a write's number only how many writes ago it was named, and
//! it leaves out what no step of the search depends on (`IGNORED`).
//!
//! The tree comes from the derived `serde::Serialize` of the core's own types:
//! it names every field, so a field added to the core is part of the canonical
//! form without anybody thinking of it.

use serde::ser::{self, Serialize};

use crate::types::{Millis, Sequence};

/// A value without clocks. Node ids stay recognisable; what is kept sorted by
/// node id is a set, because another numbering would sort it otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    Number(u64),
    Node(u64),
    List(Vec<Tree>),
    Set(Vec<Tree>),
}

/// Fields of the core that decide nothing in the search. Its clocks only move
/// in jumps beyond every patience of a follower: each tick of a follower is an
/// election timeout, and stickiness is either waived or equals losing the
/// message. So neither the deadline nor the time of the last contact matters.
const IGNORED: [&str; 3] = ["now", "heard_at", "election_deadline"];

/// From where times and write numbers are counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) now: Millis,
    pub(super) issued: Sequence,
    /// The shortest jump of the clock that outlasts every patience.
    pub(super) jump: Millis,
}

impl Origin {
    /// For values without times.
    pub(super) const NONE: Self = Self {
        now: Millis(0),
        issued: Sequence(0),
        jump: Millis(2),
    };

    /// The canonical form of a value.
    pub(super) fn tree<T: Serialize>(self, value: &T) -> Tree {
        value
            .serialize(Canonical { origin: self })
            .expect("writing into memory does not fail")
    }

    /// How many half jumps a time is away, the present told apart from the
    /// recent past. Small steps of a clock (heartbeats) never add up to a
    /// quarter jump, so rounding keeps what differs by whole jumps apart.
    fn distance(self, time: u64) -> u64 {
        const FAR: u64 = 16;
        let half = self.jump.0 / 2;
        let halves = |distance: u64| ((distance + half / 2) / half).min(FAR);
        match self.now.0.checked_sub(time) {
            Some(0) => 0,
            Some(age) => 1 + halves(age),
            None if time == u64::MAX => 4 * FAR,
            None => 2 * FAR + halves(time - self.now.0),
        }
    }
}

#[derive(Clone, Copy)]
struct Canonical {
    origin: Origin,
}

/// Gathers the parts of a compound value.
struct Parts {
    origin: Origin,
    parts: Vec<Tree>,
    /// Of a map the key that waits for its value.
    key: Option<Tree>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NeverFails(String);

impl ser::Error for NeverFails {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl Canonical {
    fn parts(self, first: Option<u64>) -> Parts {
        Parts {
            origin: self.origin,
            parts: first.map(Tree::Number).into_iter().collect(),
            key: None,
        }
    }
}

impl Parts {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NeverFails> {
        let origin = self.origin;
        self.parts.push(value.serialize(Canonical { origin })?);
        Ok(())
    }
}

macro_rules! numbers {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<Tree, NeverFails> {
            Ok(Tree::Number(value as u64))
        })*
    };
}

impl ser::Serializer for Canonical {
    type Ok = Tree;
    type Error = NeverFails;
    type SerializeSeq = Parts;
    type SerializeTuple = Parts;
    type SerializeTupleStruct = Parts;
    type SerializeTupleVariant = Parts;
    type SerializeMap = Parts;
    type SerializeStruct = Parts;
    type SerializeStructVariant = Parts;

    numbers!(serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_i64: i64, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32,
        serialize_u64: u64, serialize_char: char);

    fn serialize_f32(self, value: f32) -> Result<Tree, NeverFails> {
        Ok(Tree::Number(u64::from(value.to_bits())))
    }

    fn serialize_f64(self, value: f64) -> Result<Tree, NeverFails> {
        Ok(Tree::Number(value.to_bits()))
    }

    fn serialize_str(self, value: &str) -> Result<Tree, NeverFails> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Tree, NeverFails> {
        let numbers = value.iter().map(|byte| Tree::Number(u64::from(*byte)));
        Ok(Tree::List(numbers.collect()))
    }

    fn serialize_none(self) -> Result<Tree, NeverFails> {
        Ok(Tree::List(Vec::new()))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Tree, NeverFails> {
        Ok(Tree::List(vec![value.serialize(self)?]))
    }

    fn serialize_unit(self) -> Result<Tree, NeverFails> {
        Ok(Tree::List(Vec::new()))
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Tree, NeverFails> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
    ) -> Result<Tree, NeverFails> {
        Ok(Tree::Number(u64::from(variant)))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Tree, NeverFails> {
        let inner = value.serialize(self)?;
        Ok(match (name, inner) {
            ("NodeId", Tree::Number(id)) => Tree::Node(id),
            ("Millis", Tree::Number(time)) => Tree::Number(self.origin.distance(time)),
            ("Sequence", Tree::Number(number)) => {
                Tree::Number(self.origin.issued.0.wrapping_sub(number))
            }
            (_, inner) => inner,
        })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        value: &T,
    ) -> Result<Tree, NeverFails> {
        let mut parts = self.parts(Some(u64::from(variant)));
        parts.push(value)?;
        Ok(Tree::List(parts.parts))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts, NeverFails> {
        Ok(self.parts(None))
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts, NeverFails> {
        Ok(self.parts(None))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts, NeverFails> {
        Ok(self.parts(None))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Parts, NeverFails> {
        Ok(self.parts(Some(u64::from(variant))))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts, NeverFails> {
        Ok(self.parts(None))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts, NeverFails> {
        Ok(self.parts(None))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Parts, NeverFails> {
        Ok(self.parts(Some(u64::from(variant))))
    }
}

impl ser::SerializeSeq for Parts {
    type Ok = Tree;
    type Error = NeverFails;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NeverFails> {
        self.push(value)
    }

    fn end(self) -> Result<Tree, NeverFails> {
        let is_set_of_nodes = self.parts.iter().all(|part| matches!(part, Tree::Node(_)));
        Ok(if is_set_of_nodes {
            Tree::Set(self.parts)
        } else {
            Tree::List(self.parts)
        })
    }
}

impl ser::SerializeMap for Parts {
    type Ok = Tree;
    type Error = NeverFails;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), NeverFails> {
        let origin = self.origin;
        self.key = Some(key.serialize(Canonical { origin })?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NeverFails> {
        let origin = self.origin;
        let value = value.serialize(Canonical { origin })?;
        let key = self.key.take().expect("a key comes before its value");
        self.parts.push(Tree::List(vec![key, value]));
        Ok(())
    }

    fn end(self) -> Result<Tree, NeverFails> {
        Ok(Tree::Set(self.parts))
    }
}

macro_rules! list_of_parts {
    ($($trait:ident $method:ident),*) => {
        $(impl ser::$trait for Parts {
            type Ok = Tree;
            type Error = NeverFails;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NeverFails> {
                self.push(value)
            }

            fn end(self) -> Result<Tree, NeverFails> {
                Ok(Tree::List(self.parts))
            }
        })*
    };
}

list_of_parts!(
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
);

macro_rules! list_of_fields {
    ($($trait:ident),*) => {
        $(impl ser::$trait for Parts {
            type Ok = Tree;
            type Error = NeverFails;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), NeverFails> {
                if IGNORED.contains(&name) {
                    return Ok(());
                }
                self.push(value)
            }

            fn end(self) -> Result<Tree, NeverFails> {
                Ok(Tree::List(self.parts))
            }
        })*
    };
}

list_of_fields!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    const ORIGIN: Origin = Origin {
        now: Millis(10_000),
        issued: Sequence(7),
        jump: Millis(1000),
    };

    #[test]
    fn times_count_in_half_jumps_from_now() {
        let distance = |time| ORIGIN.tree(&Millis(time));
        assert_ne!(distance(10_000), distance(9_990), "now and just now");
        assert_eq!(distance(9_990), distance(9_800));
        assert_ne!(distance(9_800), distance(9_000));
        assert_eq!(distance(11_000), distance(10_990), "a heartbeat later");
        assert_ne!(distance(11_000), distance(12_000));
        assert_ne!(distance(u64::MAX), distance(90_000));
    }

    #[test]
    fn write_numbers_count_from_the_newest() {
        assert_eq!(ORIGIN.tree(&Sequence(7)), Tree::Number(0));
        assert_eq!(ORIGIN.tree(&Sequence(5)), Tree::Number(2));
    }

    #[test]
    fn ids_and_what_they_sort_stay_recognisable() {
        let ids: std::collections::BTreeSet<NodeId> = [NodeId(2), NodeId(1)].into();
        let expected = Tree::Set(vec![Tree::Node(1), Tree::Node(2)]);
        assert_eq!(ORIGIN.tree(&ids), expected);
        let map: std::collections::BTreeMap<NodeId, bool> = [(NodeId(3), true)].into();
        let pair = Tree::List(vec![Tree::Node(3), Tree::Number(1)]);
        assert_eq!(ORIGIN.tree(&map), Tree::Set(vec![pair]));
    }
}
