//! Which pages the gateway has of its own, and where.

use crate::docs;

/// A page that is part of no contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// What is where.
    Index,
    /// Whether the gateway runs at all.
    Alive,
    /// Whether every service is ready.
    Ready,
    /// The API, as OpenAPI describes it.
    OpenApi,
    /// The same for people.
    Docs(&'static docs::File),
}

impl Page {
    /// All but the documentation's.
    pub const ALL: [Self; 4] = [Self::Index, Self::Alive, Self::Ready, Self::OpenApi];

    /// The page at a path.
    pub fn at(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.path() == path).or_else(|| docs::at(path).map(Self::Docs))
    }

    /// Its path.
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
