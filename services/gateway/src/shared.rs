//! State that several gateways share through Redis or Valkey. While the server is unreachable, each gateway uses its
//! own state.

use std::{
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo,
    RedisError, RedisResult, TlsCertificates, aio::MultiplexedConnection,
};
use souk_common::{error::chain, telemetry, tls::ClientSettings};

/// Timeout for connecting to Redis.
const CONNECT: Duration = Duration::from_secs(1);
/// Time between two attempts to reconnect to Redis.
const RETRY: Duration = Duration::from_millis(500);

/// A connection to Redis that is restored after a failure.
pub struct Shared {
    client: Client,
    /// Host and port, for log lines.
    place: String,
    settings: AsyncConnectionConfig,
    connection: RwLock<Option<MultiplexedConnection>>,
}

impl Shared {
    /// Reads the URL of Redis. `timeout` is the longest time that a response may take. Does not connect yet.
    ///
    /// # Errors
    /// The URL is invalid or requests an unsupported feature, or a certificate is invalid.
    pub fn new(url: &str, tls: &ClientSettings, timeout: Duration) -> RedisResult<Self> {
        let wrong = |why: &'static str| RedisError::from((ErrorKind::InvalidClientConfig, why));
        let info = url.into_connection_info()?;
        let place = info.addr.to_string();
        let client = match info.addr {
            ConnectionAddr::Tcp(..) if tls.is_empty() => Client::open(info)?,
            ConnectionAddr::Tcp(..) => return Err(wrong("gateway.redis_tls is set, so it must begin with rediss://")),
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err(wrong("TLS without a check of the certificate is not supported"));
            }
            ConnectionAddr::TcpTls { .. } => {
                let pem = tls.pem().map_err(|error| {
                    RedisError::from((
                        ErrorKind::InvalidClientConfig,
                        "gateway.redis_tls cannot be used",
                        chain(&error),
                    ))
                })?;
                let shown = pem.identity.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
                Client::build_with_tls(info, TlsCertificates { client_tls: shown, root_cert: pem.ca })?
            }
            ConnectionAddr::Unix(_) => return Err(wrong("only redis:// and rediss:// are supported")),
        };
        let settings = AsyncConnectionConfig::new().set_connection_timeout(CONNECT).set_response_timeout(timeout);
        Ok(Self { client, place, settings, connection: RwLock::new(None) })
    }

    /// Connects. If that fails, the gateway works without Redis and reconnects by itself.
    pub async fn connect(self: &Arc<Self>) {
        match self.try_connect().await {
            Ok(connection) => {
                self.put(Some(connection));
                telemetry::metrics::redis_up(true);
            }
            Err(error) => self.lost(&error),
        }
    }

    /// Sends a query to Redis. `None` if Redis is unreachable: the caller must work without it.
    pub async fn ask<T: FromRedisValue>(
        self: &Arc<Self>,
        question: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        let connection = self.connection.read().unwrap_or_else(PoisonError::into_inner).clone();
        match question(&mut connection?).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                // Many queries may fail at once, but only one of them logs the failure.
                if self.put(None) {
                    self.lost(&error);
                }
                None
            }
        }
    }

    fn lost(self: &Arc<Self>, error: &RedisError) {
        tracing::warn!(
            redis = self.place,
            %error,
            "Redis is lost: until it is back, limits and kept answers are this gateway's own"
        );
        telemetry::metrics::redis_up(false);
        tokio::spawn(find_again(Arc::downgrade(self)));
    }

    async fn try_connect(&self) -> RedisResult<MultiplexedConnection> {
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&self.settings).await?;
        // A server that is full, loading or read-only accepts connections but no writes.
        redis::cmd("SET").arg("souk:probe").arg(1).arg("PX").arg(1000).exec_async(&mut connection).await?;
        Ok(connection)
    }

    /// Sets the connection. Returns whether there was one before.
    fn put(&self, connection: Option<MultiplexedConnection>) -> bool {
        let mut place = self.connection.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, connection).is_some()
    }
}

async fn find_again(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(RETRY).await;
        let Some(shared) = shared.upgrade() else { return };
        if let Ok(connection) = shared.try_connect().await {
            shared.put(Some(connection));
            tracing::info!(redis = shared.place, "Redis is back: limits and kept answers are shared again");
            telemetry::metrics::redis_up(true);
            return;
        }
    }
}
