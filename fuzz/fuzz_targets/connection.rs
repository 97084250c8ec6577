//! Any bytes from a peer, with limits and the caller's own moves among them: requests are finished at any
//! time, in any order, also those that are over.
//!
//! Input: a byte for the limits, then steps of a length byte and as many bytes from the peer; a length of 0
//! is a move of the caller, whose next byte says which request it finishes.
#![no_main]

use std::collections::HashMap;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use ringway::proto::{Connection, Event, Limits, ProtocolStatus, RequestKey, Role};

fuzz_target!(|bytes: &[u8]| {
    let Some((limit, mut rest)) = bytes.split_first() else { return };
    let limits = Limits {
        params_bytes_max: 16 * u32::from(limit >> 4),
        requests_max: u16::from(limit & 0x0f),
        management_bytes_max: u32::from(*limit),
        ..Limits::default()
    };
    let mut connection = Connection::<u64>::new(Arc::new(limits.clone()));
    let (mut keys, mut params_bytes) = (Vec::new(), HashMap::new());
    while let Some((length, after)) = rest.split_first() {
        let (step, after) = after.split_at(after.len().min(usize::from(*length).max(1)));
        rest = after;
        if *length == 0 {
            finish(&mut connection, &keys, step.first().copied().unwrap_or(0));
            continue;
        }
        let (mut input, mut reply) = (step, Vec::new());
        while let Ok(Some(event)) = connection.handle_input(&mut input, &mut reply) {
            match event {
                Event::Begun { request, id, role, .. } => {
                    assert_eq!((connection.id(request), connection.role(request)), (Some(id), Some(role)));
                    assert_eq!(connection.get(request), Some(&0));
                    keys.push(request);
                }
                Event::Params { request, bytes } => {
                    let gathered = params_bytes.entry(request).or_insert(0);
                    *gathered += bytes.len();
                    assert!(!bytes.is_empty() && *gathered <= limits.params_bytes_max as usize);
                }
                Event::Stdin { request, bytes } => {
                    assert!(!bytes.is_empty() && connection.role(request) != Some(Role::Authorizer));
                }
                Event::Data { request, bytes } => {
                    assert!(!bytes.is_empty() && connection.role(request) == Some(Role::Filter));
                }
                Event::ParamsEnded { request }
                | Event::StdinEnded { request }
                | Event::DataEnded { request }
                | Event::Aborted { request }
                | Event::Failed { request, .. } => assert!(connection.get(request).is_some()),
                Event::Refused { .. } => {}
            }
        }
        assert!(input.is_empty() && connection.active() <= usize::from(limits.requests_max));
        assert!(connection.incomplete().count() <= connection.active());
        assert_eq!(connection.requests().count(), connection.active());
    }
});

fn finish(connection: &mut Connection<u64>, keys: &[RequestKey], place: u8) {
    let Some(request) = keys.get(usize::from(place) % keys.len().max(1)) else { return };
    let (was_active, mut out) = (connection.get(*request).is_some(), Vec::new());
    let ended = connection.finish(*request, 0, ProtocolStatus::RequestComplete, &mut out);
    assert_eq!((ended.is_some(), out.len()), (was_active, if was_active { 16 } else { 0 }));
    assert!(connection.get(*request).is_none());
}
