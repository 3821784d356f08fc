// Package edgestore owns the edge's disk: its identity, the releases it can start from, and what it was told about tokens
// and secrets.
//
// Everything in config.db can be fetched from a hub again, but a hub may not be there: of a damaged one that is set aside,
// what can still be read and verified is kept. A disk that fails is reported to the caller, who goes on serving from memory.
package edgestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"modernc.org/sqlite"

	"gw/rpc/identity"
)

var (
	// ErrNone means that nothing was saved yet.
	ErrNone = errors.New("nothing saved")
	// ErrCorrupt means that what was saved can't be trusted: its bytes don't have the digests they were saved under, or
	// the file is damaged.
	ErrCorrupt = errors.New("damaged on disk")
	// ErrLocked means that another process uses the directory.
	ErrLocked = errors.New("in use by another process")
	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("store is closed")
)

// Store is an edge's data directory. Its methods may be called from any goroutine; those with a context block on the
// disk. Errors of the disk are returned and leave the store usable.
type Store struct {
	dir      string
	lock     *os.File
	sealer   *identity.Sealer
	now      func() time.Time
	setAside string // "" or the path of the damaged file found at Open
	found    []string

	mu sync.Mutex // serialises use of db, so that a damaged file can be replaced between two uses
	db *sql.DB    // nil once closed
	// unready: the file that took a damaged one's place could not be opened yet, so db is none to use.
	unready bool

	tokens tokenQueue
	keep   keeper
}

// Open takes the directory, making it (0700) and its files as needed. Nobody else can open it until Close. A config.db
// that is damaged is renamed, and a new one with what could still be read takes its place; SetAside and Found tell. The
// caller closes the store.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir) // SQLite's file: URIs take no relative paths
	if err != nil {
		return nil, fmt.Errorf("open edge store: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open edge store: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open edge store %s: %w", dir, err)
	}
	s := &Store{dir: dir, lock: lock, now: time.Now}
	unsaved, err := s.open()
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("open edge store %s: %w", dir, err)
	}
	s.tokens.start(s)
	s.keep.start()
	if err := s.restore(unsaved); err != nil {
		s.found = append(s.found, "what could be read of the damaged config.db is not all saved: "+err.Error())
	}
	return s, nil
}

// open opens the files. What it returns could be read of a damaged config.db, and the disk has no room for all of it now.
func (s *Store) open() (unsaved salvage, err error) {
	sweep(s.dir)
	key, keyDamaged, err := loadKey(filepath.Join(s.dir, "edge.key"), s.now())
	if err != nil {
		return unsaved, err
	}
	if keyDamaged != "" {
		s.found = append(s.found, keyDamaged)
	}
	if s.sealer, err = identity.NewSealer(key); err != nil {
		return unsaved, err
	}
	if err := finishReplacement(s.path(), s.now()); err != nil {
		return unsaved, err
	}
	if s.db, err = openDB(s.path()); err == nil {
		return unsaved, nil
	}
	if !damaged(err) {
		return unsaved, err
	}
	var found salvage
	if !errors.Is(err, errFormat) {
		found = s.salvageFrom(s.path())
	}
	aside := asideName(s.path(), s.now())
	if replaceDB(s.path(), aside, schema, func(tx *sql.Tx) error { return s.fill(tx, found) }) != nil {
		unsaved = found
		if err := replaceDB(s.path(), aside, schema, nil); err != nil {
			return unsaved, err
		}
	}
	s.setAside = aside
	s.found = append(s.found, fmt.Sprintf("config.db was damaged: it was set aside as %s; %v", filepath.Base(s.setAside), found))
	s.db, err = openDB(s.path())
	return unsaved, err
}

// Found says what was found damaged at Open, one sentence for each; none is usual.
func (s *Store) Found() []string { return s.found }

// SetAside returns where the last damaged config.db was moved to, at Open or later, or "" if none was found.
func (s *Store) SetAside() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setAside
}

