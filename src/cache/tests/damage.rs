//! Bytes on disk that are not what was written.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::cache::files::seal::{Judgement, Seal, Verdict};
use crate::cache::files::{Opened, Pair};
use crate::cache::tests::{
    CHUNK, SEAL_BYTES, check, check_absent, content, files, object, open, put, wait_until_closed,
};
use crate::cache::{CachedObject, ChunkCache, Judged};
use crate::observe::{Counter, Gauge};
use crate::types::{ByteRange, Crc64, ObjectId};

#[test]
fn a_flipped_byte_anywhere_is_a_miss_and_heals() {
    let home = TempDir::new().unwrap();
    let id = object("a", 3 * CHUNK + 17);
    let whole = ByteRange::new(0, id.size);
    {
        let (cache, _) = open(home.path());
        put(&cache.object(&id), &id, whole);
    }
    let (data, map) = (files(home.path(), ".data").remove(0), files(home.path(), ".map").remove(0));
    // Of the header's filling every seventh byte, of all else each.
    let map_bytes = fs::metadata(&map).unwrap().len();
    let at_map = (0..map_bytes).filter(|at| !(100..500).contains(at) || at % 7 == 0);
    let mut places: Vec<(&Path, u64)> = at_map.map(|at| (map.as_path(), at)).collect();
    places.extend((0..id.size).step_by(97).map(|at| (data.as_path(), at)));
    places.push((data.as_path(), id.size - 1));
    for (path, at) in places {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        let (cache, metrics) = open(home.path());
        let cached = cache.object(&id);
        if path == map && at >= map_bytes - SEAL_BYTES {
            // Nothing is there that vouches for a byte.
            check(&cached, &id, whole);
            continue;
        }
        check_absent(&cached, whole);
        assert!(!cached.present().contains(whole));
        // What is still there is right, and putting the rest again makes it whole.
        for chunk in cached.present().iter().collect::<Vec<_>>() {
            check(&cached, &id, chunk);
        }
        put(&cached, &id, whole);
        check(&cached, &id, whole);
        assert_eq!(metrics.count(Counter::CacheDamaged), u64::from(path == data));
    }
}

#[test]
fn a_cut_or_missing_file_is_an_empty_cache() {
    let home = TempDir::new().unwrap();
    let id = object("a", 3 * CHUNK);
    let whole = ByteRange::new(0, id.size);
    for (suffix, len) in [(".data", 0), (".data", CHUNK + 1), (".map", 0), (".map", 100), (".map", 513)] {
        {
            let (cache, _) = open(home.path());
            put(&cache.object(&id), &id, whole);
        }
        File::options().write(true).open(&files(home.path(), suffix)[0]).unwrap().set_len(len).unwrap();
        let (cache, _) = open(home.path());
        assert!(cache.object(&id).present().is_empty(), "{suffix} of {len}");
    }
    for suffix in [".data", ".map"] {
        {
            let (cache, _) = open(home.path());
            put(&cache.object(&id), &id, whole);
        }
        fs::remove_file(&files(home.path(), suffix)[0]).unwrap();
        let shard = files(home.path(), "").into_iter().find(|path| !path.ends_with("lease")).unwrap();
        fs::write(shard.with_file_name("foreign"), b"x").unwrap();
        let (cache, metrics) = open(home.path());
        assert_eq!(
            files(home.path(), ".map").len() + files(home.path(), ".data").len(),
            0,
            "leftovers are removed"
        );
        assert_eq!(metrics.level(Gauge::CacheBytes), 0);
        assert!(cache.object(&id).present().is_empty());
    }
}

#[test]
fn data_without_a_slot_are_given_back() {
    let home = TempDir::new().unwrap();
    let id = object("a", 64 * CHUNK);
    {
        let (cache, _) = open(home.path());
        put(&cache.object(&id), &id, ByteRange::new(0, CHUNK));
    }
    let data = files(home.path(), ".data").remove(0);
    File::options()
        .write(true)
        .open(&data)
        .unwrap()
        .write_all_at(&[1; 40 * CHUNK as usize], 8 * CHUNK)
        .unwrap();
    let (cache, metrics) = open(home.path());
    assert!(metrics.level(Gauge::CacheBytes) >= 41 * CHUNK, "until it is looked into, all of it counts");
    let cached = cache.object(&id);
    check(&cached, &id, ByteRange::new(0, CHUNK));
    assert!(fs::metadata(&data).unwrap().blocks() * 512 <= 2 * CHUNK);
    assert!(metrics.level(Gauge::CacheBytes) <= 4 * CHUNK);
}

fn whole_range(id: &ObjectId) -> ByteRange {
    ByteRange::new(0, id.size)
}

fn crc(id: &ObjectId) -> Crc64 {
    Crc64::of(&content(id, whole_range(id)))
}

