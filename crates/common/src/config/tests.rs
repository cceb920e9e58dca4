use std::time::Duration;

use serde::Deserialize;

use super::*;

const ORDER: &str = r#"
[order]
# How long a lease lasts.
lease = "30s"
batch = 64
fast = true
ratio = 0.5
regions = ["eu", "us"]
mode = "simple"

[order.database]
url = ""
password = ""

[order.labels]
"#;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    #[serde(with = "duration")]
    lease: Duration,
    batch: u16,
    fast: bool,
    ratio: f64,
    regions: Vec<String>,
    mode: Mode,
    database: Database,
    labels: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Simple,
    Thorough,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Database {
    url: String,
    password: Secret,
}

fn loader(variables: &[(&str, &str)]) -> Loader {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Loader::new().defaults("order", ORDER).variables(variables)
}

/// Errors contain the path of the file. The path is replaced by FILE for the tests.
fn with_file(toml: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), toml).unwrap();
    let loaded = loader(variables).file(Some(file.path().to_owned())).load();
    loaded.map_err(|error| error.to_string().replace(&file.path().display().to_string(), "FILE"))
}

fn refused(variables: &[(&str, &str)]) -> String {
    loader(variables).load().unwrap_err().to_string()
}

#[test]
fn later_sources_override_earlier_ones_and_keep_other_values() {
    let settings = with_file(
        "data_dir = \"/from/file\"\n[order]\nlease = \"1m\"\nbatch = 8\nratio = 1\n[order.labels]\nteam = \"shop\"\n",
        &[
            ("SOUK_ORDER__BATCH", "16"),
            ("SOUK_ORDER__FAST", "false"),
            ("SOUK_ORDER__REGIONS", "eu, asia"),
            ("SOUK_ORDER__MODE", "thorough"),
            ("SOUK_ORDER__DATABASE__URL", "postgres://db/order"),
            ("SOUK_ORDER__DATABASE__PASSWORD", "12345"),
            ("SOUK_ORDER__LABELS__TIER", "gold"),
            ("UNRELATED", "1"),
        ],
    )
    .unwrap();
    let order: Order = settings.section("order").unwrap();
    assert_eq!(order.lease, Duration::from_secs(60));
    assert_eq!((order.batch, order.fast, order.ratio), (16, false, 1.0));
    assert_eq!(order.regions, ["eu", "asia"]);
    assert_eq!(order.mode, Mode::Thorough);
    assert_eq!(order.database.url, "postgres://db/order");
    assert_eq!(order.database.password.expose(), "12345");
    assert_eq!(
        order.labels.into_iter().collect::<Vec<_>>(),
        [("team".to_owned(), "shop".to_owned()), ("tier".to_owned(), "gold".to_owned()),]
    );
    assert_eq!(settings.section::<PathBuf>("data_dir").unwrap(), PathBuf::from("/from/file"));
    assert_eq!(settings.section::<String>("auth.issuer").unwrap(), "souk");
}

#[test]
fn variables_that_are_not_settings_are_ignored() {
    let names = [
        "SOUK_TOKEN",
        "SOUK_ADMIN_PASSWORD",
        "SOUK_TEST_DATABASE_URL",
        "SOUK_ORDER_SERVICE_HOST",
        "SOUK_ORDER_SERVICE_PORT_GRPC",
        "SOUK_ORDER_PORT",
        "SOUK_ORDER_PORT_9000_TCP_ADDR",
    ];
    loader(&names.map(|name| (name, "x"))).load().unwrap();
}

#[test]
fn the_file_can_be_named_by_a_variable() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[auth]\nissuer = \"shop\"\n").unwrap();
    let path = file.path().display().to_string();
    let settings = loader(&[("SOUK_CONFIG", &path)]).load().unwrap();
    assert_eq!(settings.section::<String>("auth.issuer").unwrap(), "shop");
}