// Close writes what is still queued and gives the directory free. It returns the first error of either.
func (s *Store) Close() error {
	s.keep.stop()
	s.keep.saveAgain(context.Background()) // the last chance of what the disk refused; Fault told of it
	flushed := s.tokens.stop(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return ErrClosed
	}
	err := s.db.Close()
	s.db = nil
	return errors.Join(flushed, err, s.lock.Close())
}

func (s *Store) path() string { return filepath.Join(s.dir, "config.db") }

// schema has one table per noun; every record is a protobuf message.
const schema = `
CREATE TABLE IF NOT EXISTS releases (generation INTEGER PRIMARY KEY AUTOINCREMENT, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS blobs (digest BLOB PRIMARY KEY NOT NULL, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (hash BLOB PRIMARY KEY NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS access (id INTEGER PRIMARY KEY CHECK (id = 1), record BLOB NOT NULL);
`

// formatVersion is the schema's, in SQLite's user_version. A file of another format is one that can't be read.
const formatVersion = 2

var errFormat = errors.New("the file has another format")

// openDB opens the file and reads enough of it to know that it is whole.
//
// synchronous=NORMAL: a power cut may lose the last transactions, never part of one, and kill -9 loses none. What is
// lost is asked for again.
func openDB(path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsnOf(path))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	if err := prepare(db, schema); err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

func dsnOf(path string) string {
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: "_journal_mode=WAL&_synchronous=NORMAL&_busy_timeout=5000&_txlock=immediate"}
	return dsn.String()
}

func prepare(db *sql.DB, schema string) error {
	var version, tables int
	if err := db.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if err := db.QueryRow("SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	if tables > 0 && version != formatVersion {
		return errFormat
	}
	var verdict string
	if err := db.QueryRow("PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", ErrCorrupt, verdict)
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.Exec(schema + fmt.Sprintf("PRAGMA user_version = %d;", formatVersion)); err != nil {
		return err
	}
	return tx.Commit()
}

// SQLite's result codes for a file it can't make sense of.
const (
	codeCorrupt = 11
	codeNotADB  = 26
)

// damaged reports whether err says that the file itself is at fault, rather than the disk or the caller.
func damaged(err error) bool {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()&0xff == codeCorrupt || e.Code()&0xff == codeNotADB
	}
	return errors.Is(err, ErrCorrupt) || errors.Is(err, errFormat)
}

// write runs f in one transaction. If the file turns out to be damaged it is set aside and f runs once more on an empty
// one: what an edge knows now is worth more than what it can fetch again. What else was saved is saved again by keep.
func (s *Store) write(ctx context.Context, f func(*sql.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return ErrClosed
	}
	err := s.reopen()
	if err == nil {
		err = transact(ctx, s.db, f)
	}
	if err == nil || !damaged(err) {
		return err
	}
	if replaceErr := s.replace(); replaceErr != nil {
		return errors.Join(err, replaceErr)
	}
	return transact(ctx, s.db, f)
}

// reopen opens the file if that failed when it was replaced. s.mu is held.
func (s *Store) reopen() error {
	if !s.unready {
		return nil
	}
	if err := finishReplacement(s.path(), s.now()); err != nil {
		return err
	}
	db, err := openDB(s.path())
	if err != nil {
		return err
	}
	s.db.Close()
	s.db, s.unready = db, false
	return nil
}

// replace sets the damaged file aside and opens an empty one. After an error the store stays usable: the next write tries
// to open it again. s.mu is held.
func (s *Store) replace() error {
	s.db.Close()
	s.unready = true
	aside := asideName(s.path(), s.now())
	if err := replaceDB(s.path(), aside, schema, nil); err != nil {
		return err
	}
	s.setAside = aside
	s.keep.lost(aside)
	return s.reopen()
}

func transact(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// read runs f while nothing is written; a damaged file is an ErrCorrupt.
func (s *Store) read(f func(*sql.DB) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return ErrClosed
	}
	if err := s.reopen(); err != nil {
		return err
	}
	err := f(s.db)
	if err != nil && damaged(err) && !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}
