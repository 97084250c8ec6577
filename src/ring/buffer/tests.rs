use super::*;

fn pool(buffers_max: u16) -> Pool {
    Pool::new(&PoolConfig { buffer_bytes: 4096, ring_buffers: 2, buffers_max }).unwrap()
}

fn filled(pool: &Pool, bytes: &[u8]) -> Chunk {
    let mut lent = pool.lend().unwrap();
    lent.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    lent.fill(bytes.len())
}

#[test]
fn a_buffer_comes_back_with_its_last_view() {
    let pool = pool(2);
    let chunk = filled(&pool, b"hello world");
    let (clone, part) = (chunk.clone(), chunk.slice_ref(&chunk[6..]));
    assert!(part.is_pooled());
    assert_eq!(pool.free(), 1);
    drop(chunk);
    drop(clone);
    assert_eq!(pool.free(), 1);
    assert_eq!(&part[..], b"world");
    drop(part);
    assert_eq!(pool.free(), 2);
}

#[test]
fn the_buffer_given_back_last_is_lent_next() {
    let pool = pool(8);
    let (first, second) = (pool.lend().unwrap(), pool.lend().unwrap());
    let (low, high) = (first.address(), second.address());
    assert_eq!(high.addr() - low.addr(), stride(4096));
    drop(second);
    drop(first);
    assert_eq!(pool.lend().unwrap().address(), low);
}

#[test]
fn an_empty_pool_lends_nothing_and_recovers() {
    let pool = pool(2);
    let (a, b) = (filled(&pool, b"a"), filled(&pool, b"b"));
    assert!(pool.lend().is_none());
    assert_eq!((&a[..], &b[..]), (&b"a"[..], &b"b"[..]));
    drop(a);
    assert!(pool.lend().is_some());
}

#[test]
fn scarce_begins_below_a_quarter() {
    let pool = pool(8);
    let mut kept: Vec<Chunk> = (0..6).map(|_| filled(&pool, b"x")).collect();
    assert!(!pool.is_scarce());
    kept.push(filled(&pool, b"x"));
    assert!(pool.is_scarce());
    kept.pop();
    assert!(!pool.is_scarce());
}

#[test]
fn splitting_parts_the_bytes_and_shares_the_buffer() {
    let pool = pool(2);
    for mut chunk in [filled(&pool, b"abcdef"), Chunk::copy_from_slice(b"abcdef")] {
        let pooled = chunk.is_pooled();
        let first = chunk.split_to(2);
        assert_eq!((&first[..], &chunk[..]), (&b"ab"[..], &b"cdef"[..]));
        assert_eq!(first.is_pooled(), pooled);
        assert!(chunk.split_to(0).is_empty());
        assert_eq!(&chunk.split_to(4)[..], b"cdef");
        assert!(chunk.is_empty() && !chunk.is_pooled());
    }
    assert_eq!(pool.free(), 2);
}

#[test]
fn an_empty_slice_keeps_no_buffer() {
    let pool = pool(2);
    let chunk = filled(&pool, b"abc");
    let empty = chunk.slice_ref(&chunk[1..1]);
    assert!(!empty.is_pooled());
    assert!(!pool.lend().unwrap().fill(0).is_pooled());
    assert_eq!(pool.free(), 1);
}

#[test]
#[should_panic(expected = "not a part of this chunk")]
fn a_slice_of_something_else_is_refused() {
    let pool = pool(2);
    let (chunk, other) = (filled(&pool, b"abc"), filled(&pool, b"abc"));
    chunk.slice_ref(&other);
}

#[test]
#[should_panic(expected = "not a part of this chunk")]
fn a_slice_beyond_the_end_is_refused() {
    let pool = pool(2);
    let chunk = filled(&pool, b"abcdef");
    chunk.clone().split_to(3).slice_ref(&chunk[2..4]);
}

#[test]
fn chunks_outlive_their_pool() {
    let pool = pool(2);
    let chunk = filled(&pool, b"still here");
    drop(pool);
    let bytes = chunk.into_bytes();
    assert_eq!(&bytes[..], b"still here");
}

#[test]
fn a_number_becomes_the_same_buffer_again() {
    let pool = pool(2);
    let mut lent = pool.lend().unwrap();
    lent.as_mut_slice()[0] = 7;
    let id = lent.into_id();
    assert_eq!(pool.free(), 1);
    // SAFETY: `id` is from `into_id` just now, and nobody else was told its address.
    let chunk = unsafe { pool.reclaim(id) }.fill(1);
    assert_eq!(&chunk[..], [7]);
    drop(chunk);
    assert_eq!(pool.free(), 2);
}

