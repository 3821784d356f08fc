package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

const (
	// maxReads bounds the names of the keys that one payload reads, in bytes: they are compared when it is committed.
	maxReads = 192 << 10
	// maxWrites bounds how many keys one payload writes.
	maxWrites = 4096
	// flushFrom is how large a commit may be before the next payload begins one of its own. What one payload can add
	// fits on top of it into a log entry.
	flushFrom = 128 << 10
	// perEntry is what a read, write, watermark or dead letter takes in a command beside its texts.
	perEntry = 64
)

var (
	errCommitTooLarge = fmt.Errorf("a payload may write %d keys and %d bytes, keys and values together", maxWrites, state.MaxPluginCommit)
	errTooManyReads   = fmt.Errorf("a payload may read keys whose names take %d bytes together", maxReads)
	errKVFull         = fmt.Errorf("a plugin may keep %d bytes, keys and values together: delete what is not needed any more", state.MaxPluginKV)
	errDelivered      = errors.New("the payload is settled: what is written now needs the plugin's own context")
)

// keyName names a key of a plugin.
type keyName struct {
	plugin uint32
	key    string
}

// markName names a watermark.
type markName struct {
	store  string
	plugin uint32
}

// stage is outcomes of payloads on their way into one command, over the state they were decided by. Receivers of one
// stage are called one after the other, but each may use its KV from several goroutines.
type stage struct {
	state *state.State
	now   int64

	mu     sync.Mutex // guards what follows
	reads  map[keyName]uint64
	writes map[keyName]*gwv1.PluginKVWrite
	grown  map[uint32]int // plugin → bytes it would keep more
	marks  map[markName]*gwv1.SettledMark
	dead   []*gwv1.DeadLetterRecord
	size   int
}

func newStage(st *state.State, now time.Time) *stage {
	return &stage{
		state: st, now: now.UnixNano(), reads: map[keyName]uint64{}, writes: map[keyName]*gwv1.PluginKVWrite{},
		grown: map[uint32]int{}, marks: map[markName]*gwv1.SettledMark{},
	}
}

// settled is the watermark as it will be.
func (g *stage) settled(n markName) uint64 {
	if m, ok := g.marks[n]; ok {
		return m.Sequence
	}
	return g.state.PluginMark([]byte(n.store), n.plugin)
}

// lookup returns a key as it will be, and notes in which version of the state it was read.
func (g *stage) lookup(n keyName) (*gwv1.PluginKVWrite, bool) {
	if w, ok := g.writes[n]; ok {
		return w, !w.Delete && (w.ExpiresAt == 0 || w.ExpiresAt > g.now)
	}
	r, ok := g.state.PluginKV(n.plugin, n.key, g.now)
	if !ok {
		return nil, false
	}
	return &gwv1.PluginKVWrite{PluginId: n.plugin, Key: n.key, Value: r.Value, ExpiresAt: r.ExpiresAt}, true
}

// command is what has been staged, in an order that depends on nothing else.
func (g *stage) command() *gwv1.SettlePayloads {
	c := &gwv1.SettlePayloads{DeadLetters: g.dead}
	for _, n := range slices.SortedFunc(maps.Keys(g.marks), func(a, b markName) int {
		return cmp.Or(cmp.Compare(a.plugin, b.plugin), strings.Compare(a.store, b.store))
	}) {
		c.Marks = append(c.Marks, g.marks[n])
	}
	byName := func(a, b keyName) int {
		return cmp.Or(cmp.Compare(a.plugin, b.plugin), strings.Compare(a.key, b.key))
	}
	for _, n := range slices.SortedFunc(maps.Keys(g.reads), byName) {
		c.Reads = append(c.Reads, &gwv1.PluginKVRead{PluginId: n.plugin, Key: n.key, Version: g.reads[n]})
	}
	for _, n := range slices.SortedFunc(maps.Keys(g.writes), byName) {
		c.Writes = append(c.Writes, g.writes[n])
	}
	return c
}

// callKV is what one receiver sees during one payload: the stage and its own writes, which become part of the stage if
// the payload is settled.
type callKV struct {
	stage  *stage
	plugin uint32

	// Guarded by stage.mu.
	closed    bool
	writes    map[keyName]*gwv1.PluginKVWrite
	reads     map[keyName]uint64
	readSize  int
	writeSize int
	grown     int
}

