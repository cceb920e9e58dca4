//! Building blocks of layers. A layer is a function of the gateway, the request and, if it is async, the next layer.

use std::{
    convert::Infallible,
    future::{self, Future},
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use souk_common::error::Problem;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::gateway::Gateway;

/// The future of a response.
pub type Answer<'a, E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send + 'a>>;

/// Responds to requests.
trait Handle<E>: Send + Sync {
    fn handle(&self, request: Request<Body>) -> Answer<'_, E>;
}

/// The next inner layer. It is always ready.
pub struct Next<E = Problem>(Arc<dyn Handle<E>>);

/// The next inner layer of a layer that always responds.
pub type NextInfallible = Next<Infallible>;

impl<E> Next<E> {
    /// Passes a request to the layer and returns its response.
    pub fn run(&self, request: Request<Body>) -> Answer<'_, E> {
        self.0.handle(request)
    }
}

impl Next {
    /// The handlers of a gateway, inside all layers.
    pub fn handlers(gateway: &Arc<Gateway>) -> Self {
        struct Handlers(Arc<Gateway>);
        impl Handle<Problem> for Handlers {
            fn handle(&self, request: Request<Body>) -> Answer<'_, Problem> {
                Box::pin(self.0.dispatch(request))
            }
        }
        Self(Arc::new(Handlers(gateway.clone())))
    }
}

impl<E> Clone for Next<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// For the layers of tower-http, which are built for a single request.
impl<'a, E> Service<Request<Body>> for &'a Next<E> {
    type Response = Response<Body>;
    type Error = E;
    type Future = Answer<'a, E>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.run(request)
    }
}

/// The async functions that can be a layer. The inner service fails with `In` and the layer with `Out`. A layer borrows
/// the gateway: with an `Arc` per layer and request, all cores would write to the same reference count.
pub trait LayerFn<'a, In: 'a, Out>:
    Fn(&'a Gateway, Request<Body>, &'a Next<In>) -> Self::Future + Send + Sync + 'static
{
    /// The future of the response.
    type Future: Future<Output = Result<Response<Body>, Out>> + Send + 'a;
}

impl<'a, F, A, In: 'a, Out> LayerFn<'a, In, Out> for F
where
    F: Fn(&'a Gateway, Request<Body>, &'a Next<In>) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Response<Body>, Out>> + Send + 'a,
{
    type Future = A;
}

/// A layer that consists of one async function.
pub struct Around<F, In, Out> {
    gateway: Arc<Gateway>,
    function: F,
    errors: PhantomData<fn(In) -> Out>,
}

/// Makes a layer of an async function, for this gateway.
pub fn around<F, In, Out>(gateway: &Arc<Gateway>, function: F) -> Around<F, In, Out>
where
    F: for<'a> LayerFn<'a, In, Out>,
{
    Around { gateway: gateway.clone(), function, errors: PhantomData }
}

impl<F, In, Out> Layer<Next<In>> for Around<F, In, Out>
where
    F: for<'a> LayerFn<'a, In, Out> + Clone,
    In: 'static,
    Out: 'static,
{
    type Service = Next<Out>;

    fn layer(&self, inner: Next<In>) -> Next<Out> {
        let (gateway, function) = (self.gateway.clone(), self.function.clone());
        Next(Arc::new(Layered { gateway, function, inner, errors: PhantomData }))
    }
}

/// A layer that only reads a request, stores data in it or refuses it. Unlike [`around`], it needs no future of its
/// own.
pub struct Check<F> {
    gateway: Arc<Gateway>,
    function: F,
}

/// Makes a layer of a check, for this gateway.
pub fn check<F>(gateway: &Arc<Gateway>, function: F) -> Check<F>
where
    F: Fn(&Gateway, &mut Request<Body>) -> Result<(), Problem>,
{
    Check { gateway: gateway.clone(), function }
}

impl<F> Layer<Next> for Check<F>
where
    F: Fn(&Gateway, &mut Request<Body>) -> Result<(), Problem> + Clone + Send + Sync + 'static,
{
    type Service = Next;

    fn layer(&self, inner: Next) -> Next {
        let (gateway, function) = (self.gateway.clone(), self.function.clone());
        Next(Arc::new(Checked { gateway, function, inner }))
    }
}

/// A check with its inner service.
struct Checked<F> {
    gateway: Arc<Gateway>,
    function: F,
    inner: Next,
}

impl<F> Handle<Problem> for Checked<F>
where
    F: Fn(&Gateway, &mut Request<Body>) -> Result<(), Problem> + Send + Sync,
{
    fn handle(&self, mut request: Request<Body>) -> Answer<'_, Problem> {
        match (self.function)(&self.gateway, &mut request) {
            Ok(()) => self.inner.run(request),
            Err(problem) => Box::pin(future::ready(Err(problem))),
        }
    }
}

/// A layer with its inner service.
struct Layered<F, In, Out> {
    gateway: Arc<Gateway>,
    function: F,
    inner: Next<In>,
    errors: PhantomData<fn() -> Out>,
}

impl<F, In, Out> Handle<Out> for Layered<F, In, Out>
where
    F: for<'a> LayerFn<'a, In, Out>,
    In: 'static,
    Out: 'static,
{
    fn handle(&self, request: Request<Body>) -> Answer<'_, Out> {
        Box::pin((self.function)(&self.gateway, request, &self.inner))
    }
}
