package uplink

import (
	"context"

	"gw/rpc/gwv1"
)

// load takes over what the store kept. What expired is dropped; a clock that was turned back makes nothing younger.
func (t *Tokens[G]) load() {
	if t.c.Store == nil {
		return
	}
	records, err := t.c.Store.Tokens(context.Background())
	if err != nil {
		t.log.Warn("not all stored tokens can be used", "error", err)
	}
	now := t.now().UnixNano()
	for hash, r := range records {
		s := &t.shards[hash[0]%shards]
		if r.Revoked {
			t.bury(s, hash, r.Answer.GetAccessVersion())
			continue
		}
		if !r.Answer.GetValid() {
			t.forget(hash)
			continue
		}
		e := t.newEntry(r.Answer, min(r.ValidatedAt, now), r.Revalidate)
		if e.expired(now) {
			t.forget(hash)
			continue
		}
		e.version = 0 // no answer under way is older than this process; and the epoch may be another by now
		e.usedAt.Store(e.validatedAt)
		t.put(s, hash, e)
	}
}

// bury notes a revocation. A full shard drops any other one, and then asks again for whatever was read before it.
func (t *Tokens[G]) bury(s *shard[G], hash [32]byte, version uint64) {
	delete(s.known, hash)
	delete(s.unknown, hash)
	if _, ok := s.gone[hash]; !ok && len(s.gone) >= maxGone {
		for h, v := range s.gone {
			delete(s.gone, h)
			t.raiseFloor(v)
			t.forget(h)
			break
		}
	}
	s.gone[hash] = max(s.gone[hash], version)
}

func (t *Tokens[G]) raiseFloor(version uint64) {
	for {
		old := t.floor.Load()
		if version <= old || t.floor.CompareAndSwap(old, version) {
			return
		}
	}
}

// apply takes access changes: revocations first. When it returns, no request is let in by what they ended, and answers
// under way that were read before them are discarded.
func (t *Tokens[G]) apply(changes *gwv1.AccessChanges) {
	if changes.Reset_ {
		t.reset()
	}
	ended := Revocation{Tokens: make(map[[32]byte]struct{}), Apps: make(map[string]struct{})}
	changed := make(map[string]uint64) // app ID → version, deleted ones too
	for _, c := range changes.Changes {
		switch change := c.Change.(type) {
		case *gwv1.AccessChange_RevokedToken:
			if len(change.RevokedToken) == 32 {
				hash := [32]byte(change.RevokedToken)
				t.revoke(hash, c.Version)
				ended.Tokens[hash] = struct{}{}
			}
		case *gwv1.AccessChange_DeletedApp:
			ended.Apps[change.DeletedApp] = struct{}{}
			changed[change.DeletedApp] = max(changed[change.DeletedApp], c.Version)
		case *gwv1.AccessChange_ChangedApp:
			changed[change.ChangedApp] = max(changed[change.ChangedApp], c.Version)
		}
	}
	if len(changed) > 0 {
		t.noteApps(changed)
		t.sweep(changed, ended.Apps)
	}
	if len(ended.Tokens)+len(ended.Apps) > 0 && t.c.OnRevoke != nil {
		t.c.OnRevoke(ended)
	}
}

func (t *Tokens[G]) revoke(hash [32]byte, version uint64) {
	s := &t.shards[hash[0]%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.known[hash]
	t.bury(s, hash, version)
	if known {
		t.saveRevoked(hash, version)
	}
}

func (t *Tokens[G]) saveRevoked(hash [32]byte, version uint64) {
	t.saveRecord(hash, &gwv1.StoredToken{Revoked: true, Answer: &gwv1.ValidateTokenResponse{AccessVersion: version}})
}

// noteApps makes answers about tokens of these apps that were read earlier worthless. It comes before sweep: an answer
// that gets in between is swept.
func (t *Tokens[G]) noteApps(changed map[string]uint64) {
	t.appsMu.Lock()
	defer t.appsMu.Unlock()
	for id, version := range changed {
		if len(t.apps) >= maxApps {
			for _, v := range t.apps {
				t.raiseFloor(v)
			}
			clear(t.apps)
		}
		t.apps[id] = max(t.apps[id], version)
	}
}

// sweep marks cached tokens of changed apps, and ends those of deleted ones.
func (t *Tokens[G]) sweep(changed map[string]uint64, deleted map[string]struct{}) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for hash, e := range s.known {
			version, ok := changed[e.answer.AppId]
			if !ok {
				continue
			}
			if _, gone := deleted[e.answer.AppId]; gone {
				t.bury(s, hash, version)
				t.saveRevoked(hash, version)
				continue
			}
			if e.version < version { // what was read at the change or later has it in
				t.mark(s, hash, e, version)
			}
		}
		s.mu.Unlock()
	}
}

// mark makes an entry one to be validated before its next use, by an answer not older than version.
func (t *Tokens[G]) mark(s *shard[G], hash [32]byte, e *entry[G], version uint64) {
	next := &entry[G]{
		grant: e.grant, answer: e.answer, version: version, validatedAt: e.validatedAt, expiresAt: e.expiresAt, revalidate: true,
	}
	next.usedAt.Store(e.usedAt.Load())
	s.known[hash] = next
	t.save(hash, next)
}

// reset makes everything cached one to be validated before its next use. Versions start over: those of another epoch
// can't be compared.
func (t *Tokens[G]) reset() {
	t.resets.Add(1)
	t.floor.Store(0)
	t.appsMu.Lock()
	clear(t.apps)
	t.appsMu.Unlock()
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		clear(s.unknown)
		for hash := range s.gone {
			t.forget(hash)
		}
		clear(s.gone)
		for hash, e := range s.known {
			t.mark(s, hash, e, 0)
		}
		s.mu.Unlock()
	}
}
