//! How values are written: one type for each way, which reads a value and writes it back.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::Hint;

/// A way to write a `T`. `read(show(value)) == value` for every value that may be used.
pub(super) trait Syntax<T> {
    fn hint(&self, hint: Hint) -> &'static str;

    /// The value, or what is wrong with the text.
    fn parse(&self, text: &str) -> Result<T, String>;

    fn show(&self, value: &T) -> String;

    /// A setting that is no list has exactly one value.
    fn read(&self, values: &[&str]) -> Result<T, String> {
        match values {
            [text] => self.parse(text.trim()),
            _ => Err(format!("{} values where one is wanted", values.len())),
        }
    }
}

/// A plain number from `.0` to `.1`.
pub(super) struct Count(pub(super) u64, pub(super) u64);

/// A [`Count`] that is a power of two.
pub(super) struct PowerOfTwo(Count);

impl Count {
    pub(super) const fn power_of_two(min: u64, max: u64) -> PowerOfTwo {
        PowerOfTwo(Count(min, max))
    }

    fn within(&self, number: u64) -> Result<u64, String> {
        let Count(min, max) = *self;
        if (min..=max).contains(&number) { Ok(number) } else { Err(format!("not within {min} to {max}")) }
    }
}

impl<T: TryFrom<u64> + TryInto<u64> + Copy> Syntax<T> for Count {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "N", "a number")
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        let number = text.parse().map_err(|_| "not a whole number".to_owned())?;
        narrow(self.within(number)?)
    }

    fn show(&self, value: &T) -> String {
        widen(*value).to_string()
    }
}

impl Syntax<u16> for PowerOfTwo {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "N", "1, 2, 4, 8 …")
    }

    fn parse(&self, text: &str) -> Result<u16, String> {
        let number: u16 = self.0.parse(text)?;
        if number.is_power_of_two() { Ok(number) } else { Err("not a power of two".to_owned()) }
    }

    fn show(&self, value: &u16) -> String {
        value.to_string()
    }
}

/// A number of bytes from `.0` to `.1`, with a unit if one is wanted.
pub(super) struct Octets(pub(super) u64, pub(super) u64);

const SIZE_UNITS: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

impl<T: TryFrom<u64> + TryInto<u64> + Copy> Syntax<T> for Octets {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "SIZE", "bytes, or with KiB, MiB, GiB")
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        let reason = || "not a size such as 65536, 64KiB or 1MiB".to_owned();
        let (number, unit) = split_unit(text);
        let number: u64 = number.parse().map_err(|_| reason())?;
        let factor = unit_factor(SIZE_UNITS, unit).ok_or_else(reason)?;
        narrow(Count(self.0, self.1).within(number.checked_mul(factor).ok_or_else(reason)?)?)
    }

    fn show(&self, value: &T) -> String {
        match widen(*value) {
            0 => "0".to_owned(),
            bytes => with_unit(SIZE_UNITS, bytes),
        }
    }
}

/// A duration with its unit; 0 turns the deadline off.
pub(super) struct Time;

const TIME_UNITS: &[(&str, u64)] = &[("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A bound that keeps every deadline within the clock's arithmetic: a year.
const TIME_MAX_MS: u64 = 365 * 24 * 3_600_000;

impl Syntax<Duration> for Time {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "TIME", "with ms, s, m or h; 0 is off")
    }

    fn parse(&self, text: &str) -> Result<Duration, String> {
        let reason = || "not a time in ms, s, m or h such as 250ms or 10s (0 is off)".to_owned();
        let (number, unit) = split_unit(text);
        let number: u64 = number.parse().map_err(|_| reason())?;
        let factor = match unit {
            "" if number == 0 => 1,
            unit => unit_factor(TIME_UNITS, unit).ok_or_else(reason)?,
        };
        match number.checked_mul(factor) {
            Some(ms) if ms <= TIME_MAX_MS => Ok(Duration::from_millis(ms)),
            _ => Err("longer than a year".to_owned()),
        }
    }

    fn show(&self, value: &Duration) -> String {
        // Saturating: a longer one is refused when it is read back.
        match u64::try_from(value.as_millis()).unwrap_or(u64::MAX) {
            0 => "0".to_owned(),
            ms => with_unit(TIME_UNITS, ms),
        }
    }
}

/// Permissions in octal.
pub(super) struct Mode;

impl Syntax<u32> for Mode {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "MODE", "octal, such as 0660")
    }

    fn parse(&self, text: &str) -> Result<u32, String> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        match u32::from_str_radix(digits, 8) {
            Ok(mode) if mode <= 0o777 => Ok(mode),
            _ => Err("not permissions in octal such as 0660".to_owned()),
        }
    }

    fn show(&self, value: &u32) -> String {
        format!("{value:04o}")
    }
}

/// Networks in CIDR notation, and addresses, separated by commas; any number of them.
pub(super) struct Networks;

