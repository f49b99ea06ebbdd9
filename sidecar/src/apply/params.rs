//! Parameters of the apply statements, encoded from the text values of the log.
//!
//! One array parameter carries one column of many rows. Small integers and strings go as binary arrays, which Postgres reads fastest. Other
//! types go as one array literal and are read by the type's own input function. Where no array of the type can be unnested (arrays,
//! composites, domains), strings go and are cast row by row.

use super::Error;
use crate::core::pgoutput::Value;
use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

/// How a column's values travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    Int2,
    Int4,
    Int8,
    /// As `text[]`, cast to the column's type value by value.
    Text,
    /// As one literal of the column's array type.
    Literal {
        array_type: String,
        delimiter: char,
    },
}

/// An encoded parameter; `None` is NULL.
#[derive(Debug)]
pub(super) struct Param(Option<Bytes>);

impl Param {
    pub(super) fn text(value: &Value) -> Self {
        match value {
            Value::Text(text) => Self(Some(text.clone())),
            Value::Null | Value::Unchanged | Value::Binary(_) => Self(None),
        }
    }

    /// The column `values` (of `len` rows, `None` for NULL) in the given form.
    pub(super) fn column<'a>(form: &Form, values: impl ExactSizeIterator<Item = Option<&'a Bytes>>) -> Result<Self, Error> {
        Ok(Self(Some(match form {
            Form::Int2 => integers::<i16>(values, Type::INT2, 2, |out, value| out.put_i16(value))?,
            Form::Int4 => integers::<i32>(values, Type::INT4, 4, |out, value| out.put_i32(value))?,
            Form::Int8 => integers::<i64>(values, Type::INT8, 8, |out, value| out.put_i64(value))?,
            Form::Text => texts(values),
            Form::Literal { delimiter, .. } => literal(values, *delimiter),
        })))
    }
}

impl ToSql for Param {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match &self.0 {
            Some(bytes) => {
                out.put_slice(bytes);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    fn encode_format(&self, _: &Type) -> Format {
        Format::Binary
    }
    to_sql_checked!();
}

const NULL_LEN: i32 = -1;

/// One dimension from 1, with nulls.
fn header(out: &mut BytesMut, element: &Type, len: usize) {
    out.put_i32(1);
    out.put_i32(1);
    out.put_u32(element.oid());
    out.put_i32(length(len));
    out.put_i32(1);
}

fn length(len: usize) -> i32 {
    i32::try_from(len).expect("a batch is bounded far below 2^31 rows and bytes")
}

fn integers<'a, T: std::str::FromStr>(
    values: impl ExactSizeIterator<Item = Option<&'a Bytes>>,
    element: Type,
    size: usize,
    put: impl Fn(&mut BytesMut, T),
) -> Result<Bytes, Error> {
    let mut out = BytesMut::with_capacity(20 + values.len() * (4 + size));
    header(&mut out, &element, values.len());
    for value in values {
        let Some(text) = value else {
            out.put_i32(NULL_LEN);
            continue;
        };
        let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        let bad = || Error::Value { type_name: element.name().to_owned(), text: String::from_utf8_lossy(text).into_owned() };
        out.put_i32(length(size));
        put(&mut out, parsed.ok_or_else(bad)?);
    }
    Ok(out.freeze())
}

fn texts<'a>(values: impl ExactSizeIterator<Item = Option<&'a Bytes>>) -> Bytes {
    let mut out = BytesMut::with_capacity(20 + values.len() * 24);
    header(&mut out, &Type::TEXT, values.len());
    for value in values {
        match value {
            Some(text) => {
                out.put_i32(length(text.len()));
                out.put_slice(text);
            }
            None => out.put_i32(NULL_LEN),
        }
    }
    out.freeze()
}

fn literal<'a>(values: impl ExactSizeIterator<Item = Option<&'a Bytes>>, delimiter: char) -> Bytes {
    let mut out = BytesMut::with_capacity(2 + values.len() * 24);
    let mut separator = b'{';
    let delimiter = u8::try_from(delimiter).unwrap_or(b',');
    if values.len() == 0 {
        out.put_u8(b'{');
    }
    for value in values {
        out.put_u8(separator);
        separator = delimiter;
        let Some(text) = value else {
            out.put_slice(b"NULL");
            continue;
        };
        out.put_u8(b'"');
        for byte in text.iter() {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(*byte);
        }
        out.put_u8(b'"');
    }
    out.put_u8(b'}');
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_quotes_everything_but_null() {
        let values = [Some(Bytes::from_static(b"a\"\\b")), None, Some(Bytes::from_static(b"NULL")), Some(Bytes::new())];
        assert_eq!(literal(values.iter().map(Option::as_ref), ';'), Bytes::from_static(b"{\"a\\\"\\\\b\";NULL;\"NULL\";\"\"}"));
        assert_eq!(literal(std::iter::empty(), ','), Bytes::from_static(b"{}"));
    }

    #[test]
    fn an_integer_that_is_none_is_an_error() {
        let bad = [Some(Bytes::from_static(b"70000"))];
        assert!(Param::column(&Form::Int2, bad.iter().map(Option::as_ref)).is_err());
        assert!(Param::column(&Form::Int4, bad.iter().map(Option::as_ref)).is_ok());
    }
}
