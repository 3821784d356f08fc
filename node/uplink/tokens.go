package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gw/rpc/gwv1"
)

// ErrUnknownToken means that there is no such token for this edge: it never was, it expired, or it was revoked.
var ErrUnknownToken = errors.New("unknown token")

// Unavailable means that nobody could be asked about a token. It says nothing about the token.
type Unavailable struct {
	// RetryAfter is when asking again may help; at least a second.
	RetryAfter time.Duration
}

func (e *Unavailable) Error() string {
	return fmt.Sprintf("no hub could be asked about the token; try again in %s", e.RetryAfter)
}

// Throttled means that a token is not looked into, because too many unknown ones were shown by the same client or by all.
// It says nothing about the token.
type Throttled struct {
	// RetryAfter is when the next one is.
	RetryAfter time.Duration
}

func (e *Throttled) Error() string {
	return fmt.Sprintf("too many unknown tokens were shown; try again in %s", e.RetryAfter)
}

const (
	// DefaultOfflineGrace is how long an answer outlives its TTL while no hub answers, unless settings say otherwise.
	DefaultOfflineGrace = 24 * time.Hour
	// PositiveTTL is how long an answer about a valid token holds, unless settings say otherwise.
	PositiveTTL = 5 * time.Minute
	// NegativeTTL is how long an answer about an unknown token holds.
	NegativeTTL = 10 * time.Second
)

const (
	defaultCapacity = 100_000
	shards          = 64
	maxUnknown      = 16_384 / shards // negative answers in a shard: no caller can push out valid tokens with made-up ones
	maxGone         = 65_536 / shards // revocations in a shard
	maxApps         = 10_000
	maxStrangers    = 256   // questions under way at once, about tokens that are not cached
	maxFlights      = 1_024 // and in all, so that strangers don't keep known tokens from being validated again
	usedGrain       = int64(10 * time.Second)
	maxSkew         = int64(5 * time.Minute)
)

// TokenStore is where Tokens outlive the process. SaveToken and DeleteTokens only queue; SaveToken keeps t.
type TokenStore interface {
	Tokens(ctx context.Context) (map[[32]byte]*gwv1.StoredToken, error)
	SaveToken(hash [32]byte, t *gwv1.StoredToken) error
	DeleteTokens(hashes ...[32]byte) error
}

// TokensConfig is what a token cache is made of.
type TokensConfig struct {
	// Store: nil keeps tokens in memory only. Its owner closes it after Tokens.
	Store TokenStore
	// TTL is how long an answer about a valid token holds; in its last fifth a use refreshes it. 0 means PositiveTTL.
	TTL time.Duration
	// OfflineGrace is how long a positive answer is served past its TTL while no hub answers. 0 is strict: not at all.
	OfflineGrace time.Duration
	// OnRevoke is told which tokens and apps ended, right after they stopped being accepted, so that streams can be cut.
	// It is called from Tokens' callers and must not block or call Tokens. May be nil.
	OnRevoke func(Revocation)
	// UnknownPerMinute bounds the unknown tokens of one client that hubs are asked about; the client is its IPv4 address or
	// its IPv6 /64. Valid tokens don't count. 0 means no bound.
	UnknownPerMinute int
	// Capacity bounds the valid tokens kept; the least recently used go first. 0 means 100,000.
	Capacity int
	// Logger: nil means slog.Default().
	Logger *slog.Logger
	// Now: nil means time.Now.
	Now func() time.Time
}

// Revocation names what ended.
type Revocation struct {
	Tokens map[[32]byte]struct{} // by SHA-256 of the credential
	Apps   map[string]struct{}   // by ID
}

// Covers reports whether a token, or the app it is of, ended.
func (r Revocation) Covers(hash [32]byte, appID string) bool {
	if _, ok := r.Tokens[hash]; ok {
		return true
	}
	_, ok := r.Apps[appID]
	return ok
}

// AccessCache is told by an Uplink what changed. *Tokens[G] is the one there is.
type AccessCache interface {
	bind(hub validator)
	apply(changes *gwv1.AccessChanges)
	reached()
}

// validator is a hub to ask.
type validator interface {
	validate(ctx context.Context, hash [32]byte) (*gwv1.ValidateTokenResponse, error)
	isFollowing() bool
}

