//! (role, mount) → handler. Changed while the server serves; readers never wait.
//!
//! The registry is a lock-free ordered map (a skip list reclaimed by crossbeam-epoch) and a generation counter.
//! Publishing inserts and counts. Each worker compares the counter once per turn and, when it has moved, copies the
//! map into a [`Table`] of its own; requests are matched against that table, and a request keeps the handler that it
//! began with.
//!
//! ```text
//!   publish ─▶ SkipMap + generation ─ ─ (once per change) ─ ─▶ worker's Table ─▶ request
//! ```

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_skiplist::SkipMap;

use crate::proto::{Params, Role};

use super::path::Cut;
use super::{Authorizer, Filter, Handler, OfAuthorizer, OfFilter, OfResponder, Responder};

/// A mount that cannot be: it must be `/`, or start with `/` and not end with one, without `//`, NUL, `?` or `#`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "mount {0:?} is not a path prefix: it must be \"/\", or start with one \"/\" and not end with one, like \"/app\""
)]
pub struct MountError(pub String);

/// The handlers of a server by role and mount.
///
/// A mount matches whole path segments: `/app` serves `/app` and `/app/x`, not `/apple`. The longest match wins. Paths
/// are compared byte for byte, whatever they contain, as [`Request::path`](super::Request::path) has them.
#[derive(Default)]
pub struct Registry {
    handlers: SkipMap<(Role, Arc<str>), Arc<dyn Handler>>,
    generation: AtomicU64,
}

impl Registry {
    /// Serves `mount` in the Responder role with this handler, from each worker's next turn on. One that was there
    /// before finishes the requests that it has begun.
    pub fn responder(&self, mount: &str, handler: impl Responder) -> Result<(), MountError> {
        self.publish(Role::Responder, mount, Arc::new(OfResponder(handler)))
    }

    /// Serves `mount` in the Authorizer role.
    pub fn authorizer(&self, mount: &str, handler: impl Authorizer) -> Result<(), MountError> {
        self.publish(Role::Authorizer, mount, Arc::new(OfAuthorizer(handler)))
    }

    /// Serves `mount` in the Filter role.
    pub fn filter(&self, mount: &str, handler: impl Filter) -> Result<(), MountError> {
        self.publish(Role::Filter, mount, Arc::new(OfFilter(handler)))
    }

    /// Stops to serve `mount` in that role. Returns whether anything was there. Requests that have begun go on.
    pub fn withdraw(&self, role: Role, mount: &str) -> bool {
        let was_there = self.handlers.remove(&(role, mount.into())).is_some();
        self.generation.fetch_add(1, Ordering::Release);
        was_there
    }

    fn publish(&self, role: Role, mount: &str, handler: Arc<dyn Handler>) -> Result<(), MountError> {
        check_mount(mount)?;
        self.handlers.insert((role, mount.into()), handler);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The present handlers, if they changed since `known` was taken.
    pub(crate) fn changed_since(&self, known: u64) -> Option<Table> {
        let generation = self.generation.load(Ordering::Acquire);
        (generation != known).then(|| Table::of(self, generation))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.handlers.iter().map(|entry| entry.key().clone())).finish()
    }
}

fn check_mount(mount: &str) -> Result<(), MountError> {
    let good = mount == "/"
        || (mount.starts_with('/')
            && !mount.ends_with('/')
            && !mount.contains("//")
            && !mount.contains(['\0', '?', '#']));
    if good { Ok(()) } else { Err(MountError(mount.to_owned())) }
}

/// One worker's copy of the registry. Counted without atomics, so that starting a request touches no shared line.
pub(crate) struct Table {
    generation: u64,
    /// For each role the mounts, longest first.
    roles: [Vec<Mount>; 3],
}

pub(crate) struct Mount {
    pub(crate) prefix: Rc<str>,
    pub(crate) handler: Rc<Arc<dyn Handler>>,
    pub(crate) wants_peer: bool,
    pub(crate) leaves_runtime_alone: bool,
}

impl Table {
    pub(crate) fn of_registry(registry: &Registry) -> Table {
        Table::of(registry, registry.generation.load(Ordering::Acquire))
    }

