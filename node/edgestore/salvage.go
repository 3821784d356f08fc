package edgestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

// salvage is what could still be read of a damaged config.db. All of it is verified: releases by their digests, secrets by
// their seal, tokens by their stamps. How far access changes were followed is left behind: a hub then has every token
// validated again, so that no revocation is forgotten with the page it was on.
type salvage struct {
	releases []savedRelease // oldest first
	secrets  []*gwv1.SecretValue
	tokens   map[[32]byte]*gwv1.StoredToken
}

type savedRelease struct {
	release *gwv1.StoredRelease
	blobs   []*gwv1.Blob
}

// salvageFrom reads what it can of a damaged file.
func (s *Store) salvageFrom(path string) (found salvage) {
	db, err := sql.Open("sqlite", dsnOf(path)+"&_pragma=cell_size_check(1)")
	if err != nil {
		return found
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	ctx := context.Background()
	for generation := generations - 1; generation >= 0; generation-- {
		if r, blobs, err := loadRelease(ctx, db, generation); err == nil {
			found.releases = append(found.releases, savedRelease{r, blobs})
		}
	}
	found.secrets, _ = s.loadSecrets(ctx, db) // what can't be read is fetched again
	found.tokens, _ = loadTokens(ctx, db)
	return found
}

// fill writes what was found into a new file, before that takes the damaged one's place.
func (s *Store) fill(tx *sql.Tx, found salvage) error {
	ctx := context.Background()
	for _, r := range found.releases {
		if err := writeRelease(ctx, tx, r.release, r.blobs); err != nil {
			return err
		}
	}
	if err := s.writeSecrets(ctx, tx, found.secrets); err != nil {
		return err
	}
	return writeTokens(ctx, tx, found.tokens)
}

// restore saves as much of what was found as the disk takes. What it refuses is lost to the next start only if no hub is
// there.
func (s *Store) restore(found salvage) error {
	ctx := context.Background()
	var errs []error
	for _, r := range found.releases {
		errs = append(errs, s.SaveRelease(ctx, r.release, r.blobs))
	}
	if len(found.secrets) > 0 {
		errs = append(errs, s.SaveSecrets(ctx, found.secrets))
	}
	for hash, t := range found.tokens {
		errs = append(errs, s.SaveToken(hash, t))
	}
	return errors.Join(append(errs, s.Flush(ctx))...)
}

// String says what was found.
func (f salvage) String() string {
	var parts []string
	for _, r := range f.releases {
		parts = append(parts, releaseName(r.release))
	}
	for what, n := range map[string]int{"secrets": len(f.secrets), "tokens": len(f.tokens)} {
		if n > 0 {
			parts = append(parts, fmt.Sprint(n, " ", what))
		}
	}
	if len(parts) == 0 {
		return "nothing of it could be read"
	}
	return "what could be read of it was saved again: " + strings.Join(parts, ", ")
}

// loadKey returns the edge's own key. One that is damaged is set aside: only what it sealed has to be fetched again, which
// is no reason for an edge not to start.
func loadKey(path string, now time.Time) (key []byte, found string, err error) {
	key, err = identity.LoadOrCreateKey(path)
	if !errors.Is(err, identity.ErrKeyDamaged) {
		return key, "", err
	}
	aside := asideName(path, now)
	if err := os.Rename(path, aside); err != nil {
		return nil, "", fmt.Errorf("set aside damaged %s: %w", path, err)
	}
	key, err = identity.LoadOrCreateKey(path)
	return key, "edge.key was damaged: it was set aside as " + filepath.Base(aside) + "; secrets have to be fetched again", err
}

// sweep removes what a process left behind that ended while it wrote a file.
func sweep(dir string) {
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		for _, name := range []string{identityFile, identityCopy, enrolmentFile, "edge.key"} {
			if strings.HasPrefix(f.Name(), name+".tmp-") {
				os.Remove(filepath.Join(dir, f.Name()))
			}
		}
	}
}
