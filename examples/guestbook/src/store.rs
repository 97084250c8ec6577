//! The entries, in SQLite or PostgreSQL as the URL says. Both understand the same statements, but for the table's.

use sqlx::any::{AnyPoolOptions, install_default_drivers};
use sqlx::{AnyConnection, AnyPool, Connection};

/// How many entries a page has, and are read at a time.
const ENTRIES_MAX: i64 = 50;

/// Connections of each worker; each waits for one statement.
const CONNECTIONS_MAX: u32 = 4;

#[derive(Clone, Debug)]
pub struct Entry {
    /// Later entries have larger ones.
    pub id: i64,
    pub author: String,
    pub message: String,
    /// The name of its file.
    pub picture: Option<String>,
}

type Row = (i64, String, String, Option<String>);

impl From<Row> for Entry {
    fn from((id, author, message, picture): Row) -> Entry {
        Entry { id, author, message, picture }
    }
}

/// Makes the table if need be, in a runtime of its own.
pub fn create(url: &str) -> anyhow::Result<()> {
    install_default_drivers();
    let statements: &[&str] = if url.starts_with("sqlite:") {
        &[
            // Readers do not wait for a writer.
            "PRAGMA journal_mode = WAL",
            "CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY AUTOINCREMENT,
             author TEXT NOT NULL, message TEXT NOT NULL, picture TEXT)",
        ]
    } else {
        &["CREATE TABLE IF NOT EXISTS entries (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
           author TEXT NOT NULL, message TEXT NOT NULL, picture TEXT)"]
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = AnyConnection::connect(url).await?;
        for statement in statements {
            sqlx::query(statement).execute(&mut connection).await?;
        }
        connection.close().await?;
        Ok(())
    })
}

/// A few connections to the database, for the runtime that they are asked for in.
#[derive(Clone)]
pub struct Store(AnyPool);

impl Store {
    /// Connects when there is something to ask.
    pub fn connect(url: &str) -> sqlx::Result<Store> {
        Ok(Store(AnyPoolOptions::new().max_connections(CONNECTIONS_MAX).connect_lazy(url)?))
    }

    pub async fn add(&self, author: &str, message: &str, picture: Option<&str>) -> sqlx::Result<()> {
        sqlx::query("INSERT INTO entries (author, message, picture) VALUES ($1, $2, $3)")
            .bind(author)
            .bind(message)
            .bind(picture)
            .execute(&self.0)
            .await?;
        Ok(())
    }

    /// The newest first.
    pub async fn newest(&self) -> sqlx::Result<Vec<Entry>> {
        let query = "SELECT id, author, message, picture FROM entries ORDER BY id DESC LIMIT $1";
        let rows: Vec<Row> = sqlx::query_as(query).bind(ENTRIES_MAX).fetch_all(&self.0).await?;
        Ok(rows.into_iter().map(Entry::from).collect())
    }

    /// Those that came after another, the oldest first.
    pub async fn after(&self, id: i64) -> sqlx::Result<Vec<Entry>> {
        let query = "SELECT id, author, message, picture FROM entries WHERE id > $1 ORDER BY id LIMIT $2";
        let rows: Vec<Row> = sqlx::query_as(query).bind(id).bind(ENTRIES_MAX).fetch_all(&self.0).await?;
        Ok(rows.into_iter().map(Entry::from).collect())
    }

    /// The file of an entry's picture, if there is the entry and it has one.
    pub async fn picture(&self, id: i64) -> sqlx::Result<Option<String>> {
        let query = "SELECT picture FROM entries WHERE id = $1 AND picture IS NOT NULL";
        sqlx::query_scalar(query).bind(id).fetch_optional(&self.0).await
    }
}
