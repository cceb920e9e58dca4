//! What the layers of the stack are made of: each is one async function of the gateway, the request and what is inside.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use souk_common::error::Problem;
use tonic::body::Body;
use tower::{BoxError, Layer, Service};

use crate::gateway::Gateway;

/// A response to come.
pub type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

/// What is inside of a layer. It is always ready, and a clone of it is cheap.
pub struct Next<E = Problem>(Arc<dyn Fn(Request<Body>) -> Answer<E> + Send + Sync>);

/// What is inside of a layer that answers in any case.
pub type NextInfallible = Next<Infallible>;

impl<E> Next<E> {
    /// A service, whatever its type.
    pub fn of<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>, Error = E> + Clone + Send + Sync + 'static,
        S::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Arc::new(move |request| {
            let answer = service.clone().call(request);
            Box::pin(async move { Ok(answer.await?.map(Body::new)) })
        }))
    }

    /// Has a request answered.
    pub fn run(&self, request: Request<Body>) -> Answer<E> {
        (self.0)(request)
    }
}

impl<E> Clone for Next<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E> Service<Request<Body>> for Next<E> {
    type Response = Response<Body>;
    type Error = E;
    type Future = Answer<E>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.run(request)
    }
}

/// A layer that is one function of a gateway.
pub struct Around<F> {
    gateway: Arc<Gateway>,
    function: F,
}

/// The layer of a function, for this gateway.
pub fn around<F>(gateway: &Arc<Gateway>, function: F) -> Around<F> {
    Around { gateway: gateway.clone(), function }
}

impl<F, A, In, Out> Layer<Next<In>> for Around<F>
where
    F: Fn(Arc<Gateway>, Request<Body>, Next<In>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<Response<Body>, Out>> + Send + 'static,
    In: 'static,
{
    type Service = Next<Out>;

    fn layer(&self, inner: Next<In>) -> Next<Out> {
        let (gateway, function) = (self.gateway.clone(), self.function.clone());
        Next(Arc::new(move |request| Box::pin(function(gateway.clone(), request, inner.clone()))))
    }
}