impl Syntax<Vec<IpNet>> for Networks {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "NETWORKS", "such as 10.0.0.0/8,::1")
    }

    fn parse(&self, text: &str) -> Result<Vec<IpNet>, String> {
        let network = |text: &str| match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address)),
            Err(_) => text.parse().map_err(|_| format!("{text:?} is neither a network nor an IP address")),
        };
        parts(text).map(network).collect()
    }

    fn show(&self, value: &Vec<IpNet>) -> String {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Plain numbers, separated by commas; any number of them.
pub(super) struct Numbers;

impl Syntax<Vec<u32>> for Numbers {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "NUMBERS", "such as 0,33")
    }

    fn parse(&self, text: &str) -> Result<Vec<u32>, String> {
        parts(text).map(|part| part.parse().map_err(|_| format!("{part:?} is not a number"))).collect()
    }

    fn show(&self, value: &Vec<u32>) -> String {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

/// The parts between commas; none of an empty text.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim();
    text.split(',').map(str::trim).filter(move |_| !text.is_empty())
}

/// On or off.
pub(super) struct Switch;

impl Syntax<bool> for Switch {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "BOOL", "true or false")
    }

    fn parse(&self, text: &str) -> Result<bool, String> {
        match text {
            "true" | "on" | "yes" | "1" => Ok(true),
            "false" | "off" | "no" | "0" => Ok(false),
            _ => Err("neither true nor false".to_owned()),
        }
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }
}

/// Free text, of which the empty one is none.
pub(super) struct Text;

impl Syntax<Option<String>> for Text {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "NAME", "a name or a number")
    }

    fn parse(&self, text: &str) -> Result<Option<String>, String> {
        Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
    }

    fn show(&self, value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }
}

/// A mount: begins with a slash, ends with none unless it is the root.
pub(super) struct Prefix;

impl Syntax<String> for Prefix {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "PREFIX", "a path such as /app")
    }

    fn parse(&self, text: &str) -> Result<String, String> {
        if text.contains(|c: char| c.is_control()) {
            return Err("a path prefix has no control characters".to_owned());
        }
        match text.trim_end_matches('/') {
            "" => Ok("/".to_owned()),
            prefix if prefix.starts_with('/') => Ok(prefix.to_owned()),
            prefix => Err(format!("a path prefix begins with a slash: /{prefix}")),
        }
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

/// A [`Prefix`] whose root is the empty text, or none.
pub(super) struct Override;

/// How no [`Override`] is written: a prefix begins with a slash.
const NO_OVERRIDE: &str = "auto";

impl Syntax<Option<String>> for Override {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "PREFIX", "a path such as /app, empty, or auto")
    }

    fn parse(&self, text: &str) -> Result<Option<String>, String> {
        match text {
            NO_OVERRIDE => Ok(None),
            text => {
                Ok(Some(Prefix.parse(text)?).map(|prefix| if prefix == "/" { String::new() } else { prefix }))
            }
        }
    }

    fn show(&self, value: &Option<String>) -> String {
        value.clone().unwrap_or_else(|| NO_OVERRIDE.to_owned())
    }
}

/// Any number of texts, none of them empty; what they mean is decided elsewhere.
pub(super) struct List;

impl Syntax<Vec<String>> for List {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "ADDR", "a list of addresses")
    }

    fn parse(&self, text: &str) -> Result<Vec<String>, String> {
        self.read(&[text])
    }

    fn read(&self, values: &[&str]) -> Result<Vec<String>, String> {
        match values.iter().any(|text| text.trim().is_empty()) {
            true => Err("an empty address".to_owned()),
            false => Ok(values.iter().map(|text| text.trim().to_owned()).collect()),
        }
    }

    fn show(&self, value: &Vec<String>) -> String {
        value.join(",")
    }
}

/// A name out of a few.
pub(super) struct Choice;

impl Syntax<Driver> for Choice {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "DRIVER", "auto, uring or epoll")
    }

    fn parse(&self, text: &str) -> Result<Driver, String> {
        text.parse()
    }

    fn show(&self, value: &Driver) -> String {
        value.to_string()
    }
}

impl Syntax<SendFile> for Choice {
    fn hint(&self, hint: Hint) -> &'static str {
        pick(hint, "HOW", "off, x-sendfile, x-lighttpd-send-file or x-accel-redirect:/LOCATION=/DIRECTORY")
    }

    fn parse(&self, text: &str) -> Result<SendFile, String> {
        text.parse()
    }

    fn show(&self, value: &SendFile) -> String {
        value.to_string()
    }
}

/// How a file is left to the web server.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum SendFile {
    /// It is not: this server sends it.
    #[default]
    Off,
    /// By the header `X-Sendfile`: Apache's mod_xsendfile, lighttpd.
    XSendfile,
    /// By the header `X-LIGHTTPD-send-file`, lighttpd's older name for it.
    XLighttpdSendFile,
    /// By the header `X-Accel-Redirect` of nginx. Files elsewhere are sent from here.
    XAccelRedirect {
        /// A location that is `internal`, as a path.
        location: String,
        /// The directory that the location stands for, by `alias`.
        directory: PathBuf,
    },
}

