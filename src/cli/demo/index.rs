//! The page of the demo: the template, and the records in HTML.

use super::records::{Line, Log};

const TEMPLATE: &str = include_str!("index.html");

/// The whole page.
pub(super) fn page(driver: &str, socket: &str, log: Option<&Log>) -> String {
    TEMPLATE
        .replace("{{driver}}", &escape(driver))
        .replace("{{socket}}", &escape(socket))
        .replace("{{version}}", env!("CARGO_PKG_VERSION"))
        .replace("{{records}}", &records(log))
}

/// The part of the page that shows the records of the last request.
pub(super) fn records(log: Option<&Log>) -> String {
    let Some(log) = log else {
        return "<p class=\"hint\">No request yet: choose one, and its records appear here.</p>".to_owned();
    };
    let mut html = format!("<h3>{}</h3>\n<ol class=\"records\">\n", escape(&log.title));
    log.lines.iter().for_each(|line| push_line(&mut html, line));
    if let Some(last) = &log.last {
        if log.left_out > 0 {
            html.push_str(&format!("<li class=\"gap\">… {} more records …</li>\n", log.left_out));
        }
        push_line(&mut html, last);
    }
    html.push_str("</ol>\n");
    html
}

fn push_line(html: &mut String, line: &Line) {
    let class = if line.sent { "sent" } else { "received" };
    // The direction is an arrow of the page's own.
    let text = escape(line.text.trim_start_matches(['>', '<', ' ']));
    let fields = escape(&line.fields.join("\n"));
    let ms = format!("<time>{:.1} ms</time>", line.ms);
    html.push_str(&match fields.is_empty() {
        true => format!("<li class=\"{class}\"><p>{text}{ms}</p></li>\n"),
        false => format!(
            "<li class=\"{class}\"><details><summary>{text}{ms}</summary><pre>{fields}</pre></details></li>\n"
        ),
    });
}

/// Text as it stands in HTML, also within an attribute.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::records::Recorder;
    use super::*;
    use ringway::client::{Direction, Record};
    use ringway::proto::{Header, RecordType};

    #[test]
    fn every_page_of_the_probe_is_linked() {
        for name in [
            "hello",
            "env",
            "echo",
            "sha256",
            "bytes",
            "status",
            "headers",
            "stderr",
            "sleep",
            "stream",
            "panic",
            "interleave",
            "read",
            "aborted",
            "exit",
            "roles/authorizer",
            "roles/filter",
        ] {
            let linked = TEMPLATE.contains(&format!("href=\"/{name}\""))
                || TEMPLATE.contains(&format!("href=\"/{name}?"))
                || TEMPLATE.contains(&format!("formaction=\"/{name}"));
            assert!(linked, "{name}");
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        assert!(!TEMPLATE.contains("http://") && !TEMPLATE.contains("https://"));
        assert!(!TEMPLATE.contains("src=") && !TEMPLATE.contains("@import"));
    }

    #[test]
    fn records_are_shown_as_text_and_the_last_one_always() {
        let recorder = Recorder::new();
        let log = recorder.begin("GET /<script>".to_owned());
        let tap = recorder.tap();
        for id in 1..=150 {
            let content = b"<b>";
            let header = Header {
                version: 1,
                record_type: RecordType::Stdout,
                request_id: id,
                content_length: content.len() as u16,
                padding_length: 5,
            };
            tap(&Record { direction: Direction::Received, header, content });
        }
        let html = records(Some(&log.lock().unwrap()));
        assert!(
            html.contains("<h3>GET /&lt;script&gt;</h3>") && html.contains("<pre>&lt;b&gt;</pre>"),
            "{html}"
        );
        assert!(
            html.contains("STDOUT 100 ") && !html.contains("STDOUT 101 ") && html.contains("STDOUT 150 ")
        );
        assert!(html.contains("… 49 more records …"));
        let page = page("io_uring", "unix:/x", Some(&log.lock().unwrap()));
        assert!(!page.contains("{{"), "a placeholder was left");
    }
}
