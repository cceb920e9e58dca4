//! Reads the fields of an encoded message without decoding their content.

/// The value of a field in the wire format. Its meaning depends on the field's type.
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
    /// A group. proto3 has no fields of this kind.
    Group,
}

/// The bytes are not a valid message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message breaks off, or has a field that cannot be read")]
pub struct Malformed;

/// The fields of a message, in the order in which they were written.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of this message.
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
            3 => {
                skip_group(&mut self.0, number)?;
                Value::Group
            }
            5 => Value::Fixed32(u32::from_le_bytes(array(&mut self.0)?)),
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
            // After a field that is invalid, nothing more can be read.
            self.0 = &[];
        }
        Some(field)
    }
}

/// The deepest nesting of groups that are skipped: the same as prost's.
const GROUPS: usize = 100;

/// Skips the rest of a group, up to the end tag with its number.
fn skip_group(bytes: &mut &[u8], number: u32) -> Result<(), Malformed> {
    let mut open = vec![number];
    while let Some(innermost) = open.last() {
        let key = varint(bytes)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0).ok_or(Malformed)?;
        match key & 7 {
            0 => drop(varint(bytes)?),
            1 => drop(array::<8>(bytes)?),
            2 => {
                let length = usize::try_from(varint(bytes)?).map_err(|_| Malformed)?;
                take(bytes, length)?;
            }
            3 if open.len() < GROUPS => open.push(number),
            4 if number == *innermost => drop(open.pop()),
            5 => drop(array::<4>(bytes)?),
            _ => return Err(Malformed),
        }
    }
    Ok(())
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

/// Reads a number of variable length from the front.
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

/// Reads the next packed number from the front, with the encoding of `like`.
pub fn packed(like: Value<'_>, bytes: &mut &[u8]) -> Result<Value<'static>, Malformed> {
    match like {
        Value::Varint(_) => varint(bytes).map(Value::Varint),
        Value::Fixed32(_) => array(bytes).map(u32::from_le_bytes).map(Value::Fixed32),
        Value::Fixed64(_) => array(bytes).map(u64::from_le_bytes).map(Value::Fixed64),
        Value::Bytes(_) | Value::Group => Err(Malformed),
    }
}

/// The text of a string field of a message; empty if it is not set.
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
    fn fields_are_read_as_in_the_encoding_guide() {
        let all = |bytes: &'static [u8]| Fields::of(bytes).collect::<Result<Vec<_>, _>>();
        assert_eq!(all(&[0x08, 0x96, 0x01]).unwrap(), [(1, Value::Varint(150))]);
        assert_eq!(all(b"\x12\x07testing").unwrap(), [(2, Value::Bytes(b"testing"))]);
        assert_eq!(all(b"\x1a\x03\x08\x96\x01").unwrap(), [(3, Value::Bytes(&[8, 0x96, 1]))]);
        assert_eq!(all(&[0x0d, 1, 0, 0, 0]).unwrap(), [(1, Value::Fixed32(1))]);
        assert_eq!(all(&[0x09, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap(), [(1, Value::Fixed64(1))]);
        // A group with number 1, which contains a number, bytes, and another group; then field 2.
        assert_eq!(
            all(b"\x0b\x08\x01\x12\x02\x0c\x0c\x1b\x1d\x01\0\0\0\x1c\x0c\x10\x05").unwrap(),
            [(1, Value::Group), (2, Value::Varint(5))]
        );
        let deep = [[0x0b].repeat(101), [0x0c].repeat(101)].concat();
        assert_eq!(Fields::of(&deep[1..201]).collect::<Result<Vec<_>, _>>(), Ok(vec![(1, Value::Group)]));
        assert_eq!(Fields::of(&deep).collect::<Result<Vec<_>, _>>(), Err(Malformed));
        for broken in [
            // A group without an end, one with the end of another group, and an end alone.
            &[0x0b, 0x08, 1][..],
            &[0x0b, 0x14],
            &[0x0b, 0x03, 0x0c],
            &[0x0c],
            &[0x08],
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
        fn reading_ends_for_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Fields::of(&bytes).count() <= bytes.len());
        }

        #[test]
        fn varints_are_read_as_by_prost(value: u64) {
            let mut bytes = Vec::new();
            prost::encode_length_delimiter(value as usize, &mut bytes).unwrap();
            prop_assert_eq!(varint(&mut bytes.as_slice()), Ok(value));
        }
    }
}
