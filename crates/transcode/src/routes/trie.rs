//! Finds the route of a path. Literal segments have precedence over `*`, `*` over `**`, and a matching `:verb` over
//! none.

use std::collections::{BTreeMap, HashMap};

use http::Method;

use super::template::{Atom, Template};
use crate::percent::{self, Mode};

/// Templates, sorted by their segments. `T` is the type of a route.
#[derive(Debug)]
pub struct Trie<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    literals: HashMap<String, Node<T>>,
    single: Option<Box<Node<T>>>,
    /// Routes that continue here with `**` as the last atom.
    rest: Leaves<T>,
    /// Routes that end here.
    ends: Leaves<T>,
}

/// Routes by verb, then by HTTP method.
type Leaves<T> = BTreeMap<Option<String>, Leaf<T>>;
type Leaf<T> = BTreeMap<String, T>;

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { literals: HashMap::new(), single: None, rest: BTreeMap::new(), ends: BTreeMap::new() }
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

/// The routes of a path, one for each of some HTTP methods.
#[derive(Debug)]
pub struct Found<'t, 'p, T> {
    leaf: &'t Leaf<T>,
    /// The path's segments, still encoded, without the verb.
    pub segments: Vec<&'p str>,
}

impl<'t, T> Found<'t, '_, T> {
    /// The route for an HTTP method.
    pub fn method(&self, method: &Method) -> Option<&'t T> {
        self.leaf.get(method.as_str())
    }

    /// The route for all HTTP methods without a route of their own (`custom: {kind: "*"}`).
    pub fn any(&self) -> Option<&'t T> {
        self.leaf.get("*")
    }

    /// The HTTP methods that have a route.
    pub fn methods(&self) -> impl Iterator<Item = &'t str> {
        self.leaf.keys().map(String::as_str)
    }
}

impl<T> Trie<T> {
    /// Adds a route. If the place already has one, returns that one.
    pub fn insert(&mut self, method: &Method, template: &Template, route: T) -> Option<&T> {
        let mut node = &mut self.root;
        let mut rest = false;
        for atom in &template.atoms {
            match atom {
                Atom::Literal(text) => node = node.literals.entry(text.clone()).or_default(),
                Atom::Single => node = node.single.get_or_insert_with(Box::default),
                // The template's parser ensures that it is the last atom.
                Atom::Rest => rest = true,
            }
        }
        let leaves = if rest { &mut node.rest } else { &mut node.ends };
        let leaf = leaves.entry(template.verb.clone()).or_default();
        match leaf.entry(method.as_str().to_owned()) {
            std::collections::btree_map::Entry::Occupied(there) => Some(there.into_mut()),
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(route);
                None
            }
        }
    }

    /// The most specific routes of a path (without its query).
    pub fn find<'p>(&self, path: &'p str) -> Option<Found<'_, 'p, T>> {
        let path = path.strip_prefix('/')?;
        let segments: Vec<&str> = if path.is_empty() { Vec::new() } else { path.split('/').collect() };
        if let Some((last, before)) = segments.split_last()
            && let Some((text, verb)) = last.rsplit_once(':')
            && let Ok(verb) = percent::decode(verb, Mode::Segment)
        {
            let mut short = before.to_vec();
            short.push(text);
            let verb = Some(verb.into_owned());
            if let Some(leaf) = self.root.find(&short, &verb) {
                return Some(Found { leaf, segments: short });
            }
        }
        let leaf = self.root.find(&segments, &None)?;
        Some(Found { leaf, segments })
    }
}

