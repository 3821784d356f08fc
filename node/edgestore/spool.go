package edgestore

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// SpoolConfig says where the spool is and how it works.
type SpoolConfig struct {
	// Dir is the edge's data directory; whoever opens the spool in it has it open as a Store. Required.
	Dir string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger: nil means slog.Default().
	Logger *slog.Logger
	// Unsynced leaves it to the system when what was written reaches the disk: a power cut may then lose payloads that were
	// accepted. For tests that need many of them.
	Unsynced bool
}

// Spool is spool.db: the payloads that plugins of this edge sent and no hub has settled yet, those that nobody took, and
// what plugins keep at this edge. Unlike config.db it can't be fetched again, so it is synced before anything is promised.
// Methods are safe for concurrent use.
//
// One goroutine writes. Whatever waits for it while it syncs is written by the next transaction together, so that a
// thousand senders share a sync. The last number of a payload is needed by nobody after a restart, because every opening
// writes under a store ID of its own: a store ID, a plugin and a number name one payload for ever, also when the file was
// copied or put back from a backup.
type Spool struct {
	dir      string
	now      func() time.Time
	log      *slog.Logger
	unsynced bool

	ops     chan *op
	quit    chan struct{} // closed by Close: nothing more is taken
	stopped chan struct{} // closed when the writer has ended
	full    chan struct{} // capacity 1: drainFrom payloads are pending

	files sync.RWMutex // held for reading while the reader is used, for writing while the file is replaced
	// Guarded by files, and used by the writer alone but for reader.
	writer, reader  *sql.DB
	insertion, tell *sql.Stmt // of the writer, which closes them: of a payload, and of how many a plugin sent

	mu sync.Mutex // guards what follows
	account
	loss Loss
	file int // rises when the file is replaced: what was counted before has nothing to do with the account after

	// Owned by the writer.
	store      []byte // of this opening
	generation int64  // of store in the file; 0: nothing was written under it yet
	sequences  map[uint32]uint64
	row        int64          // the last one of payloads: none is used twice, since one may be on its way while it expires
	accepted   map[uint32]int // payloads that the running transaction takes in, by plugin
	undo       []func()       // what takes back in memory what the running transaction has changed there
}

// Loss is what is known of payloads that went with a damaged file.
type Loss struct {
	// Payloads that are known to be lost, since the data directory was made.
	Payloads uint64
	// Unknown: a damaged file could not even be counted.
	Unknown bool
	// SetAside is where the last damaged file is; "" if none ever was.
	SetAside string
	At       time.Time
}

const spoolSchema = `
CREATE TABLE IF NOT EXISTS loss (id INTEGER PRIMARY KEY CHECK (id = 1), payloads INTEGER NOT NULL, unknown INTEGER NOT NULL, set_aside TEXT NOT NULL, at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS stores (generation INTEGER PRIMARY KEY AUTOINCREMENT, store BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS plugins (plugin INTEGER PRIMARY KEY, accepted INTEGER NOT NULL, settled INTEGER NOT NULL, expired INTEGER NOT NULL, dropped INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS payloads (id INTEGER PRIMARY KEY, generation INTEGER NOT NULL, plugin INTEGER NOT NULL, sequence INTEGER NOT NULL, queued_at INTEGER NOT NULL, size INTEGER NOT NULL, record BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS payloads_of_plugin ON payloads (plugin, id);
CREATE TABLE IF NOT EXISTS dead_letters (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, plugin INTEGER NOT NULL, at INTEGER NOT NULL, size INTEGER NOT NULL, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY NOT NULL, gone INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS kv (plugin INTEGER NOT NULL, key TEXT NOT NULL, expires INTEGER NOT NULL, value BLOB NOT NULL, PRIMARY KEY (plugin, key)) WITHOUT ROWID;
`

// OpenSpool opens spool.db, making it as needed. One that can't be read is set aside, counted as a loss, and a new one
// takes its place. The caller closes it.
func OpenSpool(c SpoolConfig) (*Spool, error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	s := &Spool{
		dir: dir, now: c.Now, log: c.Logger, unsynced: c.Unsynced,
		ops: make(chan *op, 4096), quit: make(chan struct{}), stopped: make(chan struct{}), full: make(chan struct{}, 1),
		sequences: map[uint32]uint64{}, accepted: map[uint32]int{},
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("open spool %s: %w", s.path(), err)
	}
	s.store = newStoreID()
	go s.run()
	return s, nil
}