// Tokens knows who may call: what hubs answered about tokens, as G. Known tokens are decided here without blocking or
// allocating; unknown ones are asked about once, however many requests wait. All methods may be called from any goroutine.
type Tokens[G any] struct {
	c     TokensConfig
	grant func(*gwv1.ValidateTokenResponse) G
	now   func() time.Time
	log   *slog.Logger
	ttl   int64 // nanoseconds
	limit int   // valid tokens in a shard

	hub     atomic.Pointer[validator]
	contact contact
	budget  *budget
	shards  [shards]shard[G]
	flights atomic.Int64  // under way
	resets  atomic.Uint64 // counts resets; an answer from before one is worth nothing
	floor   atomic.Uint64 // answers read before this access version are asked for again

	appsMu sync.RWMutex
	apps   map[string]uint64 // app ID → version of its last change or deletion

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	lifeMu sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// shard is the tokens whose hash begins alike.
type shard[G any] struct {
	mu      sync.RWMutex
	known   map[[32]byte]*entry[G] // valid tokens
	unknown map[[32]byte]int64     // hash → until when it is unknown, Unix nanoseconds
	gone    map[[32]byte]uint64    // revoked tokens → version of the revocation
	flights map[[32]byte]*flight   // questions under way
}

// entry is a positive answer. Immutable but for usedAt.
type entry[G any] struct {
	grant       G
	answer      *gwv1.ValidateTokenResponse
	version     uint64 // older answers are discarded
	validatedAt int64  // Unix nanoseconds, as all times here
	expiresAt   int64  // the token's own; 0: never
	revalidate  bool
	usedAt      atomic.Int64
}

// flight is one question to a hub. err is set before done is closed; nil: the cache knows the answer.
type flight struct {
	done chan struct{}
	err  error
}

var (
	errNoHub     = errors.New("no hub answers")                                       // the only one that grace is for
	errBusy      = errors.New("too many questions to the hub are under way")          // it answers, but not this one now
	errRefused   = errors.New("the hub decided not to answer questions by this edge") // such as one that was removed
	errDiscarded = errors.New("the answer was out of date")
)

// NewTokens makes a cache with what the store kept; it reads the disk. grant turns a positive answer into what
// Authenticate returns; it is called once per answer and must not change or block. Until an Uplink is made with it the
// cache has nobody to ask. The caller closes it.
func NewTokens[G any](c TokensConfig, grant func(*gwv1.ValidateTokenResponse) G) *Tokens[G] {
	t := &Tokens[G]{c: c, grant: grant, now: c.Now, log: c.Logger, apps: make(map[string]uint64)}
	if t.now == nil {
		t.now = time.Now
	}
	if t.log == nil {
		t.log = slog.Default()
	}
	if c.Capacity <= 0 {
		t.c.Capacity = defaultCapacity
	}
	t.limit = max(1, t.c.Capacity/shards)
	t.budget = newBudget(c.UnknownPerMinute, t.now().UnixNano())
	if t.ttl = int64(c.TTL); t.ttl <= 0 {
		t.ttl = int64(PositiveTTL)
	}
	for i := range t.shards {
		t.shards[i] = shard[G]{
			known:   make(map[[32]byte]*entry[G]),
			unknown: make(map[[32]byte]int64),
			gone:    make(map[[32]byte]uint64),
			flights: make(map[[32]byte]*flight),
		}
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.load()
	return t
}

// Close ends the questions under way and waits for them; afterwards nobody is asked any more.
func (t *Tokens[G]) Close() error {
	t.lifeMu.Lock()
	t.closed = true
	t.lifeMu.Unlock()
	t.cancel()
	t.wg.Wait()
	return nil
}

// Authenticate returns the grant of the token with this SHA-256, which a client at an address, host:port, has shown.
// Errors: ErrUnknownToken, *Unavailable, *Throttled, or ctx's. It blocks only when a hub must be asked, for about two
// seconds, and as long again if a change overtook the question.
func (t *Tokens[G]) Authenticate(ctx context.Context, hash [32]byte, client string) (G, error) {
	var none G
	s := &t.shards[hash[0]%shards]
	asked := false // this call had a hub asked
	for range 3 {  // once, and again with the answer; a third time if that was overtaken by a change
		now := t.now().UnixNano()
		s.mu.RLock()
		e := s.known[hash]
		s.mu.RUnlock()
		if e == nil {
			if s.refused(hash, now) {
				if asked {
					t.budget.charge(client, now)
				}
				return none, ErrUnknownToken
			}
			if wait := t.budget.wait(client, now); wait > 0 && !s.inFlight(hash) {
				return none, &Throttled{RetryAfter: wait}
			}
		} else {
			if e.expired(now) {
				return none, ErrUnknownToken
			}
			if t.fresh(e, now) {
				t.used(s, hash, e, now)
				return e.grant, nil
			}
			if t.contact.down() && t.graced(e, now) {
				t.startFlight(s, hash) // the hub may be back; this request doesn't wait to find out
				return e.grant, nil
			}
		}
		began, err := t.ask(ctx, s, hash)
		asked = asked || began
		if err == nil {
			continue
		}
		if errors.Is(err, errNoHub) && e != nil {
			// Only what is known now counts: while the question was out, the token may have been revoked or its app changed.
			s.mu.RLock()
			same := s.known[hash] == e
			s.mu.RUnlock()
			if !same {
				continue
			}
			if t.graced(e, t.now().UnixNano()) {
				return e.grant, nil
			}
		}
		if ctx.Err() != nil {
			return none, ctx.Err()
		}
		break
	}
	return none, &Unavailable{RetryAfter: t.contact.retryAfter(t.now().UnixNano())}
}

// Grace tells since when positive answers are served past their TTL because no hub answers; ok is false if they aren't.
func (t *Tokens[G]) Grace() (since time.Time, ok bool) { return t.contact.grace() }

// Offline reports whether the last question to a hub went without an answer.
func (t *Tokens[G]) Offline() bool { return t.contact.offline() }

// Len returns how many valid tokens are cached.
func (t *Tokens[G]) Len() int {
	n := 0
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		n += len(s.known)
		s.mu.RUnlock()
	}
	return n
}

func (e *entry[G]) expired(now int64) bool { return e.expiresAt != 0 && now >= e.expiresAt }

func (t *Tokens[G]) fresh(e *entry[G], now int64) bool {
	age := now - e.validatedAt
	return !e.revalidate && age < t.ttl && age > -maxSkew
}

// refused reports whether a token is known not to be valid.
func (s *shard[G]) refused(hash [32]byte, now int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, gone := s.gone[hash]
	return gone || now < s.unknown[hash]
}

// used notes the use of a fresh entry and has it refreshed when it is old, without waiting.
func (t *Tokens[G]) used(s *shard[G], hash [32]byte, e *entry[G], now int64) {
	if now-e.usedAt.Load() > usedGrain {
		e.usedAt.Store(now)
	}
	if now-e.validatedAt >= t.ttl/5*4 {
		t.startFlight(s, hash)
	}
}

// graced reports whether an answer that should be given again still holds while no hub can give it. One that is known to
// be out of date doesn't while a hub is followed: its silence is short, and what it said must not be undone.
func (t *Tokens[G]) graced(e *entry[G], now int64) bool {
	if now-e.validatedAt >= t.ttl+int64(t.c.OfflineGrace) || e.expired(now) || e.revalidate && t.following() {
		return false
	}
	t.contact.serveGrace()
	return true
}

func (t *Tokens[G]) following() bool {
	hub := t.hub.Load()
	return hub != nil && (*hub).isFollowing()
}

// ask has a hub asked about a token, which it reports as began, or waits for the answer to a question under way. nil: the
// cache knows it now.
func (t *Tokens[G]) ask(ctx context.Context, s *shard[G], hash [32]byte) (began bool, _ error) {
	f, began, err := t.startFlight(s, hash)
	if err != nil {
		return false, err
	}
	select {
	case <-f.done:
		return began, f.err
	case <-ctx.Done():
		return began, ctx.Err()
	}
}

// inFlight reports whether a question about a token is under way.
func (s *shard[G]) inFlight(hash [32]byte) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.flights[hash] != nil
}

