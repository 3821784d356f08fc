package edgestore

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// Limits of a payload, and of what the spool takes.
const (
	MaxPayload         = 1 << 20
	MaxMetadata        = 50
	MaxMetadataKey     = 256
	MaxMetadataValue   = 4096
	MaxCorrelationID   = 256
	MaxPending         = 100_000
	MaxPendingBytes    = 1 << 30
	PayloadLife        = 24 * time.Hour
	DeadLetterLife     = 7 * 24 * time.Hour
	MaxDeadLetterBytes = 64 << 20
	// BatchPayloads and BatchBytes bound a batch; DrainFrom pending payloads are sent at once.
	BatchPayloads = 100
	BatchBytes    = 4 << 20
	DrainFrom     = 100
	// rowOverhead is what a payload is counted as beside its bytes and texts.
	rowOverhead = 128
	// batchOverhead is what a payload takes in a batch beside its record: the store ID, its number, and its length.
	batchOverhead = 48
)

var (
	// ErrPayloadTooLarge means that a payload has more than MaxPayload bytes.
	ErrPayloadTooLarge = errors.New("payload too large")
	// ErrInvalidMetadata means that metadata or the correlation ID are too many, too long or not text.
	ErrInvalidMetadata = errors.New("invalid metadata")
	// ErrQueueFull means that the spool has no room for this plugin's payload now.
	ErrQueueFull = errors.New("queue is full")
)

// account is what the spool holds, in memory. Payloads count from when they are let in, before they are on the disk.
type account struct {
	known   map[uint32]bool   // plugins that run here
	plugins map[uint32]*tally // of every plugin that ever had something in the file
	pending int64
	bytes   int64
	kvBytes int64
	stored  int64 // payloads and dead letters on the disk
}

// tally is one plugin's part of the account.
type tally struct {
	pending, bytes                      int64
	accepted, settled, expired, dropped uint64
	refused                             uint64 // since the opening
	deadLetters, deadBytes              int64
	kvKeys, kvBytes                     int64
	halted                              string
}

func (a *account) of(plugin uint32) *tally {
	t := a.plugins[plugin]
	if t == nil {
		t = &tally{}
		a.plugins[plugin] = t
	}
	return t
}

// load reads the account of a file.
func (a *account) load(db *sql.DB) error {
	*a = account{plugins: map[uint32]*tally{}}
	each := func(query string, f func(t *tally, x [4]int64)) error {
		rows, err := db.Query(query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var plugin uint32
			var x [4]int64
			if err := rows.Scan(&plugin, &x[0], &x[1], &x[2], &x[3]); err != nil {
				return err
			}
			f(a.of(plugin), x)
		}
		return rows.Err()
	}
	return errors.Join(
		each("SELECT plugin, accepted, settled, expired, dropped FROM plugins", func(t *tally, x [4]int64) {
			t.accepted, t.settled, t.expired, t.dropped = uint64(x[0]), uint64(x[1]), uint64(x[2]), uint64(x[3])
		}),
		each("SELECT plugin, count(*), sum(size), 0, 0 FROM payloads GROUP BY plugin", func(t *tally, x [4]int64) {
			t.pending, t.bytes = x[0], x[1]
			a.pending, a.bytes, a.stored = a.pending+x[0], a.bytes+x[1], a.stored+x[0]
		}),
		each("SELECT plugin, count(*), sum(size), 0, 0 FROM dead_letters GROUP BY plugin", func(t *tally, x [4]int64) {
			t.deadLetters, t.deadBytes, a.stored = x[0], x[1], a.stored+x[0]
		}),
		each("SELECT plugin, count(*), sum(length(value) + length(CAST(key AS BLOB))), 0, 0 FROM kv GROUP BY plugin", func(t *tally, x [4]int64) {
			t.kvKeys, t.kvBytes, a.kvBytes = x[0], x[1], a.kvBytes+x[1]
		}),
	)
}