func (g *stage) begin(plugin uint32) *callKV {
	return &callKV{stage: g, plugin: plugin, writes: map[keyName]*gwv1.PluginKVWrite{}, reads: map[keyName]uint64{}}
}

// close ends the receiver's use of it.
func (c *callKV) close() {
	c.stage.mu.Lock()
	defer c.stage.mu.Unlock()
	c.closed = true
}

// keep makes what was read and written part of the stage; c is closed.
func (c *callKV) keep() {
	g := c.stage
	g.mu.Lock()
	defer g.mu.Unlock()
	for n, version := range c.reads {
		if _, ok := g.reads[n]; !ok {
			g.reads[n] = version
			g.size += len(n.key) + perEntry
		}
	}
	for n, w := range c.writes {
		if old, ok := g.writes[n]; ok {
			g.size -= proto.Size(old)
		} else {
			g.size += perEntry
		}
		g.writes[n] = w
		g.size += proto.Size(w)
	}
	g.grown[c.plugin] += c.grown
}

func (c *callKV) lookup(key string) (*gwv1.PluginKVWrite, bool) {
	n := keyName{c.plugin, key}
	if w, ok := c.writes[n]; ok {
		return w, !w.Delete && (w.ExpiresAt == 0 || w.ExpiresAt > c.stage.now)
	}
	return c.stage.lookup(n)
}

// noteRead has the commit refused if the key is another by then.
func (c *callKV) noteRead(key string) error {
	n := keyName{c.plugin, key}
	if _, ok := c.writes[n]; ok {
		return nil
	}
	if _, ok := c.stage.writes[n]; ok {
		return nil
	}
	if _, ok := c.reads[n]; ok {
		return nil
	}
	if c.readSize += len(key) + perEntry; c.readSize > maxReads {
		return errTooManyReads
	}
	r, ok := c.stage.state.PluginKV(c.plugin, key, c.stage.now)
	c.reads[n] = 0
	if ok {
		c.reads[n] = r.Version
	}
	return nil
}

func checkKey(key string) error {
	if key == "" || len(key) > state.MaxPluginKey || !utf8.ValidString(key) {
		return fmt.Errorf("key of %d bytes: want 1 to %d bytes of text", len(key), state.MaxPluginKey)
	}
	return nil
}

func checkPair(key string, value []byte) error {
	if len(value) > state.MaxPluginValue {
		return fmt.Errorf("value of %d bytes: want at most %d", len(value), state.MaxPluginValue)
	}
	return checkKey(key)
}

// Read implements PluginKV.
func (c *callKV) Read(_ context.Context, key string) ([]byte, bool, error) {
	if err := checkKey(key); err != nil {
		return nil, false, err
	}
	c.stage.mu.Lock()
	defer c.stage.mu.Unlock()
	if c.closed {
		return nil, false, errDelivered
	}
	if err := c.noteRead(key); err != nil {
		return nil, false, err
	}
	w, ok := c.lookup(key)
	return w.GetValue(), ok, nil
}

// Write implements PluginKV.
func (c *callKV) Write(_ context.Context, key string, value []byte, expires time.Time) error {
	if err := checkPair(key, value); err != nil {
		return err
	}
	w := &gwv1.PluginKVWrite{PluginId: c.plugin, Key: key, Value: slices.Clone(value)}
	if !expires.IsZero() {
		w.ExpiresAt = expires.UnixNano()
	}
	return c.put(w, nil)
}

// Delete implements PluginKV.
func (c *callKV) Delete(_ context.Context, key string) (bool, error) {
	if err := checkKey(key); err != nil {
		return false, err
	}
	var was bool
	err := c.put(&gwv1.PluginKVWrite{PluginId: c.plugin, Key: key, Delete: true}, &was)
	return was, err
}