// startFlight returns the question under way about a token, or begins one if there is none and a hub may be there.
// Errors: errNoHub, errBusy, errRefused.
func (t *Tokens[G]) startFlight(s *shard[G], hash [32]byte) (_ *flight, began bool, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.flights[hash]; ok {
		return f, false, nil
	}
	hub := t.hub.Load()
	limit := int64(maxStrangers)
	if s.known[hash] != nil {
		limit = maxFlights
	}
	if hub == nil {
		return nil, false, errNoHub
	}
	if t.flights.Load() >= limit {
		if (*hub).isFollowing() || !t.contact.offline() {
			return nil, false, errBusy
		}
		return nil, false, errNoHub
	}
	now := t.now().UnixNano()
	if t.contact.isRefused(now) {
		return nil, false, errRefused
	}
	timeout, ok := t.contact.admit(now, (*hub).isFollowing())
	if !ok {
		return nil, false, errNoHub
	}
	t.lifeMu.Lock()
	defer t.lifeMu.Unlock()
	if t.closed {
		return nil, false, errNoHub
	}
	f := &flight{done: make(chan struct{})}
	s.flights[hash] = f
	t.flights.Add(1)
	t.wg.Go(func() { t.fly(*hub, s, hash, f, timeout) })
	return f, true, nil
}

