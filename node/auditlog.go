package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// auditLog appends every audit entry that is applied here to a file, one JSON object a line. The state keeps the newest
// 10,000 of them; so entries are missing from the file only if the hub was away for more.
type auditLog struct {
	path string
	log  *slog.Logger

	file *os.File
	size int64  // of what was written whole
	last uint64 // index of the newest entry written, of this cluster
}

// auditLine is one entry as it stands in the file.
type auditLine struct {
	At        time.Time `json:"at"`
	Cluster   string    `json:"cluster"`
	Index     uint64    `json:"index"`
	Actor     string    `json:"actor"`
	Address   string    `json:"address,omitempty"`
	Action    string    `json:"action"`
	Object    string    `json:"object"`
	Namespace string    `json:"namespace,omitempty"`
}

const (
	// auditKept is how many entries the state keeps.
	auditKept = 10_000
	// maxAuditLine is the longest line there can be, with room to spare.
	maxAuditLine = 64 << 10
	auditRetry   = time.Second
)

// openAuditLog opens or makes the file, and finds where to go on. What a write that was cut short left at its end is cut
// off. A file that holds something else is refused.
func openAuditLog(path, cluster string, log *slog.Logger) (*auditLog, error) {
	a := &auditLog{path: path, log: log}
	if err := a.open(cluster); err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	return a, nil
}

func (a *auditLog) open(cluster string) error {
	file, err := os.OpenFile(a.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	size, last, err := tailOf(file, cluster)
	if err == nil {
		err = file.Truncate(size)
	}
	if err != nil {
		file.Close()
		return fmt.Errorf("%s: %w", a.path, err)
	}
	a.file, a.size, a.last = file, size, max(a.last, last)
	return nil
}

// tailOf returns where the last whole line ends, and the index of its entry if it is of the cluster.
func tailOf(file *os.File, cluster string) (size int64, last uint64, err error) {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	from := max(0, end-2*maxAuditLine)
	tail := make([]byte, end-from)
	if _, err := file.ReadAt(tail, from); err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, err
	}
	cut := bytes.LastIndexByte(tail, '\n')
	if cut < 0 {
		if from > 0 || len(tail) > maxAuditLine {
			return 0, 0, errors.New("it is no audit log of gw; name another file")
		}
		return 0, 0, nil
	}
	line := tail[bytes.LastIndexByte(tail[:cut], '\n')+1 : cut]
	var l auditLine
	if err := json.Unmarshal(line, &l); err != nil || l.Index == 0 {
		return 0, 0, errors.New("its last line is no entry of gw's audit; name another file")
	}
	if l.Cluster == cluster {
		last = l.Index
	}
	return from + int64(cut) + 1, last, nil
}

// auditSource is the part of the store that is written out.
type auditSource interface {
	State() *state.State
	Wait(ctx context.Context, after uint64) (*state.State, error)
}

// keep appends what is new until ctx ends or the store closes. A disk that refuses is tried again, so that nothing is
// missing when it has room again.
func (a *auditLog) keep(ctx context.Context, store auditSource) error {
	defer a.file.Close()
	st, failed := store.State(), false
	for {
		err := a.write(st)
		if err != nil {
			if !failed {
				a.log.ErrorContext(ctx, "the audit log can't be written; it will be tried again", "file", a.path, "error", err)
			}
			failed = true
			select {
			case <-time.After(auditRetry):
				st = store.State()
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if failed {
			a.log.InfoContext(ctx, "the audit log is written again", "file", a.path)
		}
		failed = false
		if st, err = store.Wait(ctx, st.Index()); err != nil {
			return nil // the hub stops, for a reason told elsewhere
		}
	}
}

// write appends the entries of a state that are not in the file, oldest first.
func (a *auditLog) write(st *state.State) error {
	fresh, gap := newerThan(st, a.last)
	if len(fresh) == 0 {
		return nil
	}
	if err := a.reopen(st.Cluster().ClusterId); err != nil {
		return err
	}
	if gap {
		a.log.Warn("this hub was away for more changes than are kept: entries are missing from its audit log", "file", a.path, "after", a.last, "before", fresh[0].Index)
	}
	var b bytes.Buffer
	for _, e := range fresh {
		line, err := json.Marshal(auditLine{
			At: time.Unix(0, e.At).UTC(), Cluster: st.Cluster().ClusterId, Index: e.Index, Actor: e.Actor, Address: e.ActorAddress,
			Action: e.Action, Object: e.Object, Namespace: e.Namespace,
		})
		if err != nil {
			return err
		}
		b.Write(append(line, '\n'))
	}
	n, err := a.file.Write(b.Bytes())
	if err == nil {
		err = a.file.Sync()
	}
	if err != nil {
		return errors.Join(err, a.file.Truncate(a.size)) // so that no half a line stands in the middle of the file
	}
	a.size += int64(n)
	a.last = fresh[len(fresh)-1].Index
	return nil
}

// newerThan returns the entries after an index, oldest first. gap: there were more, which are no longer kept.
func newerThan(st *state.State, last uint64) (fresh []*gwv1.AuditRecord, gap bool) {
	for e := range st.Audit() {
		if e.Index <= last {
			slices.Reverse(fresh)
			return fresh, false
		}
		fresh = append(fresh, e)
	}
	slices.Reverse(fresh)
	return fresh, last > 0 && len(fresh) >= auditKept
}

// reopen opens the file anew if it was moved away, as those do that rotate logs.
func (a *auditLog) reopen(cluster string) error {
	here, err := os.Stat(a.path)
	if err == nil {
		held, statErr := a.file.Stat()
		if statErr == nil && os.SameFile(here, held) {
			return nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	old := a.file
	if err := a.open(cluster); err != nil {
		return err
	}
	return old.Close()
}
