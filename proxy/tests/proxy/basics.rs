//! Logins, both protocols, prepared statements, COPY.

use crate::support::proxy::{Proxy, sqlstate};
use crate::support::sidecar::Group;
use tokio_postgres::NoTls;

#[tokio::test]
async fn queries_of_both_protocols_are_answered() {
    let proxy = Proxy::start(&Group::new(1));
    let client = proxy.connect().await;
    let rows = client.query("SELECT id, name FROM items WHERE id < $1 ORDER BY id", &[&4_i64]).await.expect("rows");
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [1, 2, 3]);
    let messages = client.simple_query("SELECT 1; SELECT 2").await.expect("rows");
    assert!(messages.len() >= 4, "{messages:?}");
}

#[tokio::test]
async fn wrong_passwords_and_unknown_roles_look_the_same() {
    let proxy = Proxy::start(&Group::new(1));
    for (user, password) in [("app", "wrong"), ("nobody", "wrong"), ("nologin", "secret"), ("howdah_proxy", "proxy-secret")] {
        let mut config = proxy.settings();
        config.user(user).password(password);
        let error = config.connect(NoTls).await.err().expect("refused");
        assert_eq!(sqlstate(&error), "28P01", "{user}");
        let message = error.as_db_error().expect("from the proxy").message().to_owned();
        assert_eq!(message, format!("password authentication failed for user \"{user}\""));
    }
    let mut config = proxy.settings();
    config.user("o'neil\\").password("it's");
    let (client, connection) = config.connect(NoTls).await.expect("connected");
    tokio::spawn(connection);
    let name: String = client.query_one("SELECT current_user::text", &[]).await.expect("a row").get(0);
    assert_eq!(name, "o'neil\\");
    let mut config = proxy.settings();
    config.dbname("elsewhere");
    assert_eq!(sqlstate(&config.connect(NoTls).await.err().expect("refused")), "3D000");
}