// fly asks until an answer is not out of date, a few times.
func (t *Tokens[G]) fly(hub validator, s *shard[G], hash [32]byte, f *flight, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	for range 3 {
		resets, asked := t.resets.Load(), t.now().UnixNano()
		answer, err := hub.validate(ctx, hash)
		reason := reasonOf(err)
		// A certificate that ended, because no hub was there to renew it, is about to be renewed.
		if err != nil && answered(err) && reason != notLeader && reason != certificateNeeded {
			t.contact.refused(t.now().UnixNano())
			t.log.Warn("a hub refused to validate a token", "error", err)
			f.err = errRefused
			break
		}
		if err != nil {
			t.contact.failed(t.now().UnixNano(), hub.isFollowing())
			t.log.Debug("token could not be validated", "error", err)
			f.err = errNoHub
			break
		}
		t.contact.answered()
		if f.err = t.accept(s, hash, answer, resets, asked); f.err == nil {
			break
		}
	}
	t.flights.Add(-1)
	s.mu.Lock()
	delete(s.flights, hash)
	s.mu.Unlock()
	close(f.done)
}

// accept takes an answer over, unless something newer is known already: errDiscarded.
func (t *Tokens[G]) accept(s *shard[G], hash [32]byte, answer *gwv1.ValidateTokenResponse, resets uint64, asked int64) error {
	ended, err := t.acceptInShard(s, hash, answer, resets, asked)
	if ended && t.c.OnRevoke != nil {
		t.c.OnRevoke(Revocation{Tokens: map[[32]byte]struct{}{hash: {}}})
	}
	return err
}

// acceptInShard reports as ended that a token that was valid is so no more.
func (t *Tokens[G]) acceptInShard(s *shard[G], hash [32]byte, answer *gwv1.ValidateTokenResponse, resets uint64, asked int64) (ended bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version := answer.AccessVersion
	if t.resets.Load() != resets || version < t.floor.Load() {
		return false, errDiscarded
	}
	if revokedAt, ok := s.gone[hash]; ok {
		if version < revokedAt || !answer.Valid {
			return false, nil // it stays revoked
		}
		delete(s.gone, hash)
	}
	old := s.known[hash]
	if old != nil && version < old.version {
		return false, errDiscarded
	}
	if !answer.Valid {
		delete(s.known, hash)
		s.putUnknown(hash, t.now().UnixNano())
		if old != nil {
			t.forget(hash)
		}
		return old != nil, nil
	}
	t.appsMu.RLock()
	changedAt := t.apps[answer.AppId]
	t.appsMu.RUnlock()
	if version < changedAt {
		return false, errDiscarded
	}
	e := t.newEntry(answer, asked, false)
	e.usedAt.Store(asked)
	t.put(s, hash, e)
	t.save(hash, e)
	return false, nil
}

func (t *Tokens[G]) newEntry(answer *gwv1.ValidateTokenResponse, validatedAt int64, revalidate bool) *entry[G] {
	e := &entry[G]{
		grant: t.grant(answer), answer: answer, version: answer.AccessVersion, validatedAt: validatedAt, revalidate: revalidate,
	}
	if answer.ExpiresAt != nil {
		e.expiresAt = answer.ExpiresAt.AsTime().UnixNano()
	}
	return e
}

// put adds an entry and, where the shard is full, drops the least recently used one.
func (t *Tokens[G]) put(s *shard[G], hash [32]byte, e *entry[G]) {
	delete(s.unknown, hash)
	s.known[hash] = e
	if len(s.known) <= t.limit {
		return
	}
	var oldest [32]byte
	var oldestUse int64
	for h, e := range s.known {
		if used := e.usedAt.Load(); h != hash && (oldestUse == 0 || used < oldestUse) {
			oldest, oldestUse = h, used
		}
	}
	delete(s.known, oldest)
	t.forget(oldest)
}

// putUnknown notes a negative answer. A full shard drops any other: the only cost is asking again.
func (s *shard[G]) putUnknown(hash [32]byte, now int64) {
	if len(s.unknown) >= maxUnknown {
		for h := range s.unknown {
			delete(s.unknown, h)
			break
		}
	}
	s.unknown[hash] = now + int64(NegativeTTL)
}

func (t *Tokens[G]) save(hash [32]byte, e *entry[G]) {
	t.saveRecord(hash, &gwv1.StoredToken{Answer: e.answer, ValidatedAt: e.validatedAt, Revalidate: e.revalidate})
}

// saveRecord and forget report a disk that refuses and go on: it only matters to the next start without a hub.
func (t *Tokens[G]) saveRecord(hash [32]byte, record *gwv1.StoredToken) {
	if t.c.Store == nil {
		return
	}
	if err := t.c.Store.SaveToken(hash, record); err != nil {
		t.log.Warn("a token could not be saved", "error", err)
	}
}

func (t *Tokens[G]) forget(hash [32]byte) {
	if t.c.Store == nil {
		return
	}
	if err := t.c.Store.DeleteTokens(hash); err != nil {
		t.log.Warn("a token could not be deleted from the disk", "error", err)
	}
}

func (t *Tokens[G]) bind(hub validator) { t.hub.Store(&hub) }
func (t *Tokens[G]) reached()           { t.contact.answered() }
