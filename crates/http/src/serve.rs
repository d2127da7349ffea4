//! Connections: taking them, reading requests from them within bounds, and closing them.
//!
//! A connection costs a task and its buffers. Its head has a time and a size, its body has others (`body`), and what is written a third (`stall`). Where there is
//! no room for one more it is told so at once: one address has at most half of them.
//!
//! Invariant: a connection that says nothing, or not enough, is closed in bounded time; there are never more than their limit, nor of one address than its share.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONNECTION, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

use crate::Shared;
use crate::account::{UnderWay, add};
use crate::budget::{Full, half, place_of};
use crate::count::Count;
use crate::gate::{self, Ends, Verdict};
use crate::limits::{HEADER_BYTES_MAX, HEADER_TIME, HEADERS_MAX};
use crate::refusal::Cause;
use crate::routes;
use crate::stall::Patient;

/// What one more connection is told for which there is no room.
const NO_ROOM: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";

/// What one more connection of an address is told that has its share.
const NO_SHARE: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";

/// After a failure to take a connection, for want of descriptors most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Who takes connections.
#[derive(Clone)]
pub(crate) struct Door {
    shared: Arc<Shared>,
    router: Router,
    connections: Arc<Connections>,
}

/// The connections that are open, and who waits until none is.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: u64,
    open: Mutex<Counts>,
    fewer: Condvar,
}

/// How many there are, and how many of each address that has some.
#[derive(Debug, Default)]
struct Counts {
    all: u64,
    of: BTreeMap<IpAddr, u64>,
}

impl Connections {
    pub(crate) fn new(limit: u32) -> Arc<Connections> {
        Arc::new(Connections { limit: limit.into(), open: Mutex::default(), fewer: Condvar::new() })
    }

    fn open(&self) -> MutexGuard<'_, Counts> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one for this address, if there is room for it.
    fn take(&self, from: IpAddr) -> Result<(), Full> {
        let mut open = self.open();
        let own = open.of.get(&from).copied().unwrap_or(0);
        if own >= half(self.limit) {
            return Err(Full::Share);
        }
        if open.all >= self.limit {
            return Err(Full::All);
        }
        open.all += 1;
        open.of.insert(from, own + 1);
        Ok(())
    }

    fn give_back(&self, from: IpAddr) {
        let mut open = self.open();
        open.all -= 1;
        // Who has none is not remembered.
        match open.of.get(&from).map_or(0, |own| own - 1) {
            0 => _ = open.of.remove(&from),
            left => _ = open.of.insert(from, left),
        }
        self.fewer.notify_all();
    }

    /// Waits until none is open, at most so long.
    pub(crate) fn wait_for_none(&self, most: Duration) {
        let _ended = self.fewer.wait_timeout_while(self.open(), most, |open| open.all > 0);
    }
}

/// A connection that is open, until the last that has something to do with it lets go.
#[derive(Debug)]
pub(crate) struct Open {
    connections: Arc<Connections>,
    from: IpAddr,
    shared: Arc<Shared>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.accounts.connections_open.sub(1);
        self.connections.give_back(self.from);
    }
}

impl Door {
    pub(crate) fn new(shared: Arc<Shared>, connections: Arc<Connections>) -> Door {
        let router = routes::router(&shared);
        Door { shared, router, connections }
    }

    /// Takes connections until the door closes.
    pub(crate) async fn accept(self, listener: TcpListener) {
        let mut ended = pin!(self.shared.ended());
        loop {
            let taken = poll_fn(|context| {
                if ended.as_mut().poll(context).is_ready() {
                    return Poll::Ready(None);
                }
                listener.poll_accept(context).map(Some)
            });
            match taken.await {
                None => return,
                Some(Ok((stream, peer))) => self.take(stream, peer),
                Some(Err(error)) => {
                    tracing::warn!(target: "busway::http", "no connection can be taken now: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn take(&self, stream: TcpStream, peer: SocketAddr) {
        let accounts = &self.shared.accounts;
        let Ok(ours) = stream.local_addr() else { return };
        let from = place_of(peer.ip());
        if let Err(full) = self.connections.take(from) {
            add(&accounts.connections_refused, 1);
            let told = match full {
                Full::All => NO_ROOM,
                Full::Share => NO_SHARE,
            };
            // A fresh socket takes so little at once; who does not read it learns it by the close.
            let _ = stream.into_std().and_then(|mut stream| stream.write_all(told));
            return;
        }
        add(&accounts.connections, 1);
        add(&accounts.connections_open, 1);
        let (connections, shared) = (self.connections.clone(), self.shared.clone());
        let open = Arc::new(Open { connections, from, shared });
        // What is small is not kept back for more.
        let _ = stream.set_nodelay(true);
        tokio::spawn(self.clone().serve(stream, Ends { ours, peer }, open));
    }

    async fn serve(self, stream: TcpStream, ends: Ends, open: Arc<Open>) {
        let (shared, router) = (self.shared, self.router);
        let ended = shared.ended();
        let refused = Arc::new(Count::default());
        let service = service_fn(|request: Request<Incoming>| {
            let (sends, refused) = (!request.body().is_end_stream(), refused.clone());
            let answer = answer(shared.clone(), router.clone(), ends, open.clone(), request);
            async move {
                let response = answer.await;
                // Who is refused, and was to send more, may be sending it.
                let closes = |response: &Response<Body>| response.headers().contains_key(CONNECTION);
                if sends && response.as_ref().is_ok_and(closes) {
                    refused.add(1);
                }
                response
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(Patient::new(stream, refused.clone())), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let mut ended = pin!(ended);
        let mut told = false;
        let served = poll_fn(|context| {
            if !told && ended.as_mut().poll(context).is_ready() {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(context)
        });
        // What went wrong went wrong for the peer, who is told by its status, or by the end.
        if let Err(error) = served.await {
            tracing::debug!(target: "busway::http", "a connection has ended: {error}");
        }
    }
}

/// Answers a request, whatever it is.
async fn answer(
    shared: Arc<Shared>,
    router: Router,
    ends: Ends,
    open: Arc<Open>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let under_way = UnderWay::begin(&shared);
    let mut request = request.map(Body::new);
    let origin = request.headers().get(ORIGIN).cloned();
    let mut response = match gate::look(&shared, &request, ends) {
        Ok(Verdict::Pass(caller)) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            request.extensions_mut().insert(open);
            let Ok(response) = TowerToHyperService::new(router).call(request).await;
            response
        }
        Ok(Verdict::Answer(response)) => response,
        Err(refusal) => refusal.closing().response(),
    };
    under_way.end(response.extensions().get::<Cause>().copied());
    gate::share(&shared, origin.as_ref(), &mut response);
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Waits for one of two, whichever comes first; the first where both have come.
pub(crate) async fn either<A, B>(
    one: impl Future<Output = A>,
    other: impl Future<Output = B>,
) -> Result<A, B> {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| {
        if let Poll::Ready(done) = Pin::new(&mut one).poll(context) {
            return Poll::Ready(Ok(done));
        }
        Pin::new(&mut other).poll(context).map(Err)
    })
    .await
}
