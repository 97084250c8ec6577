//! What serving costs in memory, counted on the worker's thread alone: allocations of a request in steady state, and
//! bytes held under pressure.
#![expect(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use ringway::{Driver, FilterRequest, Request, Response, Stdout, ready};

#[path = "support/junk.rs"]
mod junk;
#[path = "support/peer.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod peer;
#[path = "support/server.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod server;

use peer::{Ask, Peer};
use server::{Serve, Served, each_driver, eventually};

each_driver! {
    a_ready_handler_allocates_nothing,
    an_async_handler_allocates_its_future,
    a_tower_service_allocates_little,
    an_idle_connection_holds_less_than_a_kilobyte,
    a_peer_that_does_not_read_is_held_to_its_bound,
    an_upload_takes_bounded_memory,
    junk_takes_bounded_memory,
    requests_that_never_end_take_bounded_memory,
}

/// The system's allocator, counting for the threads that have asked for it.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Default)]
struct Counts {
    allocations: AtomicU64,
    /// Bytes allocated and not freed by this thread. What another thread frees stays in the sum.
    live: AtomicI64,
    live_max: AtomicI64,
}

thread_local! {
    static COUNTS: Cell<Option<&'static Counts>> = const { Cell::new(None) };
}

impl Counts {
    fn note(&self, allocations: u64, bytes: i64) {
        self.allocations.fetch_add(allocations, Ordering::Relaxed);
        let live = self.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.live_max.fetch_max(live, Ordering::Relaxed);
    }

    fn allocations(&self) -> u64 {
        self.allocations.load(Ordering::Relaxed)
    }

    fn live(&self) -> i64 {
        self.live.load(Ordering::Relaxed)
    }

    /// The most bytes that were live since this was called last.
    fn take_live_max(&self) -> i64 {
        self.live_max.swap(self.live(), Ordering::Relaxed)
    }
}

fn note(allocations: u64, bytes: i64) {
    // A thread that is ending has no thread locals any more.
    if let Ok(Some(counts)) = COUNTS.try_with(Cell::get) {
        counts.note(allocations, bytes);
    }
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as i64);
        // SAFETY: the caller's promises are those of this method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(0, -(layout.size() as i64));
        // SAFETY: as above; the block came from `System`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(1, size as i64 - layout.size() as i64);
        // SAFETY: as above; the block came from `System`.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// A server of one worker whose allocations are counted.
fn serve(driver: Driver) -> (Served, &'static Counts) {
    let counts: &'static Counts = Box::leak(Box::default());
    let count = move |_: Request| {
        COUNTS.set(Some(counts));
        async { Response::new(204) }
    };
    let served = Serve::new(driver).start(|server| {
        with_tower(server)
            .responder("/count", count)
            .responder("/ready", ready(hello_below_a_mount))
            .responder("/async", |_: Request| async { Response::text("Hello, world!\n") })
            .responder("/never", |_: Request| std::future::pending::<Response>())
            .responder("/bytes", bytes)
            .responder("/echo", echo)
            .filter("/", |request: FilterRequest| async move {
                request.data().read_to_vec(500).await.map(Response::bytes)
            })
    });
    assert_eq!(served.connect().get("/count").status(), 204);
    (served, counts)
}

/// Asks where it is mounted, which copies nothing.
fn hello_below_a_mount(request: Request) -> Response {
    assert_eq!((&*request.script_name(), &*request.path_info()), (&b"/ready"[..], &b""[..]));
    Response::text("Hello, world!\n")
}

#[cfg(feature = "http")]
fn with_tower(server: ringway::Builder) -> ringway::Builder {
    let hello = tower::service_fn(|_: http::Request<ringway::Body>| async {
        let mut response = http::Response::new(ringway::Body::from("Hello, world!\n"));
        let text = http::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(http::header::CONTENT_TYPE, text);
        Ok::<_, std::convert::Infallible>(response)
    });
    server.service("/tower", hello)
}

