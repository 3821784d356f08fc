package edgestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// replacement is the name of a new database until it takes the place of the damaged one at path.
func replacement(path string) string { return path + ".new" }

// replaceDB moves a damaged database and its journals to aside, so that somebody can look at them, and puts a new one with
// what fill (may be nil) writes in its place. The new one is whole and on the disk before the damaged one is touched: a
// process that dies, or a disk that refuses, leaves either the damaged one, to be found damaged again, or what was made for
// finishReplacement. Nobody has either open.
func replaceDB(path, aside, schema string, fill func(*sql.Tx) error) error {
	fresh := replacement(path)
	if err := buildDB(fresh, schema, fill); err != nil {
		return fmt.Errorf("make a new %s: %w", filepath.Base(path), err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set aside damaged %s: %w", path, err)
		}
	}
	return putInPlace(path)
}

// finishReplacement does what replaceDB has left to do, if it was cut short. It comes before a database is opened.
func finishReplacement(path string, now time.Time) error {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, os.ErrNotExist) {
		return removeDB(replacement(path)) // it was not put to use, and may be half made
	}
	if _, err := os.Stat(replacement(path)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// A journal that the damaged one has left would be taken for the new one's.
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Rename(path+suffix, asideName(path, now)+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set aside damaged %s: %w", path, err)
		}
	}
	return putInPlace(path)
}

func putInPlace(path string) error {
	if err := os.Rename(replacement(path), path); err != nil {
		return fmt.Errorf("replace damaged %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// buildDB makes a database that is one file, without a log beside it, and is on the disk.
func buildDB(path, schema string, fill func(*sql.Tx) error) error {
	if err := removeDB(path); err != nil {
		return err
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=journal_mode(DELETE)&_pragma=synchronous(FULL)"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	err = prepare(db, schema)
	if err == nil && fill != nil {
		err = transact(context.Background(), db, fill)
	}
	return errors.Join(err, db.Close())
}

func removeDB(path string) error {
	for _, suffix := range []string{"", "-journal"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func asideName(path string, now time.Time) string {
	return path + ".damaged-" + now.UTC().Format("20060102T150405.000000000")
}
