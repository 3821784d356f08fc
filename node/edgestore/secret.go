package edgestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// SaveSecrets replaces all secrets, sealed with the edge's own key and bound to their names and versions. secrets are kept:
// the caller no longer changes them. After an error the store tries again; see Fault.
func (s *Store) SaveSecrets(ctx context.Context, secrets []*gwv1.SecretValue) error {
	return s.keep.put(ctx, keepSecrets, "secrets", func(ctx context.Context) error { return s.saveSecrets(ctx, secrets) })
}

func (s *Store) saveSecrets(ctx context.Context, secrets []*gwv1.SecretValue) error {
	err := s.write(ctx, func(tx *sql.Tx) error { return s.writeSecrets(ctx, tx, secrets) })
	if err != nil {
		return fmt.Errorf("save secrets: %w", err)
	}
	return nil
}

func (s *Store) writeSecrets(ctx context.Context, tx *sql.Tx, secrets []*gwv1.SecretValue) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM secrets"); err != nil {
		return err
	}
	for _, secret := range secrets {
		record, err := proto.Marshal(&gwv1.StoredSecret{
			Name:    secret.Name,
			Version: secret.Version,
			Sealed:  s.sealer.Seal(secret.Value, bindSecret(secret.Name, secret.Version)...),
		})
		if err != nil {
			return fmt.Errorf("%q: %w", secret.Name, err)
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO secrets (name, record) VALUES (?, ?)", secret.Name, record); err != nil {
			return err
		}
	}
	return nil
}

// Secrets returns the secrets saved last, sorted by name. Those that don't open (they were sealed with another key, or
// their bytes were changed) are left out, and named by an error that is ErrCorrupt beside the ones that did.
func (s *Store) Secrets(ctx context.Context) ([]*gwv1.SecretValue, error) {
	var secrets []*gwv1.SecretValue
	err := s.read(func(db *sql.DB) (err error) {
		secrets, err = s.loadSecrets(ctx, db)
		return err
	})
	if err != nil {
		return secrets, fmt.Errorf("load secrets: %w", err)
	}
	s.keep.remember(keepSecrets, "secrets", func(ctx context.Context) error { return s.saveSecrets(ctx, secrets) })
	return secrets, nil
}

// loadSecrets returns those that can be read, and an error if there are others.
func (s *Store) loadSecrets(ctx context.Context, db *sql.DB) (secrets []*gwv1.SecretValue, unread error) {
	for record, err := range rows(ctx, db, "SELECT record FROM secrets ORDER BY name") {
		if err != nil {
			return secrets, errors.Join(err, unread)
		}
		stored := &gwv1.StoredSecret{}
		if proto.Unmarshal(record, stored) != nil {
			unread = errors.Join(unread, fmt.Errorf("%w: a secret's record", ErrCorrupt))
			continue
		}
		value, err := s.sealer.Open(stored.Sealed, bindSecret(stored.Name, stored.Version)...)
		if err != nil {
			unread = errors.Join(unread, fmt.Errorf("%w: secret %q doesn't open", ErrCorrupt, stored.Name))
			continue
		}
		secrets = append(secrets, &gwv1.SecretValue{Name: stored.Name, Version: stored.Version, Value: value})
	}
	return secrets, unread
}

func bindSecret(name string, version uint64) []string {
	return []string{"secret", name, strconv.FormatUint(version, 10)}
}
