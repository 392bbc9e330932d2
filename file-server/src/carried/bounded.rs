//! A list that is read with a bound: one element more is an error, before there is memory for it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A list of at most so many. The bound is the reader's: whoever writes keeps it by what it writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Bounded<T, const MOST: usize>(Vec<T>);

impl<T, const MOST: usize> From<Vec<T>> for Bounded<T, MOST> {
    fn from(list: Vec<T>) -> Self {
        Self(list)
    }
}

impl<T, const MOST: usize> Deref for Bounded<T, MOST> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

struct Reader<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Reader<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MOST} elements")
    }

    fn visit_seq<Source: SeqAccess<'de>>(
        self,
        mut source: Source,
    ) -> Result<Vec<T>, Source::Error> {
        // What the list claims to hold is nothing to make room for.
        let mut list = Vec::new();
        while let Some(element) = source.next_element()? {
            if list.len() == MOST {
                return Err(Error::invalid_length(MOST, &self));
            }
            list.push(element);
        }
        Ok(list)
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Bounded<T, MOST> {
    fn deserialize<From: Deserializer<'de>>(source: From) -> Result<Self, From::Error> {
        source.deserialize_seq(Reader::<T, MOST>(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_the_bound_is_an_error() {
        let three = postcard::to_allocvec(&vec![1_u8, 2, 3]).unwrap();
        assert_eq!(postcard::from_bytes::<Bounded<u8, 3>>(&three).unwrap().len(), 3);
        assert!(postcard::from_bytes::<Bounded<u8, 2>>(&three).is_err());
        // It claims to hold as many as there are numbers.
        let endless = [[0xff; 9].as_slice(), &[1]].concat();
        assert!(postcard::from_bytes::<Bounded<u64, 9>>(&endless).is_err());
    }
}