#[test]
fn the_error_of_an_unknown_setting_names_its_path_its_source_and_a_similar_setting() {
    assert_eq!(
        with_file("[order.databse]\nurl = \"x\"\n", &[]).unwrap_err(),
        "wrong setting `order.databse` (file FILE): unknown setting, did you mean `order.database.url`?"
    );
    assert_eq!(
        with_file("[order]\nleese = \"5s\"\n", &[]).unwrap_err(),
        "wrong setting `order.leese` (file FILE): unknown setting, did you mean `order.lease`?"
    );
    assert_eq!(
        refused(&[("SOUK_ORDER_DATABASE_URL", "x")]),
        "wrong setting `order_database_url` (variable SOUK_ORDER_DATABASE_URL): \
         unknown setting, did you mean SOUK_ORDER__DATABASE__URL?"
    );
    assert_eq!(
        refused(&[("SOUK_COLOUR", "x")]),
        "wrong setting `colour` (variable SOUK_COLOUR): \
         unknown setting; `souk default-config` prints all that there are"
    );
    assert_eq!(
        with_file("\"order.lease\" = \"5s\"\n", &[]).unwrap_err(),
        "wrong setting `order.lease` (file FILE): unknown setting, did you mean `order.lease`?"
    );
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_the_expected_type() {
    let kinds = [
        (
            "[order]\nbatch = \"many\"",
            "`order.batch` (file FILE): found the text \"many\", must be a whole number such as 64",
        ),
        ("[order]\nbatch = 1.5", "`order.batch` (file FILE): found the number 1.5, must be a whole number such as 64"),
        ("[order]\nlease = 30", "`order.lease` (file FILE): found the number 30, must be a text such as \"30s\""),
        ("[order]\nfast = \"yes\"", "`order.fast` (file FILE): found the text \"yes\", must be true or false"),
        (
            "[order]\nratio = \"half\"",
            "`order.ratio` (file FILE): found the text \"half\", must be a number such as 0.5",
        ),
        (
            "[order]\nregions = \"eu\"",
            "`order.regions` (file FILE): found the text \"eu\", must be a list (in a variable: values with commas between)",
        ),
        (
            "[order]\ndatabase = \"x\"",
            "`order.database` (file FILE): found the text \"x\", must be a section: set one of its settings, `order.database.…`",
        ),
        ("[order.mode]\na = 1", "`order.mode` (file FILE): found a section, must be a text such as \"simple\""),
        ("[auth]\nissuer = true", "`auth.issuer` (file FILE): found true, must be a text such as \"souk\""),
    ];
    for (toml, text) in kinds {
        assert_eq!(with_file(toml, &[]).unwrap_err(), format!("wrong setting {text}"));
    }
    assert_eq!(
        refused(&[("SOUK_ORDER__BATCH", "many")]),
        "wrong setting `order.batch` (variable SOUK_ORDER__BATCH): found the text \"many\", must be a whole number such as 64"
    );
    assert_eq!(
        refused(&[("SOUK_ORDER", "x")]),
        "wrong setting `order` (variable SOUK_ORDER): found the text \"x\", must be a section: set one of its settings, `order.…`"
    );
}

#[test]
fn all_wrong_settings_are_reported_at_once() {
    assert_eq!(
        with_file("[order]\nbatch = true\n", &[("SOUK_DATADIR", "x"), ("SOUK_ORDER__FAST", "1")]).unwrap_err(),
        "3 wrong settings:\n  \
         `datadir` (variable SOUK_DATADIR): unknown setting, did you mean SOUK_DATA_DIR?\n  \
         `order.batch` (file FILE): found true, must be a whole number such as 64\n  \
         `order.fast` (variable SOUK_ORDER__FAST): found the text \"1\", must be true or false"
    );
}

#[test]
fn the_error_of_an_invalid_value_names_its_source() {
    let order = |toml: &str, variables: &[(&str, &str)]| {
        with_file(toml, variables).unwrap().section::<Order>("order").unwrap_err().to_string()
    };
    assert_eq!(
        order("", &[("SOUK_ORDER__LEASE", "soon")]),
        "wrong setting `order.lease` (variable SOUK_ORDER__LEASE): found the text \"soon\": not a duration \
         (expected number at 0): write a number and a unit, such as \"250ms\", \"30s\", \"15m\" or \"1h 30m\""
    );
    assert_eq!(
        order("", &[("SOUK_ORDER__MODE", "odd")]),
        "wrong setting `order.mode` (variable SOUK_ORDER__MODE): found the text \"odd\": \
         unknown variant `odd`, expected `simple` or `thorough`"
    );
    let text = order("[order]\nbatch = 70000\n", &[]);
    assert!(text.starts_with("wrong setting `order.batch` (file "), "{text}");
    assert!(text.ends_with("found the number 70000: invalid value: integer `70000`, expected u16"), "{text}");
    let text = order("[order]\nregions = [\"eu\", 5]\n", &[]);
    assert!(text.contains("`order.regions[1]`"), "{text}");
}

#[test]
fn the_error_of_a_check_by_the_service_names_the_source_too() {
    let settings = loader(&[("SOUK_AUTH__ISSUER", " ")]).load().unwrap();
    assert_eq!(
        settings.fault("auth.issuer", "must not be blank").to_string(),
        "wrong setting `auth.issuer` (variable SOUK_AUTH__ISSUER): must not be blank"
    );
    assert_eq!(
        settings.fault("auth.audience", "must not be odd").to_string(),
        "wrong setting `auth.audience` (built-in default): must not be odd"
    );
}

#[test]
fn errors_never_show_a_secret() {
    for text in [
        with_file("[auth]\ninternal_secret = [\"hunter2\"]\n", &[]).unwrap_err(),
        with_file("[order.database.password]\na = \"hunter2\"\n", &[]).unwrap_err(),
        refused(&[("SOUK_ORDER__DATABASE__PASWORD", "hunter2")]),
        {
            let settings = loader(&[("SOUK_ORDER__DATABASE__PASSWORD", "hunter2")]).load().unwrap();
            settings.section::<u8>("order.database.password").unwrap_err().to_string()
        },
    ] {
        assert!(text.contains("wrong setting"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let missing = loader(&[]).file(Some("/nowhere/souk.toml".into())).load().unwrap_err().to_string();
    assert!(missing.starts_with("cannot read the configuration file /nowhere/souk.toml: No such file"), "{missing}");
    let broken = with_file("[order\n", &[]).unwrap_err();
    assert!(broken.starts_with("the configuration file FILE is not valid TOML: "), "{broken}");
    assert!(broken.contains("line 1, column 7"), "{broken}");
    let ours = Loader::new().defaults("order", "x =").load().unwrap_err().to_string();
    assert!(ours.starts_with("the built-in defaults of order are not valid: "), "{ours}");
}

#[test]
fn the_effective_settings_are_toml_that_loads_again() {
    let settings = with_file(
        "[order]\nbatch = 8\n",
        &[
            ("SOUK_AUTH__INTERNAL_SECRET", "hunter2hunter2"),
            ("SOUK_ORDER__DATABASE__URL", "postgres://souk:hunter2@db/order"),
            ("SOUK_ORDER__LABELS__TIER", "gold"),
        ],
    )
    .unwrap();
    let printed = settings.effective();
    for line in [
        "data_dir = \"souk-data\"\n",
        "internal_secret = \"***\"  # variable SOUK_AUTH__INTERNAL_SECRET\n",
        "url = \"postgres://souk:***@db/order\"  # variable SOUK_ORDER__DATABASE__URL\n",
        "\n[order]\nbatch = 8  # file ",
        "ratio = 0.5\n",
        "regions = [\"eu\", \"us\"]\n",
        "\n[order.labels]\ntier = \"gold\"  # variable",
    ] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
    assert!(!printed.contains("hunter2"), "{printed}");
    let again = with_file(&printed, &[]).unwrap();
    assert_eq!(again.section::<Order>("order").unwrap().batch, 8);
    assert_eq!(again.section::<String>("order.labels.tier").unwrap(), "gold");
}

#[test]
fn the_default_texts_together_are_one_file_that_changes_nothing() {
    let text = loader(&[]).default_text();
    assert!(text.contains("# How long a lease lasts."), "{text}");
    let settings = with_file(&text, &[]).unwrap();
    let values = |settings: &Settings| json(&settings.root);
    assert_eq!(values(&settings), values(&loader(&[]).load().unwrap()));
}

#[test]
fn the_address_of_a_service_is_a_text_or_a_list() {
    const CLIENT: &str = "[order.clients.user]\naddress = \"http://a:1\"\ntimeout = \"1s\"\nconnect_timeout = \"1s\"\n";
    let address = |file: &str, variables: &[(&str, &str)]| {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let loader = Loader::new().defaults("order", CLIENT).file(Some(path.path().into())).variables(variables);
        let section = loader.load()?.section::<crate::client::Config>("order.clients.user");
        section.map(|config| config.address)
    };
    assert_eq!(address("", &[]).unwrap(), "http://a:1");
    let list = "[order.clients.user]\naddress = [\"http://a:1\", \"http://b:1\"]";
    assert_eq!(address(list, &[]).unwrap(), "http://a:1,http://b:1");
    let variable = [("SOUK_ORDER__CLIENTS__USER__ADDRESS", "http://c:1,http://d:1")];
    assert_eq!(address(list, &variable).unwrap(), "http://c:1,http://d:1");
    let wrong = address("[order.clients.user]\naddress = [1, 2]", &[]).unwrap_err().to_string();
    assert!(wrong.contains("order.clients.user.address") && wrong.contains("or a list of such"), "{wrong}");
}
