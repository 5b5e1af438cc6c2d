//! Programs that make, copy, pack and walk trees.

use std::os::unix::fs::MetadataExt;

use tetherfs::bucket::Operation;

use tempfile::TempDir;

use crate::programs::{Contents, Twins};

/// A small tree of files, directories and links.
const MAKE_TREE: &str = r#"
mkdir -p tree/a/b tree/empty
for n in $(seq 30); do seq $n $((n * 50)) > tree/a/f$n; done
head -c 300000 /dev/zero | tr '\0' 'x' > "tree/a/b/large with blanks"
printf '#!/bin/sh\necho ran\n' > tree/run.sh; chmod 755 tree/run.sh; chmod 600 tree/a/f1
find tree -type f -exec touch -d '2021-02-03 04:05:06Z' {} +
touch -d '2020-05-06 07:08:09.123456789Z' tree/a/f2
ln -s a/f3 tree/link
"#;

#[test]
fn tar_keeps_content_modes_and_times() {
    tar(&mut Twins::new(&[]));
}

pub fn tar(twins: &mut Twins<impl Contents>) {
    twins.run(&format!(
        "{MAKE_TREE} tar c --format=posix tree > packed.tar; rm -r tree; tar x < packed.tar; rm packed.tar"
    ));
    twins.run("stat -c '%n %s %a %Y %F' tree/run.sh tree/a/f1 tree/a/f2; find tree | sort; tree/run.sh");
    twins.compare();
    twins.run("stat -c '%n %s %a %Y %F' tree/run.sh tree/a/f1 tree/a/f2; tree/run.sh");
    let changed = std::fs::metadata(twins.rig.path("tree/a/f2")).unwrap();
    assert_eq!((changed.mtime(), changed.mtime_nsec()), (1_588_748_889, 123_456_789));
}

#[test]
fn a_second_rsync_sends_nothing() {
    let mut twins = Twins::new(&[]);
    let (source, rsync) = rsync_twice(&mut twins);
    twins.rig.bucket.requests().reset();
    twins.run(&rsync);
    for operation in
        [Operation::PutObject, Operation::CopyObject, Operation::UploadPart, Operation::DeleteObject]
    {
        assert_eq!(twins.rig.bucket.requests().count(operation).requests, 0, "{operation:?}");
    }
    // One file that has changed is one that is sent.
    super::run_in(source.path(), "echo more >> tree/a/f7");
    twins.run(&rsync);
    twins.compare();
}

/// Its second run has nothing to say. Returns where it syncs from, and how.
pub fn rsync_twice(twins: &mut Twins<impl Contents>) -> (TempDir, String) {
    let source = tempfile::tempdir().unwrap();
    super::run_in(source.path(), MAKE_TREE);
    let rsync = format!("rsync -a --itemize-changes {}/tree/ synced/", source.path().display());
    twins.run(&format!("{rsync} > /dev/null"));
    twins.compare();
    assert_eq!(twins.mounted(&rsync).stdout, b"");
    (source, rsync)
}

#[test]
fn cp_a_copies_a_tree_and_diff_finds_no_difference() {
    cp_a(&mut Twins::new(&[]));
}

pub fn cp_a(twins: &mut Twins<impl Contents>) {
    twins.run(&format!("{MAKE_TREE} cp -a tree copy; diff -r tree copy; stat -c '%n %a %Y' copy/a/f1 copy/a/f2 copy/run.sh | sort"));
    twins.compare();
}

#[test]
fn zip_packs_and_unpacks() {
    let mut twins = Twins::new(&[]);
    twins.run(&format!(
        "{MAKE_TREE} python3 -m zipfile -c packed.zip tree/a; python3 -m zipfile -t packed.zip; \
         python3 -m zipfile -e packed.zip out; diff -r tree/a out/a; rm packed.zip"
    ));
    twins.compare();
}

#[test]
fn make_builds_a_project() {
    make(&mut Twins::new(&["--commit=background"]));
}

pub fn make(twins: &mut Twins<impl Contents>) {
    twins.run(
        r#"mkdir src; cd src
for n in 1 2 3 4 5; do echo "int f$n(void) { return $n; }" > f$n.c; done
cat > main.c <<'C'
#include <stdio.h>
int f1(void), f2(void), f3(void), f4(void), f5(void);
int main(void) { printf("%d\n", f1() + f2() + f3() + f4() + f5()); return 0; }
C
printf 'OBJ = main.o f1.o f2.o f3.o f4.o f5.o\nprog: $(OBJ)\n\tgcc -Wl,--build-id=none -o $@ $(OBJ)\n%%.o: %%.c\n\tgcc -c -o $@ $<\n' > Makefile
make -j2 > log 2>&1; ./prog; make -q; echo 'int f3(void) { return 30; }' > f3.c; touch -d '+2 seconds' f3.c; make > log2 2>&1; ./prog; grep -c gcc log2; rm log log2"#,
    );
    twins.compare();
}

#[test]
fn two_thousand_small_files_are_made_found_counted_and_removed() {
    let mut twins = Twins::new(&["--commit=background"]);
    twins.run(
        r#"python3 - <<'P'
import os
for d in range(20):
    os.mkdir(f"d{d}")
    for n in range(100):
        with open(f"d{d}/f{n}", "w") as f: f.write(f"{d} {n}\n" * (n + 1))
P
find . -type f | wc -l; find . -name 'f7*' | sort; du -s --apparent-size -b d3/f7; ls d5 | wc -l; grep -rl '^7 50$' . "#,
    );
    twins.compare();
    twins.run("rm -r d1*; ls; find . -type f | wc -l");
    twins.compare();
}
