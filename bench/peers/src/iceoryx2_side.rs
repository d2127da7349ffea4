//! iceoryx2: publish and subscribe over shared memory, busy polling.
//!
//! Every setting and the page that recommends it stand in `settings/iceoryx2.md`. One service a channel,
//! sized exactly for the measurement, because its cost grows with what is reserved.

use busway_bench::Failure;
use busway_bench::clock::{now_ns, pause};
use busway_bench::medium::{Channel, Letter, Medium, Quality, Receiver, Scene, Sender};
use core::mem::MaybeUninit;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::update_connections::UpdateConnections;
use iceoryx2::prelude::{BackpressureStrategy, LogLevel, Node, NodeBuilder, ipc, set_log_level};
use iceoryx2::sample_mut_uninit::SampleMutUninit;
use iceoryx2::service::port_factory::PortFactory as _;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use std::time::Duration;

type Variant = ipc::Service;
type Loan = SampleMutUninit<Variant, MaybeUninit<Letter>, ()>;

/// A node and what its services are to be sized for.
pub(crate) struct Iceoryx2 {
    node: Node<Variant>,
    name: String,
    receivers: usize,
    cell: String,
}

/// A publisher with the sample it will send next.
pub(crate) struct IceoryxSender {
    // Declared before the service: ports go before what they belong to.
    next: Option<Loan>,
    publisher: Publisher<Variant, Letter, ()>,
    service: PortFactory<Variant, Letter, ()>,
}

/// A subscriber.
pub(crate) struct IceoryxReceiver {
    subscriber: Subscriber<Variant, Letter, ()>,
    _service: PortFactory<Variant, Letter, ()>,
}

/// Samples a subscriber can be behind in ping-pong, where one is under way: that of its own benchmark.
const BUFFER_ONE_WAY: usize = 1;

/// Samples a subscriber can be behind where nothing may be lost: its default, and the fastest of 2 to 4 096.
const BUFFER_RELIABLE: usize = 2;

/// Samples a subscriber can be behind at a fixed rate, as many as the bare ring has slots.
const BUFFER_RATE: usize = 64;

/// Samples a subscriber that polls rarely can be behind: the fastest of 1, 2, 8 and 64.
const BUFFER_FANOUT: usize = 8;

impl Iceoryx2 {
    fn service(
        &self,
        channel: Channel,
        quality: Quality,
    ) -> Result<PortFactory<Variant, Letter, ()>, Failure> {
        let name = format!("{}/{channel:?}", self.name);
        let buffer = match (quality, self.cell.as_str()) {
            (Quality::Reliable, _) => BUFFER_RELIABLE,
            (Quality::Lossy, "oneway") => BUFFER_ONE_WAY,
            (Quality::Lossy, "rate") => BUFFER_RATE,
            (Quality::Lossy, _) => BUFFER_FANOUT,
        };
        let service = self
            .node
            .service_builder(&name.as_str().try_into()?)
            .publish_subscribe::<Letter>()
            .max_publishers(1)
            .max_subscribers(self.receivers)
            .max_nodes(self.receivers + 1)
            .history_size(0)
            .subscriber_max_buffer_size(buffer)
            .subscriber_max_borrowed_samples(1)
            .enable_safe_overflow(quality == Quality::Lossy)
            .open_or_create()?;
        Ok(service)
    }
}

impl Medium for Iceoryx2 {
    type Sender = IceoryxSender;
    type Receiver = IceoryxReceiver;

    fn open(scene: &Scene<'_>) -> Result<Self, Failure> {
        set_log_level(LogLevel::Error);
        let node = NodeBuilder::new().create::<Variant>()?;
        let name = format!("busway-bench/{}", scene.owner);
        Ok(Self { node, name, receivers: scene.plan.receivers.max(1), cell: scene.plan.cell.clone() })
    }

    fn sender(&self, channel: Channel, quality: Quality) -> Result<IceoryxSender, Failure> {
        let service = self.service(channel, quality)?;
        let builder = service.publisher_builder().max_loaned_samples(1);
        let publisher = match quality {
            Quality::Lossy => builder.create()?,
            Quality::Reliable => {
                builder.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered).create()?
            }
        };
        Ok(IceoryxSender { next: Some(publisher.loan_uninit()?), publisher, service })
    }

    fn receiver(&self, channel: Channel, quality: Quality) -> Result<IceoryxReceiver, Failure> {
        let service = self.service(channel, quality)?;
        let subscriber = service.subscriber_builder().create()?;
        Ok(IceoryxReceiver { subscriber, _service: service })
    }
}

impl Sender for IceoryxSender {
    fn settle(&mut self, receivers: usize) -> Result<(), Failure> {
        let deadline_ns = now_ns() + 240_000_000_000;
        while self.service.dynamic_config().number_of_subscribers() < receivers {
            if now_ns() > deadline_ns {
                return Err("the subscribers did not attach in 240 s".into());
            }
            pause(Duration::from_millis(1));
        }
        self.publisher.update_connections()?;
        Ok(())
    }

    #[inline]
    fn send(&mut self, letter: &Letter) -> Result<(), Failure> {
        let loan = match self.next.take() {
            Some(loan) => loan,
            None => self.publisher.loan_uninit()?,
        };
        loan.write_payload(*letter).send()?;
        // As its own benchmark does: the next sample is loaned when this one is under way already.
        self.next = Some(self.publisher.loan_uninit()?);
        Ok(())
    }
}

impl Receiver for IceoryxReceiver {
    const PAUSES: bool = true;

    #[inline]
    fn take(&mut self) -> Result<Option<Letter>, Failure> {
        Ok(self.subscriber.receive()?.map(|sample| *sample.payload()))
    }
}
