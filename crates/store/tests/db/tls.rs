//! TLS to PostgreSQL and NATS with a test authority, and passwords that are not revealed.

use std::time::{Duration, Instant};

use diesel::QueryableByName;
use diesel::sql_types::{Bool, Nullable, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use souk_common::config::Secret;
use souk_common::tls::ClientSettings;
use souk_store::db::{Config, Db, DbError, Pools};
use souk_store::events::nats;
use souk_testkit::servers::{self, Postgres, Server, ServerTls};
use souk_testkit::tls::{Authority, Files};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::events::{DEADLINE, change, log};
use super::store;
use super::{account, postgres};

async fn start(tls: ServerTls, access: &'static str) -> Server {
    let asked = Postgres {
        password: Some("s3cret".into()),
        access: Some(access.into()),
        tls: Some(tls),
        ..Postgres::default()
    };
    tokio::task::spawn_blocking(move || asked.start()).await.unwrap().unwrap()
}

/// What the server reports about the connection.
#[derive(Debug, QueryableByName)]
struct Seen {
    #[diesel(sql_type = Bool)]
    ssl: bool,
    #[diesel(sql_type = Nullable<Text>)]
    client: Option<String>,
}

async fn connect(url: String) -> Result<Seen, DbError> {
    connect_with(Config::at(url)).await
}

async fn connect_with(config: Config) -> Result<Seen, DbError> {
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let db = Db::connect(&config, folder.path(), "accounts", store::migrations()).await;
    // A permanent error is reported at once, without waiting for the server.
    assert!(began.elapsed() < config.startup_timeout / 2, "{:?}", began.elapsed());
    let db = db?;
    let Pools::Postgres(pool) = db.pools() else { panic!("not PostgreSQL") };
    let seen = "SELECT ssl, client_dn AS client FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(diesel::sql_query(seen).get_result(&mut pool.get().await.unwrap()).await.unwrap())
}

fn refused(result: Result<Seen, DbError>, told: &str) {
    match result {
        Err(error @ DbError::Config(_)) if error.to_string().contains(told) => {}
        other => panic!("{other:?} instead of {told:?}"),
    }
}

fn path(path: &std::path::Path) -> String {
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_checks_what_its_name_says() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let tls = ServerTls { own: authority.sign_for("server", &["localhost"]), ca: authority.certificate() };
    let server = start(
        tls,
        "hostssl all postgres 127.0.0.1/32 scram-sha-256\n\
         hostssl all clear 127.0.0.1/32 password\n\
         hostnossl all clear 127.0.0.1/32 password\n\
         hostssl all certified 127.0.0.1/32 cert\n\
         hostssl all double 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n",
    )
    .await;
    let port = server.port();
    let url = |user: &str, host: &str, rest: &str| format!("postgres://{user}:s3cret@{host}:{port}/postgres?{rest}");
    let (ca, other) = (path(&authority.certificate()), path(&stranger.certificate()));

    // The server's certificate is for `localhost`, and the authority signed it.
    let connected = [
        ("localhost", "connect_timeout=20".to_owned()),
        ("127.0.0.1", "sslmode=prefer".into()),
        ("127.0.0.1", "sslmode=require".into()),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={ca}")),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={ca}")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={ca}")),
        ("localhost", format!("sslrootcert={ca}")),
        ("127.0.0.1", "sslmode=require&channel_binding=require".into()),
        // The first host does not exist. Each host is checked by its own name.
        ("127.0.0.1:1,localhost", format!("sslmode=verify-full&sslrootcert={ca}")),
    ];
    for (host, rest) in connected {
        let seen = connect(url("postgres", host, &rest)).await.unwrap_or_else(|error| panic!("{host} {rest}: {error}"));
        assert!(seen.ssl, "{host} {rest}");
    }
    // The settings have the same meaning as the URL.
    let settings = ClientSettings { ca: authority.certificate(), ..ClientSettings::default() };
    let named = Config { tls: settings.clone(), ..Config::at(url("postgres", "localhost", "connect_timeout=20")) };
    assert!(connect_with(named).await.unwrap().ssl);

    let wrong = [
        ("localhost", "sslmode=disable".to_owned(), "no encryption"),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}"), "not valid for name \"127.0.0.1\""),
        ("127.0.0.1", format!("sslrootcert={ca}"), "not valid for name"),
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}"), "invalid peer certificate"),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={other}"), "invalid peer certificate"),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={other}"), "invalid peer certificate"),
    ];
    for (host, rest, told) in wrong {
        refused(connect(url("postgres", host, &rest)).await, told);
    }
    let named = Config { tls: settings, ..Config::at(url("postgres", "127.0.0.1", "connect_timeout=20")) };
    refused(connect_with(named).await, "not valid for name");

    let folder = tempfile::tempdir().unwrap();
    let config = Config::at(url("postgres", "localhost", "sslmode=require"));
    let db = Db::connect(&config, folder.path(), "accounts", store::migrations()).await.unwrap();
    let Pools::Postgres(pool) = db.pools() else { panic!("not PostgreSQL") };
    let users = "CREATE ROLE clear LOGIN PASSWORD 's3cret'; CREATE ROLE certified LOGIN;
                 CREATE ROLE double LOGIN PASSWORD 's3cret'";
    pool.get().await.unwrap().batch_execute(users).await.unwrap();

    // A password in clear text is sent only over TLS.
    assert!(connect(url("clear", "127.0.0.1", "sslmode=require")).await.unwrap().ssl);
    refused(connect(url("clear", "127.0.0.1", "sslmode=disable")).await, "in clear text");

    // Client certificates.
    let showing = |files: &Files| {
        let (certificate, key) = (path(&files.certificate), path(&files.key));
        format!("sslmode=verify-full&sslrootcert={ca}&sslcert={certificate}&sslkey={key}")
    };
    for user in ["certified", "double"] {
        let seen = connect(url(user, "localhost", &showing(&authority.sign(user)))).await.unwrap();
        assert!(seen.client.unwrap().contains(&format!("CN={user}")));
    }
    refused(connect(url("certified", "localhost", &format!("sslrootcert={ca}"))).await, "client certificate");
    refused(connect(url("double", "localhost", &showing(&authority.sign("ann")))).await, "authentication failed");
    refused(connect(url("certified", "localhost", &showing(&stranger.sign("certified")))).await, "alert");
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let tls = ServerTls { own: authority.sign_expired("server"), ca: authority.certificate() };
    let server = start(tls, "hostssl all all 127.0.0.1/32 trust\n").await;
    let url = format!("postgres://postgres@localhost:{}/postgres?sslrootcert=", server.port());
    refused(connect(format!("{url}{}", path(&authority.certificate()))).await, "expired");
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}

