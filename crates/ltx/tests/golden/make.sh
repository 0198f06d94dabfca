#!/bin/sh
# Makes the golden files of this folder anew: ./make.sh PATH_OF_LITESTREAM_0.5.17 PATH_OF_LITESTREAM_0.5.5
# Needs the sqlite3 command. Takes about half a minute.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Folder, page size, rows, program.
make() {
    folder=$1 size=$2 rows=$3 litestream=$4
    db=$work/$folder.db
    fill="INSERT INTO t(text) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n
          WHERE i < $rows) SELECT hex(randomblob($size / 50)) || printf('%0${size}d', i) FROM n;"
    sqlite3 "$db" "PRAGMA page_size=$size; PRAGMA auto_vacuum=FULL; PRAGMA journal_mode=WAL;
        CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT);" >/dev/null
    cat >"$work/litestream.yml" <<YML
levels:
  - interval: 2s
  - interval: 6s
snapshot:
  interval: 6s
dbs:
  - path: $db
    monitor-interval: 50ms
    replica:
      path: $work/replica-$folder
      sync-interval: 50ms
YML
    "$litestream" replicate -config "$work/litestream.yml" >"$work/log" 2>&1 &
    pid=$!
    sleep 1
    sqlite3 "$db" "$fill"; sleep 0.5
    sqlite3 "$db" "UPDATE t SET text = text || 'x' WHERE id % 2 = 0;"; sleep 2.5
    sqlite3 "$db" "$fill"; sleep 0.5
    # The shrink: auto_vacuum gives the pages of the deleted rows back.
    sqlite3 "$db" "DELETE FROM t WHERE id > 3;"; sleep 3
    sqlite3 "$db" "INSERT INTO t(text) VALUES ('last');"; sleep 0.5
    kill -INT "$pid"; wait "$pid" || true

    rm -rf "${here:?}/$folder"
    mkdir "$here/$folder"
    cp -r "$work/replica-$folder/ltx" "$here/$folder/"
    "$litestream" restore -o "$here/$folder/restored.db" "file://$work/replica-$folder" 2>/dev/null
}

make 512 512 40 "$1"
make 4096 4096 16 "$1"
make 65536 65536 5 "$1"
# Up to 0.5.5 Litestream wrote pages as LZ4 frames without a size.
make frames512 512 40 "$2"
make frames65536 65536 5 "$2"
