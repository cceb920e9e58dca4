//! Fields of a message as they lie on the wire, without decoding what is in them.

/// A field's value: what it means depends on its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number of variable length.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Text, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
    /// Four bytes.
    Fixed32(u32),
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message breaks off, or has a field that cannot be read")]
pub struct Malformed;

/// The fields of a message, in the order in which they were written.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Those of this message.
    pub fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn next_field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let key = varint(&mut self.0)?;
        let number = u32::try_from(key >> 3).map_err(|_| Malformed)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut self.0)?),
            1 => Value::Fixed64(u64::from_le_bytes(array(&mut self.0)?)),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).map_err(|_| Malformed)?;
                Value::Bytes(take(&mut self.0, length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(array(&mut self.0)?)),
            // Groups have no place in proto3.
            _ => return Err(Malformed),
        };
        if number == 0 { Err(Malformed) } else { Ok((number, value)) }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.next_field();
        if field.is_err() {
            // What comes after a field that cannot be read cannot be read either.
            self.0 = &[];
        }
        Some(field)
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = bytes.split_at_checked(length).ok_or(Malformed)?;
    *bytes = tail;
    Ok(head)
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (head, tail) = bytes.split_first_chunk().ok_or(Malformed)?;
    *bytes = tail;
    Ok(*head)
}

/// Takes a number of variable length off the front.
pub fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        // The tenth byte has room for one bit.
        if index == 9 && *byte > 1 {
            return Err(Malformed);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// Takes the next of packed numbers off the front: one that is written as `like` is.
pub fn packed(like: Value<'_>, bytes: &mut &[u8]) -> Result<Value<'static>, Malformed> {
    match like {
        Value::Varint(_) => varint(bytes).map(Value::Varint),
        Value::Fixed32(_) => array(bytes).map(u32::from_le_bytes).map(Value::Fixed32),
        Value::Fixed64(_) => array(bytes).map(u64::from_le_bytes).map(Value::Fixed64),
        Value::Bytes(_) => Err(Malformed),
    }
}

/// The text of a message's string field; empty where it is not set.
pub fn text(message: &[u8], number: u32) -> Option<&str> {
    let values = Fields::of(message).filter_map(|field| match field {
        Ok((found, Value::Bytes(text))) if found == number => Some(text),
        _ => None,
    });
    std::str::from_utf8(values.last().unwrap_or_default()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_as_the_encoding_guide_has_them() {
        let all = |bytes: &'static [u8]| Fields::of(bytes).collect::<Result<Vec<_>, _>>();
        assert_eq!(all(&[0x08, 0x96, 0x01]).unwrap(), [(1, Value::Varint(150))]);
        assert_eq!(all(b"\x12\x07testing").unwrap(), [(2, Value::Bytes(b"testing"))]);
        assert_eq!(all(b"\x1a\x03\x08\x96\x01").unwrap(), [(3, Value::Bytes(&[8, 0x96, 1]))]);
        assert_eq!(all(&[0x0d, 1, 0, 0, 0]).unwrap(), [(1, Value::Fixed32(1))]);
        assert_eq!(all(&[0x09, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap(), [(1, Value::Fixed64(1))]);
        for broken in [
            &[0x08][..],
            &[0x08, 0x80],
            &[0x12, 5, 1],
            &[0x0d, 1],
            &[0x0b],
            &[0x00, 0],
            &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
        ] {
            assert_eq!(Fields::of(broken).collect::<Result<Vec<_>, _>>(), Err(Malformed), "{broken:?}");
        }
        assert_eq!(text(b"\x12\x01a\x12\x01b", 2), Some("b"));
        assert_eq!(text(b"\x12\x01a", 3), Some(""));
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases())]

        #[test]
        fn any_bytes_come_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Fields::of(&bytes).count() <= bytes.len());
        }

        #[test]
        fn varints_are_prosts(value: u64) {
            let mut bytes = Vec::new();
            prost::encode_length_delimiter(value as usize, &mut bytes).unwrap();
            prop_assert_eq!(varint(&mut bytes.as_slice()), Ok(value));
        }
    }
}