impl FromStr for SendFile {
    type Err = String;

    fn from_str(text: &str) -> Result<SendFile, String> {
        match text {
            "off" => return Ok(SendFile::Off),
            "x-sendfile" => return Ok(SendFile::XSendfile),
            "x-lighttpd-send-file" => return Ok(SendFile::XLighttpdSendFile),
            _ => {}
        }
        let Some(mapping) = text.strip_prefix("x-accel-redirect:") else {
            return Err("neither off, x-sendfile, x-lighttpd-send-file nor x-accel-redirect:…".to_owned());
        };
        match mapping.split_once('=') {
            Some((location, directory)) if location.starts_with('/') && directory.starts_with('/') => {
                Ok(SendFile::XAccelRedirect { location: location.to_owned(), directory: directory.into() })
            }
            _ => {
                Err("x-accel-redirect: wants a location and a directory, as in /internal=/srv/files"
                    .to_owned())
            }
        }
    }
}

impl fmt::Display for SendFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendFile::Off => f.write_str("off"),
            SendFile::XSendfile => f.write_str("x-sendfile"),
            SendFile::XLighttpdSendFile => f.write_str("x-lighttpd-send-file"),
            SendFile::XAccelRedirect { location, directory } => {
                write!(f, "x-accel-redirect:{location}={}", directory.display())
            }
        }
    }
}

/// The way to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Driver {
    /// io_uring where the host allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or the server does not start.
    Uring,
    /// epoll.
    Epoll,
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(text: &str) -> Result<Driver, String> {
        match text {
            "auto" => Ok(Driver::Auto),
            "uring" => Ok(Driver::Uring),
            "epoll" => Ok(Driver::Epoll),
            _ => Err("neither auto, uring nor epoll".to_owned()),
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Driver::Auto => "auto",
            Driver::Uring => "uring",
            Driver::Epoll => "epoll",
        })
    }
}

fn pick(hint: Hint, placeholder: &'static str, example: &'static str) -> &'static str {
    match hint {
        Hint::Placeholder => placeholder,
        Hint::Example => example,
    }
}

/// `10 KiB` is `10` and `KiB`.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

fn unit_factor(units: &[(&str, u64)], name: &str) -> Option<u64> {
    units.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(name)).map(|(_, factor)| *factor)
}

/// The largest unit that leaves no remainder.
fn with_unit(units: &[(&str, u64)], amount: u64) -> String {
    let (unit, factor) = units
        .iter()
        .find(|(_, factor)| amount.is_multiple_of(*factor))
        .expect("the last unit divides everything");
    format!("{}{unit}", amount / factor)
}

fn narrow<T: TryFrom<u64>>(number: u64) -> Result<T, String> {
    T::try_from(number).map_err(|_| "too large".to_owned())
}

fn widen<T: TryInto<u64>>(number: T) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_in_their_largest_whole_unit() {
        let octets = Octets(0, 1 << 40);
        for (bytes, text) in
            [(0_u64, "0"), (1000, "1000"), (1024, "1KiB"), (3 << 20, "3MiB"), (2 << 30, "2GiB")]
        {
            assert_eq!(octets.show(&bytes), text);
            assert_eq!(octets.parse(text), Ok(bytes));
        }
        assert_eq!(octets.parse("1 kib"), Ok(1024_u64));
        for bad in ["", "KiB", "1.5MiB", "-1", "1KB", "99999999999999999999", "18446744073709551615GiB"] {
            assert!(Syntax::<u64>::parse(&octets, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_and_numbers_are_read_whole_or_not_at_all() {
        for (text, shown) in
            [("", ""), ("10.0.0.0/8 , ::1", "10.0.0.0/8,::1/128"), ("127.0.0.1", "127.0.0.1/32")]
        {
            assert_eq!(Networks.show(&Networks.parse(text).unwrap()), shown);
        }
        for bad in ["localhost", "10.0.0.0/33", "10.0.0.0/8,", "::1/129"] {
            assert!(Networks.parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Numbers.parse("0, 33"), Ok(vec![0, 33]));
        assert!(Numbers.parse("").unwrap().is_empty());
        for bad in ["root", "1,,2", "-1", "4294967296"] {
            assert!(Numbers.parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_written_in_their_largest_whole_unit() {
        for (ms, text) in [(0, "0"), (1500, "1500ms"), (10_000, "10s"), (120_000, "2m"), (3_600_000, "1h")] {
            assert_eq!(Time.show(&Duration::from_millis(ms)), text);
            assert_eq!(Time.parse(text), Ok(Duration::from_millis(ms)));
        }
        for bad in ["", "10", "s", "1d", "-1s", "1.5s", "9000h"] {
            assert!(Time.parse(bad).is_err(), "{bad}");
        }
        assert!(Time.parse("8760h").is_ok());
        assert!(Time.parse(&Time.show(&Duration::MAX)).is_err());
    }
}
