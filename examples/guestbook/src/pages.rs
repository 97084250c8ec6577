//! The pages: the book, its live entries, its pictures, the login.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{DefaultBodyLimit, Form, FromRequestParts, Multipart, Path as PathOf, Query, State};
use axum::http::header::{LOCATION, SET_COOKIE, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::uri::Scheme;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use minijinja::{Environment, Value, context};
use ringway::http::FastCgi;
use serde::Deserialize;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::session::Sessions;
use crate::store::{Entry, Store};

/// The longest form, picture included; `nginx.conf` has the same.
const FORM_BYTES_MAX: usize = 10 << 20;

const MESSAGE_CHARS_MAX: usize = 2000;

/// The pictures that are taken; browsers run no scripts of these.
const PICTURES: &[(&str, &str)] =
    &[("image/png", ".png"), ("image/jpeg", ".jpg"), ("image/gif", ".gif"), ("image/webp", ".webp")];

/// What all workers have in common.
#[derive(Clone)]
pub struct Shared {
    sessions: Arc<Sessions>,
    pictures: Arc<Path>,
    templates: Arc<Environment<'static>>,
    /// Rung when there is a new entry.
    bell: Arc<watch::Sender<()>>,
}

impl Shared {
    pub fn new(sessions: Arc<Sessions>, pictures: PathBuf) -> anyhow::Result<Shared> {
        let mut templates = Environment::new();
        templates.add_template("base.html", include_str!("../templates/base.html"))?;
        templates.add_template("book.html", include_str!("../templates/book.html"))?;
        templates.add_template("entry.html", include_str!("../templates/entry.html"))?;
        templates.add_template("login.html", include_str!("../templates/login.html"))?;
        let bell = watch::Sender::new(());
        Ok(Shared { sessions, pictures: pictures.into(), templates: templates.into(), bell: bell.into() })
    }

    fn render(&self, template: &str, context: Value) -> Result<String, minijinja::Error> {
        self.templates.get_template(template)?.render(context)
    }
}

#[derive(Clone)]
struct App {
    shared: Shared,
    store: Store,
}

/// The application of one worker.
pub fn router(shared: Shared, store: Store) -> Router {
    Router::new()
        .route("/", get(book).post(write))
        .route("/events", get(events))
        .route("/pictures/{id}", get(picture))
        .route("/login", get(login_form).post(log_in))
        .route("/logout", post(log_out))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .with_state(App { shared, store })
}

/// As templates see it.
impl From<Entry> for Value {
    fn from(Entry { id, author, message, picture }: Entry) -> Value {
        context! { id, author, message, picture }
    }
}

/// Who is asking, as the web server found out. Where its configuration forgot the guard, nobody comes in.
struct Member(String);

impl<S: Sync> FromRequestParts<S> for Member {
    type Rejection = Redirect;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Member, Redirect> {
        let fastcgi = parts.extensions.get::<FastCgi>();
        match fastcgi.and_then(|fastcgi| fastcgi.params().get("REMOTE_USER")) {
            None | Some(b"") => Err(Redirect::to("/login")),
            Some(name) => Ok(Member(String::from_utf8_lossy(name).into_owned())),
        }
    }
}

async fn book(State(app): State<App>, Member(name): Member) -> Result<Html<String>, Problem> {
    let entries = app.store.newest().await?;
    let last = entries.first().map_or(0, |entry| entry.id);
    Ok(Html(app.shared.render("book.html", context! { name, entries, last })?))
}

async fn write(
    State(app): State<App>,
    Member(author): Member,
    mut form: Multipart,
) -> Result<Redirect, Problem> {
    let (mut message, mut picture) = (String::new(), None);
    while let Some(field) = form.next_field().await? {
        match field.name() {
            Some("message") => message = field.text().await?,
            // A browser sends one without a name where no file was chosen.
            Some("picture") if field.file_name().is_some_and(|name| !name.is_empty()) => {
                picture = Some(save(field, &app.shared.pictures).await?);
            }
            _ => {}
        }
    }
    if message.trim().is_empty() || message.chars().count() > MESSAGE_CHARS_MAX {
        return Err(Problem::Refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "A message has 1 to 2000 characters.\n",
        ));
    }
    let file = picture.as_ref().and_then(|picture| picture.path().file_name()?.to_str());
    app.store.add(&author, message.trim(), file).await?;
    if let Some(picture) = picture {
        picture.keep().map_err(|error| error.error)?;
    }
    app.shared.bell.send_replace(());
    Ok(Redirect::to("/"))
}

