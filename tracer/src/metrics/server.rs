//! The HTTP server: `GET /metrics` and `GET /ready`, on a thread of its own, without capabilities.
//!
//! Anybody who reaches the address can speak to it, so everything is bounded: connections ([`CONNECTIONS`]), how long each may last,
//! how long a request may take to arrive, and how long its header may be. A client that is slow, or that does not read its answer,
//! takes one of these places for [`CONNECTION_TIME`] at most, and delays nothing else.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::thread::CapabilitySet;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    runtime::{Builder, Runtime},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{sleep, timeout},
};

use super::{
    accept,
    listener::{Listen, Listener},
    slot::Slot,
};
use crate::{
    error::Error,
    runtime::sandbox::{self, Role, User},
};

/// Connections that may be open at once; those beyond are closed at once.
const CONNECTIONS: usize = 16;
/// How long a connection may last.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// How long a client may take to send the header of a request, and how long a connection may stay open after an answer.
const HEADER_TIME: Duration = Duration::from_secs(2);
/// The longest header of a request, bytes.
const HEADER_BYTES: usize = 8192;
/// The most lines of a header.
const HEADER_LINES: usize = 32;
/// Pause after an error of accept(2), such as a lack of descriptors, which would come again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The server. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    address: Option<SocketAddr>,
    refused: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens, and starts the thread `http`, which answers from `slot`. The thread gives up all rights before it answers.
    ///
    /// # Errors
    /// It cannot listen there, no thread can be started, or the thread cannot give up its rights.
    pub fn start(listen: &Listen, slot: Arc<Slot>) -> Result<Self, Error> {
        let listener = Listener::open(listen)?;
        let address = listener.address();
        let refused = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        let serves = Serves { slot, refused: Arc::clone(&refused) };
        let run = move || match prepare(listener) {
            Ok((runtime, listener)) => {
                _ = started.send(Ok(()));
                runtime.block_on(async {
                    tokio::select! {
                        () = serves.run(listener) => (),
                        // It is dropped when the server is to end.
                        _ = stopped => (),
                    }
                });
            }
            Err(error) => _ = started.send(Err(error)),
        };
        let failed =
            |error| Error::Failure(format!("cannot start the thread that serves metrics: {error}"));
        let thread = thread::Builder::new().name("http".into()).spawn(run).map_err(failed)?;
        match start.recv() {
            Ok(Ok(())) => Ok(Self { address, refused, stop: Some(stop), thread: Some(thread) }),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(failed(std::io::Error::other("it ended"))),
        }
    }

    /// The TCP address, with the port that the kernel chose if it was asked for port 0; `None`: a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// How many connections were closed at once, because 16 were open.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Nothing on that thread blocks, so that it ends at once.
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

enum Accepts {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Gives up the rights of this thread, and makes its runtime.
fn prepare(listener: Listener) -> std::io::Result<(Runtime, Accepts)> {
    sandbox::enter(Role::Serves, User::nobody(), CapabilitySet::empty())?;
    let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    let inside = runtime.enter();
    let accepts = match listener {
        Listener::Tcp(listener) => Accepts::Tcp(TcpListener::from_std(listener)?),
        Listener::Unix(listener) => Accepts::Unix(UnixListener::from_std(listener)?),
    };
    drop(inside);
    Ok((runtime, accepts))
}

struct Serves {
    slot: Arc<Slot>,
    refused: Arc<AtomicU64>,
}

impl Serves {
    /// Accepts connections, for ever.
    async fn run(&self, listener: Accepts) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = match &listener {
                Accepts::Tcp(listener) => {
                    listener.accept().await.map(|(stream, _)| self.take(stream, &places))
                }
                Accepts::Unix(listener) => {
                    listener.accept().await.map(|(stream, _)| self.take(stream, &places))
                }
            };
            if let Err(error) = accepted {
                tracing::debug!("cannot accept a connection to the metrics: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Serves this connection if there is a place for it, else closes it.
    fn take(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        places: &Arc<Semaphore>,
    ) {
        match Arc::clone(places).try_acquire_owned() {
            Ok(place) => _ = tokio::spawn(serve(stream, Arc::clone(&self.slot), place)),
            Err(_) => _ = self.refused.fetch_add(1, Relaxed),
        }
    }
}

/// Answers the requests of one connection, until it ends or its time is over.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    slot: Arc<Slot>,
    place: OwnedSemaphorePermit,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), request.headers(), &slot);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADER_LINES)
        .serve_connection(TokioIo::new(stream), answer);
    // What clients do wrong is their business, and how they end, too.
    _ = timeout(CONNECTION_TIME, connection).await;
    drop(place);
}

/// The answer to a request.
fn answer(method: &Method, path: &str, headers: &HeaderMap, slot: &Slot) -> Response<Full<Bytes>> {
    if !matches!(path, "/metrics" | "/ready") {
        return plain(StatusCode::NOT_FOUND, "not found; there are /metrics and /ready\n");
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        set(&mut response, header::ALLOW, "GET, HEAD");
        return response;
    }
    if path == "/ready" {
        return if slot.is_ready(Instant::now()) {
            plain(StatusCode::OK, "ready\n")
        } else {
            plain(StatusCode::SERVICE_UNAVAILABLE, "no reading in the last 3 minutes\n")
        };
    }
    let Some(snapshot) = slot.newest() else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "no reading yet\n");
    };
    let of = |name| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let format = accept::format(of(header::ACCEPT));
    let compressed = accept::gzip(of(header::ACCEPT_ENCODING));
    let mut response = Response::new(Full::new(snapshot.text(format, compressed)));
    set(&mut response, header::CONTENT_TYPE, format.content_type());
    set(&mut response, header::VARY, "Accept, Accept-Encoding");
    if compressed {
        set(&mut response, header::CONTENT_ENCODING, "gzip");
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    response
}

fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests;
