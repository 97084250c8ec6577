//! Any bytes as PARAMS: parsed and looked up as the simplest reader would, encoded again to the same pairs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::proto::params::{encode_pair, take_pair};
use ringway::proto::{ErrorKind, Limits, Params, WellKnown};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { params_pairs_max: 100, params_bytes_max: 1_000, ..Limits::default() };
    let (mut rest, mut pairs) = (bytes, Vec::new());
    while let Some(pair) = take_pair(&mut rest) {
        pairs.push(pair);
    }
    let nul = pairs.iter().any(|(name, value)| name.contains(&0) || value.contains(&0));
    let params = match Params::parse(bytes, &limits) {
        Ok(params) => params,
        Err((error, _)) => {
            return match error.kind {
                ErrorKind::ParamsTooLong(_) => assert!(bytes.len() > 1_000),
                ErrorKind::ParamsTooMany(_) => assert!(pairs.len() > 100),
                ErrorKind::ParamsTruncated(_) => assert!(!rest.is_empty()),
                ErrorKind::ParamsNul(_) => assert!(nul),
                other => panic!("{other:?}"),
            };
        }
    };
    assert!(
        rest.is_empty() && !nul && params.iter().eq(pairs.iter().copied()) && params.len() == pairs.len()
    );
    let names = pairs.iter().map(|(name, _)| *name);
    for name in names.chain(WellKnown::ALL.iter().map(|known| known.name().as_bytes())) {
        let last = pairs.iter().rfind(|(other, _)| *other == name).map(|(_, value)| *value);
        assert_eq!(params.get(name), last);
    }
    let mut again = Vec::new();
    pairs.iter().for_each(|(name, value)| encode_pair(&mut again, name, value));
    assert!(again.len() <= bytes.len());
    assert!(Params::parse(&again[..], &limits).is_ok_and(|params| params.iter().eq(pairs)));
});