// admits reports whether a plugin may put a payload of a size into the spool. Of n plugins each has a share of 1/(2n) that
// is kept free for it, and the rest is anybody's. So a plugin alone may use all of it, and while the others use less than
// their shares, a plugin within its own is never refused: the sum over all plugins of the larger of share and use is at
// most the limit at first, and no payload that is let in makes it more.
func (a *account) admits(plugin uint32, size int64) bool {
	n := int64(1)
	for other := range a.known {
		if other != plugin {
			n++
		}
	}
	for other, t := range a.plugins {
		if other != plugin && !a.known[other] && t.pending > 0 {
			n++
		}
	}
	shareCount, shareBytes := MaxPending/(2*n), MaxPendingBytes/(2*n)
	count, bytes := int64(1), size
	if t := a.plugins[plugin]; t != nil {
		count, bytes = t.pending+1, t.bytes+size
	}
	for other := range a.known {
		if other != plugin && a.plugins[other] == nil {
			count, bytes = count+shareCount, bytes+shareBytes
		}
	}
	for other, t := range a.plugins {
		if other == plugin {
			continue
		}
		if !a.known[other] && t.pending == 0 {
			continue
		}
		count, bytes = count+max(t.pending, shareCount), bytes+max(t.bytes, shareBytes)
	}
	return count <= MaxPending && bytes <= MaxPendingBytes
}

// reserve lets a payload in, or says that there is no room.
func (a *account) reserve(plugin uint32, size int64) error {
	t := a.of(plugin)
	if !a.admits(plugin, size) {
		t.refused++
		return fmt.Errorf("%w: %d payloads (%d bytes) wait for a hub, %d (%d bytes) of this plugin", ErrQueueFull, a.pending, a.bytes, t.pending, t.bytes)
	}
	a.grow(plugin, 1, size)
	return nil
}

func (a *account) grow(plugin uint32, count, bytes int64) {
	t := a.of(plugin)
	t.pending, t.bytes = t.pending+count, t.bytes+bytes
	a.pending, a.bytes = a.pending+count, a.bytes+bytes
}

// Share tells the spool which plugins run here: each of them has its share of the room, whether or not it has sent
// anything yet.
func (s *Spool) Share(plugins []uint32) {
	known := map[uint32]bool{}
	for _, p := range plugins {
		known[p] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = known
}

// checkPayload says which limit a payload breaks.
func checkPayload(payload []byte, correlationID string, metadata map[string]string) error {
	switch {
	case len(payload) > MaxPayload:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrPayloadTooLarge, len(payload), MaxPayload)
	case len(metadata) > MaxMetadata:
		return fmt.Errorf("%w: %d entries, at most %d", ErrInvalidMetadata, len(metadata), MaxMetadata)
	case len(correlationID) > MaxCorrelationID || !utf8.ValidString(correlationID):
		return fmt.Errorf("%w: the correlation ID has %d bytes, at most %d of UTF-8", ErrInvalidMetadata, len(correlationID), MaxCorrelationID)
	}
	for k, v := range metadata {
		switch {
		case len(k) > MaxMetadataKey || !utf8.ValidString(k):
			return fmt.Errorf("%w: a key has %d bytes, at most %d of UTF-8", ErrInvalidMetadata, len(k), MaxMetadataKey)
		case len(v) > MaxMetadataValue || !utf8.ValidString(v):
			return fmt.Errorf("%w: a value has %d bytes, at most %d of UTF-8", ErrInvalidMetadata, len(v), MaxMetadataValue)
		}
	}
	return nil
}

// Send puts a payload into the spool and returns once it is on the disk, with the number of payloads of this plugin
// that are pending at this edge then, this one included. From then on it is delivered once, or is shown as a dead letter, or as expired. After an
// error it is not in the spool. The errors are ErrPayloadTooLarge, ErrInvalidMetadata, ErrQueueFull, ErrClosed and those of
// the disk. ctx is asked at the beginning only: a sync can't be taken back.
func (s *Spool) Send(ctx context.Context, plugin uint32, payload []byte, correlationID string, metadata map[string]string) (pending int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if plugin == 0 {
		return 0, errors.New("a plugin without an ID can't send")
	}
	if err := checkPayload(payload, correlationID, metadata); err != nil {
		return 0, err
	}
	now := s.now()
	record, err := proto.Marshal(&gwv1.PluginPayload{
		PluginId: plugin, Payload: payload, CorrelationId: correlationID, Metadata: metadata, SentAt: now.UnixNano(),
	})
	if err != nil {
		return 0, fmt.Errorf("encode payload: %w", err)
	}
	size := int64(len(record) + rowOverhead)
	s.mu.Lock()
	err = s.reserve(plugin, size)
	file := s.file
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	err = s.enqueue(&op{sends: true, done: make(chan error, 1), do: func(tx *sql.Tx) error {
		s.accepted[plugin]++
		return s.insert(tx, plugin, now, size, record)
	}})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && file == s.file:
		s.grow(plugin, -1, -size)
	case err == nil && file != s.file:
		s.grow(plugin, 1, size) // let in before, and written after the file was replaced
	}
	if err != nil {
		return 0, err
	}
	t := s.of(plugin)
	t.accepted++
	s.stored++
	s.wakeLocked()
	return t.pending, nil
}

