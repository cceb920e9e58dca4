//! Each test has its own database.

use souk_testkit::db::{self, Engine};
use tokio_postgres::NoTls;

async fn connect(url: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test]
async fn two_tests_never_see_each_other() {
    let (one, two) = tokio::join!(db::database(Engine::Postgres, "a"), db::database(Engine::Postgres, "a"));
    for database in [&one, &two] {
        let client = connect(&database.url).await.unwrap();
        client.batch_execute("CREATE TABLE only_here (id int)").await.unwrap();
    }
}

#[tokio::test]
async fn a_database_is_gone_after_its_test_even_with_someone_connected() {
    let database = db::database(Engine::Postgres, "b").await;
    let url = database.url.clone();
    let visitor = connect(&url).await.unwrap();
    visitor.batch_execute("SELECT 1").await.unwrap();
    drop(database);
    let error = connect(&url).await.map(drop).expect_err("the database is gone");
    assert_eq!(error.code().map(|code| code.code()), Some("3D000"), "{error}");
}

#[tokio::test]
async fn both_engines_have_their_files_in_the_data_folder() {
    let [sqlite, postgres] = db::both("c").await;
    let folder = sqlite.data_dir().to_owned();
    assert_eq!(sqlite.url, format!("sqlite:{}/c.db", folder.display()));
    assert!(postgres.url.starts_with("postgres"), "{}", postgres.url);
    drop(sqlite);
    assert!(!folder.exists());
}
