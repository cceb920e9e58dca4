//! Support for a pooler that gives each transaction another connection to the server, such as PgBouncer in transaction
//! mode. State of a session is lost there, or another client sees it: prepared statements and statement limits. So this
//! module rewrites the driver's requests:
//!
//! - **Prepared statements are stored here, not in the server.** When the driver prepares a statement, the server
//!   describes it without a name. When the driver executes it, its text is sent again, without a name, in the same
//!   message. The server must parse and plan it each time, but there is no further round trip, and no name can be lost
//!   or already be taken.
//! - **Limits hold for one transaction.** They follow `BEGIN` in the same message. If a statement is its own
//!   transaction, they precede it in the same transaction.
//!
//! The server also answers the inserted messages; the driver does not see these answers. The driver sends each request
//! with a `Sync` (or as a simple `Query`), and the server ends the answer to each with `ReadyForQuery`, in the same
//! order. So it is enough to know for each request how many answers to inserted messages come first.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// First words of statements that are a transaction of their own and may run in one with others. Other statements, such
/// as `VACUUM`, may not.
const TRANSACTIONAL: [&str; 7] = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES", "MERGE"];

/// The settings of every transaction.
#[derive(Clone)]
pub(super) struct Limits(Arc<Told>);

struct Told {
    /// The limits as a statement.
    statement: String,
    /// The limits as protocol messages.
    messages: Bytes,
}

impl Limits {
    /// Limits from names and values of PostgreSQL settings.
    pub(super) fn new(settings: &[(String, String)]) -> Self {
        let quoted = |text: &str| text.replace('\'', "''");
        let each: Vec<String> = settings
            .iter()
            .map(|(name, value)| format!("pg_catalog.set_config('{}',E'{}',true)", quoted(name), escaped(value)))
            .collect();
        let statement = format!("SELECT {}", each.join(","));
        let mut messages = BytesMut::new();
        message(&mut messages, b'P', |body| {
            body.put_u8(0);
            body.put_slice(statement.as_bytes());
            body.put_slice(&[0, 0, 0]);
        });
        // No names of portal and statement, no parameters, no formats.
        message(&mut messages, b'B', |body| body.put_slice(&[0; 8]));
        message(&mut messages, b'E', |body| body.put_slice(&[0; 5]));
        Self(Arc::new(Told { statement, messages: messages.freeze() }))
    }

    /// Number of answers to the limits: ParseComplete, BindComplete, DataRow, CommandComplete.
    const ANSWERS: usize = 4;
}

/// Escapes a text for `E'…'`.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

/// The state of one connection.
pub(super) struct Pooled {
    limits: Limits,
    /// True if the first message, which has no tag, was sent.
    started: bool,
    /// The beginning of a message that the driver has not written completely.
    partial: BytesMut,
    /// Prepared statements by the driver's names: text and parameter types.
    statements: HashMap<Bytes, Bytes>,
    /// Requests that wait for their answers.
    requests: VecDeque<Request>,
    /// The part of the next request that was sent.
    next: Request,
    /// True if no transaction is open, by the server's last answer.
    idle: bool,
}

/// A request up to its `Sync`.
#[derive(Default)]
struct Request {
    /// Number of answers to inserted messages, which come first.
    unasked: usize,
    begins: bool,
}