/// Writes an upload to a file as it comes. The file goes again unless it is kept.
async fn save(mut field: Field<'_>, folder: &Path) -> Result<NamedTempFile, Problem> {
    let known = PICTURES.iter().find(|(media_type, _)| field.content_type() == Some(media_type));
    let (_, suffix) = known.ok_or(Problem::Refused(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "A picture is a PNG, JPEG, GIF or WebP file.\n",
    ))?;
    let picture = tempfile::Builder::new().prefix("").suffix(suffix).rand_bytes(16).tempfile_in(folder)?;
    let mut file = tokio::fs::File::from_std(picture.reopen()?);
    while let Some(chunk) = field.chunk().await? {
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    Ok(picture)
}

/// Answered with the file itself, read by the worker or left to the web server.
async fn picture(
    State(app): State<App>,
    _: Member,
    PathOf(id): PathOf<i64>,
) -> Result<impl IntoResponse, Problem> {
    let file =
        app.store.picture(id).await?.ok_or(Problem::Refused(StatusCode::NOT_FOUND, "No such picture.\n"))?;
    let file = ringway::File::new(app.shared.pictures.join(file));
    Ok(([(X_CONTENT_TYPE_OPTIONS, "nosniff")], Extension(file)))
}

#[derive(Deserialize)]
struct After {
    after: i64,
}

/// The entries after the page's last one, and all that come. A browser that was cut off asks again, and says what it
/// had last; so nothing is lost, and nothing need be kept for those who read slowly.
async fn events(
    State(app): State<App>,
    _: Member,
    Query(After { after }): Query<After>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let seen = headers.get("Last-Event-ID").and_then(|id| id.to_str().ok()?.parse().ok());
    // nginx may hold the head back until something follows it.
    let opening = stream::iter([Ok(Event::default().comment("live"))]);
    let events = opening.chain(live(app, seen.unwrap_or(after)));
    // nginx need not be configured to pass them on as they come.
    ([("X-Accel-Buffering", "no")], Sse::new(events).keep_alive(KeepAlive::default()))
}

fn live(app: App, after: i64) -> impl Stream<Item = anyhow::Result<Event>> {
    let bell = app.shared.bell.subscribe();
    stream::try_unfold((app, bell, after), async |(app, mut bell, last)| {
        loop {
            // Whoever rings from here on is heard.
            bell.borrow_and_update();
            let entries = app.store.after(last).await?;
            if let Some(newest) = entries.last().map(|entry| entry.id) {
                let events: Vec<_> = entries.iter().map(|entry| event(&app, entry)).collect();
                return anyhow::Ok(Some((stream::iter(events), (app, bell, newest))));
            }
            bell.changed().await?;
        }
    })
    .try_flatten()
}

fn event(app: &App, entry: &Entry) -> anyhow::Result<Event> {
    let html = app.shared.render("entry.html", context! { entry => entry.clone() })?;
    Ok(Event::default().id(entry.id.to_string()).data(html))
}

async fn login_form(State(app): State<App>) -> Result<Html<String>, Problem> {
    Ok(Html(app.shared.render("login.html", context! {})?))
}

#[derive(Deserialize)]
struct Login {
    name: String,
    password: String,
}

async fn log_in(State(app): State<App>, uri: Uri, Form(login): Form<Login>) -> Result<Response, Problem> {
    match app.shared.sessions.log_in(&login.name, &login.password) {
        Some(mut cookie) => {
            cookie.set_secure(uri.scheme() == Some(&Scheme::HTTPS));
            let headers = [(SET_COOKIE, cookie.encoded().to_string()), (LOCATION, "/".to_owned())];
            Ok((StatusCode::SEE_OTHER, headers).into_response())
        }
        None => {
            let page = app.shared.render("login.html", context! { name => login.name, refused => true })?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(page)).into_response())
        }
    }
}

async fn log_out() -> impl IntoResponse {
    let headers = [(SET_COOKIE, Sessions::log_out().encoded().to_string()), (LOCATION, "/login".to_owned())];
    (StatusCode::SEE_OTHER, headers)
}

/// Why there is no page.
enum Problem {
    /// The visitor is told, and can mend it.
    Refused(StatusCode, &'static str),
    Upload(MultipartError),
    /// For the log alone.
    Ours(anyhow::Error),
}

impl From<MultipartError> for Problem {
    fn from(error: MultipartError) -> Problem {
        Problem::Upload(error)
    }
}

macro_rules! ours {
    ($($error:ty),*) => {
        $(impl From<$error> for Problem {
            fn from(error: $error) -> Problem {
                Problem::Ours(error.into())
            }
        })*
    };
}

ours!(sqlx::Error, std::io::Error, minijinja::Error);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Problem::Refused(status, text) => (status, text).into_response(),
            Problem::Upload(error) => error.into_response(),
            Problem::Ours(error) => {
                tracing::error!("{error:#}");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}
