//! The three roles of FastCGI side by side. `cargo run --example roles`, then
//!
//! ```text
//! ringway request 127.0.0.1:9000 /notes --data 'first note'
//! ringway request 127.0.0.1:9000 /notes
//! ringway request 127.0.0.1:9000 / --role authorizer --param HTTP_AUTHORIZATION='Bearer sesame'
//! ringway request 127.0.0.1:9000 / --role filter --file README.md
//! ```

use std::sync::{Arc, Mutex};

use ringway::{AuthRequest, Decision, Failure, FilterRequest, Request, Response, Server};

/// The longest note.
const NOTE_BYTES_MAX: usize = 4096;

/// Handlers are shared by all workers, so what they share is behind a lock.
type Notes = Arc<Mutex<Vec<String>>>;

/// A Responder has a request body and gives back a page.
async fn notes(notes: Notes, request: Request) -> Result<Response, Failure> {
    match request.method() {
        "GET" | "HEAD" => Ok(Response::text(notes.lock().expect("no holder panics").join("\n") + "\n")),
        "POST" => {
            let note = request.stdin().read_to_vec(NOTE_BYTES_MAX).await?;
            notes.lock().expect("no holder panics").push(String::from_utf8_lossy(&note).into_owned());
            Ok(Response::text("noted\n").status(201))
        }
        _ => Ok(Response::text("GET reads notes, POST adds one\n")
            .status(405)
            .header("Allow", "GET, HEAD, POST")),
    }
}

/// An Authorizer has no body. It lets the web server serve something of its own, with a variable, or refuses.
async fn guard(request: AuthRequest) -> Decision {
    match request.param("HTTP_AUTHORIZATION") {
        Some(b"Bearer sesame") => Decision::allow().variable("VISITOR", "alibaba"),
        _ => {
            Decision::deny(Response::text("say the word\n").status(401).header("WWW-Authenticate", "Bearer"))
        }
    }
}

/// A Filter has a file of the web server behind the request body, and gives back what becomes of it.
async fn shout(request: FilterRequest) -> Result<Response, Failure> {
    // The body comes first; here nobody needs it.
    while request.stdin().chunk().await?.is_some() {}
    let mut data = request.data();
    Ok(Response::new(200).header("Content-Type", "text/plain").stream(|mut stdout| async move {
        while let Some(chunk) = data.chunk().await? {
            stdout.write(&chunk.to_ascii_uppercase()).await?;
        }
        Ok::<(), Failure>(())
    }))
}

fn main() -> ringway::Result<()> {
    let shared = Notes::default();
    Server::builder()
        .listen("127.0.0.1:9000")
        .responder("/notes", move |request| notes(shared.clone(), request))
        .authorizer("/", guard)
        .filter("/", shout)
        .run()
}
