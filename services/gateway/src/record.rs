//! The outcome of a request. The layer or handler that learns it records it, and it is logged once, after the response.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use http::StatusCode;
use souk_common::error::{Problem, Reason};
use tonic::Code;

/// The outcome of a request as far as it is known. All layers that add to it share it.
#[derive(Debug, Clone, Default)]
pub struct Record(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    bytes: AtomicU64,
    end: Mutex<Option<End>>,
}

/// How a request ended.
#[derive(Debug, Clone)]
pub struct End {
    /// HTTP status of the response, or the status that represents the gRPC code.
    pub status: StatusCode,
    /// The gRPC code, if the request was a gRPC call.
    pub code: Option<Code>,
    /// The reason of a refusal, if the request was refused.
    pub problem: Option<Problem>,
}

impl End {
    /// The outcome of a successful request.
    pub const OK: Self = Self { status: StatusCode::OK, code: None, problem: None };

    /// The outcome of a refused request.
    pub fn refused(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code: None, problem: Some(problem) }
    }

    /// The outcome of a request whose client left before its end.
    pub fn left() -> Self {
        Self::refused(Problem::new(Reason::Cancelled, "the client left"))
    }
}

impl Record {
    /// Sets the outcome. The last value counts.
    pub fn set(&self, end: End) {
        *self.lock() = Some(end);
    }

    /// Records the final code of a gRPC call, and the status that represents it.
    pub fn set_code(&self, status: StatusCode, code: Code) {
        let mut end = self.lock();
        let problem = end.take().and_then(|end| end.problem);
        *end = Some(End { status, code: Some(code), problem });
    }

    /// Records the status at the beginning of the response. A stream may still end differently.
    pub fn begun(&self, status: StatusCode) {
        self.lock().get_or_insert(End { status, code: None, problem: None });
    }

    /// Takes the outcome. If none was recorded, the client left.
    pub fn take(&self) -> End {
        self.lock().take().unwrap_or_else(End::left)
    }

    /// Counts bytes of the response body that were sent.
    pub fn sent(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Number of bytes of the response body that were sent so far.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<End>> {
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
