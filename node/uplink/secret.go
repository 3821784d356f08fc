package uplink

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"gw/rpc/gwv1"
)

// secretBox holds the secrets in clear, in memory only.
type secretBox struct {
	values atomic.Pointer[map[string]string] // name → value; immutable

	mu     sync.Mutex
	held   map[string]*gwv1.SecretValue // name → secret; what values was made from
	stale  bool                         // a value changed, or may have
	asking bool                         // a hub was asked and has not answered
}

func (b *secretBox) get(name string) (string, bool) {
	m := b.values.Load()
	if m == nil {
		return "", false
	}
	v, ok := (*m)[name]
	return v, ok
}

func (b *secretBox) has(name string) bool { _, ok := b.get(name); return ok }

// changed notes that a secret has another value, and reports whether it has to be fetched: it is held, or it may be in the
// answer that is on its way and was read before.
func (b *secretBox) changed(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, held := b.held[name]
	if !held && !b.asking {
		return false
	}
	b.stale = true
	return true
}

// doubt is changed for all that are held or on their way.
func (b *secretBox) doubt() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.held) == 0 && !b.asking {
		return false
	}
	b.stale = true
	return true
}

// ask begins a read: a change that is told from now on may not be in its answer.
func (b *secretBox) ask() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stale, b.asking = false, true
}

// unanswered ends a read that brought nothing.
func (b *secretBox) unanswered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stale, b.asking = true, false
}

func (b *secretBox) isStale() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stale
}

// replace makes secrets all there are.
func (b *secretBox) replace(secrets []*gwv1.SecretValue) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = make(map[string]*gwv1.SecretValue, len(secrets))
	for _, s := range secrets {
		b.held[s.Name] = s
	}
	b.publishLocked()
}

// update ends a read with its answer: it takes over the secrets of a release, and drops those that neither it nor the
// serving table names. It returns all there are now.
func (b *secretBox) update(secrets []*gwv1.SecretValue, serving []string) []*gwv1.SecretValue {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := make(map[string]*gwv1.SecretValue, len(secrets))
	for _, name := range serving {
		if s, ok := b.held[name]; ok {
			next[name] = s
		}
	}
	for _, s := range secrets {
		next[s.Name] = s
	}
	b.held, b.asking = next, false
	b.publishLocked()
	return slices.Collect(maps.Values(next))
}

func (b *secretBox) publishLocked() {
	values := make(map[string]string, len(b.held))
	for name, s := range b.held {
		values[name] = string(s.Value)
	}
	b.values.Store(&values)
}

// fetchSecrets replaces the secrets by those of the target release and of the one that serves.
func (u *Uplink) fetchSecrets(ctx context.Context) error {
	client, err := u.client()
	if err != nil {
		return err
	}
	u.secrets.ask()
	ctx, cancel := context.WithTimeout(ctx, u.pace.call)
	defer cancel()
	loaded := u.c.Loaded()
	answer, err := client.FetchSecrets(ctx, &gwv1.FetchSecretsRequest{LoadedEpoch: loaded.Epoch, LoadedRelease: loaded.Number})
	if err != nil {
		u.secrets.unanswered()
		return fmt.Errorf("fetch secrets: %w", err)
	}
	all := u.secrets.update(answer.Secrets, loaded.Secrets)
	if err := u.c.Store.SaveSecrets(ctx, all); err != nil {
		u.log.Error("secrets could not be saved; a restart without a hub won't have them", "error", err)
	}
	return nil
}

// missingSecrets returns those of names that are not held.
func (u *Uplink) missingSecrets(names []string) []string {
	var missing []string
	for _, name := range names {
		if !u.secrets.has(name) {
			missing = append(missing, name)
		}
	}
	return missing
}
