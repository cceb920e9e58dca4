//! How a request went, and what it ended in: noted by whoever learns it, told once when the response has gone.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use http::StatusCode;
use souk_common::error::{Problem, Reason};
use tonic::Code;

/// The outcome of a request, as far as it is known. Shared by all layers that add to it.
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
    /// The status of its response, or the one that stands for its gRPC code.
    pub status: StatusCode,
    /// Its gRPC code.
    pub code: Option<Code>,
    /// Why it was refused, where it was.
    pub problem: Option<Problem>,
}

impl End {
    /// A request that went well.
    pub const OK: Self = Self { status: StatusCode::OK, code: None, problem: None };

    /// A request that was refused.
    pub fn refused(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code: None, problem: Some(problem) }
    }

    /// A request whose client left before its end.
    pub fn left() -> Self {
        Self::refused(Problem::new(Reason::Cancelled, "the client left"))
    }
}

impl Record {
    /// Sets the outcome. The last value counts.
    pub fn set(&self, end: End) {
        *self.lock() = Some(end);
    }

    /// Its gRPC call ended with this code, and a status that stands for it.
    pub fn set_code(&self, status: StatusCode, code: Code) {
        let mut end = self.lock();
        let problem = end.take().and_then(|end| end.problem);
        *end = Some(End { status, code: Some(code), problem });
    }

    /// Its response begins with this status. A stream may still end differently.
    pub fn begun(&self, status: StatusCode) {
        self.lock().get_or_insert(End { status, code: None, problem: None });
    }

    /// Takes out how it ended: the client left, where nothing is known.
    pub fn take(&self) -> End {
        self.lock().take().unwrap_or_else(End::left)
    }

    /// So many more bytes of its response's body were sent.
    pub fn sent(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of its response's body so far.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<End>> {
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