impl Pooled {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            started: false,
            partial: BytesMut::new(),
            statements: HashMap::new(),
            requests: VecDeque::new(),
            next: Request::default(),
            idle: true,
        }
    }

    /// Rewrites the driver's requests.
    ///
    /// # Errors
    /// If the driver makes a request that does not work through a pooler.
    pub(super) fn requests(&mut self, written: &[u8], out: &mut BytesMut) -> io::Result<()> {
        self.partial.extend_from_slice(written);
        loop {
            // The first message has no tag.
            let tag = usize::from(self.started);
            let Some(length) = self.partial.get(tag..tag + 4).and_then(|length| length.first_chunk::<4>()) else {
                return Ok(());
            };
            let whole = tag + u32::from_be_bytes(*length) as usize;
            if self.partial.len() < whole {
                return Ok(());
            }
            let mut message = self.partial.split_to(whole).freeze();
            if self.started {
                let tag = message.get_u8();
                message.advance(4);
                self.request(tag, message, out)?;
            } else {
                self.started = true;
                out.put_slice(&message);
            }
        }
    }

    fn request(&mut self, tag: u8, body: Bytes, out: &mut BytesMut) -> io::Result<()> {
        match tag {
            b'P' => {
                let (name, rest) = text(&body)?;
                if !name.is_empty() {
                    self.statements.insert(name, rest.clone());
                }
                message(out, b'P', |body| {
                    body.put_u8(0);
                    body.put_slice(&rest);
                });
            }
            b'D' if body.first() == Some(&b'S') => message(out, b'D', |body| body.put_slice(b"S\0")),
            // The statement exists only here, not in the server.
            b'C' if body.first() == Some(&b'S') => {
                self.statements.remove(&text(&body.slice(1..))?.0);
            }
            b'B' => {
                let (portal, rest) = text(&body)?;
                let (name, rest) = text(&rest)?;
                if !name.is_empty() {
                    self.bring(&name, out)?;
                }
                message(out, b'B', |body| {
                    body.put_slice(&portal);
                    body.put_slice(&[0, 0]);
                    body.put_slice(&rest);
                });
            }
            b'Q' => {
                let (query, _) = text(&body)?;
                let begins = starts_with(&query, "BEGIN") || starts_with(&query, "START TRANSACTION");
                message(out, b'Q', |body| {
                    body.put_slice(&query);
                    if begins {
                        body.put_slice(b";");
                        body.put_slice(self.limits.0.statement.as_bytes());
                    }
                    body.put_u8(0);
                });
                self.next.begins |= begins;
                self.end_request();
            }
            _ => {
                message(out, tag, |out| out.put_slice(&body));
                if tag == b'S' {
                    self.end_request();
                }
            }
        }
        Ok(())
    }

    /// Sends a statement's text again, because it is about to be executed, with the limits before it.
    fn bring(&mut self, name: &Bytes, out: &mut BytesMut) -> io::Result<()> {
        let statement = self.statements.get(name).ok_or_else(|| unsupported("a statement that was not prepared"))?;
        if self.next.unasked > 0 {
            return Err(unsupported("two statements in one request"));
        }
        if self.idle && TRANSACTIONAL.iter().any(|word| starts_with(statement, word)) {
            out.put_slice(&self.limits.0.messages);
            self.next.unasked += Limits::ANSWERS;
        }
        message(out, b'P', |body| {
            body.put_u8(0);
            body.put_slice(statement);
        });
        self.next.unasked += 1;
        Ok(())
    }

    fn end_request(&mut self) {
        self.idle &= !self.next.begins;
        self.requests.push_back(std::mem::take(&mut self.next));
    }

    /// True if the driver is to see an answer.
    ///
    /// # Errors
    /// If the answer does not work through a pooler.
    pub(super) fn answer(&mut self, tag: u8, body: &[u8]) -> io::Result<bool> {
        match tag {
            // NoticeResponse, ParameterStatus, NotificationResponse: may come at any time.
            b'N' | b'S' | b'A' => Ok(true),
            // CopyInResponse, CopyOutResponse, CopyBothResponse
            b'G' | b'H' | b'W' => Err(unsupported("COPY")),
            // ReadyForQuery
            b'Z' => {
                self.requests.pop_front();
                self.idle = body.first() == Some(&b'I') && !self.requests.iter().any(|request| request.begins);
                Ok(true)
            }
            _ => {
                let Some(request) = self.requests.front_mut() else { return Ok(true) };
                if tag == b'E' {
                    // After a failure, the server executes nothing more of the request.
                    request.unasked = 0;
                }
                let unasked = request.unasked > 0;
                request.unasked -= usize::from(unasked);
                Ok(!unasked)
            }
        }
    }
}

fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{what} cannot be used behind a pooler"))
}

/// A text that ends with a zero byte, and the bytes after it.
fn text(body: &Bytes) -> io::Result<(Bytes, Bytes)> {
    let end = body.iter().position(|byte| *byte == 0).ok_or(io::ErrorKind::InvalidData)?;
    Ok((body.slice(..end), body.slice(end + 1..)))
}

/// True if a statement begins with these words, in upper or lower case.
fn starts_with(statement: &[u8], words: &str) -> bool {
    let statement = statement.trim_ascii_start();
    let statement = statement.strip_prefix(b"(").unwrap_or(statement);
    statement.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words.as_bytes()))
        && statement.get(words.len()).is_none_or(|next| !next.is_ascii_alphanumeric() && *next != b'_')
}

