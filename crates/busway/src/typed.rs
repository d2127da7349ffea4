//! Values of one type, as they lie in memory.
//!
//! The type is plain data by the derives of `zerocopy`: no padding, any bytes valid. What arrives is looked at where it
//! lies; nothing is encoded.

use std::marker::PhantomData;

use busway_shm::clock::Deadline;
use busway_shm::ring::Patience;
use busway_wire::{Codec, Context};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Code, Error};
use crate::outcome::{SendError, Sent};
use crate::publisher::{InContext, Loan, Publisher};

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

    /// What is sent through what this returns bears this context.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use busway::Context;
    /// let bus = busway::Bus::open("example-of-a-typed-context")?;
    /// let mut subscriber = bus.subscriber("counts").open()?;
    /// let mut publisher = bus.publisher("counts").open()?.typed::<u64>();
    /// let id = bus.next_id()?;
    /// publisher.in_context(Context::default().with_id(id)).send(&17)?;
    /// let sample = subscriber.recv()?;
    /// assert_eq!((sample.id(), sample.cast::<u64>()?), (Some(id), &17));
    /// # Ok(())
    /// # }
    /// ```
    pub fn in_context<'a>(&'a mut self, context: Context<'a>) -> TypedInContext<'a, T> {
        TypedInContext { sends: self.publisher.in_context(context), kind: PhantomData }
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

/// A typed publisher whose next values bear a context. Made by [`TypedPublisher::in_context`]. They lie behind the context, so that no more than 8 bytes of alignment
/// are sure: [`Sample::cast`](crate::Sample::cast) may refuse a type that wants more.
#[derive(Debug)]
#[must_use = "it sends what it is given"]
pub struct TypedInContext<'a, T> {
    sends: InContext<'a>,
    kind: PhantomData<fn(T)>,
}

impl<T: IntoBytes + Immutable> TypedInContext<'_, T> {
    /// As [`TypedPublisher::send`].
    ///
    /// # Errors
    /// As [`Publisher::send`].
    pub fn send(&mut self, value: &T) -> Result<Sent, SendError> {
        self.sends.put(Codec::Typed, value.as_bytes(), Patience::Until(Deadline::never()))
    }

    /// As [`TypedPublisher::try_send`].
    ///
    /// # Errors
    /// As [`Publisher::try_send`].
    pub fn try_send(&mut self, value: &T) -> Result<Sent, SendError> {
        self.sends.put(Codec::Typed, value.as_bytes(), Patience::None)
    }
}

impl<'a, T: IntoBytes + FromBytes + KnownLayout + Immutable> TypedInContext<'a, T> {
    /// As [`TypedPublisher::loan`].
    ///
    /// # Errors
    /// As [`Publisher::loan`].
    pub fn loan(self) -> Result<TypedLoan<'a, T>, SendError> {
        let mut loan = self.sends.loan(size_of::<T>())?;
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
    /// payload, and behind a context; 64 beyond).
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
