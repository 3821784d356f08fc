package edgestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of what plugins keep at an edge.
const (
	MaxKVKey   = 512
	MaxKVValue = 64 << 10
	// MaxKVBytes bounds one plugin's keys and values together, maxKVTotal those of all.
	MaxKVBytes = 64 << 20
	maxKVTotal = 256 << 20
)

// KV is what one plugin keeps at this edge: keys of 1 to MaxKVKey bytes of text, values of up to MaxKVValue. What was
// written is on the disk.
type KV struct {
	spool  *Spool
	plugin uint32
}

// KV returns what a plugin keeps.
func (s *Spool) KV(plugin uint32) *KV { return &KV{s, plugin} }

func checkKVKey(key string) error {
	if key == "" || len(key) > MaxKVKey || !utf8.ValidString(key) || strings.ContainsRune(key, 0) {
		return fmt.Errorf("key of %d bytes: want 1 to %d bytes of text without zero bytes", len(key), MaxKVKey)
	}
	return nil
}

// Read returns a value; ok: there is one.
func (kv *KV) Read(ctx context.Context, key string) (value []byte, ok bool, err error) {
	if err := checkKVKey(key); err != nil {
		return nil, false, err
	}
	err = kv.spool.read(func(db *sql.DB) error {
		var expires int64
		err := db.QueryRowContext(ctx, "SELECT value, expires FROM kv WHERE plugin = ? AND key = ?", kv.plugin, key).Scan(&value, &expires)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		ok = err == nil && (expires == 0 || expires > kv.spool.now().UnixNano())
		return err
	})
	if !ok {
		value = nil
	}
	return value, ok, err
}

// Write sets a value; a zero expires is never.
func (kv *KV) Write(_ context.Context, key string, value []byte, expires time.Time) error {
	if len(value) > MaxKVValue {
		return fmt.Errorf("value of %d bytes: want at most %d", len(value), MaxKVValue)
	}
	if err := checkKVKey(key); err != nil {
		return err
	}
	var until int64
	if !expires.IsZero() {
		until = expires.UnixNano()
	}
	if value == nil {
		value = []byte{}
	}
	_, err := kv.change(key, func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT OR REPLACE INTO kv (plugin, key, expires, value) VALUES (?, ?, ?, ?)", kv.plugin, key, until, value)
		return err
	}, 1, int64(len(key)+len(value)))
	return err
}

// Delete reports whether there was a value.
func (kv *KV) Delete(_ context.Context, key string) (bool, error) {
	if err := checkKVKey(key); err != nil {
		return false, err
	}
	return kv.change(key, func(tx *sql.Tx) error {
		_, err := tx.Exec("DELETE FROM kv WHERE plugin = ? AND key = ?", kv.plugin, key)
		return err
	}, 0, 0)
}

// change replaces what there is of a key by keys (0 or 1) of bytes together, and reports whether there was one.
func (kv *KV) change(key string, f func(tx *sql.Tx) error, keys, bytes int64) (was bool, err error) {
	var refused error
	err = kv.spool.write(func(tx *sql.Tx) error {
		var length, expires int64
		was, refused = false, nil
		grownKeys, grown := keys, bytes
		err := tx.QueryRow("SELECT length(value), expires FROM kv WHERE plugin = ? AND key = ?", kv.plugin, key).Scan(&length, &expires)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err == nil {
			was = expires == 0 || expires > kv.spool.now().UnixNano()
			grownKeys, grown = grownKeys-1, grown-length-int64(len(key))
		}
		if refused = kv.grow(grownKeys, grown); refused != nil {
			return nil // others' parts of the transaction are none the worse
		}
		kv.spool.undo = append(kv.spool.undo, func() { kv.grow(-grownKeys, -grown) })
		return f(tx)
	})
	return was, errors.Join(err, refused)
}

func (kv *KV) grow(keys, bytes int64) error {
	s := kv.spool
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.of(kv.plugin)
	if bytes > 0 && t.kvBytes+bytes > MaxKVBytes {
		return fmt.Errorf("a plugin may keep %d bytes at an edge, keys and values together: delete what is not needed any more", MaxKVBytes)
	}
	if bytes > 0 && s.kvBytes+bytes > maxKVTotal {
		return fmt.Errorf("the plugins of this edge keep %d bytes together, which is all there is room for", maxKVTotal)
	}
	t.kvKeys, t.kvBytes, s.kvBytes = t.kvKeys+keys, t.kvBytes+bytes, s.kvBytes+bytes
	return nil
}

// List returns the keys that begin with prefix, sorted.
func (kv *KV) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = kv.spool.read(func(db *sql.DB) error {
		rows, err := db.QueryContext(ctx, "SELECT key FROM kv WHERE plugin = ? AND key >= ? AND substr(key, 1, length(?)) = ? AND (expires = 0 OR expires > ?) ORDER BY key",
			kv.plugin, prefix, prefix, prefix, kv.spool.now().UnixNano())
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var key string
			if err := rows.Scan(&key); err != nil {
				return err
			}
			keys = append(keys, key)
		}
		return rows.Err()
	})
	return keys, err
}

// expireKV deletes what has expired.
func (s *Spool) expireKV() error {
	type entry struct {
		plugin uint32
		key    string
		bytes  int64
	}
	return s.write(func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT plugin, key, length(value) FROM kv WHERE expires != 0 AND expires <= ? LIMIT ?", s.now().UnixNano(), 10*expireBatch)
		if err != nil {
			return err
		}
		var old []entry
		for rows.Next() {
			var e entry
			if err := rows.Scan(&e.plugin, &e.key, &e.bytes); err != nil {
				rows.Close()
				return err
			}
			old = append(old, e)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		for _, e := range old {
			if _, err := tx.Exec("DELETE FROM kv WHERE plugin = ? AND key = ?", e.plugin, e.key); err != nil {
				return err
			}
			kv, bytes := s.KV(e.plugin), e.bytes+int64(len(e.key))
			kv.grow(-1, -bytes)
			s.undo = append(s.undo, func() { kv.grow(1, bytes) })
		}
		return nil
	})
}
