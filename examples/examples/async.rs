//! Messages as a stream, on any executor: here one of twenty lines. Nobody polls; the message wakes the task.
//!
//! `cargo run -p busway-examples --example async`

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use busway::{Bus, Error, Policy};
use futures_core::Stream;

/// Wakes the thread that runs the task.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs one task to its end on this thread.
fn block_on<T>(task: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut task = pin!(task);
    loop {
        if let Poll::Ready(value) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

fn main() -> Result<(), Error> {
    let bus = Bus::open("example-async")?;
    let mut subscriber = bus.subscriber("count").policy(Policy::Block).open()?;
    let mut publisher = bus.publisher("count").open()?;
    let counting = std::thread::spawn(move || -> Result<(), Error> {
        for number in 1..=1_000_u32 {
            publisher.send_json(&number)?;
        }
        Ok(())
    });

    let sum = block_on(async {
        // One message as a future.
        let mut sum: u32 = subscriber.recv_async().await?.json()?;
        // The others as a stream; `StreamExt::next` of the futures crate does the same.
        let mut stream = subscriber.stream();
        let mut last = sum;
        while last < 1_000
            && let Some(sample) = poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await
        {
            last = sample?.json()?;
            sum += last;
        }
        Ok::<u32, Error>(sum)
    })?;
    assert_eq!(sum, 500_500);
    counting.join().expect("the counting thread does not panic")?;
    eprintln!("1 + 2 + ... + 1000 = {sum}");
    Ok(())
}