func (s *Spool) path() string { return filepath.Join(s.dir, "spool.db") }

func (s *Spool) open() error {
	err := s.openFile()
	if err == nil || !damaged(err) {
		return err
	}
	return s.setAside(err, countRows(s.path()))
}

// openFile opens the file and loads what is kept in memory of it.
func (s *Spool) openFile() error {
	sync := "FULL"
	if s.unsynced {
		sync = "OFF"
	}
	open := func(more string) (*sql.DB, error) {
		dsn := url.URL{Scheme: "file", Path: s.path(), RawQuery: "_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(" + sync + ")&" + more}
		db, err := sql.Open("sqlite", dsn.String())
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(1)
		return db, nil
	}
	writer, err := open("_txlock=immediate")
	if err != nil {
		return err
	}
	if err := prepare(writer, spoolSchema); err != nil {
		writer.Close()
		return err
	}
	reader, err := open("_pragma=query_only(1)")
	if err != nil {
		writer.Close()
		return err
	}
	var acc account
	var loss Loss
	var row int64
	rowErr := writer.QueryRow("SELECT coalesce(max(id), 0) FROM payloads").Scan(&row)
	insertion, insertionErr := writer.Prepare("INSERT INTO payloads (id, generation, plugin, sequence, queued_at, size, record) VALUES (?, ?, ?, ?, ?, ?, ?)")
	tell, tellErr := writer.Prepare("INSERT INTO plugins (plugin, accepted, settled, expired, dropped) VALUES (?, ?, 0, 0, 0) ON CONFLICT (plugin) DO UPDATE SET accepted = accepted + excluded.accepted")
	if err := errors.Join(rowErr, insertionErr, tellErr, acc.load(writer), loss.load(writer)); err != nil {
		writer.Close()
		reader.Close()
		return err
	}
	s.files.Lock()
	s.writer, s.reader, s.insertion, s.tell = writer, reader, insertion, tell
	s.files.Unlock()
	s.row = max(s.row, row)
	s.mu.Lock()
	acc.known = s.account.known
	s.account, s.loss = acc, loss
	s.file++
	s.mu.Unlock()
	return nil
}

// setAside replaces a damaged file by an empty one that tells of the loss. lost is how many payloads were in it; negative:
// nobody knows.
func (s *Spool) setAside(why error, lost int64) error {
	s.mu.Lock()
	loss := s.loss
	s.mu.Unlock()
	s.closeFile()
	aside, err := moveAside(s.path(), s.now())
	if err != nil {
		return err
	}
	loss.SetAside, loss.At = aside, s.now()
	if lost < 0 {
		loss.Unknown = true
	} else {
		loss.Payloads += uint64(lost)
	}
	s.log.Error("spool.db was damaged: it was set aside, and the payloads in it are lost", "set_aside", aside, "payloads", lost, "error", why)
	if err := s.openFile(); err != nil {
		return err
	}
	s.store, s.generation, s.sequences = newStoreID(), 0, map[uint32]uint64{}
	if err := loss.save(s.writer); err != nil {
		return err
	}
	s.mu.Lock()
	s.loss = loss
	s.mu.Unlock()
	return nil
}

func (s *Spool) closeFile() error {
	s.files.Lock()
	defer s.files.Unlock()
	if s.writer == nil {
		return nil
	}
	err := errors.Join(s.reader.Close(), s.writer.Close())
	s.reader, s.writer = nil, nil
	return err
}

// countRows counts the payloads of a file that is damaged, as far as it lets us; negative: it doesn't.
func countRows(path string) int64 {
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=query_only(1)"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return -1
	}
	defer db.Close()
	var payloads, letters int64
	if db.QueryRow("SELECT count(*) FROM payloads").Scan(&payloads) != nil || db.QueryRow("SELECT count(*) FROM dead_letters").Scan(&letters) != nil {
		return -1
	}
	return payloads + letters
}

