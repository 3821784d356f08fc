package edgestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// onLog is called with everything that is logged.
type onLog func(message string)

func (f onLog) Enabled(context.Context, slog.Level) bool      { return true }
func (f onLog) Handle(_ context.Context, r slog.Record) error { f(r.Message); return nil }
func (f onLog) WithAttrs([]slog.Attr) slog.Handler            { return f }
func (f onLog) WithGroup(string) slog.Handler                 { return f }

func foundDamaged(*sql.Tx) error { return ErrCorrupt }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantReplaced checks that a spool works on in a new file: what is sent comes, and the loss of what was is told, now and
// after a restart.
func wantReplaced(t *testing.T, s *Spool, dir string, lost uint64, old []pending) {
	t.Helper()
	if n := mustSend(t, s, 7, "new"); n != 1 {
		t.Errorf("%d pending, want 1", n)
	}
	for _, what := range []string{"at once", "after a restart"} {
		batch := mustNext(t, s)
		if texts(batch) != "7:new" || len(old) > 0 && string(batch[0].StoreId) == string(old[0].StoreId) {
			t.Errorf("%s: got %q, under store %x", what, texts(batch), batch[0].StoreId)
		}
		if l := s.Loss(); l.Payloads != lost || l.SetAside == "" {
			t.Errorf("%s: loss %+v, want %d payloads", what, l, lost)
		} else if _, err := os.Stat(l.SetAside); err != nil {
			t.Error(err)
		}
		if q := queueOf(t, s, 7); q.Pending != 1 || s.stored != 1 {
			t.Errorf("%s: queue %v, %d on the disk", what, q, s.stored)
		}
		s.Close()
		s = mustSpool(t, dir)
	}
}

// The new file is in its place, and can't be opened: by a process that has no descriptors left, or a disk without room.
func TestASpoolThatIsReplacedAndNotOpenedGoesOnLater(t *testing.T) {
	dir := t.TempDir()
	inTheWay := filepath.Join(dir, "spool.db-wal")
	s := mustSpool(t, dir, func(c *SpoolConfig) {
		c.Logger = slog.New(onLog(func(message string) {
			if strings.Contains(message, "set aside") {
				must(t, os.Mkdir(inTheWay, 0o700))
			}
		}))
	})
	for i := range 5 {
		mustSend(t, s, 7, fmt.Sprint(i))
	}
	old := mustNext(t, s)
	if err := s.write(foundDamaged); err == nil || errors.Is(err, ErrClosed) {
		t.Fatalf("got %v", err)
	}
	if s.writer != nil {
		t.Fatal("the new file was opened")
	}
	if _, err := s.Send(t.Context(), 7, nil, "", nil); err == nil {
		t.Fatal("a payload was taken")
	}
	if l := s.Loss(); l.Payloads != 5 {
		t.Errorf("meanwhile the loss is %+v", l)
	}
	must(t, os.Remove(inTheWay))
	wantReplaced(t, s, dir, 5, old)
}

// No new file can be made: the damaged one stays, and is replaced once one can be.
func TestASpoolThatCantBeReplacedIsLater(t *testing.T) {
	dir := t.TempDir()
	s := mustSpool(t, dir)
	for i := range 5 {
		mustSend(t, s, 7, fmt.Sprint(i))
	}
	old := mustNext(t, s)
	must(t, os.MkdirAll(filepath.Join(replacement(s.path()), "in the way"), 0o700))
	if err := s.write(foundDamaged); err == nil {
		t.Fatal("it was replaced")
	}
	must(t, os.WriteFile(s.path(), []byte(strings.Repeat("no database ", 1000)), 0o600))
	if _, err := s.Send(t.Context(), 7, nil, "", nil); err == nil {
		t.Fatal("a payload was taken")
	}
	if l := s.Loss(); l.SetAside != "" {
		t.Errorf("it was set aside: %+v", l)
	}
	must(t, os.RemoveAll(replacement(s.path())))
	wantReplaced(t, s, dir, 5, old)
}

// The process is killed when the damaged file is out of the way and the new one not there yet.
func TestAReplacementThatWasCutShortIsFinished(t *testing.T) {
	dir := t.TempDir()
	s := mustSpool(t, dir)
	mustSend(t, s, 7, "a")
	path := s.path()
	// What is left of the damaged file is its log, which SQLite would take for one of the new file.
	log, err := os.ReadFile(path + "-wal")
	if err != nil || len(log) == 0 {
		t.Fatalf("a log of %d bytes, %v", len(log), err)
	}
	s.Close()
	loss := Loss{Payloads: 5, SetAside: path + ".damaged-x"}
	must(t, buildDB(replacement(path), spoolSchema, func(tx *sql.Tx) error { return loss.save(tx) }))
	must(t, os.Rename(path, loss.SetAside))
	must(t, os.WriteFile(path+"-wal", log, 0o600))
	wantReplaced(t, mustSpool(t, dir), dir, 5, nil)
}
