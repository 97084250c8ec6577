//! The instances of a service, one for each worker, and the queue for one that is not ready.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tower_service::Service;

use crate::handler::{Failure, Request};

use super::body::Body;
use super::context::Ending;
use super::recent::Recent;
use super::{Extend, request};

/// Instances, and whose they are.
type Owned = Vec<(Weak<()>, Rc<dyn Any>)>;

thread_local! {
    /// Those of this worker.
    static INSTANCES: RefCell<Owned> = const { RefCell::new(Vec::new()) };
}

/// Finds the instance of a worker. Instances outlive their service, when it is withdrawn, until the worker makes its
/// next one.
#[derive(Default)]
pub(super) struct Instances {
    owner: Arc<()>,
}

impl Instances {
    /// This worker's instance; made when it is asked for first.
    pub(super) fn of_this_worker<S: 'static>(
        &self,
        make: impl FnOnce() -> S,
        extend: &Arc<Vec<Extend>>,
    ) -> Rc<Instance<S>> {
        let known = INSTANCES.with_borrow(|instances| {
            let mut instances = instances.iter();
            let known =
                instances.find(|(owner, _)| std::ptr::eq(owner.as_ptr(), Arc::as_ptr(&self.owner)))?;
            Rc::clone(&known.1).downcast().ok()
        });
        known.unwrap_or_else(|| {
            let made = Rc::new(Instance {
                service: RefCell::new(make()),
                queue: RefCell::default(),
                recent: RefCell::default(),
                extend: extend.clone(),
            });
            let forgotten = INSTANCES.with_borrow_mut(|instances| {
                let withdrawn = |owner: &Weak<()>| owner.strong_count() == 0;
                let forgotten: Vec<_> = instances.extract_if(.., |(owner, _)| withdrawn(owner)).collect();
                instances.push((Arc::downgrade(&self.owner), made.clone()));
                forgotten
            });
            // Services are dropped while nothing is borrowed.
            drop(forgotten);
            made
        })
    }
}

/// The service of one worker.
pub(super) struct Instance<S> {
    service: RefCell<S>,
    queue: RefCell<Queue>,
    recent: RefCell<Recent>,
    extend: Arc<Vec<Extend>>,
}

/// Requests that wait for the service to be ready, oldest first. The first one asks the service, which knows one waker
/// only; the others are woken when it is their turn.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, Waker)>,
    tickets: u64,
}

impl Queue {
    fn place_of(&self, ticket: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()
    }
}

/// Why a request cannot be given to the service.
pub(super) enum NotReady<E> {
    /// For longer than this.
    Late(Duration),
    Failed(E),
}

impl<S> Instance<S> {
    /// Waits until the service takes a request; [`Instance::call`] must follow without waiting.
    pub(super) async fn ready(&self, limit: Duration) -> Result<(), NotReady<S::Error>>
    where
        S: Service<http::Request<Body>>,
    {
        let at_once = std::future::poll_fn(|cx| Poll::Ready(self.poll_without_queue(cx))).await;
        match at_once {
            Poll::Ready(ready) => ready.map_err(NotReady::Failed),
            // Boxed, for it is large and few have to wait.
            Poll::Pending => Box::pin(self.ready_in_turn(limit)).await,
        }
    }

    fn poll_without_queue(&self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
    where
        S: Service<http::Request<Body>>,
    {
        match self.queue.borrow().waiting.is_empty() {
            true => self.service.borrow_mut().poll_ready(cx),
            false => Poll::Pending,
        }
    }

    async fn ready_in_turn(&self, limit: Duration) -> Result<(), NotReady<S::Error>>
    where
        S: Service<http::Request<Body>>,
    {
        let mut turn = Turn { instance: self, ticket: None };
        let ready = tokio::time::timeout(limit, std::future::poll_fn(|cx| turn.poll(cx))).await;
        ready.map_err(|_| NotReady::Late(limit))?.map_err(NotReady::Failed)
    }

    /// Makes the request that the service is given; see [`request::fill`].
    pub(super) fn fill(&self, made: &mut http::Request<Body>, request: &Request) -> Result<Ending, Failure> {
        request::fill(made, request, &mut self.recent.borrow_mut(), &self.extend)
    }

    #[inline]
    pub(super) fn call(&self, request: http::Request<Body>) -> S::Future
    where
        S: Service<http::Request<Body>>,
    {
        self.service.borrow_mut().call(request)
    }
}

/// A request's place in the queue.
struct Turn<'i, S> {
    instance: &'i Instance<S>,
    ticket: Option<u64>,
}

impl<S> Turn<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
    where
        S: Service<http::Request<Body>>,
    {
        let is_first = {
            let queue = self.instance.queue.borrow();
            queue.waiting.front().map(|(ticket, _)| *ticket) == self.ticket
        };
        if is_first && let Poll::Ready(ready) = self.instance.service.borrow_mut().poll_ready(cx) {
            self.leave();
            return Poll::Ready(ready);
        }
        let queue = &mut *self.instance.queue.borrow_mut();
        let ticket = *self.ticket.get_or_insert_with(|| {
            queue.tickets += 1;
            queue.waiting.push_back((queue.tickets, cx.waker().clone()));
            queue.tickets
        });
        if let Some(place) = queue.place_of(ticket) {
            queue.waiting[place].1.clone_from(cx.waker());
        }
        Poll::Pending
    }

    /// Leaves the queue, and calls the next one where this was the first.
    fn leave(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let queue = &mut *self.instance.queue.borrow_mut();
        let Some(place) = queue.place_of(ticket) else { return };
        queue.waiting.remove(place);
        if place == 0
            && let Some((_, next)) = queue.waiting.front()
        {
            next.wake_by_ref();
        }
    }
}

impl<S> Drop for Turn<'_, S> {
    fn drop(&mut self) {
        self.leave();
    }
}
