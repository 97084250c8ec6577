//! What Chromium shows, by way of WebDriver.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;

use crate::stand::{Database, PASSWORD, Stand, Visitor, Web};
use crate::support::process::{PATIENCE, Process, Ringway, free_address, is_required};

/// Nothing but what the test does, and nobody else's profile.
const CHROMIUM: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--window-size=800,900",
    // It ends with whoever holds the other end.
    "--remote-debugging-pipe",
];

struct Browser {
    client: Client,
    _driver: Process,
}

impl Browser {
    /// `None` where there is none.
    async fn start(folder: &Path) -> Option<Browser> {
        let installed = ["chromium", "chromedriver"].map(|name| Path::new("/usr/bin").join(name));
        if let Some(absent) = installed.iter().find(|program| !program.is_file()) {
            assert!(!is_required("browser"), "RINGWAY_REQUIRE=browser, and there is no {}", absent.display());
            eprintln!("skipped: there is no {}", absent.display());
            return None;
        }
        let [chromium, chromedriver] = installed;
        let address = free_address();
        let mut command = Command::new(chromedriver);
        command.arg(format!("--port={}", address.port())).env("HOME", folder).stdin(Stdio::null());
        let mut driver = Process::start("chromedriver", &mut command, folder);
        driver.wait_until("accepts", || Ringway::accepts(&address.to_string()));
        let profile = format!("--user-data-dir={}", folder.join("chromium").display());
        let arguments: Vec<&str> = CHROMIUM.iter().copied().chain([profile.as_str()]).collect();
        let options = json!({ "binary": chromium, "args": arguments });
        let capabilities = [("goog:chromeOptions".to_owned(), options)].into_iter().collect();
        let mut client = ClientBuilder::new(HttpConnector::new());
        let client = client.capabilities(capabilities).connect(&format!("http://{address}")).await;
        let client = client.expect("Chromium starts");
        Some(Browser { client, _driver: driver })
    }

    async fn element(&self, css: &str) -> fantoccini::elements::Element {
        let found = self.client.wait().at_most(PATIENCE).for_element(Locator::Css(css)).await;
        found.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    async fn type_into(&self, css: &str, text: &str) {
        self.element(css).await.send_keys(text).await.expect("it takes keys");
    }

    async fn click(&self, css: &str) {
        self.element(css).await.click().await.expect("it can be clicked");
    }

    async fn text(&self, css: &str) -> String {
        self.element(css).await.text().await.expect("it has a text")
    }

    async fn path(&self) -> String {
        self.client.current_url().await.expect("a page").path().to_owned()
    }

    async fn run(&self, script: &str) -> serde_json::Value {
        self.client.execute(script, Vec::new()).await.expect("the script runs")
    }

    async fn picture(&self) -> Vec<u8> {
        self.client.screenshot().await.expect("a picture")
    }
}

#[tokio::test]
async fn a_member_logs_in_uploads_and_sees_what_others_write() {
    let Some(stand) = Stand::new(Web::Nginx, Database::Sqlite) else { return };
    let Some(browser) = Browser::start(stand.folder.path()).await else { return };
    let home = format!("http://{}/", stand.address);
    browser.client.goto(&home).await.expect("a page");
    assert_eq!(browser.path().await, "/login");
    browser.type_into("[name=name]", "Alice").await;
    browser.type_into("[name=password]", "wrong\n").await;
    assert!(browser.text(".refused").await.contains("not the password"));
    let upload = stand.folder.path().join("upload.png");
    fs::write(&upload, browser.element("form.login").await.screenshot().await.expect("a picture"))
        .expect("a file");
    browser.type_into("[name=password]", &format!("{PASSWORD}\n")).await;
    assert_eq!(browser.text("#name").await, "Alice");
    assert_eq!(browser.path().await, "/");

    browser.type_into("[name=message]", "This is how I came in:").await;
    browser.type_into("[name=picture]", upload.to_str().expect("a name")).await;
    browser.click("form.write button").await;
    assert_eq!(browser.text("#entry-1").await, "Alice\nThis is how I came in:");
    let loaded = "const image = document.querySelector('#entry-1 img'); await image.decode();";
    let width =
        browser.run(&format!("return (async () => {{ {loaded} return image.naturalWidth }})()")).await;
    assert!(width.as_u64().is_some_and(|width| width > 100), "{width}");

    // What another writes comes to the page that is there.
    browser.run("document.body.dataset.loaded = 'once'").await;
    let bob = Visitor::logged_in(&stand, "Bob");
    assert_eq!(bob.write("Hello Alice, I <b>see</b> you", None).status, 303);
    assert_eq!(browser.text("[data-loaded=once] #entry-2").await, "Bob\nHello Alice, I <b>see</b> you");
    assert_eq!(browser.text("#entries li:first-child strong").await, "Bob");
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guestbook.png");
    fs::write(&kept, browser.picture().await).expect("the picture is kept");
    eprintln!("a picture of the page: {}", kept.display());

    browser.click("header button").await;
    browser.element("form.login").await;
    browser.client.goto(&home).await.expect("a page");
    assert_eq!(browser.path().await, "/login");
    browser.client.close().await.expect("Chromium ends");
}