impl<T> Node<T> {
    /// Visits each node at most once, because a node has one depth.
    fn find(&self, segments: &[&str], verb: &Option<String>) -> Option<&Leaf<T>> {
        let Some((first, others)) = segments.split_first() else {
            return self.ends.get(verb).or_else(|| self.rest.get(verb));
        };
        let literal = || {
            let decoded = percent::decode(first, Mode::Segment).ok()?;
            self.literals.get(decoded.as_ref())?.find(others, verb)
        };
        let single = || self.single.as_ref().filter(|_| !first.is_empty())?.find(others, verb);
        literal().or_else(single).or_else(|| self.rest.get(verb))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trie(templates: &[&str]) -> Trie<String> {
        let mut trie = Trie::default();
        for text in templates {
            let (method, text) = text.split_once(' ').unwrap();
            let template = Template::parse(text).unwrap();
            let method = method.parse().unwrap();
            assert!(trie.insert(&method, &template, text.to_owned()).is_none(), "{text}");
        }
        trie
    }

    fn find<'t>(trie: &'t Trie<String>, method: Method, path: &str) -> Option<&'t str> {
        trie.find(path)?.method(&method).map(String::as_str)
    }

    #[test]
    fn the_most_specific_route_wins() {
        let trie = trie(&[
            "GET /v1/users/me",
            "GET /v1/{name=users/*}",
            "PATCH /v1/{user.name=users/*}",
            "POST /v1/{name=users/*}:setRoles",
            "GET /v1/users",
            "POST /v1/users:register",
            "GET /v1/{path=**}",
            "GET /v1/{a}/x/y",
        ]);
        let get = |path| find(&trie, Method::GET, path);
        assert_eq!(get("/v1/users/me"), Some("/v1/users/me"));
        assert_eq!(get("/v1/users/m%65"), Some("/v1/users/me"));
        assert_eq!(get("/v1/users/usr_1"), Some("/v1/{name=users/*}"));
        assert_eq!(get("/v1/users"), Some("/v1/users"));
        // The search backtracks from the literal `users` to the wildcard that has the rest of the path.
        assert_eq!(get("/v1/users/x/y"), Some("/v1/{a}/x/y"));
        assert_eq!(get("/v1/a/b/c/d"), Some("/v1/{path=**}"));
        assert_eq!(get("/v1"), Some("/v1/{path=**}"));
        assert_eq!(get("/v2"), None);
        assert_eq!(get(""), None);
        let post = |path| find(&trie, Method::POST, path);
        assert_eq!(post("/v1/users:register"), Some("/v1/users:register"));
        assert_eq!(post("/v1/users/usr_1:setRoles"), Some("/v1/{name=users/*}:setRoles"));
        // A verb that no route has is part of the last segment.
        assert_eq!(get("/v1/users/usr_1:other"), Some("/v1/{name=users/*}"));
        // The most specific path has no such method: the answer is 405, not another route.
        let found = trie.find("/v1/users/usr_1:setRoles").unwrap();
        assert_eq!(found.methods().collect::<Vec<_>>(), ["POST"]);
        assert_eq!(trie.find("/v1/users/usr_1").unwrap().methods().collect::<Vec<_>>(), ["GET", "PATCH"]);
    }

    #[test]
    fn a_wildcard_matches_no_empty_segment() {
        let trie = trie(&["GET /v1/{name=users/*}"]);
        assert_eq!(find(&trie, Method::GET, "/v1/users/"), None);
        assert_eq!(find(&trie, Method::GET, "/v1/users//"), None);
    }

    #[test]
    fn a_conflict_returns_the_existing_route() {
        let mut trie = trie(&["GET /v1/{name=users/*}"]);
        let other = Template::parse("/v1/users/{id}").unwrap();
        assert_eq!(trie.insert(&Method::GET, &other, "new".into()).unwrap(), "/v1/{name=users/*}");
        assert!(trie.insert(&Method::PUT, &other, "new".into()).is_none());
    }

    proptest! {
        #![proptest_config(crate::fuzz::cases())]

        #[test]
        fn no_path_panics(path in ".{0,60}", parts in proptest::collection::vec("[a-b:%*]{0,3}", 0..20)) {
            let trie = trie(&["GET /a/{x=*}/b:a", "GET /{y=a/**}", "GET /a/b", "POST /a/{z}/{w=b/*}"]);
            let _ = trie.find(&path);
            let joined = format!("/{}", parts.join("/"));
            if let Some(found) = trie.find(&joined) {
                prop_assert!(found.methods().next().is_some());
            }
        }

        /// A path made from a template finds that template again.
        #[test]
        fn a_path_made_from_a_template_finds_that_template(first in "[a-z]{1,5}", second in "[a-z0-9_-]{1,9}") {
            let trie = trie(&["GET /v1/{name=orders/*}", "GET /v1/{parent=orders/*}/lines/{line}"]);
            let path = format!("/v1/orders/{first}/lines/{second}");
            let found = trie.find(&path).unwrap();
            let text = found.method(&Method::GET).unwrap();
            prop_assert_eq!(text, "/v1/{parent=orders/*}/lines/{line}");
            let captures = Template::parse(text).unwrap().captures(&found.segments).unwrap();
            prop_assert_eq!(captures, vec![format!("orders/{first}"), second]);
        }
    }
}