    fn of(registry: &Registry, generation: u64) -> Table {
        let mut roles: [Vec<Mount>; 3] = Default::default();
        for entry in registry.handlers.iter() {
            let (role, prefix) = entry.key();
            let handler = Rc::new(entry.value().clone());
            let (wants_peer, leaves_runtime_alone) = (handler.wants_peer(), handler.leaves_runtime_alone());
            let prefix = Rc::from(&**prefix);
            roles[index(*role)].push(Mount { prefix, handler, wants_peer, leaves_runtime_alone });
        }
        for mounts in &mut roles {
            mounts.sort_by_key(|mount| std::cmp::Reverse(mount.prefix.len()));
        }
        Table { generation, roles }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether any handler has this role; without one the role is unknown here (FastCGI 1.0 §5.5).
    pub(crate) fn serves(&self, role: Role) -> bool {
        !self.roles[index(role)].is_empty()
    }

    /// The handler with the longest mount that holds the request's path.
    pub(crate) fn find<B: AsRef<[u8]>>(&self, role: Role, params: &Params<B>) -> Option<&Mount> {
        let mounts = &self.roles[index(role)];
        // One handler at the root, the usual server, needs no path.
        if let [only] = &mounts[..]
            && &*only.prefix == "/"
        {
            return Some(only);
        }
        let cut = Cut::of(params);
        mounts.iter().find(|mount| cut.is_below(params, &mount.prefix))
    }
}

fn index(role: Role) -> usize {
    match role {
        Role::Responder => 0,
        Role::Authorizer => 1,
        Role::Filter => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::{Request, Response};
    use crate::proto::Limits;

    async fn nothing(_: Request) -> Response {
        Response::new(204)
    }

    fn params(script_name: &str, path_info: &str) -> Params<Vec<u8>> {
        let mut bytes = Vec::new();
        crate::proto::params::encode_pair(&mut bytes, b"SCRIPT_NAME", script_name.as_bytes());
        crate::proto::params::encode_pair(&mut bytes, b"PATH_INFO", path_info.as_bytes());
        Params::parse(bytes, &Limits::default()).map_err(|(error, _)| error).unwrap()
    }

    fn found(registry: &Registry, script_name: &str, path_info: &str) -> Option<String> {
        Table::of_registry(registry)
            .find(Role::Responder, &params(script_name, path_info))
            .map(|mount| mount.prefix.to_string())
    }

    #[test]
    fn the_longest_mount_on_whole_segments_wins() {
        let registry = Registry::default();
        for mount in ["/app", "/app/admin", "/b"] {
            registry.responder(mount, nothing).unwrap();
        }
        let cases = [
            ("/app", "", Some("/app")),
            ("/app", "/", Some("/app")),
            ("", "/app/x", Some("/app")),
            ("/app/ad", "min/x", Some("/app/admin")),
            ("/app", "/admin", Some("/app/admin")),
            ("/app", "/administrator", Some("/app")),
            ("/apple", "", None),
            ("", "/apple", None),
            ("/ap", "ple", None),
            ("/APP", "", None),
            ("", "", None),
            ("/b", "\u{e9}", None),
        ];
        for (script_name, path_info, expected) in cases {
            assert_eq!(
                found(&registry, script_name, path_info).as_deref(),
                expected,
                "{script_name:?} + {path_info:?}"
            );
        }
    }

    #[test]
    fn the_root_serves_what_no_other_mount_does() {
        let registry = Registry::default();
        registry.responder("/", nothing).unwrap();
        assert_eq!(found(&registry, "", "").as_deref(), Some("/"));
        registry.responder("/app", nothing).unwrap();
        assert_eq!(found(&registry, "/apple", "/app").as_deref(), Some("/"));
        assert_eq!(found(&registry, "/app", "").as_deref(), Some("/app"));
        assert!(registry.withdraw(Role::Responder, "/app"));
        assert!(!registry.withdraw(Role::Responder, "/app"));
        assert_eq!(found(&registry, "/app", "").as_deref(), Some("/"));
    }

    #[test]
    fn a_table_is_taken_anew_only_after_a_change() {
        let registry = Registry::default();
        registry.responder("/", nothing).unwrap();
        let table = Table::of_registry(&registry);
        assert!(registry.changed_since(table.generation()).is_none());
        registry.responder("/x", nothing).unwrap();
        let table = registry.changed_since(table.generation()).unwrap();
        assert!(registry.changed_since(table.generation()).is_none());
        assert!(table.serves(Role::Responder));
        assert!(!table.serves(Role::Filter));
    }

    #[test]
    fn a_mount_that_cannot_match_is_refused() {
        let registry = Registry::default();
        for mount in ["", "app", "/app/", "//", "/a//b", "/a?b", "/a\0"] {
            assert_eq!(registry.responder(mount, nothing), Err(MountError(mount.into())), "{mount:?}");
        }
    }

    /// Readers on other threads see every published change, and only whole ones, while a writer goes on.
    #[test]
    fn readers_follow_a_writer() {
        let registry = Arc::new(Registry::default());
        let reader = {
            let registry = registry.clone();
            std::thread::spawn(move || {
                let mut table = Table::of_registry(&registry);
                while !table.serves(Role::Filter) {
                    if let Some(newer) = registry.changed_since(table.generation()) {
                        assert!(newer.generation() > table.generation());
                        table = newer;
                    }
                }
            })
        };
        for round in 0..2_000 {
            let mount = format!("/{}", round % 7);
            registry.responder(&mount, nothing).unwrap();
            if round % 3 == 0 {
                registry.withdraw(Role::Responder, &mount);
            }
        }
        async fn pass(_: crate::handler::FilterRequest) -> Response {
            Response::new(204)
        }
        registry.filter("/", pass).unwrap();
        reader.join().unwrap();
    }
}
