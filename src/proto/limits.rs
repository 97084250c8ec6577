//! Every bound a peer can press against, with its default and the reason for it.
//!
//! None of them is the specification's. Bounds on what waits in memory for a handler or for the peer (stdin
//! window, output marks) belong to whoever owns that memory, so they are not here.

/// One row per bound: the field, its unit, its default and why.
macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:literal,)+) => {
        /// What one connection may ask of the core.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits { $($(#[$doc])* pub $name: $type,)+ }

        impl Default for Limits {
            fn default() -> Limits {
                Limits { $($name: $default,)+ }
            }
        }
    };
}

limits! {
    /// Bytes of one request's PARAMS, lengths included. The longest head a common web server passes on is
    /// well below 128 KiB; a record cannot say how long its stream becomes, so the bound is checked as
    /// records begin.
    params_bytes_max: u32 = 262_144,
    /// Name-value pairs of one request. Web servers send 20 to 40 and one per request header.
    params_pairs_max: u32 = 1_024,
    /// Requests at once on one connection; 1 refuses multiplexing. HAProxy's own default is at most 100.
    requests_max: u16 = 256,
    /// Bytes of a GET_VALUES that are looked at; names that end behind them are not answered. The three names
    /// there are take 48.
    management_bytes_max: u32 = 4_096,
    /// What GET_VALUES answers for FCGI_MAX_CONNS; whoever accepts connections enforces it.
    connections_max: u32 = 16_384,
    /// What GET_VALUES answers for FCGI_MAX_REQS, unless `requests_max` is less; whoever starts requests enforces it
    /// over all connections.
    requests_total_max: u32 = 8_192,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let limits = Limits::default();
        assert_eq!((limits.params_bytes_max, limits.params_pairs_max), (256 * 1024, 1024));
        assert_eq!((limits.requests_max, limits.management_bytes_max), (256, 4096));
        assert_eq!((limits.connections_max, limits.requests_total_max), (16_384, 8_192));
    }
}
