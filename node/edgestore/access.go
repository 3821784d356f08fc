package edgestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// SaveAccess saves how far the edge has followed access changes, in one transaction with every token queued before it: an
// edge that starts again never believes to be further than its tokens are. a is kept: the caller no longer changes it. After
// an error the store tries again; see Fault.
func (s *Store) SaveAccess(ctx context.Context, a *gwv1.StoredAccess) error {
	return s.keep.put(ctx, keepAccess, "access version", func(ctx context.Context) error { return s.saveAccess(ctx, a) })
}

func (s *Store) saveAccess(ctx context.Context, a *gwv1.StoredAccess) error {
	record, err := proto.Marshal(a)
	if err != nil {
		return fmt.Errorf("save access version: %w", err)
	}
	record = stamp(record, "access")
	err = s.tokens.flush(ctx, s, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO access (id, record) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record", record)
		return err
	})
	if err != nil {
		return fmt.Errorf("save access version: %w", err)
	}
	return nil
}

// Access returns what SaveAccess saved last; ErrNone, ErrCorrupt.
func (s *Store) Access(ctx context.Context) (*gwv1.StoredAccess, error) {
	a := &gwv1.StoredAccess{}
	err := s.read(func(db *sql.DB) error {
		var record []byte
		err := db.QueryRowContext(ctx, "SELECT record FROM access WHERE id = 1").Scan(&record)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNone
		}
		if err != nil {
			return err
		}
		if record, err = unstamp(record, "access"); err != nil {
			return err
		}
		if err := proto.Unmarshal(record, a); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load access version: %w", err)
	}
	return a, nil
}
