package edgestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

const (
	// gather is how long a change of a token waits for others, so that a burst of new tokens is one transaction. A
	// process killed in that time asks the hub again.
	gather = 100 * time.Millisecond
	// retryAfter is how long a disk that refused tokens is left alone.
	retryAfter = 5 * time.Second
	// maxQueued bounds the changes kept while the disk refuses them.
	maxQueued = 200_000
)

// tokenQueue holds changes of tokens that are not on disk yet, newest per token. One goroutine writes them out.
type tokenQueue struct {
	mu      sync.Mutex
	changes map[[32]byte]*gwv1.StoredToken // hash → record; nil: deleted
	err     error                          // of the last attempt to write
	stopped bool

	writing sync.Mutex    // held while changes are written, so that they land in order
	wake    chan struct{} // capacity 1
	quit    chan struct{}
	done    chan struct{}
}

func (q *tokenQueue) start(s *Store) {
	q.changes = make(map[[32]byte]*gwv1.StoredToken)
	q.wake, q.quit, q.done = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	go q.run(s)
}

// stop ends the writer and writes the rest.
func (q *tokenQueue) stop(s *Store) error {
	q.mu.Lock()
	if q.stopped {
		q.mu.Unlock()
		return nil
	}
	q.stopped = true
	q.mu.Unlock()
	close(q.quit)
	<-q.done
	return q.flush(context.Background(), s, nil)
}

func (q *tokenQueue) run(s *Store) {
	defer close(q.done)
	for {
		select {
		case <-q.quit:
			return
		case <-q.wake:
		}
		wait := gather
		for wait > 0 {
			select {
			case <-q.quit:
				return
			case <-time.After(wait):
			}
			wait = 0
			if q.flush(context.Background(), s, nil) != nil {
				wait = retryAfter
			}
		}
	}
}

// put queues a change. Only a revocation is taken when the queue is full: the rest can be asked for again.
func (q *tokenQueue) put(hash [32]byte, t *gwv1.StoredToken) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return ErrClosed
	}
	if _, ok := q.changes[hash]; !ok && len(q.changes) >= maxQueued && !t.GetRevoked() {
		return fmt.Errorf("%d tokens wait for the disk: %w", len(q.changes), q.err)
	}
	q.changes[hash] = t
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return nil
}

// flush writes what is queued, and what also does (may be nil), in one transaction. After an error the changes are queued
// again, behind newer ones for the same tokens.
func (q *tokenQueue) flush(ctx context.Context, s *Store, also func(*sql.Tx) error) error {
	q.writing.Lock()
	defer q.writing.Unlock()
	q.mu.Lock()
	taken := q.changes
	q.changes = make(map[[32]byte]*gwv1.StoredToken)
	q.mu.Unlock()
	if len(taken) == 0 && also == nil {
		return nil
	}
	err := s.write(ctx, func(tx *sql.Tx) error {
		if err := writeTokens(ctx, tx, taken); err != nil || also == nil {
			return err
		}
		return also(tx)
	})
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
	if err != nil {
		maps.Copy(taken, q.changes)
		q.changes = taken
	}
	return err
}

func writeTokens(ctx context.Context, tx *sql.Tx, changes map[[32]byte]*gwv1.StoredToken) error {
	if len(changes) == 0 {
		return nil
	}
	upsert, err := tx.PrepareContext(ctx, "INSERT INTO tokens (hash, record) VALUES (?, ?) ON CONFLICT (hash) DO UPDATE SET record = excluded.record")
	if err != nil {
		return err
	}
	defer upsert.Close()
	remove, err := tx.PrepareContext(ctx, "DELETE FROM tokens WHERE hash = ?")
	if err != nil {
		return err
	}
	defer remove.Close()
	for hash, t := range changes {
		if t == nil {
			_, err = remove.ExecContext(ctx, hash[:])
		} else if record, marshalErr := proto.Marshal(t); marshalErr != nil {
			err = marshalErr
		} else {
			_, err = upsert.ExecContext(ctx, hash[:], stamp(record, "token", string(hash[:])))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// SaveToken queues what is known about the token of this hash; it doesn't wait for the disk. It is written within about
// 100 ms, with SaveAccess, Flush or Close. t is kept: the caller no longer changes it. It fails only if the store is
// closed or the disk has refused so many tokens that no more are kept.
func (s *Store) SaveToken(hash [32]byte, t *gwv1.StoredToken) error {
	if t == nil {
		t = &gwv1.StoredToken{}
	}
	if err := s.tokens.put(hash, t); err != nil {
		return fmt.Errorf("save token: %w", err)
	}
	return nil
}

// DeleteTokens queues the deletion of tokens, like SaveToken.
func (s *Store) DeleteTokens(hashes ...[32]byte) error {
	for _, hash := range hashes {
		if err := s.tokens.put(hash, nil); err != nil {
			return fmt.Errorf("delete token: %w", err)
		}
	}
	return nil
}

// OnTokensLost has save called when a damaged config.db was set aside while it was open, until the disk has taken what it
// saves: it calls SaveToken for everything that is known about tokens then. They are not read from the damaged file, which
// may have lost that a token was revoked and still hold what was saved of it before. save is called from a goroutine of the
// store, or from Close, and calls nothing else of it.
func (s *Store) OnTokensLost(save func()) {
	s.keep.remember(keepTokens, "tokens", func(ctx context.Context) error {
		save()
		return s.Flush(ctx)
	})
}

// Flush writes the queued tokens and returns what the disk says.
func (s *Store) Flush(ctx context.Context) error {
	if err := s.tokens.flush(ctx, s, nil); err != nil {
		return fmt.Errorf("save tokens: %w", err)
	}
	return nil
}

// Tokens returns every token saved, queued ones included, by hash. Records that don't decode are left out, and reported
// by an ErrCorrupt beside the rest.
func (s *Store) Tokens(ctx context.Context) (map[[32]byte]*gwv1.StoredToken, error) {
	if err := s.Flush(ctx); err != nil {
		return nil, err
	}
	var tokens map[[32]byte]*gwv1.StoredToken
	err := s.read(func(db *sql.DB) (err error) {
		tokens, err = loadTokens(ctx, db)
		return err
	})
	if err != nil {
		return tokens, fmt.Errorf("load tokens: %w", err)
	}
	return tokens, nil
}

// loadTokens returns those that can be read, never nil.
func loadTokens(ctx context.Context, db *sql.DB) (map[[32]byte]*gwv1.StoredToken, error) {
	tokens := make(map[[32]byte]*gwv1.StoredToken)
	rows, err := db.QueryContext(ctx, "SELECT hash, record FROM tokens")
	if err != nil {
		return tokens, err
	}
	defer rows.Close()
	undecoded := 0
	for rows.Next() {
		var hash, stamped sql.RawBytes
		if err := rows.Scan(&hash, &stamped); err != nil {
			return tokens, err
		}
		t := &gwv1.StoredToken{}
		record, err := unstamp(stamped, "token", string(hash))
		if len(hash) != 32 || err != nil || proto.Unmarshal(record, t) != nil {
			undecoded++
			continue
		}
		tokens[[32]byte(hash)] = t
	}
	err = rows.Err()
	if undecoded > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d tokens", ErrCorrupt, undecoded))
	}
	return tokens, err
}