fn message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tag and body of each message.
    fn messages(mut bytes: &[u8]) -> Vec<(char, String)> {
        let mut found = Vec::new();
        while bytes.has_remaining() {
            let tag = bytes.get_u8();
            let length = bytes.get_u32() as usize - 4;
            found.push((char::from(tag), String::from_utf8_lossy(&bytes[..length]).replace('\0', ".")));
            bytes.advance(length);
        }
        found
    }

    fn driver(requests: &[(u8, &str)]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for (tag, body) in requests {
            message(&mut bytes, *tag, |out| out.put_slice(body.replace('.', "\0").as_bytes()));
        }
        bytes
    }

    fn pooled() -> Pooled {
        let mut pooled = Pooled::new(Limits::new(&[("lock_timeout".into(), "5".into())]));
        let mut out = BytesMut::new();
        // The first message arrives in pieces.
        for byte in [0, 0, 0, 8, 0, 3, 0, 0] {
            pooled.requests(&[byte], &mut out).unwrap();
        }
        assert_eq!(&out[..], [0, 0, 0, 8, 0, 3, 0, 0]);
        assert!(pooled.answer(b'Z', b"I").unwrap());
        pooled
    }

    fn sent(pooled: &mut Pooled, requests: &[(u8, &str)]) -> Vec<(char, String)> {
        let mut out = BytesMut::new();
        for byte in driver(requests) {
            pooled.requests(&[byte], &mut out).unwrap();
        }
        messages(&out)
    }

    fn answered(pooled: &mut Pooled, tags: &str, status: &str) -> String {
        let pass = |tag: &char| {
            let body = if *tag == 'Z' { status } else { "" };
            pooled.answer(*tag as u8, body.as_bytes()).unwrap()
        };
        tags.chars().filter(pass).collect()
    }

    const LIMITS: &str = "SELECT pg_catalog.set_config('lock_timeout',E'5',true)";

    #[test]
    fn each_execution_sends_its_statement_without_a_name() {
        let mut pooled = pooled();
        let prepared = sent(&mut pooled, &[(b'P', "s1.SELECT 1..."), (b'D', "Ss1."), (b'S', "")]);
        assert_eq!(prepared, [('P', ".SELECT 1...".into()), ('D', "S.".into()), ('S', String::new())]);
        assert_eq!(answered(&mut pooled, "1tTZ", "I"), "1tTZ");
        let execute = [(b'B', ".s1......."), (b'E', "....."), (b'S', "")];
        // The statement is a transaction of its own: the limits precede it in the same transaction.
        let alone = sent(&mut pooled, &execute);
        let expected = [
            ('P', format!(".{LIMITS}...")),
            ('B', "........".into()),
            ('E', ".....".into()),
            ('P', ".SELECT 1...".into()),
            ('B', "........".into()),
            ('E', ".....".into()),
            ('S', String::new()),
        ];
        assert_eq!(alone, expected);
        assert_eq!(answered(&mut pooled, "12DC12DDCZ", "I"), "2DDCZ");
        // Within a transaction: the limits were sent at its beginning.
        assert_eq!(sent(&mut pooled, &[(b'Q', "BEGIN READ ONLY.")]), [('Q', format!("BEGIN READ ONLY;{LIMITS}."))]);
        let within = sent(&mut pooled, &execute);
        assert_eq!(within[..2], [('P', ".SELECT 1...".into()), ('B', "........".into())]);
        assert_eq!(answered(&mut pooled, "CTDCZ", "T"), "CTDCZ");
        assert_eq!(answered(&mut pooled, "12SDCZ", "T"), "2SDCZ");
        assert_eq!(sent(&mut pooled, &[(b'Q', "SELECT 1; COMMIT.")]), [('Q', "SELECT 1; COMMIT.".into())]);
        assert_eq!(answered(&mut pooled, "TDCCZ", "I"), "TDCCZ");
        // The driver drops a prepared statement: the server only needs to answer the `Sync`.
        assert_eq!(sent(&mut pooled, &[(b'C', "Ss1."), (b'S', "")]), [('S', String::new())]);
        assert_eq!(answered(&mut pooled, "Z", "I"), "Z");
        let mut out = BytesMut::new();
        assert!(pooled.requests(&driver(&execute), &mut out).is_err(), "it is known no more");
    }

    #[test]
    fn responses_are_assigned_to_their_requests_in_a_pipeline_and_after_a_failure() {
        let mut pooled = pooled();
        sent(&mut pooled, &[(b'P', "s1.UPDATE x..."), (b'S', ""), (b'P', "s2.VACUUM..."), (b'S', "")]);
        assert_eq!(answered(&mut pooled, "1Z1Z", "I"), "1Z1Z");
        let first = [(b'B', ".s1......."), (b'E', "....."), (b'S', "")];
        let second = [(b'B', ".s2......."), (b'E', "....."), (b'S', "")];
        sent(&mut pooled, &first);
        // `VACUUM` cannot run together with other statements.
        assert_eq!(sent(&mut pooled, &second)[0], ('P', ".VACUUM...".into()));
        sent(&mut pooled, &first);
        // The server refuses the first statement's text, runs the second, and answers the limits before the third.
        assert_eq!(answered(&mut pooled, "12DCEZ", "I"), "EZ");
        assert_eq!(answered(&mut pooled, "1N2CZ", "I"), "N2CZ");
        assert_eq!(answered(&mut pooled, "EZ", "I"), "EZ");
        assert!(pooled.answer(b'G', b"").is_err());
    }

    #[test]
    fn setting_values_are_quoted() {
        let limits = Limits::new(&[("search_path".into(), r"a'b\c".into())]);
        assert_eq!(limits.0.statement, r"SELECT pg_catalog.set_config('search_path',E'a\'b\\c',true)");
    }
}
