package edgestore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"slices"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// generations is how many releases are kept: the one that serves and the one before.
const generations = 2

// SaveRelease makes r the newest generation, in one transaction: a process that dies in it leaves what was there before.
// blobs are all of r's (those already on disk are not written again); the generation before the last one is forgotten,
// with every blob no generation names any more. Saving the newest release again replaces it. r and blobs are kept, and
// only read: the caller no longer changes them. After an error the store tries again until they are on disk or another
// release is saved; see Fault.
func (s *Store) SaveRelease(ctx context.Context, r *gwv1.StoredRelease, blobs []*gwv1.Blob) error {
	return s.keep.put(ctx, keepRelease, releaseName(r), func(ctx context.Context) error { return s.saveRelease(ctx, r, blobs) })
}

// Serves tells the store that a release it loaded is the one that serves, to be saved again if its file is lost. r and
// blobs are kept, like SaveRelease does.
func (s *Store) Serves(r *gwv1.StoredRelease, blobs []*gwv1.Blob) {
	s.keep.remember(keepRelease, releaseName(r), func(ctx context.Context) error { return s.saveRelease(ctx, r, blobs) })
}

func releaseName(r *gwv1.StoredRelease) string {
	return fmt.Sprintf("release %d", r.GetTarget().GetNumber())
}

func (s *Store) saveRelease(ctx context.Context, r *gwv1.StoredRelease, blobs []*gwv1.Blob) error {
	err := s.write(ctx, func(tx *sql.Tx) error { return writeRelease(ctx, tx, r, blobs) })
	if err != nil {
		return fmt.Errorf("save release %d: %w", r.GetTarget().GetNumber(), err)
	}
	return nil
}

func writeRelease(ctx context.Context, tx *sql.Tx, r *gwv1.StoredRelease, blobs []*gwv1.Blob) error {
	record, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return err
	}
	if err := insertRelease(ctx, tx, r, stamp(record, "release")); err != nil {
		return err
	}
	named, err := trimGenerations(ctx, tx)
	if err != nil {
		return err
	}
	return syncBlobs(ctx, tx, named, r.Entries, blobs)
}

