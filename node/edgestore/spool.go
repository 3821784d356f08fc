package edgestore

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	writer, reader *sql.DB
	insertion      *sql.Stmt // of a payload; the writer's, which closes it

	mu sync.Mutex // guards what follows
	account
	loss Loss
	file int // rises when the file is replaced: what was counted before has nothing to do with the account after

	// Owned by the writer.
	store      []byte // of this opening of the file
	generation int64  // of store in the file; 0: nothing was written under it yet
	sequences  map[uint32]uint64
	row        int64          // the last one of payloads: none is used twice, since one may be on its way while it expires
	counted    int64          // the last row whose payload plugins.accepted counts, if it was sent
	accepted   map[uint32]int // payloads in later rows, by plugin
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
CREATE TABLE IF NOT EXISTS counted (id INTEGER PRIMARY KEY CHECK (id = 1), row INTEGER NOT NULL);
INSERT OR IGNORE INTO counted (id, row) SELECT 1, coalesce(max(id), 0) FROM payloads;
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

// openFile opens the file, loads what is kept in memory of it, and begins a store: no file but this one has heard of it.
func (s *Spool) openFile() error {
	if err := finishReplacement(s.path(), s.now()); err != nil {
		return err
	}
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
	counted, row, uncounted, countErr := rowsOf(writer)
	insertion, insertionErr := writer.Prepare("INSERT INTO payloads (id, generation, plugin, sequence, queued_at, size, record) VALUES (?, ?, ?, ?, ?, ?, ?)")
	if err := errors.Join(countErr, insertionErr, acc.load(writer), loss.load(writer)); err != nil {
		writer.Close()
		reader.Close()
		return err
	}
	s.files.Lock()
	s.writer, s.reader, s.insertion = writer, reader, insertion
	s.files.Unlock()
	s.store, s.generation, s.sequences = newStoreID(), 0, map[uint32]uint64{}
	s.counted, s.row, s.accepted = counted, max(s.row, row), uncounted
	for plugin, n := range uncounted {
		acc.of(plugin).accepted += uint64(n)
	}
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
	loss.At = s.now()
	loss.SetAside = asideName(s.path(), loss.At)
	if lost < 0 {
		loss.Unknown = true
	} else {
		loss.Payloads += uint64(lost)
	}
	if err := replaceDB(s.path(), loss.SetAside, spoolSchema, func(tx *sql.Tx) error { return loss.save(tx) }); err != nil {
		return err
	}
	s.log.Error("spool.db was damaged: it was set aside, and the payloads in it are lost", "set_aside", loss.SetAside, "payloads", lost, "error", why)
	s.mu.Lock()
	s.loss, s.account = loss, account{known: s.known, plugins: map[uint32]*tally{}}
	s.file++
	s.mu.Unlock()
	return s.openFile()
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

func (l *Loss) save(tx *sql.Tx) error {
	_, err := tx.Exec("INSERT OR REPLACE INTO loss (id, payloads, unknown, set_aside, at) VALUES (1, ?, ?, ?, ?)", l.Payloads, l.Unknown, l.SetAside, l.At.UnixNano())
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
	do    func(tx *sql.Tx) error
	done  chan error // capacity 1
	sends bool       // all it does is to put a payload in
}

// maxGroup bounds the parts of one transaction.
const maxGroup = 4096

// write has f run in a transaction, with whatever else waits, and returns when it is on the disk. If the disk fails, f's
// part is undone with all others, and each gets the error.
func (s *Spool) write(f func(tx *sql.Tx) error) error {
	return s.enqueue(&op{do: f, done: make(chan error, 1)})
}

func (s *Spool) enqueue(o *op) error {
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
	generation, store, accepted, before := s.generation, s.store, maps.Clone(s.accepted), maps.Clone(s.sequences)
	s.undo = nil
	// To count what is sent would take half as long again as to keep it: rows tell as well, until something else is written.
	count := slices.ContainsFunc(group, func(o *op) bool { return !o.sends })
	err := transact(context.Background(), s.writer, func(tx *sql.Tx) error {
		for _, o := range group {
			if err := o.do(tx); err != nil {
				return err
			}
		}
		if count {
			return s.countAccepted(tx)
		}
		return nil
	})
	if err != nil {
		s.generation, s.sequences, s.store, s.accepted = generation, before, store, accepted
		for _, undo := range slices.Backward(s.undo) {
			undo()
		}
		return fmt.Errorf("write to the spool: %w", err)
	}
	if count {
		s.counted = s.row
		clear(s.accepted)
	}
	return nil
}

// countAccepted counts the payloads that were sent in all rows there are.
func (s *Spool) countAccepted(tx *sql.Tx) error {
	if s.counted == s.row {
		return nil
	}
	for plugin, n := range s.accepted {
		if err := count(tx, plugin, "accepted", n); err != nil {
			return err
		}
	}
	_, err := tx.Exec("UPDATE counted SET row = ?", s.row)
	return err
}

// rowsOf returns up to which row a file's payloads are counted, the last row that may have been used, and how many
// payloads each plugin has in rows that are not counted.
func rowsOf(db *sql.DB) (counted, last int64, uncounted map[uint32]int, err error) {
	err = db.QueryRow("SELECT row, max(row, coalesce((SELECT max(id) FROM payloads), 0)) FROM counted").Scan(&counted, &last)
	if err != nil {
		return 0, 0, nil, err
	}
	rows, err := db.Query("SELECT plugin, count(*) FROM payloads WHERE id > ? GROUP BY plugin", counted)
	if err != nil {
		return 0, 0, nil, err
	}
	defer rows.Close()
	uncounted = map[uint32]int{}
	for rows.Next() {
		var plugin uint32
		var n int
		if err := rows.Scan(&plugin, &n); err != nil {
			return 0, 0, nil, err
		}
		uncounted[plugin] = n
	}
	return counted, last, uncounted, rows.Err()
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
