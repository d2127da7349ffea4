//! Values of one type, as they lie in memory.
//!
//! The type is plain data by the derives of `zerocopy`: no padding, any bytes valid. What arrives is looked at where it
//! lies; nothing is encoded.

use std::marker::PhantomData;

use busway_shm::clock::Deadline;
use busway_shm::ring::Patience;
use busway_wire::Codec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Code, Error};
use crate::outcome::{SendError, Sent};
use crate::publisher::{Loan, Publisher};

/// A publisher of values of one type. Made by [`Publisher::typed`]; received with
/// [`Sample::cast`](crate::Sample::cast).
#[derive(Debug)]
pub struct TypedPublisher<T> {
    publisher: Publisher,
    kind: PhantomData<fn(T)>,
}

impl<T> TypedPublisher<T> {
    pub(crate) fn new(publisher: Publisher) -> Self {
        Self { publisher, kind: PhantomData }
    }

    /// The publisher beneath.
    pub fn publisher(&mut self) -> &mut Publisher {
        &mut self.publisher
    }
}

impl<T: IntoBytes + Immutable> TypedPublisher<T> {
    /// Sends a value, waiting as [`Publisher::send`] does.
    ///
    /// # Errors
    /// As [`Publisher::send`].
    pub fn send(&mut self, value: &T) -> Result<Sent, SendError> {
        self.publisher.send_coded(value.as_bytes(), Codec::Typed, Patience::Until(Deadline::never()))
    }

    /// Sends a value without waiting.
    ///
    /// # Errors
    /// As [`Publisher::try_send`].
    pub fn try_send(&mut self, value: &T) -> Result<Sent, SendError> {
        self.publisher.send_coded(value.as_bytes(), Codec::Typed, Patience::None)
    }
}

impl<T: IntoBytes + FromBytes + KnownLayout + Immutable> TypedPublisher<T> {
    /// Room for one value, in the memory where subscribers will read it. It starts as zeroes.
    ///
    /// # Errors
    /// As [`Publisher::loan`].
    pub fn loan(&mut self) -> Result<TypedLoan<'_, T>, SendError> {
        let mut loan = self.publisher.loan(size_of::<T>())?;
        loan.fill(0);
        Ok(TypedLoan { loan, kind: PhantomData })
    }
}

/// Room for one value.
#[derive(Debug)]
pub struct TypedLoan<'a, T> {
    loan: Loan<'a>,
    kind: PhantomData<fn(T)>,
}

impl<T: IntoBytes + FromBytes + KnownLayout + Immutable> TypedLoan<'_, T> {
    /// The value, to be written in place.
    ///
    /// # Errors
    /// [`Code::CastRefused`] where the type wants more alignment than a small message has (8 bytes up to 96 bytes of
    /// payload, 64 beyond).
    pub fn value(&mut self) -> Result<&mut T, Error> {
        T::mut_from_bytes(&mut self.loan).map_err(|_| {
            Error::new(Code::CastRefused, "the loan is not aligned for the type")
                .at(std::any::type_name::<T>())
                .remedy("send the value with `send`, or make it larger than 96 bytes")
        })
    }

    /// Sends the value, waiting as [`Publisher::send`] does.
    ///
    /// # Errors
    /// As [`Publisher::send`].
    pub fn send(self) -> Result<Sent, SendError> {
        self.loan.finish(Codec::Typed, Patience::Until(Deadline::never()))
    }
}