func (s *Spool) fileNow() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file
}

func (s *Spool) wakeLocked() {
	if s.pending >= DrainFrom {
		select {
		case s.full <- struct{}{}:
		default:
		}
	}
}

// Full receives when DrainFrom payloads are pending; it may when there are fewer again.
func (s *Spool) Full() <-chan struct{} { return s.full }

// insert numbers a payload and writes it, in the writer's transaction.
func (s *Spool) insert(tx *sql.Tx, plugin uint32, at time.Time, size int64, record []byte) error {
	if s.generation == 0 {
		r, err := tx.Exec("INSERT INTO stores (store) VALUES (?)", s.store)
		if err != nil {
			return err
		}
		if s.generation, err = r.LastInsertId(); err != nil {
			return err
		}
	}
	s.sequences[plugin]++
	s.row++
	_, err := tx.Stmt(s.insertion).Exec(s.row, s.generation, plugin, int64(s.sequences[plugin]), at.UnixNano(), size, record)
	return err
}

// count adds to one of a plugin's counts in the file.
func count(tx *sql.Tx, plugin uint32, column string, n int) error {
	_, err := tx.Exec("INSERT INTO plugins (plugin, accepted, settled, expired, dropped) VALUES (?, 0, 0, 0, 0) ON CONFLICT (plugin) DO NOTHING", plugin)
	if err == nil {
		_, err = tx.Exec("UPDATE plugins SET "+column+" = "+column+" + ? WHERE plugin = ?", n, plugin)
	}
	return err
}

func newStoreID() []byte {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return id
}

// Batch returns payloads that are pending, at most BatchPayloads and BatchBytes, and a function that takes the outcome of
// each, in their order, and blocks until it is on the disk: what is settled is deleted, dead letters are put aside, and the
// rest stays pending. Payloads of one plugin come in the order in which they were sent; plugins share the batch, but those
// that skip reports have none in it. One batch at a time is on its way.
func (s *Spool) Batch(ctx context.Context, skip func(plugin uint32) bool) ([]*gwv1.PluginPayload, func([]*gwv1.PayloadOutcome) error, error) {
	batch, err := s.next(ctx, skip)
	if err != nil {
		return nil, nil, err
	}
	payloads := make([]*gwv1.PluginPayload, len(batch))
	for i, p := range batch {
		payloads[i] = p.PluginPayload
	}
	return payloads, func(outcomes []*gwv1.PayloadOutcome) error { return s.settle(batch, outcomes) }, nil
}

// pending is a payload on its way: what is sent to the hub, and which it is here.
type pending struct {
	*gwv1.PluginPayload
	row, size int64
	record    []byte
}

// next is Batch with the rows.
func (s *Spool) next(ctx context.Context, skip func(plugin uint32) bool) ([]pending, error) {
	s.mu.Lock()
	var plugins []uint32
	for p, t := range s.plugins {
		if t.pending > 0 && (skip == nil || !skip(p)) {
			plugins = append(plugins, p)
		}
	}
	s.mu.Unlock()
	slices.Sort(plugins)
	var batch []pending
	size := 0
	for i, p := range plugins {
		left := len(plugins) - i
		rows, err := s.pendingOf(ctx, p, (BatchPayloads-len(batch))/left, (BatchBytes-size)/left, len(batch) == 0)
		if err != nil {
			return nil, fmt.Errorf("read payloads of plugin %d: %w", p, err)
		}
		for _, r := range rows {
			size += len(r.record) + batchOverhead
		}
		batch = append(batch, rows...)
	}
	return batch, nil
}