#[cfg(not(feature = "http"))]
fn with_tower(server: ringway::Builder) -> ringway::Builder {
    server
}

#[cfg(not(feature = "http"))]
fn a_tower_service_allocates_little(_: Driver) {}

async fn bytes(_: Request) -> Response {
    Response::new(200).stream(|mut stdout: Stdout| async move {
        for _ in 0..1_000 {
            stdout.write(&[b'x'; 10_000]).await?;
        }
        Ok::<(), ringway::Failure>(())
    })
}

async fn echo(request: Request) -> Response {
    Response::new(200).stream(move |mut stdout: Stdout| async move {
        while let Some(chunk) = request.stdin().chunk().await? {
            stdout.write_bytes(chunk.into_bytes()).await?;
        }
        Ok::<(), ringway::Failure>(())
    })
}

/// How many allocations a thousand requests cost: one after the other, then 64 at a time.
fn allocations_of_a_thousand(served: &Served, counts: &Counts, uri: &str) -> [u64; 2] {
    allocations_of(served, counts, &Ask::get(uri).with_nginx_headers())
}

fn allocations_of(served: &Served, counts: &Counts, one: &Ask) -> [u64; 2] {
    let mut peer = served.connect();
    let many: Vec<Ask> = (1..=64).map(|id| one.clone().id(id)).collect();
    let burst: Vec<u8> = many.iter().flat_map(Ask::bytes).collect();
    let mut kept = |rounds| {
        for _ in 0..rounds {
            assert_eq!(peer.fetch(one).status(), 200);
        }
    };
    kept(200);
    let before = counts.allocations();
    kept(1_000);
    let kept = counts.allocations() - before;
    let mut peer = served.connect();
    let mut multiplexed = |rounds| {
        for _ in 0..rounds {
            many.iter().for_each(|ask| peer.expect(ask.id));
            peer.send(&burst);
            for ask in &many {
                assert_eq!(peer.answer(ask.id).status(), 200);
            }
        }
    };
    multiplexed(50);
    let before = counts.allocations();
    multiplexed(16);
    [kept, counts.allocations() - before]
}

fn a_ready_handler_allocates_nothing(driver: Driver) {
    let (served, counts) = serve(driver);
    assert_eq!(allocations_of_a_thousand(&served, counts, "/ready"), [0, 0]);
}

fn an_async_handler_allocates_its_future(driver: Driver) {
    let (served, counts) = serve(driver);
    assert_eq!(allocations_of_a_thousand(&served, counts, "/async"), [1_000, 1_024]);
}

/// The adapter's own: the request's future, its FastCgi, its headers (2), the extension (3), the head of the answer.
/// The service's: the headers of its answer (2). URI and values are those of the request before.
#[cfg(feature = "http")]
fn a_tower_service_allocates_little(driver: Driver) {
    let (served, counts) = serve(driver);
    let headers = ["HOST", "USER_AGENT", "ACCEPT", "ACCEPT_LANGUAGE", "ACCEPT_ENCODING", "COOKIE", "REFERER"];
    let ask = Ask::get("/tower").param("REQUEST_URI", "/tower/x?y=z");
    let ask = headers.iter().fold(ask, |ask, name| ask.param(format!("HTTP_{name}"), "example.org"));
    let ask = (0..16).fold(ask, |ask, number| ask.param(format!("SERVER_{number}"), "x"));
    let [kept, multiplexed] = allocations_of(&served, counts, &ask);
    assert_eq!(kept, 10_000);
    // Params that straddle receive buffers are copied together, and once more to be shared.
    assert!((10_240..=10_240 + 16 * 8).contains(&multiplexed), "{multiplexed}");
}

