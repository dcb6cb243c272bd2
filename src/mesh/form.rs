//! The form of what a record says: a byte that tells which it is, then postcard.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// A value that is not understood. It is skipped; nothing else is affected.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormError {
    /// The value has a form that this version does not know: a later one made it.
    #[error("expected form {expected}, got {got:?}")]
    Unknown {
        /// The form that is understood.
        expected: u8,
        /// The one that came, if the value was not empty.
        got: Option<u8>,
    },
    /// The value does not hold what its form says.
    #[error("malformed value: {0}")]
    Malformed(postcard::Error),
}

/// Puts a value into a form.
pub fn encode<T: Serialize + ?Sized>(form: u8, value: &T) -> Bytes {
    let encoded = postcard::to_extend(value, vec![form]);
    // No record holds a sequence of unknown length, all that postcard refuses, and a vector takes
    // any length.
    encoded.expect("records are always encodable").into()
}

/// Reads a value of this form.
///
/// # Errors
/// When it has another form, or does not hold what the form says.
pub fn decode<T: DeserializeOwned>(form: u8, value: &[u8]) -> Result<T, FormError> {
    match value.split_first() {
        Some((got, rest)) if *got == form => {
            postcard::from_bytes(rest).map_err(FormError::Malformed)
        }
        other => Err(FormError::Unknown {
            expected: form,
            got: other.map(|(got, _)| *got),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_another_form_are_told_apart() {
        let value = encode(1, "text");
        assert_eq!(decode::<String>(1, &value).as_deref(), Ok("text"));
        let unknown = |expected, got| Err(FormError::Unknown { expected, got });
        assert_eq!(decode::<String>(2, &value), unknown(2, Some(1)));
        assert_eq!(decode::<String>(2, &[]), unknown(2, None));
        let cut = decode::<String>(1, &value[..3]);
        assert!(matches!(cut, Err(FormError::Malformed(_))), "{cut:?}");
    }
}