// pendingOf returns the first payloads of a plugin, within a number and a size. atLeastOne: if there is one.
func (s *Spool) pendingOf(ctx context.Context, plugin uint32, limit, room int, atLeastOne bool) (found []pending, err error) {
	var unreadable []pending
	err = s.read(func(db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `SELECT p.id, s.store, p.sequence, p.size, p.record FROM payloads p JOIN stores s USING (generation)
			WHERE p.plugin = ? ORDER BY p.id LIMIT ?`, plugin, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			p := pending{PluginPayload: &gwv1.PluginPayload{}}
			var store []byte
			var sequence int64
			if err := rows.Scan(&p.row, &store, &sequence, &p.size, &p.record); err != nil {
				return err
			}
			if room -= len(p.record) + batchOverhead; room < 0 && (len(found) > 0 || !atLeastOne) {
				return nil
			}
			if err := proto.Unmarshal(p.record, p.PluginPayload); err != nil || len(store) != 16 || sequence < 1 {
				unreadable = append(unreadable, p)
				continue
			}
			p.StoreId, p.Sequence, p.PluginId = store, uint64(sequence), plugin
			found = append(found, p)
		}
		return rows.Err()
	})
	if err == nil && len(unreadable) > 0 {
		err = s.lose(plugin, unreadable)
	}
	return found, err
}

