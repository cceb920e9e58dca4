//! Reads the settings: embedded defaults, file, variables, command line. Each overrides the one before it.

use std::path::{Path, PathBuf};

use anyhow::bail;
use souk_common::config::{Loader, Settings};

use crate::{
    cli::{DataArgs, ServiceArgs},
    data_dir::{DataDir, Lock, random_secret},
};

/// The services that store data, by the name of their section.
pub const STORES: [&str; 3] = ["user", "inventory", "order"];

/// The settings from the command line and the data folder.
#[derive(Default)]
pub struct Given(Vec<(String, String)>);

impl Given {
    /// The settings of `--data-dir` and `--database-url`.
    pub fn from_args(data: &DataArgs) -> anyhow::Result<Self> {
        let mut given = Self::default();
        if let Some(folder) = &data.data_dir {
            given.set("data_dir", folder.display());
        }
        if let Some(server) = &data.database_url {
            for store in STORES {
                given.set(&format!("{store}.database.url"), database_url(server, &format!("souk_{store}"))?);
            }
        }
        Ok(given)
    }

    /// The settings from a service's options.
    pub fn from_service(name: &str, args: &ServiceArgs) -> anyhow::Result<Self> {
        let mut given = Self::from_args(&args.data)?;
        if let Some(listen) = args.listen {
            given.set(&format!("{name}.listen"), listen);
        }
        Ok(given)
    }

    /// Sets the value at a dotted path.
    pub fn set(&mut self, path: &str, value: impl std::fmt::Display) {
        let name = format!("SOUK_{}", path.replace('.', "__").to_uppercase());
        self.0.push((name, value.to_string()));
    }

    /// Sets the address of a service for the gateway and every service that calls it.
    pub fn set_address(&mut self, settings: &Settings, service: &str, url: &str) {
        self.set(&format!("gateway.backends.souk.{service}"), url);
        for caller in STORES {
            let key = format!("{caller}.clients.{service}.address");
            if settings.section::<String>(&key).is_ok() {
                self.set(&key, url);
            }
        }
    }

    /// The settings as variables for another process.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The loader with the defaults of all settings.
pub fn loader() -> Loader {
    Loader::new()
        .defaults("user", souk_user::DEFAULTS)
        .defaults("inventory", souk_inventory::DEFAULTS)
        .defaults("order", souk_order::DEFAULTS)
        .defaults("gateway", souk_gateway::DEFAULTS)
}

/// Loads the effective settings.
pub fn load(file: Option<&Path>, given: &Given) -> anyhow::Result<Settings> {
    let loader = loader().file(file.map(PathBuf::from)).env().variables(given.0.iter().cloned());
    Ok(loader.load()?)
}

/// The defaults, overridden only by these settings: without a file and without the process's variables.
pub fn alone(given: &Given) -> anyhow::Result<Settings> {
    Ok(loader().variables(given.0.iter().cloned()).load()?)
}

/// The effective data folder.
pub fn data_dir(settings: &Settings) -> anyhow::Result<DataDir> {
    let path: PathBuf = settings.section("data_dir")?;
    Ok(DataDir::at(&path))
}

/// Locks the data folder against `souk up` if a service of these has its SQLite file there; `None` if none has. Fails
/// if `souk up` has locked the folder.
pub fn hold_data_dir(settings: &Settings, services: &[&str]) -> anyhow::Result<Option<(DataDir, Lock)>> {
    let data_dir = data_dir(settings)?;
    for service in services.iter().filter(|service| STORES.contains(service)) {
        let url: String = settings.section(&format!("{service}.database.url"))?;
        let file = url.strip_prefix("sqlite:").map(|path| Path::new(path.strip_prefix("//").unwrap_or(path)));
        let inside = file.is_some_and(|file| same(file.parent(), data_dir.path()));
        if url.is_empty() || inside {
            let data_dir = DataDir::open(data_dir.path())?;
            let lock = data_dir.share()?;
            return Ok(Some((data_dir, lock)));
        }
    }
    Ok(None)
}

/// True if two paths lead to the same folder.
fn same(one: Option<&Path>, other: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok();
    let one = one.map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    one.and_then(whole).is_some_and(|one| whole(other) == Some(one))
}

/// The settings with the secret that services share. If none is set, it is made in the data folder.
pub fn with_secret(file: Option<&Path>, given: &mut Given) -> anyhow::Result<Settings> {
    let settings = load(file, given)?;
    let secret: String = settings.section("auth.internal_secret")?;
    if !secret.is_empty() {
        return Ok(settings);
    }
    let data_dir = DataDir::open(data_dir(&settings)?.path())?;
    given.set("auth.internal_secret", data_dir.internal_secret()?.expose());
    load(file, given)
}

/// The settings with a secret. If none is set, this process makes its own: for a gateway in front of foreign services,
/// with which it shares no secret.
pub fn with_own_secret(settings: Settings, file: Option<&Path>, given: &mut Given) -> anyhow::Result<Settings> {
    if !settings.section::<String>("auth.internal_secret")?.is_empty() {
        return Ok(settings);
    }
    given.set("auth.internal_secret", random_secret());
    load(file, given)
}

/// The URL of one database on a server.
pub fn database_url(server: &str, database: &str) -> anyhow::Result<String> {
    let (base, query) = server.split_once('?').unwrap_or((server, ""));
    let base = base.trim_end_matches('/');
    let Some((scheme, rest)) = base.split_once("://") else {
        bail!("--database-url must look like postgres://user:password@host:5432");
    };
    if !matches!(scheme, "postgres" | "postgresql") || rest.is_empty() || rest.contains('/') {
        bail!(
            "--database-url must look like postgres://user:password@host:5432, without a database: each service has its own there"
        );
    }
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    Ok(format!("{base}/{database}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_gets_a_database_of_its_own() {
        assert_eq!(database_url("postgres://a:b@h:1/", "souk_order").unwrap(), "postgres://a:b@h:1/souk_order");
        assert_eq!(database_url("postgres://h?x=1", "souk_user").unwrap(), "postgres://h/souk_user?x=1");
        for wrong in ["h:5432", "mysql://h", "postgres://h/db", "postgres://"] {
            assert!(database_url(wrong, "user").is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_default_settings_of_all_services_are_consistent() {
        let settings = load(None, &Given::default()).unwrap();
        souk_gateway::Config::from_settings(&settings).unwrap();
        souk_user::Config::from_settings(&settings).unwrap();
        souk_inventory::Config::from_settings(&settings).unwrap();
        souk_order::Config::from_settings(&settings).unwrap();
    }
}
