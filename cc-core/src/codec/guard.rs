//! Bounds on what a decode may do, put around any serde format whose sequences say their
//! length: how many items sequences and maps may hold in all, how deep values may nest, and
//! that texts and byte strings are copied only once they are known to be there.
//!
//! Leaves pass straight through and a sequence is charged as a whole when it starts, so that an
//! item costs nothing extra. Nothing here may ever make a decode accept more than the
//! format itself does.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use crate::limits::DECODE_DEPTH;

/// The items that one decode may still make.
pub(super) struct Budget(Cell<usize>);

impl Budget {
    pub(super) fn new(items: usize) -> Self {
        Self(Cell::new(items))
    }
}

/// What a part of a decode may do: as a value, so that the depth needs no undoing.
#[derive(Clone, Copy)]
struct Bounds<'b> {
    items: &'b Budget,
    /// Levels that may still open.
    levels: usize,
}

impl Bounds<'_> {
    /// Inside of one more level.
    #[inline(always)]
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Self { levels, ..self }),
            None => Err(too_deep()),
        }
    }

    /// Takes a sequence's items out of the budget.
    #[inline(always)]
    fn charge<E: serde::de::Error>(self, items: usize) -> Result<(), E> {
        match self.items.0.get().checked_sub(items) {
            Some(left) => {
                self.items.0.set(left);
                Ok(())
            }
            None => Err(too_many()),
        }
    }
}

#[cold]
fn too_deep<E: serde::de::Error>() -> E {
    E::custom(format_args!("nested deeper than {DECODE_DEPTH} levels"))
}

#[cold]
fn too_many<E: serde::de::Error>() -> E {
    E::custom("more items than its bytes can hold")
}

/// Something of serde's under bounds.
pub(super) struct Guarded<'b, T> {
    inner: T,
    bounds: Bounds<'b>,
}

/// Puts the outermost seed of a decode under bounds.
#[inline]
pub(super) fn root<T>(seed: T, items: &Budget) -> Guarded<'_, T> {
    let levels = DECODE_DEPTH;
    Guarded {
        inner: seed,
        bounds: Bounds { items, levels },
    }
}

impl<'b, T> Guarded<'b, T> {
    /// The same bounds around something else.
    #[inline(always)]
    fn around<U>(&self, inner: U) -> Guarded<'b, U> {
        Guarded {
            inner,
            bounds: self.bounds,
        }
    }
}

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Guarded<'_, T> {
    type Value = T::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T::Value, D::Error> {
        self.inner.deserialize(Guarded {
            inner: deserializer,
            bounds: self.bounds,
        })
    }
}

/// Hands a leaf's visitor to the format as it is.
macro_rules! leaves {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        }
    )*};
}

/// Puts a compound's visitor under bounds, one level deeper.
macro_rules! compounds {
    ($($method:ident($($name:ident: $type:ty),*) $wrap:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V)
            -> Result<V::Value, D::Error>
        {
            let bounds = self.bounds.deeper()?;
            self.inner.$method($($name,)* Guarded { inner: $wrap(visitor), bounds })
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Guarded<'_, D> {
    type Error = D::Error;

    leaves! {
        deserialize_any deserialize_bool
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_bytes
        deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    compounds! {
        deserialize_option() Fixed
        deserialize_newtype_struct(name: &'static str) Fixed
        deserialize_seq() Counted
        deserialize_tuple(length: usize) Fixed
        deserialize_tuple_struct(name: &'static str, length: usize) Fixed
        deserialize_map() Counted
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) Fixed
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) Fixed
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    // Asked for an owned text, the format allocates first and looks for the bytes afterwards;
    // asked for a borrowed one it has to look first.
    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_str(Owning(visitor))
    }

    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_bytes(Owning(visitor))
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Gives its visitor owned copies of what the format lends.
struct Owning<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Owning<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    #[inline]
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<V::Value, E> {
        self.0.visit_string(text.to_owned())
    }

    #[inline]
    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<V::Value, E> {
        self.0.visit_byte_buf(bytes.to_owned())
    }
}

/// A visitor of something whose number of items the peer says.
struct Counted<V>(V);

/// A visitor of something whose number of items its type says.
struct Fixed<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Guarded<'_, Counted<V>> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.0.expecting(f)
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        self.bounds.charge(claimed(seq.size_hint())?)?;
        let seq = self.around(seq);
        self.inner.0.visit_seq(seq)
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.bounds.charge(claimed(map.size_hint())?)?;
        let map = self.around(map);
        self.inner.0.visit_map(map)
    }
}

/// The number of items that a sequence claims, without which it cannot be bounded.
#[inline(always)]
fn claimed<E: serde::de::Error>(hint: Option<usize>) -> Result<usize, E> {
    hint.ok_or_else(|| E::custom("a sequence that does not say its length"))
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Guarded<'_, Fixed<V>> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.0.expecting(f)
    }

    #[inline]
    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.0.visit_none()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let deserializer = self.around(deserializer);
        self.inner.0.visit_some(deserializer)
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<V::Value, D::Error> {
        let deserializer = self.around(deserializer);
        self.inner.0.visit_newtype_struct(deserializer)
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        let seq = self.around(seq);
        self.inner.0.visit_seq(seq)
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let access = self.around(access);
        self.inner.0.visit_enum(access)
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        let seed = self.around(seed);
        self.inner.next_element_seed(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let seed = self.around(seed);
        self.inner.next_key_seed(seed)
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        let seed = self.around(seed);
        self.inner.next_value_seed(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, 'b, A: EnumAccess<'de>> EnumAccess<'de> for Guarded<'b, A> {
    type Error = A::Error;
    type Variant = Guarded<'b, A::Variant>;

    #[inline]
    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Self::Variant), A::Error> {
        let bounds = self.bounds;
        let (value, variant) = self.inner.variant_seed(seed)?;
        Ok((
            value,
            Guarded {
                inner: variant,
                bounds,
            },
        ))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Guarded<'_, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        let seed = self.around(seed);
        self.inner.newtype_variant_seed(seed)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = self.around(Fixed(visitor));
        self.inner.tuple_variant(length, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = self.around(Fixed(visitor));
        self.inner.struct_variant(fields, visitor)
    }
}