/// Makes an object whole and sealed, whatever there is of it.
#[track_caller]
fn heal(cache: &Arc<ChunkCache>, id: &ObjectId) -> Arc<CachedObject> {
    let cached = cache.object(id);
    put(&cached, id, whole_range(id));
    check(&cached, id, whole_range(id));
    assert_ne!(cached.judge(Some(crc(id))), Judged::Different);
    cached.prove_rest();
    assert!(cached.whole().is_some());
    cached
}

/// Every byte that is given must be right.
#[track_caller]
fn check_whatever_is_here(cache: &Arc<ChunkCache>, id: &ObjectId, what: &dyn Fn() -> String) -> bool {
    let cached = cache.object(id);
    if let Some(whole) = cached.whole() {
        let mut bytes = vec![0; id.size as usize];
        let file = File::from(std::os::fd::AsFd::as_fd(&whole).try_clone_to_owned().unwrap());
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == content(id, whole_range(id)), "{}", what());
    }
    let mut all = true;
    for range in
        [ByteRange::new(0, 10), ByteRange::new(0, CHUNK), ByteRange::new(CHUNK, id.size), whole_range(id)]
    {
        let mut out = Vec::new();
        let found = cached.read(range, &mut out);
        assert!(!found || out == content(id, range), "{}", what());
        all &= found;
    }
    all
}

#[test]
fn any_flipped_bit_of_a_sealed_map_and_any_flipped_byte_of_its_data_do_no_harm_and_heal() {
    let home = TempDir::new().unwrap();
    let id = object("a", CHUNK + 100);
    let (cache, metrics) = open(home.path());
    drop(heal(&cache, &id));
    let (data, map) = (files(home.path(), ".data").remove(0), files(home.path(), ".map").remove(0));
    let map_bits = (0..fs::metadata(&map).unwrap().len() * 8).map(|at| (&map, at / 8, 1 << (at % 8)));
    let data_bytes = (0..id.size).map(|at| (&data, at, 1u8 << (at % 8)));
    let (mut misses, mut turns) = (0, 0);
    for (path, at, flip) in map_bits.chain(data_bytes) {
        wait_until_closed(&cache);
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ flip], at).unwrap();
        let here = check_whatever_is_here(&cache, &id, &|| format!("byte {at} of {}", path.display()));
        assert!(!here || path == &map, "byte {at} of the data is not noticed");
        misses += u64::from(!here);
        turns += 1;
        drop(heal(&cache, &id));
    }
    // Header and both slots, each bit, and the data; what is behind the slots vouches for no byte.
    assert_eq!(misses, (512 + 2 * 16) * 8 + id.size);
    assert!(turns > misses && metrics.count(Counter::CacheDamaged) >= id.size);
}

/// The map of an object in its stages: nothing, one chunk, both, sealed; and the healthy data file.
fn stages(home: &Path, id: &ObjectId) -> (Vec<Vec<u8>>, PathBuf, PathBuf) {
    let (cache, _) = open(home);
    let cached = cache.object(id);
    put(&cached, id, ByteRange::new(0, CHUNK));
    let (data, map) = (files(home, ".data").remove(0), files(home, ".map").remove(0));
    let mut stages = vec![fs::read(&map).unwrap()];
    put(&cached, id, whole_range(id));
    stages.push(fs::read(&map).unwrap());
    assert_eq!(cached.judge(Some(crc(id))), Judged::Same);
    stages.push(fs::read(&map).unwrap());
    (stages, data, map)
}

#[test]
fn a_write_to_the_map_torn_at_any_byte_is_a_miss_and_never_a_wrong_hit() {
    let home = TempDir::new().unwrap();
    let id = object("a", CHUNK + 100);
    let (stages, data, map) = stages(home.path(), &id);
    assert!(stages.iter().all(|stage| stage.len() == stages[0].len()));
    let (cache, _) = open(home.path());
    // The seal first: it holds only for a chunk file that has not been touched.
    for pair in stages.windows(2).rev() {
        let (before, after) = (&pair[0], &pair[1]);
        let differs: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
        let (first, last) = (differs[0], *differs.last().unwrap());
        for torn in first..=last + 1 {
            let mut bytes = before.clone();
            bytes[first..torn].copy_from_slice(&after[first..torn]);
            let is_written = torn > last;
            let was_whole = before == &stages[1];
            wait_until_closed(&cache);
            fs::write(&map, &bytes).unwrap();
            if !was_whole {
                fs::write(&data, content(&id, whole_range(&id))).unwrap();
            }
            let cached = cache.object(&id);
            assert_eq!(
                cached.present().contains(whole_range(&id)),
                is_written || was_whole,
                "torn at {torn}"
            );
            assert_eq!(cached.whole().is_some(), is_written && was_whole, "torn at {torn}");
            check(&cached, &id, ByteRange::new(0, CHUNK));
            if is_written || was_whole {
                check(&cached, &id, whole_range(&id));
            } else {
                check_absent(&cached, ByteRange::new(CHUNK, id.size));
            }
        }
    }
}

