//! The gateway's own pages and their paths.

use crate::docs;

/// A page that is not part of a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The index: lists the other pages.
    Index,
    /// Liveness: the gateway runs.
    Alive,
    /// Readiness: all services are ready.
    Ready,
    /// The OpenAPI document.
    OpenApi,
    /// The documentation viewer.
    Docs(&'static docs::File),
}

impl Page {
    /// All pages except those of the documentation viewer.
    pub const ALL: [Self; 4] = [Self::Index, Self::Alive, Self::Ready, Self::OpenApi];

    /// Finds the page at a path.
    pub fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.path() == path).or_else(|| docs::at(path).map(Self::Docs))
    }

    /// The path of the page.
    pub fn path(self) -> &'static str {
        match self {
            Self::Index => "/",
            Self::Alive => "/livez",
            Self::Ready => "/readyz",
            Self::OpenApi => "/openapi.json",
            Self::Docs(file) => file.path,
        }
    }
}