// lose deletes payloads that can't be read, and counts them as lost.
func (s *Spool) lose(plugin uint32, rows []pending) error {
	s.mu.Lock()
	loss, file := s.loss, s.file
	s.mu.Unlock()
	loss.Payloads, loss.At = loss.Payloads+uint64(len(rows)), s.now()
	s.log.Error("payloads in spool.db are damaged, and lost", "plugin", plugin, "payloads", len(rows))
	err := s.write(func(tx *sql.Tx) error {
		for _, r := range rows {
			if _, err := tx.Exec("DELETE FROM payloads WHERE id = ?", r.row); err != nil {
				return err
			}
		}
		return loss.save(tx)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if file == s.file {
		s.loss = loss
		for _, r := range rows {
			s.grow(plugin, -1, -r.size)
			s.stored--
		}
	}
	return nil
}

// settle takes the outcomes of a batch. The whole is done or nothing.
func (s *Spool) settle(batch []pending, outcomes []*gwv1.PayloadOutcome) error {
	if len(batch) != len(outcomes) {
		return fmt.Errorf("%d outcomes of %d payloads", len(outcomes), len(batch))
	}
	now, file := s.now(), s.fileNow()
	var room []dropped
	added := make([]bool, len(batch)) // to the dead letters
	err := s.write(func(tx *sql.Tx) (err error) {
		room = nil
		settled := map[uint32]int{}
		for i, p := range batch {
			switch outcomes[i].GetResult() {
			case gwv1.PayloadResult_PAYLOAD_RESULT_HANDLED, gwv1.PayloadResult_PAYLOAD_RESULT_REPEATED:
				settled[p.PluginId]++
			case gwv1.PayloadResult_PAYLOAD_RESULT_DEAD_LETTER:
				if added[i], err = putAside(tx, p, outcomes[i].DeadLetterId, now); err != nil {
					return err
				}
			default:
				continue
			}
			if _, err := tx.Exec("DELETE FROM payloads WHERE id = ?", p.row); err != nil {
				return err
			}
		}
		for _, plugin := range slices.Sorted(maps.Keys(settled)) {
			if err := count(tx, plugin, "settled", settled[plugin]); err != nil {
				return err
			}
		}
		room, err = makeRoom(tx, now)
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if file != s.file {
		return nil // the payloads went with the file, and are counted as lost
	}
	for i, p := range batch {
		t := s.of(p.PluginId)
		switch outcomes[i].GetResult() {
		case gwv1.PayloadResult_PAYLOAD_RESULT_HANDLED, gwv1.PayloadResult_PAYLOAD_RESULT_REPEATED:
			t.settled++
			s.stored--
		case gwv1.PayloadResult_PAYLOAD_RESULT_DEAD_LETTER:
			if added[i] {
				t.deadLetters, t.deadBytes = t.deadLetters+1, t.deadBytes+p.size
			} else {
				s.stored--
			}
		default:
			continue
		}
		s.grow(p.PluginId, -1, -p.size)
	}
	s.forgetLocked(room)
	return nil
}

// Expire drops payloads that have been pending for longer than PayloadLife, and dead letters older than DeadLetterLife,
// and counts them, and deletes keys that have expired. It must not run while a batch is on its way. It returns how many payloads it dropped.
func (s *Spool) Expire() (n int, err error) {
	now := s.now()
	s.mu.Lock()
	plugins := slices.Sorted(maps.Keys(s.plugins))
	s.mu.Unlock()
	for _, p := range plugins {
		for {
			expired, err := s.expireSome(p, now.Add(-PayloadLife))
			n += expired
			if err != nil {
				return n, err
			}
			if expired < expireBatch {
				break
			}
		}
	}
	var room []dropped
	file := s.fileNow()
	err = s.write(func(tx *sql.Tx) (err error) {
		room, err = makeRoom(tx, now)
		return err
	})
	if err == nil {
		s.mu.Lock()
		if file == s.file {
			s.forgetLocked(room)
		}
		s.mu.Unlock()
		err = s.expireKV()
	}
	return n, err
}

const expireBatch = 500

func (s *Spool) expireSome(plugin uint32, before time.Time) (n int, err error) {
	oldest, err := s.oldest(plugin)
	if err != nil || oldest.IsZero() || !oldest.Before(before) {
		return 0, err
	}
	var bytes int64
	file := s.fileNow()
	err = s.write(func(tx *sql.Tx) error {
		n, bytes = 0, 0
		rows, err := tx.Query("SELECT id, size FROM payloads WHERE plugin = ? AND queued_at < ? ORDER BY id LIMIT ?", plugin, before.UnixNano(), expireBatch)
		if err != nil {
			return err
		}
		var ids []int64
		for rows.Next() {
			var id, size int64
			if err := rows.Scan(&id, &size); err != nil {
				rows.Close()
				return err
			}
			ids, bytes = append(ids, id), bytes+size
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		for _, id := range ids {
			if _, err := tx.Exec("DELETE FROM payloads WHERE id = ?", id); err != nil {
				return err
			}
		}
		n = len(ids)
		return count(tx, plugin, "expired", n)
	})
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if file != s.file {
		return 0, nil
	}
	s.grow(plugin, int64(-n), -bytes)
	s.of(plugin).expired += uint64(n)
	s.stored -= int64(n)
	return n, nil
}

// oldest returns when the first pending payload of a plugin was put in; zero: there is none.
func (s *Spool) oldest(plugin uint32) (at time.Time, err error) {
	err = s.read(func(db *sql.DB) error {
		var nanos int64
		err := db.QueryRow("SELECT queued_at FROM payloads WHERE plugin = ? ORDER BY id LIMIT 1", plugin).Scan(&nanos)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		at = time.Unix(0, nanos)
		return err
	})
	return at, err
}

// Marks returns how far this opening has numbered, for every plugin it has.
func (s *Spool) Marks() (marks []*gwv1.PluginMark, err error) {
	err = s.write(func(*sql.Tx) error {
		marks = nil
		for _, plugin := range slices.Sorted(maps.Keys(s.sequences)) {
			marks = append(marks, &gwv1.PluginMark{StoreId: s.store, PluginId: plugin, Sequence: s.sequences[plugin]})
		}
		return nil
	})
	return marks, err
}

// Compare takes the hub's answer to Marks. If the hub has settled more than this opening has numbered, another process
// writes under the same store ID: a copy of this one, made while it ran. Then this one takes a new store ID, also for what
// is pending under the old one, so that nothing of it counts as settled. It reports whether it did.
func (s *Spool) Compare(marks []*gwv1.PluginMark) (renewed bool, err error) {
	err = s.write(func(tx *sql.Tx) error {
		renewed = false
		for _, m := range marks {
			renewed = renewed || string(m.StoreId) == string(s.store) && m.Sequence > s.sequences[m.PluginId]
		}
		if !renewed {
			return nil
		}
		store := newStoreID()
		r, err := tx.Exec("INSERT INTO stores (store) VALUES (?)", store)
		if err != nil {
			return err
		}
		generation, err := r.LastInsertId()
		if err == nil {
			_, err = tx.Exec("UPDATE payloads SET generation = ? WHERE generation = ?", generation, s.generation)
		}
		if err == nil {
			s.log.Warn("another process has used the store of this spool: taking a new one", "store", shortID(s.store), "new", shortID(store))
			s.store, s.generation = store, generation
		}
		return err
	})
	return renewed, err
}

// Halt notes why nothing of a plugin was settled by the last try; "" once something was.
func (s *Spool) Halt(plugin uint32, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.plugins[plugin]; t != nil {
		t.halted = why
	}
}

// Totals returns what is pending, and how many dead letters are kept.
func (s *Spool) Totals() (payloads, bytes, deadLetters int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.plugins {
		deadLetters += t.deadLetters
	}
	return s.pending, s.bytes, deadLetters
}