/// A server that only pretends to be PostgreSQL. It answers the request for TLS as given, asks for the password in
/// clear text, and stores everything that it receives.
async fn thief(to_tls: u8) -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taken = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let (mut taken, mut piece) = (Vec::new(), [0; 1024]);
        loop {
            let read = match client.read(&mut piece).await {
                Ok(0) | Err(_) => return taken,
                Ok(read) => read,
            };
            taken.extend_from_slice(&piece[..read]);
            let answer: &[u8] = if read == 8 { &[to_tls] } else { &[b'R', 0, 0, 0, 8, 0, 0, 0, 3] };
            if client.write_all(answer).await.is_err() {
                return taken;
            }
        }
    });
    (port, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_does_not_go_over_the_network_in_clear_text() {
    for (rest, told) in [
        ("", "in clear text"),
        ("sslmode=prefer", "in clear text"),
        ("sslmode=disable", "in clear text"),
        ("pooler=transaction", "in clear text"),
        ("sslmode=require", "does not offer TLS, and sslmode=require"),
        ("sslrootcert=system", "does not offer TLS, and sslmode=verify-full"),
    ] {
        let (port, taken) = thief(b'N').await;
        refused(connect(format!("postgres://ann:s3cret@127.0.0.1:{port}/shop?{rest}")).await, told);
        let taken = taken.await.unwrap();
        assert!(!taken.windows(6).any(|window| window == b"s3cret"), "{rest}: {:?}", String::from_utf8_lossy(&taken));
        assert!(!taken.is_empty());
    }
    let (port, _taken) = thief(b'E').await;
    let error = connect(format!("postgres://ann:s3cret@127.0.0.1:{port}/shop")).await;
    refused(error, "does not speak PostgreSQL's protocol");
}

/// The host is silent before or after the request for TLS.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_does_not_block_the_next_one() {
    let database = souk_testkit::db::database(souk_testkit::db::Engine::Postgres, "common").await;
    let real = url::Url::parse(&database.url).unwrap();
    for rest in ["sslmode=prefer", "sslmode=disable"] {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut url, address) = (real.clone(), silent.local_addr().unwrap());
        url.set_query(Some(rest));
        let host = format!("{}:{}", real.host_str().unwrap(), real.port().unwrap());
        let url = url.as_str().replace(&host, &format!("{address},{host}"));
        let config = Config { acquire_timeout: Duration::from_secs(6), ..Config::at(url) };
        assert!(!connect_with(config).await.unwrap().ssl, "{rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_utf8_is_refused() {
    let fixture = postgres(|_| {}).await;
    let Pools::Postgres(pool) = fixture.db.pools() else { panic!("not PostgreSQL") };
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("souk_{}_{}", encoding.to_lowercase(), uuid::Uuid::now_v7().simple());
        let make =
            format!("CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
        pool.get().await.unwrap().batch_execute(&make).await.unwrap();
        let mut url = url::Url::parse(&fixture.database.url).unwrap();
        url.set_path(&name);
        let error = connect(url.into()).await;
        pool.get().await.unwrap().batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
        refused(error, &format!("encoding is {encoding}"));
    }
}

/// A NATS server with a certificate of the test authority, which asks clients for one.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_published_to_nats_over_tls() {
    servers::install::ensure("NATS", "nats-server", "nats-server").unwrap();
    let authority = Authority::new();
    let tls = ServerTls { own: authority.sign("nats"), ca: authority.certificate() };
    let server = tokio::task::spawn_blocking(move || servers::nats_tls(&tls)).await.unwrap().unwrap();
    let fixture = postgres(|_| {}).await;
    let stop = CancellationToken::new();
    let log = log(&fixture.db, &stop).await;
    let own = authority.sign("souk");
    let nats_tls = ClientSettings { ca: authority.certificate(), certificate: own.certificate, key: own.key };
    let settings = nats::Settings { nats_url: Secret::new(server.url()), nats_tls: nats_tls.clone() };
    settings.publish(&log).await.unwrap().unwrap();
    let ann = store::create(&fixture.db, &account("ann@example.com", 1)).await.unwrap();
    change(&fixture.db, ann.id, false).await.unwrap();

    let options = async_nats::ConnectOptions::new()
        .add_root_certificates(nats_tls.ca.clone())
        .add_client_certificate(nats_tls.certificate.clone(), nats_tls.key.clone());
    let client = async_nats::jetstream::new(options.connect(server.url()).await.unwrap());
    souk_testkit::wait::until(DEADLINE, "the event to be in NATS", async || {
        let Ok(mut stream) = client.get_stream(nats::stream("accounts")).await else { return false };
        stream.info().await.is_ok_and(|info| info.state.messages == 1)
    })
    .await;
    stop.cancel();

    let missing = ClientSettings { ca: "/no/such.pem".into(), ..ClientSettings::default() };
    let settings = nats::Settings { nats_url: Secret::new(server.url()), nats_tls: missing };
    let error = settings.publish(&log).await.unwrap_err();
    assert_eq!(error.to_string(), "events.nats_tls.ca cannot be used");
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
}