/// Views are cloned, read and dropped by other threads while the owner lends again: no buffer is lost,
/// given out twice, or written to under a reader.
#[test]
fn buffers_come_back_from_other_threads() {
    let rounds = if cfg!(miri) { 30 } else { 20_000 };
    let pool = pool(4);
    let (sender, receiver) = crossbeam::channel::bounded::<(u8, Chunk)>(8);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let receiver = receiver.clone();
            scope.spawn(move || {
                for (value, chunk) in receiver {
                    let clone = chunk.clone();
                    drop(chunk);
                    assert!(clone.iter().all(|byte| *byte == value));
                }
            });
        }
        for round in 0..rounds {
            let value = round as u8;
            let chunk = loop {
                match pool.lend() {
                    Some(mut lent) => {
                        lent.as_mut_slice()[..64].fill(value);
                        break lent.fill(64);
                    }
                    None => std::thread::yield_now(),
                }
            };
            sender.send((value, chunk.clone())).unwrap();
            assert!(chunk.iter().all(|byte| *byte == value));
        }
        drop(sender);
    });
    assert_eq!(pool.free(), 4);
}

#[test]
fn a_buffer_that_comes_back_wakes_the_driver_that_waits_for_it_once() {
    let pool = pool(2);
    let wakes = Arc::new(AtomicU32::new(0));
    pool.set_waker(Waker::new({
        let wakes = Arc::clone(&wakes);
        move || {
            wakes.fetch_add(1, Ordering::Relaxed);
        }
    }));
    assert!(!pool.await_return(), "buffers are free");
    drop((filled(&pool, b"a"), filled(&pool, b"b")));
    assert_eq!(wakes.load(Ordering::Relaxed), 0);

    let (a, b) = (filled(&pool, b"a"), filled(&pool, b"b"));
    assert!(pool.await_return());
    std::thread::spawn(move || drop(a)).join().unwrap();
    drop(b);
    assert_eq!(wakes.load(Ordering::Relaxed), 1);
}

/// The last handle, or the last chunk of several threads: in any order the memory goes once, and with the last.
#[test]
fn the_memory_goes_with_whoever_is_last() {
    for _ in 0..if cfg!(miri) { 20 } else { 2_000 } {
        let (pool, sign) = (pool(2), Arc::new(()));
        let held = Arc::clone(&sign);
        pool.set_waker(Waker::new(move || assert_eq!(*held, ())));
        let (a, b) = (filled(&pool, b"a"), filled(&pool, b"b"));
        assert!(pool.await_return());
        std::thread::scope(|scope| {
            scope.spawn(|| drop(a));
            scope.spawn(|| drop(b));
            drop(pool);
        });
        assert_eq!(Arc::strong_count(&sign), 1);
    }
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    let good = PoolConfig::default();
    for config in [
        PoolConfig { buffer_bytes: 0, ..good },
        PoolConfig { ring_buffers: 12, ..good },
        PoolConfig { ring_buffers: 0, ..good },
        PoolConfig { buffers_max: 8, ..good },
        PoolConfig { buffers_max: FreeStack::CAPACITY_MAX + 1, ..good },
    ] {
        assert_eq!(Pool::new(&config).unwrap_err().errno, libc::EINVAL);
    }
}

#[test]
fn a_part_of_the_only_view_is_the_only_view() {
    let pool = pool(2);
    for whole in [filled(&pool, b"abcdef"), Chunk::copy_from_slice(b"abcdef")] {
        let part = whole.into_part(1..5).into_part(1..3);
        assert_eq!(&part[..], b"cd");
        let is_pooled = part.is_pooled();
        assert_eq!(pool.free(), 2 - usize::from(is_pooled));
        assert!(part.into_part(2..2).is_empty());
        assert_eq!(pool.free(), 2);
    }
}

#[test]
#[should_panic(expected = "not one of this chunk")]
fn a_part_beyond_the_end_is_refused() {
    filled(&pool(2), b"abcdef").into_part(1..5).into_part(1..5);
}

#[test]
fn a_chunk_is_four_words() {
    assert!(size_of::<Chunk>() <= 4 * size_of::<usize>());
}
