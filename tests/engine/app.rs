//! Handlers that several tests use.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use ringway::{Request, Responder, Response, Stdout};
use tokio::sync::Notify;

use crate::peer::PATIENCE;

/// `Hello, world!\n`.
pub(crate) async fn hello(_: Request) -> Response {
    Response::text("Hello, world!\n")
}

/// A handler that says "began" and gives its answer when it is let: `notify_one` lets the first of several.
pub(crate) fn waits_for_test(
    answer: &'static str,
) -> (impl Responder, mpsc::Receiver<&'static str>, Arc<Notify>) {
    let (tell, told) = mpsc::channel();
    let go = Arc::new(Notify::new());
    let released = go.clone();
    let wait = move |_: Request| {
        let (tell, go) = (tell.clone(), released.clone());
        async move {
            tell.send("began").unwrap();
            go.notified().await;
            answer
        }
    };
    (wait, told, go)
}

/// The body, while it comes.
pub(crate) async fn echo(request: Request) -> Response {
    Response::new(200).stream(move |mut stdout: Stdout| async move {
        let mut stdin = request.stdin();
        while let Some(chunk) = stdin.chunk().await? {
            stdout.write_bytes(chunk.into_bytes()).await?;
            stdout.flush().await?;
        }
        Ok::<(), ringway::Failure>(())
    })
}

/// The length of the body, after all of it was read.
pub(crate) async fn count(request: Request) -> Result<Response, ringway::Failure> {
    let (mut stdin, mut length) = (request.stdin(), 0);
    while let Some(chunk) = stdin.chunk().await? {
        length += chunk.len();
    }
    Ok(Response::text(format!("{length}\n")))
}

/// `?N` bytes, byte i being `i % 251`, as a stream.
pub(crate) async fn bytes(request: Request) -> Response {
    let length: usize = std::str::from_utf8(request.query()).unwrap().parse().unwrap();
    Response::new(200).stream(move |mut stdout: Stdout| async move {
        let mut at = 0;
        while at < length {
            let count = (length - at).min(10_000);
            stdout.write(&pattern(at, count)).await?;
            at += count;
        }
        Ok::<(), ringway::Failure>(())
    })
}

/// Bytes `from..from + count` of the endless pattern.
pub(crate) fn pattern(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|index| (index % 251) as u8).collect()
}

/// Tells the test when a handler's future is dropped.
#[derive(Debug)]
pub(crate) struct Tell(pub(crate) mpsc::Sender<&'static str>, pub(crate) &'static str);

impl Drop for Tell {
    fn drop(&mut self) {
        // A test that is over does not listen.
        let _ = self.0.send(self.1);
    }
}

/// A handler that says "began", waits for ever, and says "dropped" when it is.
pub(crate) fn never(tell: mpsc::Sender<&'static str>) -> impl Fn(Request) -> Never + Send + Sync + 'static {
    move |_| {
        let guard = Tell(tell.clone(), "dropped");
        Box::pin(async move {
            guard.0.send("began").unwrap();
            std::future::pending::<()>().await;
            drop(guard);
            Response::new(204)
        })
    }
}

pub(crate) type Never = std::pin::Pin<Box<dyn Future<Output = Response>>>;

/// The next thing that handlers say.
pub(crate) fn heard(from: &mpsc::Receiver<&'static str>) -> &'static str {
    from.recv_timeout(PATIENCE).expect("a handler says something")
}

/// Nothing is said for a while.
pub(crate) fn nothing_heard(from: &mpsc::Receiver<&'static str>) {
    assert_eq!(from.recv_timeout(Duration::from_millis(100)), Err(mpsc::RecvTimeoutError::Timeout));
}