// put stages a write; was, if given, becomes whether there was a value, which counts as reading it.
func (c *callKV) put(w *gwv1.PluginKVWrite, was *bool) error {
	c.stage.mu.Lock()
	defer c.stage.mu.Unlock()
	if c.closed {
		return errDelivered
	}
	old, there := c.lookup(w.Key)
	if was != nil {
		if err := c.noteRead(w.Key); err != nil {
			return err
		}
		*was = there
	}
	grow, size := 0, len(w.Key)+len(w.Value)
	if there {
		grow -= len(old.Key) + len(old.Value)
	}
	if !w.Delete {
		grow += size
	}
	n := keyName{c.plugin, w.Key}
	own, again := c.writes[n]
	if again {
		size -= len(own.Key) + len(own.Value)
	}
	if c.writeSize+size > state.MaxPluginCommit || !again && len(c.writes) >= maxWrites {
		return errCommitTooLarge
	}
	if kept := int(c.stage.state.PluginKVSize(c.plugin).Bytes) + c.stage.grown[c.plugin] + c.grown + grow; grow > 0 && kept > state.MaxPluginKV {
		return errKVFull
	}
	c.writeSize += size
	c.grown += grow
	c.writes[n] = w
	return nil
}

// List implements PluginKV. Unlike with Read, keys that others add or delete meanwhile are not noticed by the commit.
func (c *callKV) List(_ context.Context, prefix string) ([]string, error) {
	c.stage.mu.Lock()
	defer c.stage.mu.Unlock()
	if c.closed {
		return nil, errDelivered
	}
	found := map[string]bool{}
	for r := range c.stage.state.PluginKVs(c.plugin, prefix, c.stage.now) {
		found[r.Key] = true
	}
	for _, writes := range []map[keyName]*gwv1.PluginKVWrite{c.stage.writes, c.writes} {
		for n := range writes {
			if n.plugin == c.plugin && strings.HasPrefix(n.key, prefix) {
				found[n.key] = true
			}
		}
	}
	keys := slices.Sorted(maps.Keys(found))
	return slices.DeleteFunc(keys, func(k string) bool { _, ok := c.lookup(k); return !ok }), nil
}

// ownKV is what a hub plugin sees outside of deliveries: every write is a command of its own.
type ownKV struct {
	core   *core
	plugin uint32
}

// PluginKV returns what a hub plugin keeps, for use outside of Accept. Writes need this hub to lead.
func (h *Hub) PluginKV(plugin uint32) PluginKV { return &ownKV{h.core, plugin} }

// Read implements PluginKV.
func (o *ownKV) Read(_ context.Context, key string) ([]byte, bool, error) {
	if err := checkKey(key); err != nil {
		return nil, false, err
	}
	r, ok := o.core.store.State().PluginKV(o.plugin, key, o.core.now().UnixNano())
	return r.GetValue(), ok, nil
}

// Write implements PluginKV.
func (o *ownKV) Write(ctx context.Context, key string, value []byte, expires time.Time) error {
	if err := checkPair(key, value); err != nil {
		return err
	}
	w := &gwv1.PluginKVWrite{PluginId: o.plugin, Key: key, Value: slices.Clone(value)}
	if !expires.IsZero() {
		w.ExpiresAt = expires.UnixNano()
	}
	return o.propose(ctx, w)
}

// Delete implements PluginKV.
func (o *ownKV) Delete(ctx context.Context, key string) (bool, error) {
	_, ok, err := o.Read(ctx, key)
	if err != nil || !ok {
		return false, err
	}
	return true, o.propose(ctx, &gwv1.PluginKVWrite{PluginId: o.plugin, Key: key, Delete: true})
}

func (o *ownKV) propose(ctx context.Context, w *gwv1.PluginKVWrite) error {
	ctx = WithPrincipal(ctx, Principal{User: "hub/" + o.core.store.NodeID()})
	_, err := o.core.propose(ctx, &gwv1.Command{Body: &gwv1.Command_ChangePluginKv{ChangePluginKv: &gwv1.ChangePluginKV{Writes: []*gwv1.PluginKVWrite{w}}}})
	if err != nil {
		return fmt.Errorf("write key %q of plugin %d: %w", w.Key, o.plugin, err)
	}
	return nil
}

// List implements PluginKV.
func (o *ownKV) List(_ context.Context, prefix string) ([]string, error) {
	var keys []string
	for r := range o.core.store.State().PluginKVs(o.plugin, prefix, o.core.now().UnixNano()) {
		keys = append(keys, r.Key)
	}
	return keys, nil
}