fn an_idle_connection_holds_less_than_a_kilobyte(driver: Driver) {
    let (served, counts) = serve(driver);
    let connect = |count: usize| -> Vec<Peer> {
        let mut peers: Vec<Peer> = (0..count).map(|_| served.connect()).collect();
        peers
            .iter_mut()
            .for_each(|peer| assert_eq!(peer.fetch(&Ask::get("/ready").with_nginx_headers()).status(), 200));
        peers
    };
    let _some = connect(100);
    let before = counts.live();
    let _more = connect(2_000);
    let each = (counts.live() - before) / 2_000;
    assert!(each < 1_024, "{each} bytes for each connection");
}

/// Ten peers that take nothing of ten megabytes each.
fn a_peer_that_does_not_read_is_held_to_its_bound(driver: Driver) {
    let (served, counts) = serve(driver);
    let before = counts.live();
    counts.take_live_max();
    let mut peers: Vec<Peer> = (0..10).map(|_| served.connect()).collect();
    for peer in &mut peers {
        peer.ask(&Ask::get("/bytes"));
    }
    eventually("all handlers wait", || served.metrics().output_pauses >= 10);
    let each = (counts.take_live_max() - before) / 10;
    // output_high_bytes and stdout_window_bytes, with the spare room of their blocks.
    assert!(each < 1 << 20, "{each} bytes for each peer");
    for peer in &mut peers {
        assert_eq!(peer.answer(1).body().len(), 10_000_000);
    }
}

fn an_upload_takes_bounded_memory(driver: Driver) {
    let (served, counts) = serve(driver);
    let mut peer = served.connect();
    assert_eq!(peer.fetch(&Ask::post("/echo", "warm")).text(), "warm");
    let before = counts.live();
    counts.take_live_max();
    let ask = Ask::post("/echo", vec![b'x'; 20_000_000]);
    peer.expect(1);
    let mut sender = peer.sender();
    let sending = std::thread::spawn(move || sender.write_all(&ask.bytes()).unwrap());
    assert_eq!(peer.answer(1).body().len(), 20_000_000);
    sending.join().unwrap();
    let most = counts.take_live_max() - before;
    assert!(most < 2 << 20, "{most} bytes for an echo of 20 MB");
}

fn junk_takes_bounded_memory(driver: Driver) {
    let (served, counts) = serve(driver);
    let before = counts.live();
    counts.take_live_max();
    let open = junk::send(&served);
    assert_eq!(served.connect().get("/ready").status(), 200);
    let most = counts.take_live_max() - before;
    assert!(most < 8 << 20, "{most} bytes for 500 connections");
    drop(open);
    eventually("all is forgotten", || served.handle.connections() == [0]);
    assert!(counts.live() - before < 4 << 20, "{} bytes are left behind", counts.live() - before);
}

/// Requests that never end, claims of lengths that never come, ids by the thousand.
fn requests_that_never_end_take_bounded_memory(driver: Driver) {
    let (served, counts) = serve(driver);
    let before = counts.live();
    counts.take_live_max();
    let mut peers = Vec::new();
    for _ in 0..5 {
        // One after the other: a peer that is silent for long is closed.
        let mut peer = served.connect();
        for id in 1..=2_000 {
            let mut begun = Ask::get("/never").id(id).param("X", "x".repeat(1_000)).bytes();
            begun.truncate(begun.len() - 16);
            // A pair of four gigabytes, a record that is all padding, a management record.
            begun.extend(peer::raw_record(4, id, b"\xff\xff\xff\xff\xff\xff\xff\xff", 255));
            begun.extend(peer::raw_record(9, 0, &[1; 4_000], 0));
            peer.send(&begun);
            for record in std::iter::from_fn(|| peer.waiting_record()) {
                drop(record);
            }
        }
        peers.push(peer);
    }
    eventually("all of it is read", || served.metrics().requests_refused >= 5 * (2_000 - 256));
    let each = (counts.take_live_max() - before) / 5;
    assert!(each < 4 << 20, "{each} bytes for each connection");
    drop(peers);
    eventually("all is forgotten", || served.handle.connections() == [0]);
    assert!(counts.live() - before < 4 << 20, "{} bytes are left behind", counts.live() - before);
}
