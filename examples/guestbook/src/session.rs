//! Who is a member: a signed cookie says it, and nothing is kept here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cookie::{Cookie, CookieJar, Key, SameSite};
use ringway::Params;
use subtle::ConstantTimeEq;

const COOKIE: &str = "member";

/// A login is good for so long.
const LOGIN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

const NAME_CHARS_MAX: usize = 40;

/// Gives cookies, and reads them. The key that signs them lives as long as the process, and so do logins.
pub struct Sessions {
    key: Key,
    password: String,
}

impl Sessions {
    pub fn new(password: String) -> Sessions {
        Sessions { key: Key::generate(), password }
    }

    /// The cookie for who knows the password. `None`: he does not, or the name is none.
    pub fn log_in(&self, name: &str, password: &str) -> Option<Cookie<'static>> {
        let is_password: bool = password.as_bytes().ct_eq(self.password.as_bytes()).into();
        // The name will be the value of a header.
        let is_name = (1..=NAME_CHARS_MAX).contains(&name.chars().count())
            && name.chars().all(|c| c.is_alphanumeric() || " .-".contains(c));
        (is_password && is_name).then(|| {
            let end = (SystemTime::now() + LOGIN).duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
            let mut jar = CookieJar::new();
            jar.signed_mut(&self.key).add((COOKIE, format!("{end} {name}")));
            let mut cookie = jar.get(COOKIE).expect("it was put there").clone();
            cookie.set_path("/");
            cookie.set_http_only(true);
            // Other sites may link here, but not post.
            cookie.set_same_site(SameSite::Lax);
            cookie.set_max_age(cookie::time::Duration::try_from(LOGIN).ok());
            cookie
        })
    }

    /// The cookie that ends a login.
    pub fn log_out() -> Cookie<'static> {
        let mut cookie = Cookie::build(COOKIE).path("/").build();
        cookie.make_removal();
        cookie
    }

    /// The member whose browser sent this request.
    pub fn member(&self, params: &Params) -> Option<String> {
        let cookies = std::str::from_utf8(params.get("HTTP_COOKIE")?).ok()?;
        self.member_at(SystemTime::now(), cookies)
    }

    fn member_at(&self, now: SystemTime, cookies: &str) -> Option<String> {
        let mut jar = CookieJar::new();
        for cookie in Cookie::split_parse_encoded(cookies).flatten() {
            jar.add_original(cookie.into_owned());
        }
        let cookie = jar.signed(&self.key).get(COOKIE)?;
        let (end, name) = cookie.value().split_once(' ')?;
        let end = UNIX_EPOCH + Duration::from_secs(end.parse().ok()?);
        (now < end).then(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_ends_in_time_and_with_its_key() {
        let sessions = Sessions::new("sesame".to_owned());
        let cookie =
            sessions.log_in("Alice B.", "sesame").expect("that is the password").encoded().to_string();
        let cookie = cookie.split(';').next().expect("name and value");
        let now = SystemTime::now();
        let member = |after| sessions.member_at(now + after, cookie);
        assert_eq!(member(LOGIN - Duration::from_secs(60)).as_deref(), Some("Alice B."));
        assert_eq!(member(LOGIN + Duration::from_secs(60)), None);
        assert_eq!(Sessions::new("sesame".to_owned()).member_at(now, cookie), None);
    }
}