func (l *Loss) load(db *sql.DB) error {
	var at int64
	err := db.QueryRow("SELECT payloads, unknown, set_aside, at FROM loss").Scan(&l.Payloads, &l.Unknown, &l.SetAside, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	l.At = time.Unix(0, at)
	return err
}

func (l *Loss) save(db interface {
	Exec(query string, args ...any) (sql.Result, error)
}) error {
	_, err := db.Exec("INSERT OR REPLACE INTO loss (id, payloads, unknown, set_aside, at) VALUES (1, ?, ?, ?, ?)", l.Payloads, l.Unknown, l.SetAside, l.At.UnixNano())
	return err
}

// Loss tells what went with damaged files.
func (s *Spool) Loss() Loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loss
}

// Close waits for what was begun, and closes the file. Later calls fail with ErrClosed.
func (s *Spool) Close() error {
	select {
	case <-s.quit:
		return ErrClosed
	default:
	}
	close(s.quit)
	<-s.stopped
	return s.closeFile()
}

// op is a part of a transaction. do may run again, on another file, if the first turned out to be damaged.
type op struct {
	do   func(tx *sql.Tx) error
	done chan error // capacity 1
}

// maxGroup bounds the parts of one transaction.
const maxGroup = 4096

// write has f run in a transaction, with whatever else waits, and returns when it is on the disk. If the disk fails, f's
// part is undone with all others, and each gets the error.
func (s *Spool) write(f func(tx *sql.Tx) error) error {
	o := &op{do: f, done: make(chan error, 1)}
	select {
	case <-s.quit:
		return ErrClosed
	case s.ops <- o:
	}
	select {
	case err := <-o.done:
		return err
	case <-s.stopped:
		select {
		case err := <-o.done:
			return err
		default:
			return ErrClosed // it came after the writer had looked for the last time
		}
	}
}

func (s *Spool) run() {
	defer close(s.stopped)
	for {
		var group []*op
		select {
		case o := <-s.ops:
			group = append(group, o)
		case <-s.quit:
			select {
			case o := <-s.ops:
				group = append(group, o)
			default:
				return
			}
		}
	gather:
		for len(group) < maxGroup {
			select {
			case o := <-s.ops:
				group = append(group, o)
			default:
				break gather
			}
		}
		err := s.commit(group)
		for _, o := range group {
			o.done <- err
		}
	}
}

// commit writes a group. A damaged file is replaced, and the group goes into the new one.
func (s *Spool) commit(group []*op) error {
	err := s.transact(group)
	if err == nil || !damaged(err) {
		return err
	}
	s.mu.Lock()
	lost := s.stored
	s.mu.Unlock()
	if asideErr := s.setAside(err, lost); asideErr != nil {
		return errors.Join(err, asideErr)
	}
	return s.transact(group)
}

func (s *Spool) transact(group []*op) error {
	if s.writer == nil { // the file that took a damaged one's place could not be opened
		if err := s.openFile(); err != nil {
			return fmt.Errorf("open spool: %w", err)
		}
	}
	generation, store, row, before := s.generation, s.store, s.row, make(map[uint32]uint64)
	for plugin, n := range s.sequences {
		before[plugin] = n
	}
	s.undo = nil
	clear(s.accepted)
	err := transact(context.Background(), s.writer, func(tx *sql.Tx) error {
		for _, o := range group {
			if err := o.do(tx); err != nil {
				return err
			}
		}
		for plugin, n := range s.accepted {
			if _, err := tx.Stmt(s.tell).Exec(plugin, n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.generation, s.sequences, s.store, s.row = generation, before, store, row
		for _, undo := range slices.Backward(s.undo) {
			undo()
		}
		return fmt.Errorf("write to the spool: %w", err)
	}
	return nil
}

// read runs f on a connection of its own.
func (s *Spool) read(f func(db *sql.DB) error) error {
	s.files.RLock()
	defer s.files.RUnlock()
	if s.reader == nil {
		return ErrClosed
	}
	return f(s.reader)
}

func shortID(id []byte) string { return hex.EncodeToString(id[:min(4, len(id))]) }
