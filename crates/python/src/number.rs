//! Numbers that Python gives as settings: any that does not fit is refused as a setting.
//!
//! Without this Python raises OverflowError, which is no error of the bus.
//!
//! Invariant: what is no number at all stays a TypeError, with the name of its argument.

use busway::{Code, Error};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

use crate::failure::raise;

/// A number that fits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number<T>(pub(crate) T);

impl<'a, 'py, T> FromPyObject<'a, 'py> for Number<T>
where
    T: FromPyObject<'a, 'py, Error = PyErr>,
{
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        T::extract(object).map(Self).map_err(|error| {
            let py = object.py();
            if !error.is_instance_of::<PyOverflowError>(py) {
                return error;
            }
            // A number of any length is one: what it says may be too.
            let digits = object.repr().map(|text| text.to_string()).unwrap_or_default();
            let shown: String = digits.chars().take(40).collect();
            let kind = std::any::type_name::<T>();
            raise(
                py,
                &Error::new(Code::BadSetting, format!("{shown} is no number that fits here"))
                    .at("settings")
                    .remedy(format!("use 0 or more, as many as fit a {kind}")),
            )
        })
    }
}