func insertRelease(ctx context.Context, tx *sql.Tx, r *gwv1.StoredRelease, record []byte) error {
	var generation int64
	var newest []byte
	err := tx.QueryRowContext(ctx, "SELECT generation, record FROM releases ORDER BY generation DESC LIMIT 1").Scan(&generation, &newest)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	stored := &gwv1.StoredRelease{}
	if err == nil && decodeRelease(newest, stored) == nil && stored.Namespace == r.Namespace &&
		stored.GetTarget().GetEpoch() == r.GetTarget().GetEpoch() && stored.GetTarget().GetNumber() == r.GetTarget().GetNumber() {
		_, err = tx.ExecContext(ctx, "UPDATE releases SET record = ? WHERE generation = ?", record, generation)
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO releases (record) VALUES (?)", record)
	return err
}

// trimGenerations deletes all but the newest generations and returns the digests the kept ones name. A generation that
// doesn't decode names nothing.
func trimGenerations(ctx context.Context, tx *sql.Tx) (map[resource.Digest]bool, error) {
	_, err := tx.ExecContext(ctx, "DELETE FROM releases WHERE generation NOT IN (SELECT generation FROM releases ORDER BY generation DESC LIMIT ?)", generations)
	if err != nil {
		return nil, err
	}
	named := make(map[resource.Digest]bool)
	for record, err := range rows(ctx, tx, "SELECT record FROM releases") {
		if err != nil {
			return nil, err
		}
		r := &gwv1.StoredRelease{}
		if decodeRelease(record, r) != nil {
			continue
		}
		for _, e := range r.Entries {
			if d, ok := resource.AsDigest(e.Digest); ok {
				named[d] = true
			}
		}
	}
	return named, nil
}

// syncBlobs leaves exactly the named blobs, adding those of the release that are not there yet.
func syncBlobs(ctx context.Context, tx *sql.Tx, named map[resource.Digest]bool, entries []*gwv1.ManifestEntry, blobs []*gwv1.Blob) error {
	stored := make(map[resource.Digest]bool)
	var unnamed [][]byte
	for digest, err := range rows(ctx, tx, "SELECT digest FROM blobs") {
		if err != nil {
			return err
		}
		d, ok := resource.AsDigest(digest)
		if !ok || !named[d] {
			unnamed = append(unnamed, bytes.Clone(digest))
			continue
		}
		stored[d] = true
	}
	remove, err := tx.PrepareContext(ctx, "DELETE FROM blobs WHERE digest = ?")
	if err != nil {
		return err
	}
	defer remove.Close()
	for _, d := range unnamed {
		if _, err := remove.ExecContext(ctx, d); err != nil {
			return err
		}
	}
	insert, err := tx.PrepareContext(ctx, "INSERT INTO blobs (digest, record) VALUES (?, ?)")
	if err != nil {
		return err
	}
	defer insert.Close()
	for _, b := range blobs {
		d, ok := resource.AsDigest(b.Digest)
		if !ok {
			return fmt.Errorf("%s/%s: digest has %d bytes", b.Kind, b.Name, len(b.Digest))
		}
		if stored[d] || !named[d] {
			continue
		}
		record, err := proto.Marshal(b)
		if err != nil {
			return fmt.Errorf("%s/%s: %w", b.Kind, b.Name, err)
		}
		if _, err := insert.ExecContext(ctx, b.Digest, record); err != nil {
			return err
		}
		stored[d] = true
	}
	for _, e := range entries {
		if d, ok := resource.AsDigest(e.Digest); !ok || !stored[d] {
			return fmt.Errorf("%s/%s: its bytes are missing", e.Kind, e.Name)
		}
	}
	return nil
}

// LoadRelease returns a generation, 0 the newest and 1 the one before, with its blobs in the order of its entries. It is
// verified: every blob has the digest its entry names, and the entries have the checksum of the release's target. ErrNone
// if there is no such generation; ErrCorrupt if it isn't what was saved.
func (s *Store) LoadRelease(ctx context.Context, generation int) (*gwv1.StoredRelease, []*gwv1.Blob, error) {
	var r *gwv1.StoredRelease
	var blobs []*gwv1.Blob
	err := s.read(func(db *sql.DB) (err error) {
		r, blobs, err = loadRelease(ctx, db, generation)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("load release generation %d: %w", generation, err)
	}
	return r, blobs, nil
}

func loadRelease(ctx context.Context, db *sql.DB, generation int) (*gwv1.StoredRelease, []*gwv1.Blob, error) {
	var record []byte
	err := db.QueryRowContext(ctx, "SELECT record FROM releases ORDER BY generation DESC LIMIT 1 OFFSET ?", generation).Scan(&record)
	if errors.Is(err, sql.ErrNoRows) || generation < 0 {
		return nil, nil, ErrNone
	}
	if err != nil {
		return nil, nil, err
	}
	r := &gwv1.StoredRelease{}
	if err := decodeRelease(record, r); err != nil {
		return nil, nil, err
	}
	if err := verifyManifest(r); err != nil {
		return nil, nil, err
	}
	blobs, err := loadBlobs(ctx, db, r.Entries)
	return r, blobs, err
}

// decodeRelease reads a release's record; ErrCorrupt.
func decodeRelease(stamped []byte, r *gwv1.StoredRelease) error {
	record, err := unstamp(stamped, "release")
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(record, r); err != nil {
		return fmt.Errorf("%w: its record: %w", ErrCorrupt, err)
	}
	return nil
}

// verifyManifest checks that the entries are sorted and have the checksum the release was made with.
func verifyManifest(r *gwv1.StoredRelease) error {
	entries := make([]resource.Entry, 0, len(r.Entries))
	for _, e := range r.Entries {
		d, ok := resource.AsDigest(e.Digest)
		if !ok {
			return fmt.Errorf("%w: %s/%s: digest has %d bytes", ErrCorrupt, e.Kind, e.Name, len(e.Digest))
		}
		entry := resource.Entry{Kind: e.Kind, Name: e.Name, Digest: d}
		if n := len(entries); n > 0 && resource.CompareEntries(entries[n-1], entry) >= 0 {
			return fmt.Errorf("%w: %s/%s is out of order", ErrCorrupt, e.Kind, e.Name)
		}
		entries = append(entries, entry)
	}
	sum := resource.Checksum(slices.Values(entries))
	if !bytes.Equal(sum[:], r.GetTarget().GetChecksum()) {
		return fmt.Errorf("%w: manifest has checksum %s", ErrCorrupt, sum.Short())
	}
	return nil
}

// loadBlobs reads the blobs in one pass over the table rather than one query each: nearly all of them are wanted. What it
// doesn't find that way, because a page on it is damaged, it asks for one by one.
func loadBlobs(ctx context.Context, db *sql.DB, entries []*gwv1.ManifestEntry) ([]*gwv1.Blob, error) {
	at := make(map[resource.Digest]int, len(entries))
	for i, e := range entries {
		at[resource.Digest(e.Digest)] = i
	}
	blobs := make([]*gwv1.Blob, len(entries))
	take := func(record []byte) {
		b := &gwv1.Blob{}
		if proto.Unmarshal(record, b) != nil {
			return // if it is wanted, it is missed below
		}
		digest := resource.DigestOf(b.Kind, b.Name, b.Spec)
		i, ok := at[digest]
		if ok && bytes.Equal(digest[:], b.Digest) && entries[i].Kind == b.Kind && entries[i].Name == b.Name {
			blobs[i] = b
		}
	}
	for record, err := range rows(ctx, db, "SELECT record FROM blobs") {
		if err != nil && !damaged(err) {
			return nil, err
		}
		if err == nil {
			take(record)
		}
	}
	for i, e := range entries {
		if blobs[i] == nil {
			var record []byte
			if db.QueryRowContext(ctx, "SELECT record FROM blobs WHERE digest = ?", e.Digest).Scan(&record) == nil {
				take(record)
			}
		}
		if blobs[i] == nil {
			return nil, fmt.Errorf("%w: %s/%s is missing or has other bytes than it was saved with", ErrCorrupt, e.Kind, e.Name)
		}
	}
	return blobs, nil
}

// querier is what a database and a transaction share.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// rows yields the only column of a query. The bytes are the caller's only until the next one.
func rows(ctx context.Context, q querier, query string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		rows, err := q.QueryContext(ctx, query)
		if err != nil {
			yield(nil, err)
			return
		}
		defer rows.Close()
		for rows.Next() {
			var value sql.RawBytes
			if err := rows.Scan(&value); err != nil {
				yield(nil, err)
				return
			}
			if !yield(value, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, err)
		}
	}
}