#[test]
fn a_map_cut_at_any_byte_is_an_empty_cache() {
    let home = TempDir::new().unwrap();
    let id = object("a", CHUNK + 100);
    let (cache, _) = open(home.path());
    drop(heal(&cache, &id));
    let map = files(home.path(), ".map").remove(0);
    let len = fs::metadata(&map).unwrap().len();
    for cut in 0..len {
        wait_until_closed(&cache);
        File::options().write(true).open(&map).unwrap().set_len(cut).unwrap();
        let cached = cache.object(&id);
        assert!(cached.present().is_empty() && cached.whole().is_none(), "cut at {cut}");
        drop(cached);
        drop(heal(&cache, &id));
    }
}

#[test]
fn a_seal_that_does_not_fit_its_chunks_is_none() {
    let home = TempDir::new().unwrap();
    let id = object("a", CHUNK + 100);
    let (cache, _) = open(home.path());
    let cached = cache.object(&id);
    put(&cached, &id, whole_range(&id));
    let Ok(Opened::Pair(pair)) = Pair::open(&cache.disk().unwrap().directory, cached.name()) else {
        panic!("it is there");
    };
    drop(cached);
    let judgement = Judgement { crc: Crc64(1), verdict: Verdict::Same };
    pair.write_seal(&Seal { judgement, proof: None }).unwrap();
    let cached = cache.object(&id);
    check(&cached, &id, whole_range(&id));
    assert!(cached.whole().is_none(), "what was judged is not what is here");
    assert_eq!(cached.judge(Some(crc(&id))), Judged::Same);
    assert!(cached.whole().is_some());
}

/// The map of format 2 of a small object, byte for byte, made without this program.
fn fixture_map() -> Vec<u8> {
    let hex = |text: &str| {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect::<Vec<u8>>()
    };
    let fixed =
        "746574686d61700a0200000000020000031000000000000000100000000000000d0000000b0000000200000000000000";
    let slots = "8611069b5edd4c9d484552455823d3a5dc866ee8592604a14845524564f54dc3";
    let seal = [
        "a3cee8893627b7475345414c01000000",
        "00000000000000000000000000000000",
        "00000000000000000000000000000000",
        "0000000000000000325fc8a76bbfc20b",
    ];
    let mut map = hex(fixed);
    map.extend_from_slice(b"memory://testdir/fixturev1");
    map.resize(504, 0);
    map.extend(hex("9a91ecbb058fbc4b"));
    map.extend(hex(slots));
    map.resize(576, 0);
    map.extend(hex(&seal.concat()));
    map
}

#[test]
fn format_2_is_read_and_written_as_it_always_was() {
    let home = TempDir::new().unwrap();
    let id = object("dir/fixture", CHUNK + 3);
    let bytes: Vec<u8> = (0..id.size).map(|at| (at % 251) as u8).collect();
    let folder = home.path().join("505bae6f48bf2ea2d80ad701f0c7c96d/da");
    let name = "9b5e37acef048f57e2b68754d4513bfa7e93b1f3470a230ef5db7904be8406";
    let (data, map) = (folder.join(format!("{name}.data")), folder.join(format!("{name}.map")));
    fs::create_dir_all(&folder).unwrap();
    fs::write(&data, &bytes).unwrap();
    fs::write(&map, fixture_map()).unwrap();
    {
        let (cache, _) = open(home.path());
        let cached = cache.object(&id);
        let mut out = Vec::new();
        assert!(cached.read(whole_range(&id), &mut out) && out == bytes);
        assert_eq!(cached.judge(Some(Crc64(0))), Judged::Same, "it has been compared");
        assert_eq!(cached.whole_crc(), Some(Crc64(0x47b7_2736_89e8_cea3)));
        assert!(cached.whole().is_some());
        cache.purge();
        assert!(!map.exists() && !data.exists());
        cached.put(0, &bytes);
    }
    assert_eq!(fs::read(&data).unwrap(), bytes);
    let mut unsealed = fixture_map();
    unsealed[576..].fill(0);
    assert!(fs::read(&map).unwrap() == unsealed);
}

#[test]
fn files_of_another_format_are_removed() {
    let home = TempDir::new().unwrap();
    let id = object("a", CHUNK);
    {
        let (cache, _) = open(home.path());
        put(&cache.object(&id), &id, whole_range(&id));
    }
    let map = files(home.path(), ".map").remove(0);
    let mut bytes = fs::read(&map).unwrap();
    bytes[8] = 1;
    let checksum = Crc64::of(&bytes[..504]);
    bytes[504..512].copy_from_slice(&checksum.0.to_le_bytes());
    fs::write(&map, bytes).unwrap();
    let (cache, _) = open(home.path());
    assert!(cache.object(&id).present().is_empty());
    assert!(files(home.path(), ".map").is_empty() && files(home.path(), ".data").is_empty());
    drop(heal(&cache, &id));
}
